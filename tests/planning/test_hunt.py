"""Steps from a question to proven plans, each by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from builders import Dice, cluster, default_space, device, drawn_layers, examples, random_question, seeded
from builders import workload as chain
from hypothesis import HealthCheck, given, settings

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InfeasibleError
from dora_nb.planning import hunt as hunts
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.hunt import Hunt
from dora_nb.planning.plan import plan
from dora_nb.planning.planner import Planner
from dora_nb.planning.proof import Proof
from dora_nb.planning.proven import Proven
from dora_nb.planning.question import Question

GAP = 1e-4


def hunt_with_few_labels(
    work: Workload, place: Cluster, qoe: QoE, monkeypatch: pytest.MonkeyPatch, most_plans: int = 3
) -> Hunt:
    """All steps before gaps are closed, with a cap on labels that leaves much behind."""
    monkeypatch.setattr(hunts, "MANY", (3, 1))
    monkeypatch.setattr(hunts, "FEW", (3, 1))
    question = Question.of(work, place, qoe, None, default_space(work, place), True, "highs")
    hunt = Hunt(question, GAP, Deadline(math.inf, None), lambda _: None, most_plans)
    hunt.find_fast_plans()
    hunt.find_thrifty_plans()
    hunt.prove()
    hunt.settle_schedules()
    hunt.choose()
    return hunt


def open_questions(hunt: Hunt) -> list[str]:
    """Questions whose bound is further from their plan than the gap."""
    found = []
    for question in hunt.questions:
        ladder, place = hunt.ladder(question)
        if ladder.bounds[place] < ladder.best[place] * (1 - GAP * (1 + 1e-9)):
            found.append(question.label)
    return found


def whole(work: Workload, place: Cluster, qoe: QoE) -> PlanSet:
    return plan(work, place, qoe, space=default_space(work, place), gap=GAP, solver="highs")


def five_unlike_devices() -> tuple[Workload, Cluster]:
    dice = np.random.default_rng(3)

    def between(low: float, high: float) -> float:
        return float(dice.uniform(low, high))

    devices = [
        device(name, between(0.5, 4) * 1e9, idle_w=between(1, 3), active_w=between(4, 20), memory_bytes_per_s=1e10)
        for name in "abcde"
    ]
    return chain(drawn_layers(between, 10), batch=4), cluster(devices, [3e7] * 5, latency_s=1e-3)


@pytest.mark.parametrize("objective", ["latency", "energy"])
def test_what_a_search_left_open_is_closed(objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With three labels a stage count nothing is proven; narrow windows prove all that was asked."""
    work, place = five_unlike_devices()
    qoe = QoE(objective=objective)  # type: ignore[arg-type]
    hunt = hunt_with_few_labels(work, place, qoe, monkeypatch)
    assert open_questions(hunt)
    hunt.close_gaps()
    hunt.choose()
    assert "latency-optimal" not in open_questions(hunt)
    assert "energy-optimal" not in open_questions(hunt)
    expected = whole(work, place, qoe)
    fastest_s = min(each.prediction.makespan_s for each in expected.plans if each.prediction is not None)
    least_j = min(each.prediction.energy_j("participating") for each in expected.plans if each.prediction is not None)
    assert hunt.targets.best_latency_s == pytest.approx(fastest_s, rel=2 * GAP)
    assert hunt.targets.best_energy_j[-1] == pytest.approx(least_j, rel=2 * GAP)


@settings(max_examples=examples(15), suppress_health_check=list(HealthCheck))
@given(seeded(lambda dice: dice))
def test_closed_gaps_are_true(dice: Dice) -> None:
    """However little the search looked at: no bound is above what a whole search finds, and none is left open."""
    work, place = random_question(dice, layers=(3, 5), batches=(2, 4), device_count=(2, 4))
    qoe = QoE(objective=dice.pick(("latency", "energy")))
    try:
        best = whole(work, place, qoe).best
    except InfeasibleError:
        return
    assert best.certificate is not None
    with pytest.MonkeyPatch.context() as monkeypatch:
        hunt = hunt_with_few_labels(work, place, qoe, monkeypatch, most_plans=1)
        hunt.close_gaps()
        hunt.choose()
    assert open_questions(hunt) == []
    ladder, at = hunt.ladder(hunt.questions[0])
    assert ladder.best[at] == pytest.approx(best.certificate.value, rel=2 * GAP)
    assert ladder.bounds[at] <= best.certificate.value * (1 + 1e-9)


def test_without_a_plan_it_is_proven_that_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    work, place = five_unlike_devices()
    least_j = whole(work, place, QoE(objective="energy")).best.certificate
    assert least_j is not None
    hunt = hunt_with_few_labels(work, place, QoE(energy_j=least_j.value * 0.99), monkeypatch)
    assert not hunt.feasible
    hunt.close_gaps()
    assert not hunt.feasible
    assert math.isinf(hunt.targets.latency_bound_s)


def test_that_there_is_no_plan_takes_few_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on energy rules plans out by itself: windows need not grow as far as numbers go."""
    work, place = five_unlike_devices()
    planner = Planner(work, place, space=default_space(work, place), solver="highs")
    least_j = planner.best(QoE(objective="energy")).certificate
    assert least_j is not None
    monkeypatch.setattr(Proven, "least_energy_j", lambda self, makespan_limit_s=math.inf: 0.0)
    monkeypatch.setattr(Proven, "least_makespan_s", lambda self, energy_limit_j=math.inf: 0.0)
    limits: list[float] = []
    window = Proof._window

    def counted(self: Proof, limit: float) -> bool:
        limits.append(limit)
        return window(self, limit)

    monkeypatch.setattr(Proof, "_window", counted)
    with pytest.raises(InfeasibleError, match="proven"):
        planner.best(QoE(energy_j=least_j.value * 0.98))
    assert 1 <= len(limits) <= 8


def test_nothing_is_done_where_nothing_is_open() -> None:
    work, place = five_unlike_devices()
    question = Question.of(work, place, QoE(), None, default_space(work, place), True, "highs")
    hunt = Hunt(question, GAP, Deadline(math.inf, None), lambda _: None, 1)
    hunt.find_fast_plans()
    hunt.find_thrifty_plans()
    hunt.prove()
    hunt.settle_schedules()
    hunt.choose()
    before = hunt.nodes
    hunt.close_gaps()
    assert hunt.nodes == before
