"""Plans that avoid a device, against every plan of the cluster without it."""

from __future__ import annotations

import math

import pytest
from builders import (
    Dice,
    cluster,
    default_space,
    device,
    examples,
    layer,
    random_question,
    rated_plans,
    seeded,
    workload,
)
from hypothesis import HealthCheck, given, settings

import dora_nb
from dora_nb.costs import cost_table
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InfeasibleError, UnknownNameError
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.explanation.alternatives import alternatives
from dora_nb.planning.plan import plan

ROUNDING, GAP = 1e-9, 1e-6
QUICK = {"suppress_health_check": list(HealthCheck)}

Asked = tuple[Workload, Cluster, QoE, SearchSpace]


def without(place: Cluster, name: str) -> Cluster:
    (domain,) = place.domains
    rates = {each: rate for each, rate in domain.rates_bytes_per_s.items() if each != name}
    stay = tuple(each for each in place.devices if each.id != name)
    return place.replace(devices=stay, domains=(domain.replace(rates_bytes_per_s=rates),))


def limited(dice: Dice) -> Asked:
    work, place = random_question(dice, layers=(2, 2), batches=(1, 2), device_count=(2, 3))
    qoe = QoE(objective=dice.pick(("latency", "energy")), energy_accounting=dice.pick(("participating", "all-on")))
    space = default_space(work, place, (1,))
    chosen = dice.pick(rated_plans(Problem.of(work, place, qoe.energy_accounting, space=space)))
    if dice.pick((True, False)):
        qoe = qoe.replace(latency_s=chosen.makespan_s * 1.001)
    if dice.pick((True, False)):
        qoe = qoe.replace(energy_j=chosen.energy_j * 1.001)
    return work, place, qoe, space


@settings(max_examples=examples(10), **QUICK)
@given(seeded(limited))
def test_alternatives_are_the_best_without_the_device(question: Asked) -> None:
    work, place, qoe, space = question
    best = plan(work, place, qoe, most_plans=1, gap=GAP, space=space).best.certificate
    found = alternatives(work, place, qoe, gap=GAP, space=space)
    assert set(found) == set(place.device_ids)
    latency_s, energy_j = qoe.latency_s or math.inf, qoe.energy_j or math.inf
    for name, alternative in found.items():
        assert alternative.without == (name,)
        if name in (work.source, work.sink):
            assert alternative.plan is None
            assert "cannot leave" in alternative.reason
            continue
        plans = rated_plans(Problem.of(work, without(place, name), qoe.energy_accounting, space=space))
        kept = [rated for rated in plans if rated.makespan_s <= latency_s and rated.energy_j <= energy_j]
        if alternative.plan is None:
            assert not kept
            assert "proven" in alternative.reason
            continue
        assert name not in alternative.plan.devices
        certificate = alternative.plan.certificate
        assert certificate is not None
        assert certificate.objective == qoe.objective
        assert alternative.loss == pytest.approx(certificate.value - best.value, abs=1e-9 * best.value)
        least = min(rated.makespan_s if qoe.objective == "latency" else rated.energy_j for rated in kept)
        if certificate.gap <= GAP:
            assert certificate.value <= least * (1 + 2 * GAP)
        below = certificate.bound * (1 - ROUNDING)
        for rated in plans:
            if qoe.objective == "latency":
                assert not rated.reaches_latency(min(below, latency_s), energy_j)
            else:
                assert not rated.reaches_energy(min(below, energy_j), latency_s)


def test_a_device_that_is_not_used_costs_nothing_to_lose() -> None:
    place = cluster([device("a", 4e9), device("b", 1e6)], 1e3)
    plans = plan(workload(3), place)
    assert plans.best.devices == ("a",)
    alternative = plans.without("b")
    assert alternative.plan == plans.best
    assert alternative.loss == 0
    assert "does not use it" in str(alternative)
    assert plans.without("a").plan.devices == ("b",)
    assert plans.without("a").loss > 0


def test_an_alternative_is_planned_once() -> None:
    plans = plan(workload(3), cluster(2))
    assert plans.without("a") is plans.without("a")


def test_a_set_of_devices_may_leave() -> None:
    found = alternatives(workload(3), cluster(3), without=["a", ("a", "b"), ("a", "b", "c")])
    assert list(found) == ["a", "a + b", "a + b + c"]
    assert found["a + b"].plan.devices == ("c",)
    assert found["a + b + c"].plan is None
    assert found["a + b + c"].reason == "no device would be left"


def test_what_stays_within_reach_is_said() -> None:
    place = cluster([device("a", 4e9), device("b", 1e9)], 1e3)
    found = alternatives(workload(3), place, QoE(latency_s=10))
    assert found["a"].plan is None
    assert "the least latency they reach is 36 s" in found["a"].reason
    narrow = cluster([device("a"), device("b", memory_bytes=1.0)])
    heavy = workload([layer("x", parameters=10**6), layer("y")])
    assert "memory of the others" in alternatives(heavy, narrow)["a"].reason


def test_a_measured_table_goes_along() -> None:
    place = cluster([device("a", 4e9), device("b", 1e9), device("c", 2e9)])
    free = plan(workload(3), place, table=cost_table(workload(3), place))
    assert free.without("a").plan == plan(workload(3), place).without("a").plan


def test_unknown_devices_and_infeasible_questions() -> None:
    with pytest.raises(UnknownNameError, match="without"):
        alternatives(workload(2), cluster(2), without=["nobody"])
    with pytest.raises(InfeasibleError):
        alternatives(workload(2), cluster(2), QoE(latency_s=1e-6))


def test_no_time_says_so() -> None:
    found = alternatives(workload(3), cluster(3), time_limit_s=1e-6)
    assert all(each.plan is not None or "time limit" in each.reason for each in found.values())
    assert dora_nb.alternatives is alternatives
