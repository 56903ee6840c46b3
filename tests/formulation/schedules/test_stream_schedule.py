"""Schedules of a stream against an exhaustive search and a simulation of request after request."""

from __future__ import annotations

import math

import numpy as np
import pytest
from builders import (
    Dice,
    best_stream_latency,
    examples,
    random_plan,
    random_question,
    seeded,
    shape_and_timing,
    unrolled_latencies,
)
from hypothesis import HealthCheck, given, settings

from dora_nb import solvers
from dora_nb.costs import evaluate
from dora_nb.costs.operations import Operations, Timing
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.schedules import stream_schedule
from dora_nb.formulation.schedules.stream_schedule import greedy_stream, schedule_of, stream_model
from dora_nb.planning import streaming
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.streaming import settle_stream
from dora_nb.simulation import play_stream

Streamed = tuple[Workload, Cluster, Plan, Operations, Timing]


def busiest_s(plan: Plan, operations: Operations, timing: Timing) -> float:
    """The largest load of a stage or a medium for one request."""
    loads: dict[object, float] = {}
    for operation in operations.operations:
        held = timing.holds[operation.cls].seconds if operation.cls in timing.holds else {}
        for place in held or ([("stage", operation.stage)] if operation.kind == "forward" else []):
            loads[place] = loads.get(place, 0.0) + held.get(place, timing.duration_s[operation.cls])  # type: ignore[call-overload]
    return max(loads.values())


def streamed(dice: Dice) -> Streamed:
    """A random plan and a rate close to the largest it could keep up with."""
    work, place = random_question(dice, layers=(2, 3), batches=(1, 2, 3), modes=("stream",))
    plan = random_plan(dice, work, place)
    operations, timing = shape_and_timing(plan, Problem.of(work, place, "participating"))
    period_s = busiest_s(plan, operations, timing) * dice.pick((1.0, 1.01, 1.05, 1.2, 1.5))
    return work.replace(requests_per_s=1 / period_s), place, plan, operations, timing


@settings(max_examples=examples(12), suppress_health_check=list(HealthCheck), deadline=None)
@given(seeded(streamed))
def test_the_exact_schedule_is_the_best_of_all_and_the_simulation_reaches_it(case: Streamed) -> None:
    work, place, plan, operations, timing = case
    period_s = work.arrival_s
    assert period_s is not None
    problem = Problem.of(work, place, "participating")
    settled = settle_stream(plan, problem, below_s=math.inf, gap=1e-6, solver="auto", deadline=Deadline())
    most_s = min(sum(timing.duration_s[kind] for kind in operations.classes) + 4 * period_s, settled.makespan_s)
    best_s = best_stream_latency(operations, timing, period_s, most_s * (1 + 1e-6))
    if best_s < most_s:
        assert settled.makespan_s <= best_s * (1 + 1e-5)
        assert settled.bound_s <= best_s * (1 + 1e-6)
    if settled.plan is None:
        assert math.isinf(settled.bound_s)
        assert greedy_stream(operations, timing, period_s) is None
        return
    ordered = settled.plan
    assert evaluate(ordered, work, place).prediction.makespan_s == pytest.approx(settled.makespan_s)
    latencies = unrolled_latencies(ordered, work, place, 50)
    assert np.all(np.diff(latencies) >= -1e-9 * settled.makespan_s)  # a stream that starts idle fills up
    assert latencies[-1] == pytest.approx(settled.makespan_s, rel=1e-6)
    assert play_stream(ordered, work, place, requests=50).latencies_s == pytest.approx(latencies, rel=1e-9)


@settings(max_examples=examples(10), suppress_health_check=list(HealthCheck), deadline=None)
@given(seeded(streamed))
def test_where_no_quick_schedule_is_found_the_program_finds_the_best(case: Streamed) -> None:
    """Below its latency there is none, and without programs nothing is proven or found."""
    work, place, plan, operations, timing = case
    assert work.arrival_s is not None
    problem, limit_s = Problem.of(work, place, "participating"), 3 * work.arrival_s + sum(timing.duration_s.values())
    options = {"gap": 1e-6, "solver": "highs", "deadline": Deadline()}
    most_s = limit_s * (1 + 1e-6)
    best_s = best_stream_latency(operations, timing, work.arrival_s, most_s, most_nodes=20_000)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(streaming, "greedy_stream", lambda *_: None)
        found = settle_stream(plan, problem, below_s=limit_s, **options)
        if best_s < limit_s:
            assert found.makespan_s == pytest.approx(best_s, rel=1e-5)
            assert found.bound_s <= best_s * (1 + 1e-6)
            nothing = settle_stream(plan, problem, below_s=best_s * (1 - 1e-4), **options)
            assert nothing.plan is None
            assert best_s * (1 - 2e-4) <= nothing.bound_s <= best_s * (1 + 1e-6)
        patched.setattr(streaming, "MOST_PAIRS", -1)
        unknown = settle_stream(plan, problem, below_s=limit_s, **options)
        assert unknown.plan is None
        assert unknown.bound_s <= max(best_s, limit_s) * (1 + 1e-6)


@settings(max_examples=examples(10), suppress_health_check=list(HealthCheck), deadline=None)
@given(seeded(streamed))
def test_times_that_meet_on_a_medium_make_no_schedule(case: Streamed) -> None:
    """All operations at once: the order they mean may or may not repeat, but what it gives is a true schedule."""
    work, place, plan, operations, timing = case
    assert work.arrival_s is not None
    schedule = schedule_of(operations, timing, work.arrival_s, [0.0] * len(operations.operations))
    if schedule is not None:
        ordered = plan.replace(transfer_order=schedule.transfers(operations))
        assert unrolled_latencies(ordered, work, place, 50)[-1] == pytest.approx(schedule.latency_s, rel=1e-6)


@settings(max_examples=examples(12), suppress_health_check=list(HealthCheck), deadline=None)
@given(seeded(streamed))
def test_the_program_as_it_stands_is_the_exhaustive_search(case: Streamed) -> None:
    """Within what all operations one after the other and two periods take."""
    work, _, _, operations, timing = case
    assert work.arrival_s is not None
    latest_s = sum(timing.duration_s[kind] for kind in operations.classes) + 2 * work.arrival_s
    model = stream_model(operations, timing, work.arrival_s, latest_s)
    outcome = solvers.solve(model, solvers.Options(mip_gap=1e-7, time_limit_s=60), solver="highs")
    best_s = best_stream_latency(operations, timing, work.arrival_s, latest_s, most_nodes=20_000)
    if outcome.objective is None:
        assert outcome.status is solvers.Status.INFEASIBLE
        assert best_s == latest_s
    else:
        assert outcome.objective * work.arrival_s == pytest.approx(best_s, rel=1e-5)


@settings(max_examples=examples(5), suppress_health_check=list(HealthCheck), deadline=None)
@given(seeded(streamed))
def test_a_medium_that_is_needed_all_the_time_and_more_rules_every_schedule_out(case: Streamed) -> None:
    work, place, plan, operations, timing = case
    media_s = max(stream_schedule.media_s(operations, timing).values(), default=0.0)
    if media_s == 0:
        return
    hurried = work.replace(requests_per_s=1.01 / media_s)
    problem = Problem.of(hurried, place, "participating")
    settled = settle_stream(plan, problem, below_s=math.inf, gap=1e-3, solver="highs", deadline=Deadline())
    assert settled.plan is None
    assert settled.bound_s == math.inf
