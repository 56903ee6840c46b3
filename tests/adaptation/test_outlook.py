"""What plans would do, and what may happen again."""

from __future__ import annotations

import math

import pytest
from worlds import two_ways

from dora_nb.adaptation.outlook import Forecast, Surprises, key_of
from dora_nb.costs.table import cost_table
from dora_nb.domain.conditions import Condition
from dora_nb.domain.qoe import QoE

NOW = Condition(name="now", probability=1.0)


def test_a_condition_is_looked_at_once_for_all_plans() -> None:
    work, place, ways = two_ways()
    qoe = QoE(objective="energy", latency_s=3.0)
    forecast, plans = Forecast(work, place, cost_table(work, place), qoe), list(ways.values())
    calm = forecast.of(plans, NOW)
    assert calm.makespan_s == pytest.approx([4, 2])
    assert calm.by_cost == [0, 1]
    assert calm.in_reach
    assert calm.mix(3.0, math.inf) == pytest.approx({0: 0.5, 1: 0.5})
    assert forecast.of(plans, NOW) is calm
    away = forecast.of(plans, NOW.replace(absent_devices=("b",)))
    assert away.able == [0]
    assert not away.in_reach
    nobody = forecast.of(plans, NOW.replace(absent_devices=("a", "b")))
    assert not nobody.able
    assert not nobody.in_reach


def test_only_plans_that_are_faster_or_thriftier_are_useful() -> None:
    work, place, ways = two_ways()
    qoe = QoE(objective="energy", latency_s=3.0)
    plans = [*ways.values(), ways["a"]]
    outlook = Forecast(work, place, cost_table(work, place), qoe).of(plans, NOW)
    assert sorted(outlook.useful) == [0, 1]


def test_what_was_seen_may_happen_again() -> None:
    surprises = Surprises(["net"], memory_s=100)
    assert not surprises.any
    surprises.note_slow("a", 2.0, 0.0)
    surprises.note_slow("net", 4.0, 50.0)
    surprises.note_slow("a", 1.2, 60.0)  # slow, but not as slow as it can be
    surprises.note_left("b", 50.0)
    slow_a, slow_net, without_b = surprises.after(NOW, 60.0)
    assert slow_a.device_speed_factors == {"a": 0.5}
    assert slow_net.domain_rate_factors == {"net": 0.25}
    assert without_b.absent_devices == ("b",)
    assert [key_of(each) for each in surprises.after(slow_net, 60.0)] == [
        key_of(NOW.replace(domain_rate_factors={"net": 0.25}, device_speed_factors={"a": 0.5})),
        key_of(NOW.replace(domain_rate_factors={"net": 0.25}, absent_devices=("b",))),
    ]
    assert len(surprises.after(NOW, 101.0)) == 2  # a has not been that slow for long
    assert not surprises.after(NOW, 151.0)
    assert not surprises.any
