"""Least seconds of every device group on every range of layers, for fleets whose sets of devices cannot be listed.

Groups are counted by type and hold a few devices only, so there are thousands of them however large the fleet is. A
micro-batch is shared out so that the slowest replica is as fast as it can be: the best share vector of a group with one
more device follows from those of the group without it, so share vectors are never listed either.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.memory import MemoryModel
from dora_nb.costs.table import Floats
from dora_nb.formulation.fleet import Group, Ints
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import share_step


@dataclass(frozen=True)
class GroupTimes:
    """Figures of one micro-batch size.

    Attributes
    ----------
    micro_batch, micro_batches
        Samples of one, and how many there are.
    groups
        Device groups of one to the most replicas.
    used
        Devices of each type in every group, shape (groups, types).
    available
        Devices of each type in the fleet.
    first, stop
        Ranges of layers [first, stop), every one there is.
    range_of
        Index of a range, shape (cuts, cuts); -1 where there is none.
    seconds
        Of one micro-batch, both ways in training, on the slowest replica when it is shared out best; infinite where a
        replica's memory does not even hold one micro-batch. What recomputing adds is left out. Shape (groups, ranges).
    forward_share
        Bounds on the part of these seconds that the forward pass takes: least and largest of any layer, device and
        number of samples. 1 where there is no backward pass.
    hop_s
        Seconds that handing a micro-batch over at a cut takes at least, whoever does; 0 at the two ends. Shape (cuts,).
    directions
        2 in training, where gradients come back, else 1.
    """

    micro_batch: int
    micro_batches: int
    groups: tuple[Group, ...]
    used: Ints
    available: Ints
    first: Ints
    stop: Ints
    range_of: Ints
    seconds: Floats
    forward_share: tuple[float, float]
    hop_s: Floats
    directions: int

    @classmethod
    def of(cls, problem: Problem, micro_batch: int) -> GroupTimes:
        """The figures of a problem on one medium or switch."""
        table, fleet, layers = problem.table, problem.fleet, len(problem.workload.layers)
        most = min(problem.space.most_replicas, micro_batch)
        members = [members[0] for members in fleet.types]
        samples = np.arange(micro_batch + 1)
        first, stop = np.nonzero(np.triu(np.ones((layers + 1, layers + 1), dtype=bool), 1))
        both_s = (table.forward_s + table.backward_s)[:, members, : micro_batch + 1]
        until_s = np.concatenate([np.zeros((1, *both_s.shape[1:])), np.cumsum(both_s, axis=0)])
        single_s = np.ascontiguousarray(np.moveaxis(until_s[stop] - until_s[first], 0, 2))  # (types, samples, ranges)
        alone, together = (
            np.where(_fits(problem, members, samples, first, stop, replicated), single_s, np.inf)
            for replicated in (False, True)
        )
        groups = tuple(problem.fleet.groups(most))
        range_of = np.full((layers + 1, layers + 1), -1)
        range_of[first, stop] = np.arange(len(first))
        return cls(
            micro_batch=micro_batch,
            micro_batches=problem.workload.batch // micro_batch,
            groups=groups,
            used=np.array([group.counts for group in groups]),
            available=fleet.available,
            first=first,
            stop=stop,
            range_of=range_of,
            seconds=_best_shared_out(groups, alone, together, micro_batch),
            forward_share=_forward_share(problem, members),
            hop_s=_hop_s(problem, micro_batch, most),
            directions=2 if problem.workload.trains else 1,
        )

    @cached_property
    def by_seconds(self) -> tuple[Ints, Floats]:
        """Groups of every range from the fastest to the slowest, and their seconds. Shape (groups, ranges) each."""
        order = np.argsort(self.seconds, axis=0)
        return order, np.take_along_axis(self.seconds, order, axis=0)

    @cached_property
    def group_of(self) -> dict[tuple[int, ...], int]:
        """Index of a group by its counts."""
        return {group.counts: index for index, group in enumerate(self.groups)}


def _fits(
    problem: Problem, members: list[int], samples: Ints, first: Ints, stop: Ints, replicated: bool
) -> NDArray[np.bool_]:
    """Where a replica's memory holds a micro-batch, recomputing if need be. Shape (types, samples, ranges)."""
    memory = MemoryModel(problem.workload)
    needed_bytes = np.minimum.reduce(
        [
            memory.replica_bytes(
                first[None],
                stop[None],
                samples=samples[:, None].astype(float),
                in_flight=1,
                micro_batches=problem.workload.batch // (len(samples) - 1),
                replicated=replicated,
                recomputes=recomputes,
            )
            for recomputes in ((False, True) if problem.space.recomputation else (False,))
        ]
    )
    return np.asarray(needed_bytes[None] <= problem.terms.most_bytes[members][:, None, None])


def _best_shared_out(groups: tuple[Group, ...], alone: Floats, together: Floats, micro_batch: int) -> Floats:
    """Seconds of the slowest replica, shape (groups, ranges).

    With k devices, n samples take ``min over a of max(a samples on the last device, n - a on the others)``. Samples
    move in the step of the space, so it is the space's own share vectors that are looked at.
    """
    found = np.empty((len(groups), alone.shape[2]))
    by_size: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
    for index, group in enumerate(groups):
        kinds = tuple(kind for kind, count in enumerate(group.counts) for _ in range(count))
        by_size.setdefault(len(kinds), []).append((index, kinds))
    for size, members in by_size.items():
        step = share_step(micro_batch, size)
        best: dict[tuple[int, ...], Floats] = {}  # by kinds so far: seconds of n samples, shape (samples, ranges)
        for index, kinds in members:
            if size == 1:
                found[index] = alone[kinds[0], micro_batch]
            elif step is None:
                found[index] = np.inf
            else:
                found[index] = _of_kinds(kinds, size, step, together, micro_batch, best)[micro_batch]
    return found


def _of_kinds(
    kinds: tuple[int, ...],
    size: int,
    step: int,
    together: Floats,
    micro_batch: int,
    best: dict[tuple[int, ...], Floats],
) -> Floats:
    if len(kinds) == 1:
        return np.asarray(together[kinds[0]])
    if kinds in best:
        return best[kinds]
    before, last = _of_kinds(kinds[:-1], size, step, together, micro_batch, best), together[kinds[-1]]
    seconds: Floats = np.full_like(last, np.inf)
    missing = size - len(kinds)
    least = micro_batch if not missing else step * len(kinds)
    for samples in range(least, micro_batch - step * missing + 1, step):
        for own in range(step, samples - step * (len(kinds) - 1) + 1, step):
            np.minimum(seconds[samples], np.maximum(before[samples - own], last[own]), out=seconds[samples])
    if missing:  # groups of full size are not looked up again
        best[kinds] = seconds
    return seconds


def _forward_share(problem: Problem, members: list[int]) -> tuple[float, float]:
    if not problem.workload.trains:
        return 1.0, 1.0
    forward_s, backward_s = problem.table.forward_s[:, members, 1:], problem.table.backward_s[:, members, 1:]
    both_s = forward_s + backward_s
    shares = np.divide(forward_s, both_s, out=np.full_like(both_s, 0.5), where=both_s > 0)
    return float(shares.min()), float(shares.max())


def _hop_s(problem: Problem, micro_batch: int, most: int) -> Floats:
    """A hand-over lasts at least as long as its busier end, or both ends in turn on one shared medium."""
    workload, layers = problem.workload, len(problem.workload.layers)
    seconds = np.zeros(layers + 1)
    if not problem.cluster.domains:
        return seconds
    network = problem.network
    rates = sorted((network.rate(device.id) for device in problem.cluster.devices), reverse=True)
    byte_s = 2 / rates[0] if network.one_medium else 1 / sum(rates[:most])
    for cut in range(1, layers):
        seconds[cut] = micro_batch * workload.cut_bytes(cut) * byte_s + problem.message_s
    return seconds
