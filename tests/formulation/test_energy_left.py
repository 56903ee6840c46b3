"""Joules of missing stages within a makespan, against what every plan really spends on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import cluster, default_space, device, every_plan, examples, layer, questions, shape_and_timing, workload
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.schedules.list_schedule import list_schedule

ROUNDING = 1 + 1e-9


@settings(max_examples=examples(12), suppress_health_check=list(HealthCheck))
@given(questions(layers=(2, 4), batches=(1, 2, 3, 4), device_count=(2, 3)), st.sampled_from((1, 2, 3)))
def test_no_stages_before_a_cut_of_any_plan_draw_less(question: tuple[Workload, Cluster], replicas: int) -> None:
    work, place = question
    space = replace(default_space(work, place, (1,)), most_replicas=replicas)
    problem = Problem.of(work, place, "participating", space=space)
    left = problem.stages_left
    for plan in every_plan(problem):
        makespan_s = list_schedule(*shape_and_timing(plan, problem)).makespan_s
        hosted = 1 if plan.tied == "hosted" else 0
        missing = np.maximum(left.work - left.work[hosted], 0.0)
        least_j = problem.energy_left.least_j(
            missing, plan.micro_batch, plan.micro_batches, makespan_s, makespan_s * ROUNDING
        )
        spent_j = 0.0
        for split in range(1, len(plan.stages) + 1):
            spent_j += _joules(plan, split - 1, problem, makespan_s)
            code = _code(plan, split, problem)
            assert least_j[code, plan.stages[split - 1].stop_layer] <= spent_j * ROUNDING


def test_what_is_drawn_at_least_counts_the_fewest_bits() -> None:
    """Reading a byte instead of four takes a quarter of the seconds, and so of the joules."""
    work = workload([layer("a", flops=1.0, parameters=1000)], mode="inference")
    place = cluster([device("a", 1e9, memory_bytes_per_s=1e3)])
    whole, held = (
        Problem.of(work, place, "participating", space=default_space(work, place, weights=weights))
        for weights in ((), ("int8",))
    )
    drawn_j, least_j = (each.energy_left.device_j * each.stages_left.work[-1] for each in (whole, held))
    assert least_j == pytest.approx(drawn_j / 4)


def _joules(plan: Plan, stage: int, problem: Problem, makespan_s: float) -> float:
    """Joules of all passes and of idling, every replica by itself; a hosted first layer is left out."""
    layers = slice(plan.stages[stage].first_layer, plan.stages[stage].stop_layer)
    joules = 0.0
    for replica in plan.stages[stage].replicas:
        index = problem.cluster.device_ids.index(replica.device)
        passes_s = (problem.table.forward_s + problem.table.backward_s)[layers, index, replica.samples].sum()
        used = problem.cluster.devices[index]
        joules += plan.micro_batches * float(passes_s) * (used.active_w - used.idle_w) + used.idle_w * makespan_s
    return joules


def _code(plan: Plan, split: int, problem: Problem) -> int:
    """Code of the devices of the stages from a split on."""
    fleet, ids = problem.fleet, problem.cluster.device_ids
    kind_of = {member: kind for kind, same in enumerate(fleet.types) for member in same}
    return sum(fleet.radix[kind_of[ids.index(name)]] for stage in plan.stages[split:] for name in stage.devices)


def test_the_thriftiest_devices_work_as_long_as_the_makespan_lets_them() -> None:
    devices = [device("a", 1e9, idle_w=1.0, active_w=2.0), device("b", 4e9, idle_w=1.0, active_w=11.0)]
    problem = Problem.of(workload(5, batch=1), cluster(devices), "participating")
    work = problem.stages_left.work
    # A layer takes 3 s and 3 J above idling on a, 0.75 s and 7.5 J on b, and each that takes part idles for 9 s: in
    # that time a has done three layers, and b does the others.
    least_j = problem.energy_left.least_j(work, 1, 1, 9.0, 9.0)[0].tolist()
    assert least_j == pytest.approx([0, 9 + 3, 9 + 6, 9 + 9, 18 + 9 + 7.5, 18 + 9 + 15])
    assert np.isinf(problem.energy_left.least_j(work, 1, 1, 0.0, 1.0)[0, -1])
