"""What is known of how long a plan takes, and of what its other stages take, holds for every plan."""

from __future__ import annotations

import numpy as np
from builders import Dice, default_space, examples, questions, rated_plans
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.formulation.columns import build_columns
from dora_nb.formulation.problem import Problem
from dora_nb.planning.bounding import screening
from dora_nb.planning.bounding.floors import least_makespan_s
from dora_nb.planning.bounding.screening import screen
from dora_nb.planning.bounding.targets import Targets, least_possible
from dora_nb.planning.planner import Planner

Question = tuple[Workload, Cluster]
ACCOUNTINGS = st.sampled_from(("participating", "all-on"))
QUICK = {"suppress_health_check": list(HealthCheck), "deadline": None}


@settings(max_examples=examples(30), **QUICK)
@given(questions(layers=(2, 3)), ACCOUNTINGS, st.integers(0, 1_000))
def test_no_plan_within_an_energy_is_faster_than_its_floor(question: Question, accounting: str, seed: int) -> None:
    problem = Problem.of(*question, accounting, space=default_space(*question))
    plans = rated_plans(problem)
    begin_s = least_possible(problem, QoE(energy_accounting=accounting), "makespan_s")
    for rated in Dice(seed).shuffled(plans)[:10]:
        for longest_s in (rated.makespan_s * 1.2, np.inf):
            floor_s = least_makespan_s(problem, rated.energy_j, longest_s, begin_s)
            fastest_s = min(each.makespan_s for each in plans if each.energy_j <= rated.energy_j)
            assert floor_s <= min(fastest_s, longest_s) * (1 + 1e-9)


@settings(max_examples=examples(30), **QUICK)
@given(questions(layers=(2, 4)), ACCOUNTINGS, st.sampled_from((200, 2)), st.integers(0, 1_000))
def test_no_stage_of_a_plan_worth_having_is_left_out(
    question: Question, accounting: str, amounts: int, seed: int
) -> None:
    """Least energy within the plan's own makespan, or least makespan within its energy, a hair above the plan's."""
    problem = Problem.of(*question, accounting, space=default_space(*question))
    plans, slack = rated_plans(problem), 1 + 1e-6
    kinds = {problem.cluster.device_ids[member]: at for at, same in enumerate(problem.fleet.types) for member in same}
    before, screening.MOST_AMOUNTS = screening.MOST_AMOUNTS, amounts
    try:
        for rated in Dice(seed).shuffled(plans)[:8]:
            for energy in (True, False):
                targets = Targets(
                    np.array([np.inf] if energy else []),
                    energy_limit_j=np.inf if energy else rated.energy_j * slack,
                    makespan_limit_s=rated.makespan_s * slack if energy else np.inf,
                    seek_latency=not energy,
                    floor_s=rated.makespan_s,  # of a plan worth having
                )
                targets.asked[0].best[:] = (rated.energy_j if energy else rated.makespan_s) * slack
                columns = build_columns(problem, problem.space.most_devices, screen(problem, targets))
                kept = {columns.key(index)[:5] for index in range(len(columns))}
                for index, stage in enumerate(rated.plan.stages):
                    hosts = rated.plan.tied == "hosted" and index == len(rated.plan.stages) - 1
                    code = sum(problem.fleet.radix[kinds[name]] for name in stage.devices)
                    assert (rated.plan.micro_batch, stage.first_layer, stage.stop_layer, hosts, code) in kept
    finally:
        screening.MOST_AMOUNTS = before


@settings(max_examples=examples(20), **QUICK)
@given(questions(layers=(2, 3), modes=("training", "inference")), ACCOUNTINGS)
def test_bounds_hold_for_all_plans_where_a_large_gap_is_good_enough(question: Question, accounting: str) -> None:
    """Asked first with loose limits, so that plans are known, and then with tighter ones."""
    space = default_space(*question)
    plans = rated_plans(Problem.of(*question, accounting, space=space))
    planner = Planner(*question, space=space)
    for rated in sorted(plans, key=lambda each: -each.makespan_s)[:: max(1, len(plans) // 3)]:
        limit_s = rated.makespan_s * (1 + 1e-6)
        qoe = QoE(latency_s=limit_s, objective="energy", energy_accounting=accounting)
        found = planner.best(qoe, gap=0.3)
        least_j = min(each.energy_j for each in plans if each.makespan_s <= limit_s)
        assert found.certificate is not None
        assert found.certificate.bound <= least_j * (1 + 1e-9)
