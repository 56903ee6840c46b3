"""Random and Latin-hypercube samples of the unit cube."""

from __future__ import annotations

from typing import Literal

import numpy as np

Method = Literal["latin-hypercube", "random"]


def unit_sample(points: int, dimensions: int, method: Method, seed: int) -> list[list[float]]:
    """Points in the unit cube, each coordinate at least 0 and below 1.

    Parameters
    ----------
    points, dimensions
        How many points, each of how many coordinates.
    method
        ``random``: coordinates are independent and uniform. ``latin-hypercube`` (McKay, Beckman and Conover,
        Technometrics 21, 1979): besides, in every dimension each of the intervals ``[k, k + 1) / points`` holds exactly
        one point.
    seed
        Of numpy's default generator.
    """
    generator = np.random.default_rng(seed)
    sample = generator.random((points, dimensions))
    if method == "latin-hypercube":
        cells = np.stack([generator.permutation(points) for _ in range(dimensions)], axis=1)
        sample = (cells + sample) / points
    # Rounding may reach 1, which is outside.
    coordinates: list[list[float]] = np.minimum(sample, np.nextafter(1.0, 0.0)).tolist()
    return coordinates
