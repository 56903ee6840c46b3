"""Figures of pairs of a share vector and a stage, as arrays that may have one entry in place of an axis."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.table import Floats
from dora_nb.formulation.columns.held import Held
from dora_nb.formulation.fleet import Ints


def numbered(values: Ints) -> tuple[Ints, Ints]:
    """The values that there are, in the order in which they come first, and the place of each one among them."""
    unique, first, place = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return unique[order], rank[place]


def sought_only(held: Held, sought: NDArray[np.bool_], least: Floats) -> tuple[Held, NDArray[np.bool_], Floats]:
    """The share vectors and the stages of which any pair is sought."""
    rows, stages = needed(sought)
    return held.restricted_to(rows, stages), restricted(sought, rows, stages), restricted(least, rows, stages)


def count_until(where: NDArray[np.bool_]) -> Ints:
    """How many layers before each cut are some of those."""
    return np.concatenate([[0], np.cumsum(where)])


def needed(sought: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Share vectors, and stages, of which any pair is sought."""
    return np.asarray(sought.any(axis=1)), np.asarray(sought.any(axis=0))


def restricted(values: NDArray[Any], rows: NDArray[np.bool_], stages: NDArray[np.bool_]) -> NDArray[Any]:
    """Figures of some share vectors and stages, of those axes that they have."""
    chosen = values[rows] if len(values) == len(rows) else values
    return chosen[:, stages] if values.shape[1] == len(stages) else chosen


def picked(values: NDArray[Any], choice: Ints, place: Ints) -> NDArray[Any]:
    """Figures of pairs of a share vector and a stage, of those axes that they have."""
    vectors, stages = values.shape[:2]
    flat = (choice * stages if vectors > 1 else 0 * choice) + (place if stages > 1 else 0)
    return np.asarray(values.reshape(vectors * stages, *values.shape[2:]).take(flat, axis=0))
