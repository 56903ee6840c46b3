"""Schedules of one plan: every bound below, every schedule above, the program equal to an exhaustive search."""

from __future__ import annotations

import pytest
from builders import (
    Dice,
    best_makespan,
    cluster,
    device,
    examples,
    layer,
    pipeline,
    questions,
    random_plan,
    shape_and_timing,
    workload,
)
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from dora_nb import solvers
from dora_nb.costs.evaluate import evaluate
from dora_nb.costs.start_times import start_times
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.schedules.list_schedule import ListSchedule, list_schedule
from dora_nb.formulation.schedules.serial_schedule import by_head, improved
from dora_nb.formulation.schedules.transfers import transfer_model
from dora_nb.formulation.schedules.windows import Windows
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.scheduling import settle

QUICK = {"suppress_health_check": list(HealthCheck), "deadline": None}
QUESTIONS = questions(layers=(2, 3), batches=(2, 3, 4), device_count=(2, 3))
SEEDS = st.integers(0, 2**32 - 1)


def problem_of(question: tuple[Workload, Cluster], plan: Plan) -> Problem:
    return Problem.of(*question, "participating", overlap=plan.overlap)


def some(question: tuple[Workload, Cluster], seed: int, most_transfers: int = 14) -> tuple[Plan, Problem]:
    """A plan with a few transfers that get in each other's way."""
    plan = random_plan(Dice(seed), *question)
    problem = problem_of(question, plan)
    assume(2 <= len(shape_and_timing(plan, problem)[0].transfers) <= most_transfers)
    return plan, problem


@settings(max_examples=examples(35), **QUICK)
@given(QUESTIONS, SEEDS)
def test_bounds_are_below_and_schedules_above_the_best(question: tuple[Workload, Cluster], seed: int) -> None:
    plan, problem = some(question, seed)
    operations, timing = shape_and_timing(plan, problem)
    listed = list_schedule(operations, timing)
    better = improved(listed, operations, timing, enough_s=0.0, rounds=10)
    best_s = best_makespan(operations, timing, listed.makespan_s * (1 + 1e-9), most_nodes=100_000)
    windows = Windows(operations, timing)
    assert windows.path_s <= windows.medium_bound_s() * (1 + 1e-12) <= best_s * (1 + 1e-9)
    assert best_s <= better.makespan_s * (1 + 1e-9) <= listed.makespan_s * (1 + 2e-9)
    for each in (better, by_head(operations, timing)):
        exact = evaluate(plan.replace(transfer_order=each.transfers()), *question).prediction.makespan_s
        assert best_s * (1 - 1e-9) <= exact <= each.makespan_s * (1 + 1e-9)


@settings(max_examples=examples(15), **QUICK)
@given(QUESTIONS, SEEDS)
def test_the_program_finds_the_best_order(question: tuple[Workload, Cluster], seed: int) -> None:
    plan, problem = some(question, seed, most_transfers=10)
    operations, timing = shape_and_timing(plan, problem)
    listed = list_schedule(operations, timing)
    best_s = best_makespan(operations, timing, listed.makespan_s * (1 + 1e-9), most_nodes=200_000)
    windows = Windows(operations, timing)
    assert windows.decide(listed.makespan_s)
    program = transfer_model(windows, listed.makespan_s)
    outcome = solvers.solve(program.model, solvers.Options(mip_gap=1e-7), solver="highs")
    assert outcome.status is solvers.Status.OPTIMAL
    assert outcome.objective * program.unit_s == pytest.approx(best_s, rel=1e-6)
    order = ListSchedule(0.0, program.order(outcome.values["start"])).transfers()
    starts_s = start_times(operations, timing, order)
    ends_s = (start + timing.duration_s[kind] for start, kind in zip(starts_s, operations.classes, strict=True))
    assert max(ends_s) == pytest.approx(best_s, rel=1e-6)


@settings(max_examples=examples(35), **QUICK)
@given(QUESTIONS, SEEDS)
def test_windows_of_the_best_makespan_let_the_best_schedule_in(question: tuple[Workload, Cluster], seed: int) -> None:
    plan, problem = some(question, seed)
    operations, timing = shape_and_timing(plan, problem)
    listed = list_schedule(operations, timing)
    best_s = best_makespan(operations, timing, listed.makespan_s * (1 + 1e-9), most_nodes=100_000)
    windows = Windows(operations, timing)
    assert windows.decide(best_s)
    assert windows.path_s <= best_s * (1 + 1e-9)
    # No order that the windows exclude is as short: the program over what they leave finds one that is.
    program = transfer_model(windows, best_s * (1 + 1e-6))
    outcome = solvers.solve(program.model, solvers.Options(mip_gap=1e-7), solver="highs")
    assert outcome.objective is not None
    assert outcome.objective * program.unit_s <= best_s * (1 + 2e-6)


@settings(max_examples=examples(15), **QUICK)
@given(QUESTIONS, SEEDS, st.sampled_from((0.9, 0.99, 0.9999)))
def test_nothing_below_the_best_is_possible(question: tuple[Workload, Cluster], seed: int, share: float) -> None:
    plan, problem = some(question, seed, most_transfers=10)
    operations, timing = shape_and_timing(plan, problem)
    listed = list_schedule(operations, timing)
    best_s = best_makespan(operations, timing, listed.makespan_s * (1 + 1e-9), most_nodes=200_000)
    windows = Windows(operations, timing)
    if windows.decide(best_s * share):  # windows alone could not tell: the program must
        program = transfer_model(windows, best_s * share)
        outcome = solvers.solve(program.model, solvers.Options(mip_gap=1e-7), solver="highs")
        assert outcome.status is solvers.Status.INFEASIBLE


@settings(max_examples=examples(15), **QUICK)
@given(QUESTIONS, SEEDS)
def test_a_settled_plan_carries_a_proof(question: tuple[Workload, Cluster], seed: int) -> None:
    plan, problem = some(question, seed, most_transfers=10)
    plan = plan.replace(chunks=1)
    limit_s = 1.5 * list_schedule(*shape_and_timing(plan, problem)).makespan_s
    settled = settle(plan, problem, below_s=limit_s, gap=1e-6, solver="highs", deadline=Deadline())
    assert settled.plan is not None
    exact = evaluate(settled.plan, *question).prediction.makespan_s
    assert exact == pytest.approx(settled.makespan_s, rel=1e-9)
    assert settled.bound_s >= exact * (1 - 2e-6)
    for chunks in problem.space.chunk_counts:  # no order of any number of chunks refutes the bound
        operations, timing = shape_and_timing(plan.replace(chunks=chunks), problem)
        assert best_makespan(operations, timing, settled.bound_s * (1 - 2e-6)) == settled.bound_s * (1 - 2e-6)


def test_letting_a_medium_wait_for_an_urgent_transfer() -> None:
    """A long transfer is ready just before an urgent short one: a list schedule starts it, a better one waits."""
    work = workload([layer("a", 1e9), layer("b", 1e9, output_elements=250_000), layer("c", 4e9)], batch=4)
    place = cluster([device(name, rate) for name, rate in zip("abc", (1e9, 2e9, 1e9), strict=True)], [2e6, 1e6, 3e6])
    plan = pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1}), (2, 3, {"c": 1}), micro_batches=4, in_flight=(4, 3, 2))
    problem = problem_of((work, place), plan)
    operations, timing = shape_and_timing(plan, problem)
    listed, windows = list_schedule(operations, timing), Windows(operations, timing)
    better = improved(listed, operations, timing, enough_s=windows.medium_bound_s(), rounds=30)
    assert better.makespan_s <= listed.makespan_s
    assert better.makespan_s == pytest.approx(best_makespan(operations, timing, listed.makespan_s), rel=1e-9)


def test_the_same_seed_gives_the_same_schedule() -> None:
    work, place = workload(4, batch=6), cluster(3, [1e6, 2e6, 1.5e6])
    plan = pipeline((0, 1, {"a": 1}), (1, 3, {"b": 1}), (3, 4, {"c": 1}), micro_batches=6)
    operations, timing = shape_and_timing(plan, problem_of((work, place), plan))
    first, second = (
        improved(list_schedule(operations, timing), operations, timing, enough_s=0.0, rounds=20, seed=3) for _ in "ab"
    )
    assert first == second


def test_equal_transfers_go_in_the_order_of_their_micro_batches() -> None:
    work, place = workload(2, batch=4), cluster(2)
    plan = pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1}), micro_batches=4, in_flight=(4, 1))
    windows = Windows(*shape_and_timing(plan, problem_of((work, place), plan)))
    kinds = [windows.operations.operations[index] for pair in windows.undecided() for index in pair]
    for first, second in zip(kinds[::2], kinds[1::2], strict=True):
        assert (first.kind, first.stage) != (second.kind, second.stage)
