"""Steepest descent over a few stages: legal states, figures of the rows, nearly as good as brute force."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from builders import cluster, device, drawn_layers, workload

from dora_nb.formulation.fleets.group_times import GroupTimes
from dora_nb.formulation.fleets.pipeline_rows import Kind, PipelineRows
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.fleets.annealing import Partition
from dora_nb.planning.fleets.descent import Descent

LAYERS = 6


def fleet_times(counts: tuple[int, ...]) -> GroupTimes:
    dice = np.random.default_rng(len(counts))

    def between(low: float, high: float) -> float:
        return float(dice.uniform(low, high))

    speeds = [between(0.5, 4) * 1e9 for _ in counts]
    kinds = [kind for kind, count in enumerate(counts) for _ in range(count)]
    members = [device(f"d{index}", speeds[kind]) for index, kind in enumerate(kinds)]
    rates = [3e7 * (1 + kind) for kind in kinds]
    work, place = workload(drawn_layers(between, LAYERS), batch=16), cluster(members, rates, "switch")
    return GroupTimes.of(Problem.of(work, place, "participating", space=SearchSpace((4,), 2, (1,))), 4)


def begin(times: GroupTimes, stages: int) -> Partition:
    kinds = [kind for kind, count in enumerate(times.available.tolist()) for _ in range(count)]
    cuts = tuple(round(LAYERS * stage / stages) for stage in range(stages + 1))
    return Partition(cuts, tuple((kind,) for kind in kinds[:stages]), np.inf)


def seconds_of(times: GroupTimes, part: Partition) -> list[float]:
    groups = [times.group_of[tuple(map(some.count, range(len(times.available))))] for some in part.kinds]
    return [
        float(times.seconds[group, times.range_of[ends]])
        for group, ends in zip(groups, itertools.pairwise(part.cuts), strict=True)
    ]


@pytest.mark.parametrize("counts", [(1, 1, 1, 1), (2, 2, 1)])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_the_best_state_is_nearly_as_good_as_any(stages: int, counts: tuple[int, ...]) -> None:
    times = fleet_times(counts)
    rows = PipelineRows.of(times, Kind(1, stages, False), trains=True)
    part = Descent(times, rows, begin(times, stages), 0).run(20, Deadline())
    assert part.figure_s == pytest.approx(float(rows.least_s(np.array(seconds_of(times, part)))))
    taken = np.bincount([kind for some in part.kinds for kind in some], minlength=len(counts))
    assert (taken <= times.available).all()
    every = []
    for inner in itertools.combinations(range(1, LAYERS), stages - 1):
        ranges = [times.range_of[ends] for ends in itertools.pairwise((0, *inner, LAYERS))]
        every += [
            times.seconds[list(groups), ranges]
            for groups in itertools.product(range(len(times.groups)), repeat=stages)
            if (times.used[list(groups)].sum(axis=0) <= times.available).all()
        ]
    least_s = float(rows.least_s(np.array(every)).min())
    assert least_s * (1 - 1e-9) <= part.figure_s <= least_s * 1.1


def test_it_stops_when_asked_to() -> None:
    times = fleet_times((1, 1, 1, 1))
    rows = PipelineRows.of(times, Kind(1, 2, False), trains=True)
    cancel = threading.Event()
    cancel.set()
    part = Descent(times, rows, begin(times, 2), 0).run(10**9, Deadline(cancel=cancel))
    assert len(part.kinds) == 2
