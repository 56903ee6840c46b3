"""What a background solve tells, in which order, and that its bounds are bounds."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from explorer_cases import small_cluster, small_plans, small_workload

from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.explorer.asking import Talk
from dora_nb.explorer.solving import Answered, Baselines, Effort, NoPlan, Planned, Relaxed, seek_baselines, solve
from dora_nb.planning.plan import plan
from dora_nb.planning.question import Question
from dora_nb.solvers import Event


@pytest.fixture(scope="module")
def plans() -> PlanSet:
    return small_plans()


def told(qoe: QoE, plans: PlanSet, most_plans: int = 1, cancel: bool = False) -> list[Any]:
    news: list[Any] = []
    talk = Talk(news.append)
    if cancel:
        talk.cancel.set()
    question = Question.of(small_workload(), small_cluster(), qoe, None, None, True, "auto")
    solve(question, plans.plans, Effort(most_plans=most_plans), talk)
    return news


@pytest.mark.parametrize(
    "qoe",
    [
        QoE(objective="energy", latency_s=50.0),
        QoE(objective="latency", energy_j=600.0),
        QoE(objective="price", joules_per_s=10.0),
        QoE(objective="energy", latency_s=30.0, latency_price=5.0),
    ],
)
def test_incumbent_and_bound_close_in_on_the_optimum(qoe: QoE, plans: PlanSet) -> None:
    news = told(qoe, plans)
    events = [each for each in news if isinstance(each, Event)]
    best = plan(small_workload(), small_cluster(), qoe, most_plans=1).best.certificate
    assert best is not None
    assert len(events) >= 2
    for event in events:
        assert event.bound is not None
        assert event.bound <= best.value * (1 + 1e-9)
        assert event.incumbent is None or event.incumbent >= best.bound * (1 - 1e-9)
    assert [event.nodes for event in events] == sorted(event.nodes for event in events)
    last = events[-1]
    assert last.gap is not None
    assert last.gap <= 1e-4 * (1 + 1e-6)
    answered, planned = (each for each in news if not isinstance(each, Event))
    assert isinstance(answered, Answered)
    assert isinstance(planned, Planned)
    proof = answered.plan.certificate
    assert proof is not None
    assert proof.value == pytest.approx(best.value, rel=2e-4)
    assert proof.value == last.incumbent


def test_trade_offs_come_after_the_answer(plans: PlanSet) -> None:
    news = told(QoE(objective="energy"), plans, most_plans=4)
    kinds = [type(each) for each in news if not isinstance(each, Event)]
    assert kinds == [Answered, Planned]
    assert len(news[-1].plans) > 1
    assert news[-1].most_plans == news[-2].most_plans == 4


def test_without_a_plan_the_smallest_changes_are_told(plans: PlanSet) -> None:
    news = [each for each in told(QoE(latency_s=1.0), plans) if not isinstance(each, Event)]
    assert news[0] == NoPlan(proven=True)
    assert isinstance(news[1], Relaxed)
    assert news[1].relaxations


def test_cancelled_at_once_it_still_tells_the_best_known(plans: PlanSet) -> None:
    news = [each for each in told(QoE(objective="energy"), plans, cancel=True) if not isinstance(each, Event)]
    (answered,) = news
    assert isinstance(answered, Answered)
    assert answered.plan.decisions() == plans.best.decisions()


def test_baselines_are_told_unless_it_is_stopped(plans: PlanSet) -> None:
    news: list[Any] = []
    talk = Talk(news.append)
    seek_baselines(plans, talk)
    (found,) = news
    assert isinstance(found, Baselines)
    assert {each.label for each in found.plans} == {each.label for each in plans.baselines}
    talk.cancel = threading.Event()
    talk.cancel.set()
    seek_baselines(plans, talk)
    assert len(news) == 1
