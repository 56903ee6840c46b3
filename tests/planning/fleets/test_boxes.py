"""Boxes of stage seconds: rows, lightest chains and lists of them against every chain; bounds against every plan."""

from __future__ import annotations

import itertools
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
from builders import Dice, cluster, default_space, device, drawn_layers, examples, questions, rated_plans, workload
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.workload import Workload
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.fleets.boxed_chains import TOO_HEAVY, Levels, Weighed
from dora_nb.formulation.fleets.group_times import GroupTimes
from dora_nb.formulation.fleets.pipeline_rows import Kind, PipelineRows
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning import deadline
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.fleets import box_bound, box_pricing, chain_listing
from dora_nb.planning.fleets.annealing import longest_path
from dora_nb.planning.fleets.box_bound import BoxBound, boxes_proven_s
from dora_nb.planning.fleets.box_pricing import refuting
from dora_nb.planning.fleets.chain_listing import listed_chains

ROUNDING = 1e-9

QUICK = {"suppress_health_check": list(HealthCheck)}

Stages = tuple[tuple[int, int, int], ...]


def fleet_times(layers: int, devices: int, types: int, micro_batches: int = 4) -> GroupTimes:
    dice = np.random.default_rng(layers + devices)

    def between(low: float, high: float) -> float:
        return float(dice.uniform(low, high))

    speeds = [between(0.5, 4) * 1e9 for _ in range(types)]
    members = [device(f"d{index}", speeds[index % types]) for index in range(devices)]
    work = workload(drawn_layers(between, layers), batch=4 * micro_batches)
    place = cluster(members, [3e7] * devices, "switch")
    return GroupTimes.of(Problem.of(work, place, "participating", space=SearchSpace((4,), 2, (1,))), 4)


def every_chain(times: GroupTimes, stages: int) -> list[Stages]:
    layers = len(times.hop_s) - 1
    cuts = [(0, *inner, layers) for inner in itertools.combinations(range(1, layers), stages - 1)]
    groups = itertools.product(range(len(times.groups)), repeat=stages)
    return [
        tuple((first, stop, group) for (first, stop), group in zip(itertools.pairwise(ends), some, strict=True))
        for ends, some in itertools.product(cuts, groups)
    ]


def levels_of(levels: Levels, chain: Stages) -> Ints:
    return np.array([levels.of[group, levels.times.range_of[first, stop]] for first, stop, group in chain], dtype=int)


def used(times: GroupTimes, chain: Stages) -> Ints:
    return np.asarray(times.used[[group for *_, group in chain]].sum(axis=0))


@settings(max_examples=examples(2), **QUICK)
@given(questions(layers=(2, 3), batches=(1, 2, 3, 4), tied=False))
def test_no_plan_refutes_the_bound_of_boxes(question: tuple[Workload, Cluster]) -> None:
    problem = Problem.of(*question, "participating", space=default_space(*question))
    plans = rated_plans(problem)
    best_s = min(rated.makespan_s for rated in plans)
    bounds = [
        BoxBound(
            GroupTimes.of(problem, size),
            problem.space.in_flight_depths,
            problem.workload.trains,
            Deadline(),
            lambda *_: 0.0,
        )
        for size in problem.space.micro_batch_sizes
    ]
    bound_s = boxes_proven_s(bounds, 0.05, lambda: 1.1 * best_s, lambda _: None)
    for rated in plans:
        assert not rated.reaches_latency(bound_s * (1 - ROUNDING)), (rated.plan, bound_s)


@settings(max_examples=examples(40), **QUICK)
@given(st.integers(0, 10**9))
def test_every_pipeline_meets_the_rows_of_its_kinds(seed: int) -> None:
    dice = Dice(seed)
    times = fleet_times(8, 6, 3, dice.pick((1, 2, 4, 7, 8)))
    count, depth, trains = dice.number(1, 7), dice.number(1, 3), True
    cuts = [0, *sorted(random.Random(seed).sample(range(1, 8), count - 1)), 8]
    groups = [dice.pick(range(len(times.groups))) for _ in range(count)]
    t = [
        float(times.seconds[group, times.range_of[first, stop]])
        for group, (first, stop) in zip(groups, itertools.pairwise(cuts), strict=True)
    ]
    held = [min(times.micro_batches, 1 + depth * behind) for behind in reversed(range(count))]
    makespan_s = longest_path(times, held, trains)(t, list(times.hop_s[cuts[1:]]), math.inf)
    rows = PipelineRows.of(times, Kind(depth, count, False), trains)
    assert float(rows.least_s(np.array([t]))[0]) <= makespan_s * (1 + ROUNDING)
    for told in range(1, count):
        front = t[: count - told]
        trip_s = sum(front) + times.directions * float(times.hop_s[cuts[: count - told]].sum())
        figures_s = np.array([[trip_s, max(front), *t[count - told :]]])
        rows = PipelineRows.of(times, Kind(depth, told, True), trains)
        assert float(rows.least_s(figures_s)[0]) <= makespan_s * (1 + ROUNDING), told


def test_rows_of_a_pipeline_without_hand_overs_are_its_longest_path() -> None:
    times = fleet_times(8, 6, 3, 8)
    t = [5.0, 7.0, 4.0]
    rows = PipelineRows.of(times, Kind(1, 3, False), trains=True)
    exact_s = longest_path(times, (3, 2, 1), trains=True)(t, [0.0] * 3, math.inf)
    assert float((rows.weights @ t).max()) == pytest.approx(exact_s)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_no_chain_is_lighter_than_the_lightest_of_its_box(stages: int) -> None:
    times = fleet_times(5, 4, 2)
    dice = np.random.default_rng(stages)
    levels = Levels(times, float(np.median(times.seconds[np.isfinite(times.seconds)]) * 8 * times.micro_batches))
    weights = dice.uniform(0.1, 1.0, len(times.available))
    weighed = Weighed(levels, weights / (weights @ times.available))
    chains = every_chain(times, stages)
    kind = Kind(1, stages, False)
    for _ in range(5):
        most = dice.integers(40, 200, stages)
        middle = most // 2
        inside = [chain for chain in chains if (levels_of(levels, chain) <= most).all()]
        weight = [float(used(times, chain) @ weighed.weights) for chain in inside]
        assert float(weighed.least(kind, most[None])[0]) == pytest.approx(min(weight, default=math.inf), rel=1e-5)
        for stage, least in enumerate(weighed.lower(kind, middle[None], most[None])[0]):
            lower = [
                each
                for each, chain in zip(weight, inside, strict=True)
                if levels_of(levels, chain)[stage] <= middle[stage]
            ]
            assert float(least) == pytest.approx(min(lower, default=math.inf), rel=1e-5)


def test_no_longer_chain_is_lighter_than_the_lightest_of_its_box() -> None:
    times = fleet_times(4, 4, 2)
    levels = Levels(times, float(np.nanmax(np.where(np.isfinite(times.seconds), times.seconds, np.nan)) * 4))
    weights = np.array([0.7, 0.3])
    weighed = Weighed(levels, weights / (weights @ times.available))
    kind = Kind(1, 1, True)
    for chain in [each for stages in (2, 3) for each in every_chain(times, stages)]:
        level = levels_of(levels, chain)
        front = chain[:-1]
        trip_s = sum(times.seconds[group, times.range_of[first, stop]] for first, stop, group in front)
        trip_s += times.directions * times.hop_s[[first for first, *_ in front]].sum()
        most = np.array([[math.ceil(trip_s / levels.unit_s), level[:-1].max(), level[-1]]])
        if level.max() <= 256:
            assert weighed.least(kind, most)[0] <= (used(times, chain) @ weighed.weights) * (1 + 1e-5)


def test_all_chains_on_disjoint_devices_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    times = fleet_times(5, 4, 2)
    levels = Levels(times, float(np.median(times.seconds[np.isfinite(times.seconds)]) * 8 * times.micro_batches))
    weighed = Weighed(levels, np.full(2, 1 / times.available.sum()))
    most = np.array([150, 180])
    expected = {
        chain
        for chain in every_chain(times, 2)
        if (levels_of(levels, chain) <= most).all() and (used(times, chain) <= times.available).all()
    }
    found = listed_chains(weighed, most)
    assert found is not None
    assert expected
    assert {tuple(chain) for chain in found} == expected
    assert len(found) == len(expected)
    none = np.array([0, 180])  # no group is quick enough for the first stage
    assert not any((levels_of(levels, chain) <= none).all() for chain in every_chain(times, 2))
    assert listed_chains(weighed, none) == []
    monkeypatch.setattr(chain_listing, "MOST", 1)
    assert listed_chains(weighed, most) is None


@pytest.mark.parametrize("ways", [box_pricing.MOST_WAYS, 2])
def test_weights_that_refute_a_box_are_found(ways: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where only the lightest groups are looked at on the way, which may miss some but proves nothing wrong."""
    monkeypatch.setattr(box_pricing, "MOST_WAYS", ways)
    times = fleet_times(6, 4, 4)
    levels = Levels(times, float(np.median(times.seconds[np.isfinite(times.seconds)]) * 8 * times.micro_batches))
    even = Weighed(levels, np.full(4, 0.25))
    kind = Kind(1, 2, False)
    refuted = 0
    for level in range(20, 256, 6):
        most = np.array([level, level])
        found = refuting(even, kind, most)
        there = any(
            (levels_of(levels, chain) <= most).all() and (used(times, chain) <= times.available).all()
            for chain in every_chain(times, 2)
        )
        assert found is None or not there
        if found is not None:
            refuted += 1
            assert float(found.least(kind, most[None])[0]) > TOO_HEAVY
    assert refuted


def test_the_bound_of_boxes_reaches_the_best_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    times = fleet_times(6, 5, 5)
    best = [math.inf]

    def path_s(stages: list[tuple[int, int, int]], depth: int) -> float:
        held = [min(times.micro_batches, 1 + depth * behind) for behind in reversed(range(len(stages)))]
        t = [float(times.seconds[group, times.range_of[first, stop]]) for first, stop, group in stages]
        found_s = longest_path(times, held, trains=True)(
            t, [float(times.hop_s[stop]) for _, stop, _ in stages], math.inf
        )
        best[0] = min(best[0], found_s)
        return found_s

    every = [
        chain
        for stages in (1, 2, 3)
        for chain in every_chain(times, stages)
        if (used(times, chain) <= times.available).all()
    ]
    least_s = min(path_s(list(chain), 1) for chain in every)
    monkeypatch.setattr(box_bound, "MORE_TOLD", 0)
    best[0] = 1.2 * least_s
    bound_s = boxes_proven_s([BoxBound(times, (1,), True, Deadline(), path_s)], 0.01, lambda: best[0], lambda _: None)
    hurried = BoxBound(times, (1,), True, Deadline(0.0), path_s)  # what is not looked at is not refuted
    assert boxes_proven_s([hurried], 0.01, lambda: best[0], lambda _: None) <= least_s * (1 + ROUNDING)
    assert best[0] <= least_s * 1.011
    assert 0.99 * best[0] * (1 - ROUNDING) <= bound_s <= least_s * (1 + ROUNDING)


class Slow:
    """Proves what is asked, by a clock of its own: in one second, or, close to the best, not at all."""

    def __init__(self, clock: list[float], limit_s: float) -> None:
        self.clock, self.deadline, self.asked = clock, Deadline(limit_s), []

    def begin(self, most_s: float) -> None:
        assert most_s == 0.99

    def proven_s(self, asked) -> float:
        self.asked.append(asked())
        if asked() < 0.95:
            self.clock[0] += 1
            return asked()
        while not self.deadline.passed:
            self.clock[0] += 0.5
        return 0.0


@pytest.mark.parametrize(("limit_s", "asked", "proven_s"), [(40, [0.9, 0.99, 0.945], 0.945), (20, [0.9, 0.99], 0.9)])
def test_time_is_kept_for_a_step_half_way(limit_s, asked, proven_s, monkeypatch):
    """Of 39 s left five seconds are not too many; of 19 s they would be."""
    clock, told = [0.0], []
    for module in (box_bound, deadline):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    slow = Slow(clock, limit_s)
    assert boxes_proven_s([slow], 0.01, lambda: 1.0, told.append) == pytest.approx(proven_s)
    assert slow.asked == pytest.approx(asked)
    assert told == sorted(told)
