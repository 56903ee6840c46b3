"""What groups may hold: layer ranges, and how samples are shared out on their devices."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.table import Floats
from dora_nb.domain.plan import Weights
from dora_nb.formulation.fleet import Group, Ints
from dora_nb.formulation.space import share_step


class Held(NamedTuple):
    """What groups hold: share vectors of stages, which are layer ranges on one of the groups, and how they are run.

    Attributes
    ----------
    groups
        Their devices; groups of one size, whose samples are shared out in the same ways.
    which
        Which of the groups runs each stage. Shape (stages,).
    shares
        Samples of each device, or parts of each layer where ``parts`` is not 0. Shape (share vectors, devices).
    first, stop
        Layers of each stage. Shape (stages,).
    micro_batches, token_groups, hosts, recomputes, weights
        How they are run.
    parts, micro_batch
        Into how many parts layers are sliced (0: they are not), and samples of a micro-batch, all of which every device
        that holds parts takes.
    """

    groups: tuple[Group, ...]
    which: Ints
    shares: Ints
    first: Ints
    stop: Ints
    micro_batches: int
    token_groups: int
    hosts: bool
    recomputes: bool
    weights: Weights | None
    parts: int = 0
    micro_batch: int = 0

    @property
    def size(self) -> int:
        """Devices of a stage."""
        return len(self.groups[0].devices)

    @property
    def devices(self) -> Ints:
        """Index of each device of each stage, shape (devices, stages)."""
        return np.array([group.devices for group in self.groups]).T[:, self.which]

    @property
    def code(self) -> Ints:
        """Code of each stage's devices, shape (stages,)."""
        return np.array([group.code for group in self.groups])[self.which]

    def of_stages(self, by_group: Floats) -> Floats:
        """Figures of groups as figures of stages; a single group's are as they are.

        Parameters
        ----------
        by_group
            Shape (share vectors or 1, groups, ...).

        Returns
        -------
        array of shape (share vectors or 1, stages, ...)
            Or 1 in place of the stages.
        """
        return by_group if len(self.groups) == 1 else by_group[:, self.which]

    def restricted_to(self, rows: NDArray[np.bool_], stages: NDArray[np.bool_]) -> Held:
        """The rows that are some share vectors at some stages, without the groups that run none of these."""
        which = self.which[stages]
        left = np.unique(which) if len(which) else np.zeros(1, dtype=np.int64)
        return self._replace(
            groups=tuple(self.groups[group] for group in left.tolist()),
            which=np.searchsorted(left, which),
            shares=self.shares[rows],
            first=self.first[stages],
            stop=self.stop[stages],
        )

    @property
    def samples(self) -> Ints:
        """Samples of each device, shape (share vectors, devices)."""
        return np.full_like(self.shares, self.micro_batch) if self.parts else self.shares

    def share(self, place: int) -> Floats:
        """Share that a device holds of every layer that can be sliced, shape (share vectors, 1)."""
        own = self.shares[:, place, None]
        return np.asarray(own / self.parts if self.parts else np.ones(own.shape))


def is_whole(first: Ints, stop: Ints, layers: int) -> NDArray[np.bool_]:
    """Where layers [first, stop) are all of the network's."""
    return np.asarray((first == 0) & (stop == layers))


def share_vectors(group: Group, micro_batch: int, ordered: bool = True) -> Ints:
    """Positive shares that add up to the micro-batch, see :func:`~dora_nb.formulation.space.share_step`.

    Equal devices take theirs in descending order, unless the order matters.
    """
    step = share_step(micro_batch, len(group.devices))
    if step is None:
        return np.zeros((0, len(group.devices)), dtype=np.int64)
    return _sharings(group.counts, micro_batch, step, ordered)


def part_vectors(group: Group, parts: int, ordered: bool = True) -> Ints:
    """All ways to give each device at least one of a layer's parts, equal devices in descending order likewise."""
    return _sharings(group.counts, parts, 1, ordered)


@lru_cache(maxsize=2_000)
def _sharings(counts: tuple[int, ...], total: int, step: int, ordered: bool) -> Ints:
    """For groups of so many devices of each type; not to be written to."""
    size, between = sum(counts), range(step, total, step)
    bounds = itertools.chain.from_iterable(itertools.combinations(between, size - 1))
    inner = np.fromiter(bounds, dtype=np.int64).reshape(math.comb(len(between), size - 1), size - 1)
    shares = np.diff(inner, axis=1, prepend=0, append=total)
    place = 0
    for count in counts if ordered else ():
        for left in range(place, place + count - 1):
            shares = shares[shares[:, left] >= shares[:, left + 1]]
        place += count
    # Balanced vectors first: they beat most of the others, which makes the filter below quick.
    shares = shares[np.argsort(shares.max(axis=1), kind="stable")]
    shares.flags.writeable = False
    return shares
