"""What a group may hold: layer ranges, and how samples are shared out on its devices."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dora_nb.domain.plan import Weights
from dora_nb.formulation.fleet import Group, Ints
from dora_nb.formulation.space import share_step


class Held(NamedTuple):
    """What a group holds: share vectors of layer ranges, and how they are run."""

    group: Group
    shares: Ints
    first: Ints
    stop: Ints
    micro_batches: int
    token_groups: int
    hosts: bool
    recomputes: bool
    weights: Weights | None


def is_whole(first: Ints, stop: Ints, layers: int) -> NDArray[np.bool_]:
    """Where layers [first, stop) are all of the network's."""
    return np.asarray((first == 0) & (stop == layers))


def share_vectors(group: Group, micro_batch: int, ordered: bool = True) -> Ints:
    """Positive shares that add up to the micro-batch, see :func:`~dora_nb.formulation.space.share_step`.

    Equal devices take theirs in descending order, unless the order matters.
    """
    size = len(group.devices)
    step = share_step(micro_batch, size)
    if step is None:
        return np.zeros((0, size), dtype=np.int64)
    inner = range(step, micro_batch, step)
    vectors = [np.diff([0, *bounds, micro_batch]) for bounds in itertools.combinations(inner, size - 1)]
    shares = np.array(vectors, dtype=np.int64).reshape(-1, size)
    place = 0
    for count in group.counts if ordered else ():
        for left in range(place, place + count - 1):
            shares = shares[shares[:, left] >= shares[:, left + 1]]
        place += count
    # Balanced vectors first: they beat most of the others, which makes the filter below quick.
    return shares[np.argsort(shares.max(axis=1), kind="stable")]
