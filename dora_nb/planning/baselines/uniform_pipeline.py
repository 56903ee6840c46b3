"""Baseline: the pipelines of PipeDream and of Alpa, which take all devices as equal.

Sources: Narayanan et al., "PipeDream: Generalized Pipeline Parallelism for DNN Training", SOSP 2019, arXiv 1806.03377
(as its public optimizer computes it): stages with r replicas, the largest of all stages' (compute + all-reduce) / r and
of their transfers is least. Zheng et al., "Alpa: Automating Inter- and Intra-Operator Parallelism for Distributed Deep
Learning", OSDI 2022, arXiv 2201.12023: the sum over stages plus (micro-batches - 1) x the largest one is least, for
which largest loads are enumerated.

Simplified: every device computes at the mean speed and sends at the mean rate between two devices, without latency.
PipeDream sums gradients with every mini-batch; here sums come once an iteration, and each micro-batch bears its part.
Alpa leaves transfers between stages out; here a stage's sum counts the transfer it receives, and its load the larger
of computing and transfers as in PipeDream, which is the stronger choice on slow networks.

Ours to say: all devices are tried, and only the k fastest for every k, so that slow ones need not be used. They have as
much memory as the smallest of them or, where nothing fits, as their mean. Of several pipelines of least load it is the
one that a micro-batch passes soonest. Stages are laid on the real devices as listed, and the largest stage on the
fastest ones. Replicas share samples out evenly.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.table import Floats
from dora_nb.domain.plan import Plan
from dora_nb.formulation.problem import Problem
from dora_nb.planning.baselines.choice import fitting
from dora_nb.planning.baselines.pipelines import even_shares, first_cuts, pipelines
from dora_nb.planning.baselines.ranges import LEAST, Links, Ranges, fastest_first


class Split(NamedTuple):
    """Stages on equal devices.

    Attributes
    ----------
    value_s
        What was minimised.
    cuts
        Where stages begin and end.
    replicas
        Devices of each stage.
    """

    value_s: float
    cuts: tuple[int, ...]
    replicas: tuple[int, ...]


class Loads(NamedTuple):
    """What stages take on equal devices, in plain arrays; infinite where there is no such stage.

    Attributes
    ----------
    load_s
        PipeDream's value of layers [first, stop) on so many replicas with so many stages behind, shape
        (stages behind, layers, layers + 1, devices + 1).
    fill_s
        What the stage adds to the time in which a micro-batch passes all stages, same shape.
    start
        Where the first stage begins.
    """

    load_s: Floats
    fill_s: Floats
    start: int = 0

    def where(self, allowed: NDArray[np.bool_]) -> Loads:
        """The loads of the stages that are allowed, infinite elsewhere."""
        load_s, fill_s = (np.where(allowed, each, np.inf) for each in (self.load_s, self.fill_s))
        return Loads(load_s, fill_s, self.start)

    def of(self, split: Split) -> Floats:
        """Loads of a split's stages."""
        behind = range(len(split.replicas) - 1, -1, -1)
        return np.asarray(self.load_s[list(behind), split.cuts[:-1], split.cuts[1:], split.replicas])


#: A rule by which the best split is found.
Rule = Callable[[Loads], Split | None]


def stage_loads(
    compute_s: Floats,
    summed_bytes: Floats,
    cut_bytes: Floats,
    bytes_per_s: float,
    devices: int,
    *,
    start: int = 0,
    directions: int = 2,
) -> Loads:
    """The loads of all stages, as PipeDream's optimizer counts them.

    A stage on r replicas computes and sums for ``(compute + 4 (r - 1) summed / (r rate)) / r``; what it receives and
    what it sends takes ``directions x bytes / (r rate)`` each. What the first stage sends is counted where it is
    received.

    Parameters
    ----------
    compute_s
        Seconds of layers [first, stop) on one device, both passes, shape (layers, layers + 1).
    summed_bytes
        Bytes of gradients that replicas sum, same shape.
    cut_bytes
        Bytes across each cut in one direction, 0 at the two ends, shape (layers + 1,).
    bytes_per_s
        Rate between two devices.
    devices
        How many there are.
    start
        Where the first stage begins.
    directions
        How often a micro-batch crosses a cut.
    """
    layers = len(compute_s)
    replicas = np.arange(1, devices + 1)
    sums_s = 4 * (replicas - 1) * summed_bytes[..., None] / (bytes_per_s * replicas)
    work_s = (compute_s[..., None] + sums_s) / replicas
    across_s = directions * cut_bytes[:, None] / (bytes_per_s * replicas)
    receive_s = np.repeat(across_s[:-1, None], layers + 1, axis=1)
    send_s = np.repeat(across_s[None], layers, axis=0)
    receive_s[start] = send_s[start] = 0.0
    load_s = np.maximum(work_s, np.maximum(receive_s, send_s))
    nobody, most = np.full((layers, layers + 1, 1), np.inf), min(devices, layers)
    figures = (np.concatenate([nobody, each], axis=2) for each in (load_s, work_s + receive_s))
    load_s, fill_s = (np.broadcast_to(each, (most, *each.shape)) for each in figures)
    return Loads(load_s, fill_s, start)


def least_load(loads: Loads) -> Split | None:
    """PipeDream's pipeline, whose largest load is least; None if there is none.

    Of several it is the one that a micro-batch passes soonest.
    """
    widest = _least(loads.load_s, np.maximum, loads.start)
    if widest is None:
        return None
    soonest = _least(loads.where(loads.load_s <= widest.value_s).fill_s, np.add, loads.start)
    assert soonest is not None, "the pipeline with the least load is left"
    return soonest._replace(value_s=widest.value_s)


def least_round(loads: Loads, micro_batches: int) -> Split | None:
    """Alpa's pipeline, whose fill + (micro-batches - 1) x largest load is least; None if there is none.

    Smaller and smaller largest loads are allowed: each makes the least fill larger, until that alone is too much.
    """
    widest = _least(loads.load_s, np.maximum, loads.start)
    best: Split | None = None
    below_s = np.inf
    while widest is not None:
        split = _least(loads.where(loads.load_s < below_s).fill_s, np.add, loads.start)
        if split is None:
            break
        fill_s, below_s = split.value_s, float(loads.of(split).max())
        value_s = fill_s + (micro_batches - 1) * below_s
        if best is None or value_s < best.value_s:
            best = split._replace(value_s=value_s)
        if fill_s + (micro_batches - 1) * widest.value_s >= best.value_s:
            break
    return best


def _least(stage_s: Floats, combine: np.ufunc, start: int) -> Split | None:
    """The pipeline with the least value, stages combined by sum or by maximum.

    A dynamic programme over (stages, layers behind a cut, devices behind it), from the last stage to the first.
    """
    most, layers, _, most_replicas = stage_s.shape
    shape = (most, layers + 1, most_replicas)
    least_s = np.full(shape, np.inf)
    next_stop, replicas = np.full(shape, layers), np.zeros(shape, dtype=np.int64)
    least_s[0, :layers], replicas[0] = stage_s[0, :, layers], np.arange(most_replicas)
    for behind in range(1, most):
        for count in range(1, most_replicas - behind):
            rest_s = least_s[behind - 1, :, behind : most_replicas - count]
            through_s = combine(stage_s[behind, :, :, count, None], rest_s)
            found_s, stop = through_s.min(axis=1), through_s.argmin(axis=1)
            at = np.s_[behind, :layers, behind + count :]
            better = found_s < least_s[at]
            for figures, found in ((least_s, found_s), (next_stop, stop), (replicas, np.full_like(stop, count))):
                figures[at] = np.where(better, found, figures[at])
    values_s = least_s[:, start]
    behind, used = (int(index) for index in np.unravel_index(values_s.argmin(), values_s.shape))
    if not np.isfinite(values_s[behind, used]):
        return None
    value_s, cuts, chosen = float(values_s[behind, used]), [start], []
    for left in range(behind, -1, -1):
        chosen.append(int(replicas[left, cuts[-1], used]))
        cuts.append(int(next_stop[left, cuts[-1], used]))
        used -= chosen[-1]
    return Split(value_s, tuple(cuts), tuple(chosen))


def uniform_pipelines(problem: Problem) -> list[Plan]:
    """Pipelines of PipeDream and of Alpa that fit in memory, laid on the devices in several ways."""
    links = Links.of(problem)
    devices = len(problem.cluster.devices)
    plans: list[Plan] = []
    for start in first_cuts(problem.workload, devices):
        ranges = Ranges(problem, start)
        for size in problem.space.micro_batch_sizes:
            fastest = fastest_first(problem, size)
            for count in range(1, devices + 1):
                equals = _Equals(ranges, links, sorted(fastest[:count]), size)
                for cuts, replicas in dict.fromkeys(equals.splits()):
                    for shares in equals.layouts(cuts, replicas):
                        plans.extend(pipelines(problem, "PipeDream/Alpa", cuts, shares))
    return fitting(plans, problem)


@dataclass(frozen=True)
class _Equals:
    """Devices that are taken as equal, and samples per micro-batch.

    Attributes
    ----------
    devices
        As they are listed.
    """

    ranges: Ranges
    links: Links
    devices: list[int]
    size: int

    def splits(self) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Cuts and replicas for both rules and every in-flight depth, with the least memory that allows any."""
        usable_bytes = [self.ranges.usable_bytes(device) for device in self.devices]
        for memory_bytes in (min(usable_bytes), sum(usable_bytes) / len(usable_bytes)):
            splits = [*self._splits(least_load, memory_bytes), *self._splits(self._alpa, memory_bytes)]
            if splits:
                yield from splits
                return

    def layouts(self, cuts: Sequence[int], replicas: Sequence[int]) -> Iterator[list[dict[str, int]]]:
        """Shares of the real devices, stage by stage: the largest stage on the fastest devices, and as listed.

        Where the former does not fit: the stage that needs most memory on the devices that have most. The order in
        which devices are listed is tried only if there are no others.
        """
        ranges, problem, stages = self.ranges, self.ranges.problem, range(len(replicas))
        places = [ranges.place(first, stop) for first, stop in itertools.pairwise(cuts)]
        samples = [even_shares(self.size, count) for count in replicas]
        fastest = [device for device in fastest_first(problem, self.size) if device in self.devices]
        work_s = [ranges.pass_s(fastest[0], samples[stage][0])[places[stage]] for stage in stages]
        held = problem.space.in_flight(min(problem.space.in_flight_depths), len(replicas), self._micro_batches)
        held_bytes = [
            ranges.replica_bytes(samples[stage][0], held[stage], self._micro_batches, replicated=replicas[stage] > 1)
            for stage in stages
        ]
        need_bytes = [held_bytes[stage][places[stage]] for stage in stages]
        laid = _laid(fastest, replicas, sorted(stages, key=lambda stage: -work_s[stage]))
        if any(need_bytes[stage] > ranges.usable_bytes(device) for stage in stages for device in laid[stage]):
            largest = sorted(fastest, key=lambda device: -ranges.usable_bytes(device))
            laid = _laid(largest, replicas, sorted(stages, key=lambda stage: -need_bytes[stage]))
        ways = [laid]
        if len(self.devices) == len(problem.cluster.devices):
            ways.append(_laid(self.devices, replicas, stages))
        for groups in ways:
            named = [[problem.cluster.device_ids[device] for device in group] for group in groups]
            yield [dict(zip(group, each, strict=True)) for group, each in zip(named, samples, strict=True)]

    @property
    def _micro_batches(self) -> int:
        return self.ranges.problem.workload.batch // self.size

    def _alpa(self, loads: Loads) -> Split | None:
        return least_round(loads, self._micro_batches)

    def _splits(self, rule: Rule, memory_bytes: float) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Cuts and replicas for every in-flight depth; those that fit at larger ones only once."""
        found: Split | None = None
        for depth in sorted(self.ranges.problem.space.in_flight_depths):
            allowed = self._loads.where(self._fits(depth, memory_bytes))
            if found is not None and np.isfinite(allowed.of(found)).all():
                continue
            found = rule(allowed)
            if found is None:
                return
            yield found.cuts, found.replicas

    @cached_property
    def _loads(self) -> Loads:
        """Loads at the mean speed and the mean rate; each layer takes its mean part of the whole network's time."""
        ranges, table, trains = self.ranges, self.ranges.problem.table, self.ranges.problem.workload.trains
        layer_s = table.forward_s[:, self.devices, self.size] + table.backward_s[:, self.devices, self.size]
        speed = 1 / np.maximum(layer_s.sum(axis=0), LEAST)
        passes_s = [ranges.pass_s(device, self.size) for device in self.devices]
        part = np.mean([each * one for each, one in zip(passes_s, speed, strict=True)], axis=0)
        pairs = np.array(list(itertools.permutations(self.devices, 2))).reshape(-1, 2)
        byte_s = float(self.links.byte_s[pairs[:, 0], pairs[:, 1]].mean()) if len(pairs) else 0.0
        return stage_loads(
            ranges.table(part / speed.mean()),
            ranges.table(ranges.gradient_bytes / self._micro_batches * trains, 0.0),
            self.size * ranges.cut_bytes,
            1 / byte_s if byte_s else np.inf,
            len(self.devices),
            start=ranges.start,
            directions=ranges.directions,
        )

    def _fits(self, depth: int, memory_bytes: float) -> NDArray[np.bool_]:
        """Which stages fit on devices with so much memory and have a sample a replica, axes as in :class:`Loads`."""
        ranges, count = self.ranges, len(self.devices)
        most = min(count, ranges.layers)
        fits = np.zeros((most, count + 1, len(ranges.first)), dtype=bool)
        held = reversed(ranges.problem.space.in_flight(depth, most, self._micro_batches))
        for behind, in_flight in enumerate(held):
            for replicas in range(1, min(count, self.size) + 1):
                samples = even_shares(self.size, replicas)[0]
                held_bytes = ranges.replica_bytes(samples, in_flight, self._micro_batches, replicated=replicas > 1)
                fits[behind, replicas] = held_bytes <= memory_bytes
        return np.moveaxis(ranges.table(fits, False), 1, -1)


def _laid(devices: Sequence[int], replicas: Sequence[int], order: Iterable[int]) -> list[list[int]]:
    """Devices of each stage, taken one after the other by stages in some order."""
    free = iter(devices)
    groups: list[list[int]] = [[] for _ in replicas]
    for stage in order:
        groups[stage] = list(itertools.islice(free, replicas[stage]))
    return groups
