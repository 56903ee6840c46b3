"""Baseline: Asteroid, stages of consecutive devices that share samples out among themselves.

Source: Ye et al., "Asteroid: Resource-Efficient Hybrid Pipeline Parallelism for Collaborative DNN Training on
Heterogeneous Edge Devices", MobiCom 2024, arXiv 2408.08015. Devices stand in one order, by memory: the first stages
hold most micro-batches. A dynamic programme over (layers behind a cut, devices behind it, stages) puts one stage in
front at a time; a stage's devices take samples in proportion to their speed as far as memory allows, and sum gradients
at the end. It minimises the paper's estimate of a round, in which stages and the transfers between them are *steps*:
one of them, the dominant step, is never idle, and when every other step begins and ends follows from it. Only the
abstract was at hand when this was written: the formulas are the method as we know it, not checked against the text.

Simplified: a sum is a ring's or a star's seconds on an idle network, and a transfer between two stages takes the mean
over their pairs of devices; the paper's offloading from stragglers is left out, since shares are whole and proportional
on the stage's own layers. As in the paper the best pipeline of a state is kept by its own estimate, which is not exact.

Ours to say: the order by speed and both orders backwards are tried as well, devices at either end of the order may
stay idle, all micro-batch sizes and in-flight depths of the space are tried, and the dominant step is the one that
makes the estimate largest. Asteroid trains; without training the estimate is one pass plus the slowest step for every
further micro-batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.domain.plan import AllReduce, Plan
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.problem import Problem
from dora_nb.planning.baselines.choice import fitting
from dora_nb.planning.baselines.pipelines import first_cuts, pipelines, proportional_shares
from dora_nb.planning.baselines.ranges import Links, Ranges, fastest_first


class Steps(NamedTuple):
    """What steps take, in plain arrays; infinite forward where a stage cannot be.

    Attributes
    ----------
    forward_s, backward_s
        Seconds of a micro-batch through layers [first, stop) on devices [begin, end) of the order with so many stages
        behind, shape (stages behind, devices, devices + 1, layers, layers + 1). Backward is 0 without training.
    sums_s
        Seconds in which these devices sum their gradients, same shape.
    hop_s
        Seconds across a cut from devices [begin, middle) to [middle, end), in one direction, shape
        (layers + 1, devices, devices + 1, devices + 1).
    micro_batches
        How many pass.
    trains
        Whether they come back.
    start
        Where the first stage begins.
    """

    forward_s: Floats
    backward_s: Floats
    sums_s: Floats
    hop_s: Floats
    micro_batches: int
    trains: bool
    start: int = 0


class Hybrid(NamedTuple):
    """A pipeline of groups of consecutive devices.

    Attributes
    ----------
    value_s
        The estimate.
    cuts, places
        Where stages begin and end among the layers, and among the devices.
    """

    value_s: float
    cuts: tuple[int, ...]
    places: tuple[int, ...]


class Round(NamedTuple):
    """The estimate of a round in the making, step by step from the last to the first. All may be arrays.

    With W, R and D the forward seconds of the steps before a step, the backward seconds of it and the steps behind,
    and the forward seconds of the steps behind: if step d dominates, it works from W(d) on for all its passes without
    a pause. In training, step s then ends its last backward pass R(s) - R(d) later (earlier if it is behind d).

    Attributes
    ----------
    dominant_s
        Largest W + all passes - R of a step, or + D where nothing comes back.
    last_s
        Largest R + sum of gradients of a step; 0 where nothing comes back.
    back_s, onwards_s
        R of the first step, and forward seconds of all.
    """

    dominant_s: Floats
    last_s: Floats
    back_s: Floats
    onwards_s: Floats

    @property
    def value_s(self) -> Floats:
        """The estimate."""
        return np.asarray(self.dominant_s + self.last_s)

    def behind(self, forward_s: Floats, backward_s: Floats, sums_s: Floats | float, steps: Steps) -> Round:
        """The round with one more step in front."""
        back_s = self.back_s + backward_s
        own_s = steps.micro_batches * (forward_s + backward_s) + (-back_s if steps.trains else self.onwards_s)
        return Round(
            dominant_s=np.maximum(self.dominant_s + forward_s, own_s),
            last_s=np.maximum(self.last_s, back_s + sums_s),
            back_s=back_s,
            onwards_s=self.onwards_s + forward_s,
        )


def best_hybrid(steps: Steps) -> Hybrid | None:
    """The pipeline with the least estimate, by the dynamic programme; None if there is none."""
    most_behind, devices, _, layers, _ = steps.forward_s.shape
    cuts = np.arange(layers + 1)
    shape = (devices + 1, layers + 1)
    nothing = Round(np.where(cuts < layers, np.inf, np.zeros(shape)), *np.zeros((3, *shape)))
    rounds, ends, stops = [nothing], [np.full(shape, devices)], [np.full(shape, layers)]
    for behind in range(most_behind):
        best = Round(np.full(shape, np.inf), *np.zeros((3, *shape)))
        next_end, next_stop = np.zeros((2, *shape), dtype=np.int64)
        for begin, end in itertools.combinations(range(devices + 1), 2):
            forward_s, backward_s, sums_s = (each[behind, begin, end] for each in steps[:3])
            if not np.isfinite(forward_s).any():
                continue
            hop_s = steps.hop_s[cuts, begin, end, ends[-1][end]]
            rest = Round(*(figure[end] for figure in rounds[-1])).behind(hop_s, steps.trains * hop_s, 0.0, steps)
            each = rest.behind(forward_s, backward_s, sums_s, steps)
            stop = each.value_s.argmin(axis=1)
            chosen = Round(*(figure[cuts[:-1], stop] for figure in each))
            better = np.flatnonzero(chosen.value_s < best.value_s[begin, :layers])
            for figure, found in zip(best, chosen, strict=True):
                figure[begin, better] = found[better]
            next_end[begin, better], next_stop[begin, better] = end, stop[better]
        rounds, ends, stops = [*rounds, best], [*ends, next_end], [*stops, next_stop]
    values_s = np.array([each.value_s[:, steps.start] for each in rounds[1:]])
    behind, place = (int(index) for index in np.unravel_index(values_s.argmin(), values_s.shape))
    if not np.isfinite(values_s[behind, place]):
        return None
    at, places = [steps.start], [place]
    for stage in range(behind + 1, 0, -1):
        at, places = [*at, int(stops[stage][places[-1], at[-1]])], [*places, int(ends[stage][places[-1], at[-1]])]
    return Hybrid(float(values_s[behind, place]), tuple(at), tuple(places))


class _Stage(NamedTuple):
    """A group of devices on every range of layers.

    Attributes
    ----------
    shares
        Samples of each device, shape (devices, ranges); 0 throughout where they do not fit.
    forward_s, backward_s, sums_s
        Seconds as in :class:`Steps`, one entry a range.
    """

    shares: Ints
    forward_s: Floats
    backward_s: Floats
    sums_s: Floats


@dataclass(frozen=True)
class _Order:
    """Devices in one order, and samples per micro-batch."""

    ranges: Ranges
    links: Links
    devices: tuple[int, ...]
    size: int
    _stages: dict[tuple[int, int, bytes], _Stage] = field(default_factory=dict, compare=False, repr=False)

    @property
    def micro_batches(self) -> int:
        """Micro-batches of an iteration."""
        return self.ranges.problem.workload.batch // self.size

    def hybrids(self) -> Iterator[tuple[tuple[int, ...], list[dict[str, int]]]]:
        """Cuts and shares of the best pipeline for every in-flight depth; those that fit at larger ones only once."""
        ids = self.ranges.problem.cluster.device_ids
        found: tuple[Hybrid, list[Ints]] | None = None
        for depth in sorted(self.ranges.problem.space.in_flight_depths):
            if found is not None and all(map(np.array_equal, found[1], self._shares(found[0], depth))):
                continue
            best = best_hybrid(self._steps(depth))
            if best is None:
                return
            found = best, self._shares(best, depth)
            groups = [self.devices[begin:end] for begin, end in itertools.pairwise(best.places)]
            yield (
                best.cuts,
                [
                    {ids[device]: int(share) for device, share in zip(group, shares, strict=True)}
                    for group, shares in zip(groups, found[1], strict=True)
                ],
            )

    def _shares(self, hybrid: Hybrid, depth: int) -> list[Ints]:
        """Samples of each device of each stage at an in-flight depth."""
        held = self.ranges.problem.space.in_flight(depth, len(hybrid.cuts) - 1, self.micro_batches)
        shares = []
        for cuts, places, in_flight in zip(
            itertools.pairwise(hybrid.cuts), itertools.pairwise(hybrid.places), held, strict=True
        ):
            shares.append(self._stage(*places, in_flight).shares[:, self.ranges.place(*cuts)])
        return shares

    def _steps(self, depth: int) -> Steps:
        ranges, count = self.ranges, len(self.devices)
        most = min(count, ranges.layers)
        shape = (most, count, count + 1, ranges.layers, ranges.layers + 1)
        forward_s, backward_s, sums_s = np.full(shape, np.inf), np.zeros(shape), np.zeros(shape)
        held = ranges.problem.space.in_flight(depth, most, self.micro_batches)[::-1]
        for behind, in_flight in enumerate(held):
            for begin, end in itertools.combinations(range(count - behind + 1), 2):
                if end - begin <= self.size:
                    stage = self._stage(begin, end, in_flight)
                    forward_s[behind, begin, end] = ranges.table(stage.forward_s)
                    backward_s[behind, begin, end] = ranges.table(stage.backward_s, 0.0)
                    sums_s[behind, begin, end] = ranges.table(stage.sums_s, 0.0)
        return Steps(
            forward_s, backward_s, sums_s, self._hop_s, self.micro_batches, ranges.problem.workload.trains, ranges.start
        )

    @cached_property
    def _hop_s(self) -> Floats:
        count = len(self.devices)
        hop_s = np.zeros((self.ranges.layers + 1, count, count + 1, count + 1))
        for begin, middle, end in itertools.combinations(range(count + 1), 3):
            pairs = np.ix_(self.devices[begin:middle], self.devices[middle:end])
            across_bytes = self.size * self.ranges.cut_bytes[:, None, None]
            hop_s[:, begin, middle, end] = self.links.seconds(across_bytes, pairs).mean(axis=(1, 2))
        return hop_s

    def _stage(self, begin: int, end: int, in_flight: int) -> _Stage:
        """Devices [begin, end) of the order; equal for all in-flight counts that leave them equally much room."""
        group = self.devices[begin:end]
        replicated = len(group) > 1
        most = np.array([self.ranges.most_samples(d, self.size, in_flight, replicated=replicated) for d in group])
        key = begin, end, most.tobytes()
        if key not in self._stages:
            self._stages[key] = self._share_out(group, most)
        return self._stages[key]

    def _share_out(self, group: Sequence[int], most: Ints) -> _Stage:
        ranges = self.ranges
        speed = np.array([ranges.speed(device, self.size) for device in group])
        shares = proportional_shares(speed, most, self.size)
        own = list(zip(group, shares, strict=True))
        forward_s = np.max([ranges.forward_s(device, samples) for device, samples in own], axis=0)
        return _Stage(
            shares,
            np.where(shares.any(axis=0), forward_s, np.inf),
            np.max([ranges.backward_s(device, samples) for device, samples in own], axis=0),
            self._sum_s(group),
        )

    def _sum_s(self, group: Sequence[int]) -> Floats:
        """Seconds in which a group sums the gradients of each range on an idle network."""
        problem, gradient_bytes = self.ranges.problem, self.ranges.gradient_bytes
        if len(group) == 1 or not problem.workload.trains:
            return np.zeros(gradient_bytes.shape)
        ids = [problem.cluster.device_ids[device] for device in group]
        leader = problem.network.best_leader(ids)
        sums_s = []
        for algorithm in problem.network.all_reduce_algorithms:
            one_byte = problem.network.all_reduce(ids, 1.0, AllReduce(algorithm=algorithm, leader=leader))
            byte_s = max(one_byte.seconds.values())
            sums_s.append(one_byte.duration_s + (gradient_bytes - 1) * byte_s)
        return np.asarray(np.min(sums_s, axis=0))


def asteroids(problem: Problem) -> list[Plan]:
    """Hybrid pipelines of least estimate that fit in memory."""
    links = Links.of(problem)
    plans: list[Plan] = []
    for start in first_cuts(problem.workload, len(problem.cluster.devices)):
        ranges = Ranges(problem, start)
        for size in problem.space.micro_batch_sizes:
            for devices in _orders(problem, size):
                for cuts, shares in _Order(ranges, links, devices, size).hybrids():
                    plans.extend(pipelines(problem, "Asteroid", cuts, shares))
    return fitting(plans, problem)


def _orders(problem: Problem, size: int) -> list[tuple[int, ...]]:
    """Devices by memory, faster ones first among equal ones, and devices by speed; each forwards and backwards."""
    fastest = fastest_first(problem, size)
    largest = sorted(fastest, key=lambda device: -problem.cluster.devices[device].usable_memory_bytes)
    orders = (largest, fastest, largest[::-1], fastest[::-1])
    return list(dict.fromkeys(tuple(order) for order in orders))
