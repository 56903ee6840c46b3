"""The joint program of one skeleton, as it stands, against every plan of that skeleton and its limits."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from builders import (
    Dice,
    Rated,
    cluster,
    default_space,
    device,
    examples,
    questions,
    random_question,
    rated_plans,
    workload,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dora_nb import solvers
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.formulation.columns import build_columns
from dora_nb.formulation.joint.program import joint_model
from dora_nb.formulation.joint.skeleton import Skeleton, skeletons
from dora_nb.formulation.problem import Problem
from dora_nb.solvers import Options, Status

EXACT = Options(mip_gap=1e-7, time_limit_s=60)

SMALL: dict[str, Any] = {"layers": (2, 2), "batches": (1, 2), "device_count": (2, 2), "kinds": ("shared", "switch")}


def is_of(plan: Plan, skeleton: Skeleton, problem: Problem) -> bool:
    held = tuple(stage.in_flight for stage in plan.stages)
    own = held == skeleton.in_flight or not problem.workload.trains
    hosted = plan.tied == "hosted"
    return (len(held), plan.micro_batch, hosted) == (
        len(skeleton.in_flight),
        skeleton.micro_batch,
        skeleton.hosts,
    ) and own


def least_j(each: Rated) -> float:
    return each.dynamic_j + each.idle_w * each.best_s(math.inf)


@settings(max_examples=examples(8), suppress_health_check=list(HealthCheck))
@example(random_question(Dice(22), **SMALL), "participating")  # HiGHS 1.16 fails on it, unless without presolve
@example(random_question(Dice(638), **SMALL), "participating")  # inputs pass transfers at a port of the switch
@given(questions(**SMALL), st.sampled_from(("participating", "all-on")))
def test_energy_and_its_limit_are_those_of_every_plan(question: tuple[Workload, Cluster], accounting: str) -> None:
    """Least energy, and with a limit just below it nothing; just above it, the fastest plan keeps the limit.

    On a switch what comes from the source may pass what goes to another stage at a port, so both may be lower.
    """
    space = dataclasses.replace(default_space(*question, (1,)), most_chunks=1)
    problem = Problem.of(*question, accounting, space=space)
    plans, columns = rated_plans(problem), build_columns(problem, space.most_replicas)
    for skeleton in skeletons(problem):
        own = [each for each in plans if is_of(each.plan, skeleton, problem)]
        least = min(map(least_j, own))
        cheapest = joint_model(problem, columns, skeleton, "energy")
        assert cheapest is not None
        found = solvers.solve(cheapest.model, EXACT, solver="highs")
        assert found.status is Status.OPTIMAL
        assert found.objective is not None
        least_found = found.objective * cheapest.unit
        assert least_found <= least * (1 + 1e-5)
        if problem.shared:
            assert least_found == pytest.approx(least, rel=1e-5)
        below = joint_model(problem, columns, skeleton, "latency", energy_limit_j=0.999 * least_found)
        assert below is not None
        assert solvers.solve(below.model, EXACT, solver="highs").status is Status.INFEASIBLE
        above = joint_model(problem, columns, skeleton, "latency", energy_limit_j=1.001 * least)
        assert above is not None
        fastest = solvers.solve(above.model, EXACT, solver="highs")
        assert fastest.objective is not None
        fastest_s = fastest.objective * above.unit
        reached_s = [each.best_s(math.inf) for each in own if each.reaches_energy(1.001 * least)]
        assert fastest_s <= min(reached_s) * (1 + 1e-5)
        if problem.shared:
            assert fastest_s >= min(reached_s) * (1 - 1e-5)


@settings(max_examples=examples(8), suppress_health_check=list(HealthCheck))
@given(
    questions(layers=(2, 2), batches=(1, 2), device_count=(2, 2), kinds=("shared", "switch")),
    st.sampled_from((0.999, 1.001)),
)
def test_no_battery_is_empty_before_the_end(question: tuple[Workload, Cluster], share: float) -> None:
    """A battery that lasts just not, or just, for the fastest plan that uses it."""
    work, place = question
    space = dataclasses.replace(default_space(work, place, (1,)), most_chunks=1)
    plain = Problem.of(work, place, "participating", space=space)
    plans = rated_plans(plain)
    for skeleton in skeletons(plain):
        own = [each for each in plans if is_of(each.plan, skeleton, plain)]
        fastest = min(own, key=lambda each: each.best_s(math.inf))
        name = fastest.plan.devices[0]
        limit_j = share * drawn_j(fastest, name)
        problem = Problem.of(work, place, "participating", qoe=QoE(battery_j={name: limit_j}), space=space)
        lasting = [each for each in own if drawn_j(each, name) <= limit_j * (1 + 1e-9)]
        model = joint_model(problem, build_columns(problem, space.most_replicas), skeleton, "latency")
        outcome = None if model is None else solvers.solve(model.model, EXACT, solver="highs")
        if not lasting:
            assert outcome is None or outcome.status is Status.INFEASIBLE
            continue
        assert model is not None
        assert outcome is not None
        assert outcome.objective is not None
        best_s = min(each.best_s(math.inf) for each in lasting)
        assert outcome.objective * model.unit == pytest.approx(best_s, rel=1e-5)


def test_what_is_ruled_out_is_not_chosen_again_and_what_does_not_fit_is_no_program() -> None:
    """Two layers, one on each of two devices: either way round, then no other; without memory no program at all."""
    place, work = cluster([device("a"), device("b", 2e9)], 1e12), workload(2, mode="inference", batch=1)
    problem = Problem.of(work, place, "participating", space=default_space(work, place))
    columns, skeleton = build_columns(problem, 1), Skeleton(1, (1, 1), hosts=False)
    chosen: list[list[int]] = []
    for seconds in (1.5, 1.5):
        model = joint_model(problem, columns, skeleton, "latency", ruled_out=chosen)
        assert model is not None
        outcome = solvers.solve(model.model, EXACT, solver="highs")
        assert outcome.objective is not None
        assert outcome.objective * model.unit == pytest.approx(seconds, rel=1e-5)
        chosen.append(model.chosen(outcome.values))
    assert chosen[0] != chosen[1]
    model = joint_model(problem, columns, skeleton, "latency", ruled_out=chosen)
    assert model is not None
    assert solvers.solve(model.model, EXACT, solver="highs").status is Status.INFEASIBLE
    assert joint_model(problem, columns.take(np.zeros(0, dtype=int)), skeleton, "latency") is None


def drawn_j(each: Rated, name: str) -> float:
    """What a device of a plan draws in its best schedule."""
    if name not in each.plan.devices:
        return 0.0
    shorter_s = each.makespan_s - each.best_s(math.inf)
    return each.drawn_j[name] - each.problem.cluster.device(name).idle_w * shorter_s
