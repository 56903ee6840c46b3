"""Random limits of every kind, hard and priced: what is planned against every plan there is, rated in plain loops."""

from __future__ import annotations

import math

import pytest
from builders import Dice, default_space, examples, questions, seeded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limits import ROUNDING, predictions, random_case, random_qoe, value

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InfeasibleError
from dora_nb.formulation.problem import Problem
from dora_nb.planning.plan import plan

SMALL = {"layers": (2, 3), "batches": (1, 2, 3, 4)}


def check(work: Workload, place: Cluster, dice: Dice) -> str:
    space = default_space(work, place)
    problem = Problem.of(work, place, "participating", space=space)
    known = predictions(problem)
    if not known:
        return "nothing fits"
    qoe = random_qoe(dice, work, place, known)
    rated = [(value(each, work, place, qoe), each) for each in known]
    allowed = [each for worth, each in rated if math.isfinite(worth)]
    least = min(worth for worth, _ in rated)
    most = dice.number(1, 5)
    try:
        answers = plan(work, place, qoe, space=space, gap=1e-6, most_plans=most)
    except InfeasibleError:
        assert math.isinf(least)
        return "infeasible"
    accounting = qoe.energy_accounting
    assert 1 <= len(answers) <= most
    for each in answers.plans:
        assert each.prediction is not None
        assert math.isfinite(value(each.prediction, work, place, qoe)), "keeps every hard limit"
    best = answers.best
    assert best.prediction is not None
    assert best.certificate is not None
    certificate = best.certificate
    assert certificate.objective == qoe.objective
    assert certificate.value == pytest.approx(value(best.prediction, work, place, qoe), rel=1e-9)
    assert certificate.bound <= least * (1 + ROUNDING)
    proven = certificate.gap <= 1e-6
    if proven:
        assert certificate.value <= least * (1 + 2e-6)
    assert certificate.then is not None
    if qoe.objective == "latency":
        others = [each.energy_j(accounting) for worth, each in rated if worth <= certificate.bound]
    else:
        others = [each.makespan_s for worth, each in rated if worth <= certificate.bound]
    assert certificate.then.bound <= min(others, default=math.inf) * (1 + ROUNDING)
    if proven and certificate.then.gap <= 1e-6:
        assert certificate.then.value <= min(others, default=math.inf) * (1 + 2e-6)
    # Every plan there is has one in the set that is at most 1 + delta times as slow and as hungry.
    assert answers.coverage is not None
    assert answers.coverage.most_plans == most
    if answers.coverage.delta is not None:
        shown = [each.prediction for each in answers.plans if each.prediction is not None]
        times = (1 + answers.coverage.delta) * (1 + ROUNDING)
        for each in allowed:
            assert any(
                one.makespan_s <= times * each.makespan_s
                and one.energy_j(accounting) <= times * each.energy_j(accounting)
                for one in shown
            ), (each.makespan_s, each.energy_j(accounting), times)
    return "proven" if proven else "open"


@settings(max_examples=examples(16), suppress_health_check=list(HealthCheck))
@given(seeded(lambda dice: random_case(dice, **SMALL)))
def test_the_answer_is_that_of_every_plan(case: tuple[Workload, Cluster, Dice]) -> None:
    check(*case)


@settings(max_examples=examples(8), suppress_health_check=list(HealthCheck))
@given(questions(**SMALL), st.sampled_from((0.0, 0.4)))
def test_a_least_throughput_is_kept_by_the_thriftiest_plan_that_reaches_it(
    question: tuple[Workload, Cluster], share: float
) -> None:
    """Between what the fastest plan reaches and what the thriftiest does, so that it rules plans out."""
    work, place = question
    space = default_space(work, place)
    known = predictions(Problem.of(work, place, "participating", space=space))
    fastest_s = min(each.makespan_s for each in known)
    thriftiest_s = min(known, key=lambda each: each.energy_participating_j).makespan_s
    longest_s = 1.0001 * (fastest_s + share * (thriftiest_s - fastest_s))
    qoe = QoE(objective="energy", samples_per_s=work.batch / longest_s)
    best = plan(work, place, qoe, space=space, gap=1e-6, most_plans=1).best
    assert best.prediction is not None
    assert best.certificate is not None
    assert best.prediction.makespan_s <= longest_s * (1 + ROUNDING)
    least_j = min(each.energy_participating_j for each in known if each.makespan_s <= longest_s)
    assert best.certificate.bound <= least_j * (1 + ROUNDING)
    assert best.certificate.gap > 1e-6 or best.certificate.value <= least_j * (1 + 2e-6)
