"""Bounds on missing stages, with few devices a stage, against what every plan really spends on them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from builders import cluster, default_space, device, every_plan, examples, questions, shape_and_timing, workload
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload
from dora_nb.formulation.fleet import Fleet
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.schedules.list_schedule import list_schedule

ROUNDING = 1 + 1e-9


@settings(max_examples=examples(25), suppress_health_check=list(HealthCheck))
@given(questions(layers=(2, 4), batches=(1, 2, 3, 4), device_count=(2, 3)), st.sampled_from((1, 2, 3)))
def test_no_stages_before_a_cut_of_any_plan_are_below_the_bounds(
    question: tuple[Workload, Cluster], replicas: int
) -> None:
    work, place = question
    space = replace(default_space(work, place, (1, 3)), most_replicas=replicas)
    problem = Problem.of(work, place, "participating", space=space)
    left = problem.stages_left
    for plan in every_plan(problem):
        batches, size = plan.micro_batches, plan.micro_batch
        makespan_s = list_schedule(*shape_and_timing(plan, problem)).makespan_s
        hosted = 1 if plan.tied == "hosted" else 0
        seconds = [_seconds(plan, stage, problem) for stage in range(len(plan.stages))]
        least_s = left.least_makespan_s(size, batches)
        for split in range(1, len(plan.stages) + 1):
            code = _code(plan, split, problem)
            cut = plan.stages[split - 1].stop_layer
            path_s = sum(forward_s + backward_s for forward_s, backward_s in seconds[:split])
            assert size * (left.path_s[code, cut] - left.path_s[code, hosted]) <= path_s * ROUNDING
            forward_s = sum(each for each, _ in seconds[:split])
            assert size * (left.forward_s[code, cut] - left.forward_s[code, hosted]) <= forward_s * ROUNDING
            missing = left.work - left.work[hosted]
            assert least_s[code] * missing[cut] <= makespan_s * ROUNDING
            within_s = left.path_within_s(missing, size, batches, makespan_s * ROUNDING)
            assert within_s[code, cut] <= path_s * ROUNDING


def _seconds(plan: Plan, stage: int, problem: Problem) -> tuple[float, float]:
    """Forward and backward seconds of a micro-batch on the slowest replica."""
    layers = slice(plan.stages[stage].first_layer, plan.stages[stage].stop_layer)
    table, ids = problem.table, problem.cluster.device_ids
    own = [(ids.index(replica.device), replica.samples) for replica in plan.stages[stage].replicas]
    forward_s = max(table.forward_s[layers, index, samples].sum() for index, samples in own)
    return float(forward_s), float(max(table.backward_s[layers, index, samples].sum() for index, samples in own))


def _code(plan: Plan, split: int, problem: Problem) -> int:
    """Code of the devices of the stages from a split on."""
    fleet, ids = problem.fleet, problem.cluster.device_ids
    kind_of = {member: kind for kind, same in enumerate(fleet.types) for member in same}
    return sum(fleet.radix[kind_of[ids.index(name)]] for stage in plan.stages[split:] for name in stage.devices)


def test_only_so_many_devices_share_a_layer_and_a_stage() -> None:
    devices = [device("a", 4e9), device("b", 2e9), device("c", 1e9)]
    space = replace(default_space(workload(3), cluster(devices)), most_replicas=2, micro_batch_sizes=(2,))
    left = Problem.of(workload(3), cluster(devices), "participating", space=space).stages_left
    # F + B = 3 s a layer at 1 GFLOP/s; a and b together are 6 times as fast, c alone makes a second stage
    assert left.path_s[0].tolist() == pytest.approx([0, 0.5, 1, 1.5])
    assert (left.speed[0] / left.speed[0, 1]).tolist() == pytest.approx([6, 1])
    assert left.speed[-1].tolist() == [0, 0]
    assert np.isinf(left.least_makespan_s(2, 2)[-1])


def test_the_fastest_stage_works_as_long_as_the_makespan_lets_it() -> None:
    devices = [device("a", 4e9), device("b", 1e9)]
    space = replace(default_space(workload(5), cluster(devices)), most_replicas=1, micro_batch_sizes=(2,))
    left = Problem.of(workload(5), cluster(devices), "participating", space=space).stages_left
    # Two micro-batches of 2 samples: a layer takes 1.5 s on a, 6 s on b. In 8 s a has 4 s for one micro-batch,
    # b half of the 4 s that are left.
    assert left.shares(2).tolist() == [0.5, 0.25]
    within_s = left.path_within_s(left.work, 2, 2, 8.0)[0]
    assert within_s[:3].tolist() == pytest.approx([0, 1.5, 3])
    assert within_s[3] == pytest.approx(4 + (3 - 4 / 1.5) * 6)
    assert np.isinf(within_s[4])
    assert left.least_makespan_s(2, 2)[0] * left.work[3] == pytest.approx(3 / (0.5 / 1.5 + 0.25 / 6))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4))
@settings(max_examples=examples(10), deadline=None)
def test_packed_counts_say_what_fits_together(counts: list[int]) -> None:
    starts = np.cumsum([0, *counts])
    fleet = Fleet(tuple(tuple(range(start, stop)) for start, stop in itertools.pairwise(starts.tolist())))
    some = np.random.default_rng(sum(counts)).integers(0, fleet.codes, (2, 50))
    fits = fleet.fit_together(some[0][:, None], some[1][None])
    together = fleet.used[some[0]][:, None] + fleet.used[some[1]][None]
    assert fits.tolist() == (together <= fleet.available).all(axis=2).tolist()
