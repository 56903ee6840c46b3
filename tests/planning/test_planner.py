"""A planner that is asked again and again gives the answers of one that is asked once."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from builders import Dice, cluster, default_space, device, examples, random_question, seeded, workload
from hypothesis import HealthCheck, given, settings

from dora_nb.domain.cluster import Cluster, ContentionDomain
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import DoraError, InfeasibleError, InputError
from dora_nb.formulation.columns import build_columns
from dora_nb.planning.plan import plan
from dora_nb.planning.planner import Planner

GAP = 1e-4


def figures(found: Plan) -> tuple[float, float]:
    assert found.prediction is not None
    return found.prediction.makespan_s, found.prediction.energy_j("participating")


def value(found: Plan, qoe: QoE) -> float:
    return figures(found)[0 if qoe.objective == "latency" else 1]


def same_answer(planner: Planner, qoe: QoE, cold: tuple[Workload, Cluster]) -> None:
    """The planner's answer, its quick one and its bound, against those of a planner that knows nothing."""
    space = planner._question.space
    try:
        expected = plan(*cold, qoe, most_plans=1, gap=GAP, space=space, solver="highs").best
    except InfeasibleError:
        for ask in (planner.best, lambda qoe: planner.plan(qoe, most_plans=1)):
            with pytest.raises(InfeasibleError):
                ask(qoe)
        return
    best_value = value(expected, qoe)
    assert expected.certificate is not None
    assert (planner.bound(qoe) or 0.0) <= best_value * (1 + 1e-9)
    for found in (planner.best(qoe, gap=GAP), planner.plan(qoe, most_plans=1, gap=GAP).best):
        assert found.certificate is not None
        assert found.certificate.bound <= best_value * (1 + 1e-9)
        assert value(found, qoe) >= expected.certificate.bound * (1 - 1e-9)
        assert value(found, qoe) == pytest.approx(best_value, rel=2 * GAP)
    nearest = planner.nearest(qoe)
    assert nearest is not None
    assert value(nearest, qoe) == pytest.approx(best_value, rel=2 * GAP)


@settings(max_examples=examples(4), suppress_health_check=list(HealthCheck))
@given(seeded(lambda dice: dice))
def test_random_changes_are_answered_as_by_a_planner_that_knows_nothing(dice: Dice) -> None:
    work, place = random_question(dice, layers=(2, 4), batches=(2, 4), device_count=(2, 3))
    space = default_space(work, place)
    planner = Planner(work, place, space=space, solver="highs")
    fastest_s, most_j = figures(planner.plan(gap=GAP).plans[0])
    thriftiest_j = figures(planner.best(QoE(objective="energy")))[1]
    for _ in range(3):
        share = dice.pick((0.0, 0.2, 0.5, 0.9, 1.1))
        energy_j = (thriftiest_j + share * (most_j - thriftiest_j)) * (1 + 1e-6)
        same_answer(planner, QoE(energy_j=energy_j), (work, place))
        qoe = QoE(latency_s=fastest_s * dice.pick((0.9, 1.02, 1.2, 1.5)), objective="energy")
        same_answer(planner, qoe, (work, place))
    rates, speed = dice.pick((0.3, 0.8, 2.0)), dice.pick((0.5, 0.9, 1.5))
    changed = place.scaled(rates=rates, speeds={place.device_ids[0]: speed})
    other = planner.having(bandwidth=rates, speeds={place.device_ids[0]: speed})
    same_answer(other, QoE(), (work, changed))
    same_answer(other, QoE(latency_s=2 * fastest_s, objective="energy"), (work, changed))
    gone = place.device_ids[-1]
    if gone not in (work.source, work.sink):
        same_answer(planner.without(gone), QoE(), (work, place.without([gone])))


def small() -> Planner:
    devices = [device("a", 1e9, idle_w=1.0), device("b", 2e9, idle_w=1.0), device("c", 4e9, active_w=30.0, idle_w=2.0)]
    work = workload(6, batch=4)
    return Planner(work, cluster(devices), solver="highs")


def test_a_slower_network_begins_with_what_is_proven() -> None:
    planner = small()
    found = planner.best()
    assert found.certificate is not None
    slow = planner.having(bandwidth=0.5)
    assert slow.bound() == pytest.approx(found.certificate.bound)
    fast = planner.having(bandwidth=2.0)
    assert fast.bound() == pytest.approx(found.certificate.bound / 2)
    assert planner.having(memory={"a": 2.0}).bound() == 0  # more memory lets in other plans
    assert planner.without("a").bound() == pytest.approx(found.certificate.bound)
    uneven = planner.cluster.domains[0]
    assert slow.nearest() is not None
    assert uneven.rates_bytes_per_s["a"] == 2 * slow.cluster.domains[0].rates_bytes_per_s["a"]


def test_columns_are_made_once_for_all_limits_and_found_again_without_a_device() -> None:
    planner = small()
    planner.best()
    (columns,) = planner._question.case._columns.values()
    planner.best(QoE(latency_s=1e3, objective="energy"))
    (again,) = planner._question.case._columns.values()
    assert again is columns
    left = planner.without("b")
    left.best()
    (reused,) = left._question.case._columns.values()
    made = build_columns(left._question.problem, left._question.space.most_replicas)
    assert [reused.key(index) for index in range(len(reused))] == [made.key(index) for index in range(len(made))]
    for name in ("forward_s", "energy_j", "receive_s", "sum_hold_s", "most_in_flight", "idle_w"):
        np.testing.assert_allclose(getattr(reused, name), getattr(made, name), rtol=1e-12)


def test_devices_leave_a_network_in_which_it_matters_who_sends_to_whom() -> None:
    speeds = {"a": 2e9, "b": 2e9, "c": 4e9, "d": 1e9}
    devices = [device(name, flops_per_s, idle_w=1.0) for name, flops_per_s in speeds.items()]
    switch = ContentionDomain(id="switch", kind="switch", rates_bytes_per_s=dict.fromkeys(("a", "b", "c", "wifi"), 1e8))
    wifi = ContentionDomain(id="wifi", kind="shared", rates_bytes_per_s={"d": 2e7})
    work, place = workload(4, batch=4), Cluster(name="lab", devices=tuple(devices), domains=(switch, wifi))
    planner = Planner(work, place, space=default_space(work, place), solver="highs")
    planner.best()
    for gone in place.device_ids[:3]:  # without the last one no second medium would be left
        same_answer(planner.without(gone), QoE(), (work, place.without([gone])))


def test_the_nearest_plan_comes_at_once() -> None:
    planner = small()
    assert planner.nearest() is None
    plans = planner.plan()
    for limit_s in np.linspace(0.5, 2.0, 7) * figures(plans.best)[0]:
        started_s = time.process_time()
        found = planner.nearest(QoE(latency_s=float(limit_s), objective="energy"))
        assert found is not None
        assert time.process_time() - started_s < 5  # how long it takes is printed by the benchmarks


def test_a_relative_of_a_planner_is_checked_like_the_planner() -> None:
    planner = small()
    with pytest.raises(InputError):
        planner.having(speeds={"nobody": 2.0})
    with pytest.raises(DoraError):
        planner.without("nobody")
    with pytest.raises(InputError):
        planner.best(gap=2.0)
    with pytest.raises(InputError):
        planner.plan(most_plans=0)


def test_plans_made_for_one_question_serve_another_one_of_the_same_plan_set() -> None:
    """What a plan set knows is used by its alternatives."""
    planner = small()
    plans = planner.plan(QoE(), most_plans=2)
    alternative = plans.without("a")
    assert alternative.plan is not None
    assert plans.options["session"] is planner._question.session
    assert replace(planner._question, qoe=QoE(latency_s=9.0)).session is planner._question.session
