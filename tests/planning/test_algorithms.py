"""Brute force = monolithic = decomposed, HiGHS = Gurobi, on random questions; events; a cancel."""

from __future__ import annotations

import itertools
import math
import os
import threading
import time

import numpy as np
import pytest
from builders import Dice, best_makespan, default_space, every_plan, random_question, shape_and_timing

from dora_nb import solvers
from dora_nb.catalog import load_cluster, load_workload
from dora_nb.costs.evaluate import evaluate
from dora_nb.domain.qoe import QoE
from dora_nb.errors import InputError
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.schedules.list_schedule import list_schedule
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.exact.monolithic import all_columns, solve_jointly
from dora_nb.planning.plan import plan
from dora_nb.planning.scheduling import finish, fits_memory

GAP = 1e-6

#: Random questions of each kind: few in the quick run, 200 of each with ``DORA_NB_LONG=1``.
BRUTE_FORCED, JOINT, BOTH_SOLVERS = (200, 200, 200) if os.environ.get("DORA_NB_LONG") else (60, 12, 4)


def question_of(seed: int) -> tuple[Problem, Dice]:
    """Two or three layers on two devices, transfers whole, so that all orders can be tried."""
    dice = Dice(seed)
    question = random_question(dice, layers=(2, 3), batches=(1, 2, 3), device_count=(2, 2))
    space = default_space(*question)
    space = SearchSpace(space.micro_batch_sizes, space.most_replicas, space.in_flight_depths, most_chunks=1)
    accounting, overlap = dice.pick(("participating", "all-on")), dice.pick((True, True, False))
    return Problem.of(*question, accounting, space=space, overlap=overlap), dice


def least_makespan_s(problem: Problem) -> float:
    """The shortest makespan over every plan and every transfer order."""
    best_s = math.inf
    for each in every_plan(problem):
        finished = finish(each, problem)
        if not fits_memory(finished):
            continue
        operations, timing = shape_and_timing(finished, problem)
        best_s = min(best_s, list_schedule(operations, timing).makespan_s)
        best_s = best_makespan(operations, timing, best_s)
    return best_s


@pytest.mark.parametrize("seed", range(BRUTE_FORCED))
def test_decomposed_is_brute_force(seed: int) -> None:
    problem, _ = question_of(seed)
    answers = plan(
        problem.workload,
        problem.cluster,
        QoE(),
        space=problem.space,
        overlap=problem.overlap,
        gap=GAP,
        most_plans=1,
        solver="highs",
    )
    certificate, figures = answers.best.certificate, answers.best.prediction
    assert certificate.algorithm == "decomposed"
    assert certificate.value == pytest.approx(least_makespan_s(problem), rel=3 * GAP)
    assert certificate.gap <= 2 * GAP
    # The plan alone, evaluated again, is worth what the answer says; its schedule ends when the iteration does.
    again = evaluate(answers.best, problem.workload, problem.cluster, problem.table).prediction
    assert again.makespan_s == pytest.approx(certificate.value, rel=1e-9)
    assert all(each.end_s <= figures.makespan_s * (1 + 1e-9) for each in figures.schedule)


@pytest.mark.parametrize("seed", range(JOINT))
def test_monolithic_is_decomposed(seed: int) -> None:
    problem, dice = question_of(1000 + seed)
    accounting = "participating" if problem.idle_all_w is None else "all-on"
    options = {"space": problem.space, "overlap": problem.overlap, "gap": GAP, "most_plans": 1, "solver": "highs"}
    fastest = plan(problem.workload, problem.cluster, QoE(energy_accounting=accounting), **options).best
    limit_s = fastest.certificate.value * dice.pick((1.0001, 1.3, 2.0))
    thrifty = QoE(objective="energy", latency_s=limit_s, energy_accounting=accounting)
    thriftiest = plan(problem.workload, problem.cluster, thrifty, **options).best
    most_j, least_j = (each.prediction.energy_j(accounting) for each in (fastest, thriftiest))
    limit_j = (least_j + dice.pick((0.0, 0.3)) * max(most_j - least_j, 0.0)) * 1.0001
    frugal = QoE(energy_j=limit_j, energy_accounting=accounting)
    frugal_plan = plan(problem.workload, problem.cluster, frugal, **options).best
    columns = all_columns(problem)
    for objective, within_s, within_j, other in (
        ("latency", np.inf, np.inf, fastest),
        ("energy", limit_s, np.inf, thriftiest),
        ("latency", np.inf, limit_j, frugal_plan),
    ):
        joint = solve_jointly(
            problem,
            columns,
            objective,
            latency_limit_s=within_s,
            energy_limit_j=within_j,
            gap=GAP,
            solver="highs",
            deadline=Deadline(),
        )
        assert joint.value == pytest.approx(other.certificate.value, rel=4 * GAP)
        assert joint.proven == pytest.approx(other.certificate.bound, rel=4 * GAP)


@pytest.mark.parametrize("seed", range(JOINT // 2))
def test_monolithic_is_decomposed_where_hand_overs_depend_on_both_ends(seed: int) -> None:
    """There the program knows less than the search, and what it lets through is settled plan by plan."""
    dice = Dice(3000 + seed)
    question = random_question(
        dice, layers=(2, 3), batches=(1, 2), device_count=(2, 3), kinds=("links", "mixed", "cell"), tied=False
    )
    space = default_space(*question, (1,))
    space = SearchSpace(space.micro_batch_sizes, space.most_replicas, space.in_flight_depths, most_chunks=1)
    problem = Problem.of(*question, "participating", space=space)
    options = {"space": space, "gap": GAP, "most_plans": 1, "solver": "highs"}
    fastest = plan(*question, QoE(), **options).best
    thriftiest = plan(*question, QoE(objective="energy", latency_s=1.2 * fastest.certificate.value), **options).best
    columns = all_columns(problem)
    for objective, within_s, other in (
        ("latency", np.inf, fastest),
        ("energy", 1.2 * fastest.certificate.value, thriftiest),
    ):
        limits = {"latency_limit_s": within_s, "energy_limit_j": np.inf}
        joint = solve_jointly(problem, columns, objective, **limits, gap=GAP, solver="highs", deadline=Deadline())
        assert joint.value == pytest.approx(other.certificate.value, rel=4 * GAP)
        assert joint.proven <= other.certificate.value * (1 + 4 * GAP)


@pytest.mark.parametrize("seed", range(BOTH_SOLVERS))
def test_both_solvers_solve_the_joint_program_alike(seed: int) -> None:
    if not any(each.name == "Gurobi" and each.usable for each in solvers.available()):
        pytest.skip("Gurobi is not usable here")
    dice = Dice(2000 + seed)
    question = random_question(dice, layers=(2, 2), batches=(1, 2), device_count=(2, 2))
    default = default_space(*question)
    space = SearchSpace(default.micro_batch_sizes, default.most_replicas, (1,), most_chunks=1)
    values = [
        plan(*question, QoE(), space=space, algorithm="monolithic", gap=GAP, most_plans=1, solver=name).best.certificate
        for name in ("highs", "gurobi")
    ]
    assert values[0].algorithm == values[1].algorithm == "monolithic"
    assert values[0].value == pytest.approx(values[1].value, rel=4 * GAP)


def test_a_question_too_large_for_one_program_says_what_to_use() -> None:
    workload, place = load_workload("vit-b-16", mode="training", batch=16), load_cluster("smart-home")
    with pytest.raises(InputError, match="decomposed"):
        plan(workload, place, QoE(), algorithm="monolithic", most_plans=1)
    with pytest.raises(InputError, match="auto, decomposed, monolithic"):
        plan(workload, place, QoE(), algorithm="magic")  # type: ignore[arg-type]


def test_events_close_in_on_the_answer() -> None:
    workload, place = load_workload("vit-b-16", batch=4), load_cluster("traffic-analytics")
    events: list[solvers.Event] = []
    best = plan(workload, place, QoE(), most_plans=1, on_event=events.append, solver="highs").best
    assert len(events) >= 2
    for before, after in itertools.pairwise(events):
        assert after.wall_s >= before.wall_s
        assert after.nodes >= before.nodes
        assert after.bound >= before.bound * (1 - 1e-9)
        assert before.incumbent is None or after.incumbent <= before.incumbent * (1 + 1e-9)
    assert events[-1].incumbent == pytest.approx(best.certificate.value)
    assert events[-1].bound == pytest.approx(best.certificate.bound)


def test_a_cancel_keeps_the_best_plan_with_its_true_gap() -> None:
    workload, place = load_workload("qwen3-0.6b", mode="training", batch=16), load_cluster("smart-home")
    cancel = threading.Event()
    cancelled_at: list[float] = []

    def at_the_first_plan(event: solvers.Event) -> None:
        if event.incumbent is not None and not cancel.is_set():
            cancelled_at.append(time.monotonic())
            cancel.set()

    answers = plan(workload, place, QoE(), cancel=cancel, on_event=at_the_first_plan, solver="highs")
    assert cancelled_at
    certificate = answers.best.certificate
    assert certificate.status == "cancelled"
    assert 0 < certificate.bound <= certificate.value
    proven = plan(workload, place, QoE(), most_plans=1, gap=1e-3, solver="highs").best.certificate
    assert certificate.bound <= proven.value * (1 + 1e-9)
    assert certificate.value >= proven.bound * (1 - 1e-9)
