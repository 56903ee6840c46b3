"""Knowing what will happen: what a fixed policy cannot keep, and no worse than one that can."""

from __future__ import annotations

import pytest
from worlds import two_ways

from dora_nb.adaptation import Clairvoyant, Mixed
from dora_nb.domain.qoe import QoE
from dora_nb.simulation import Trace, World, simulate


def test_plans_in_fixed_proportions_take_turns() -> None:
    work, place, plans = two_ways()
    policy = Mixed([(plans["a"], 0.25), (plans["b"], 0.75)])
    record = simulate(work, World(place), policy, horizon_s=100, window_s=50)
    order = "".join(step.plan.label for step in record.steps)
    assert order.startswith(("babbbabb", "bbabbbab"))
    assert policy.next_plan(0.0, frozenset("a")) == plans["a"]
    assert policy.next_plan(0.0, frozenset()) is None
    assert Mixed([(plans["a"], 1.0)], [plans["b"]]).next_plan(0.0, frozenset("b")) == plans["b"]


def test_it_is_ready_before_a_device_slows_down() -> None:
    """a is three times as slow from 60 s to 120 s: only who knows keeps the very window, and takes a again after it."""
    work, place, plans = two_ways()
    qoe = QoE(objective="energy", latency_s=5.0)
    world = World(place).having("device speed", "a", Trace.steps([(0, 1), (60, 1 / 3), (120, 1)]))
    knows = Clairvoyant(work, world, qoe, plans.values(), window_s=60)
    record = simulate(work, world, knows, qoe, horizon_s=240, window_s=60, resident=plans.values())
    assert record.kept_share == 1.0
    by_window = [{s.plan.label for s in record.steps if w.start_s < s.end_s <= w.end_s} for w in record.windows]
    assert by_window[0] == {"a"}
    assert "b" in by_window[1]
    assert by_window[3] == {"a"}
    fixed = simulate(work, world, plans["b"], qoe, horizon_s=240, window_s=60)
    assert fixed.kept_share == 1.0
    assert record.energy_per_step_j < fixed.energy_per_step_j


@pytest.mark.parametrize("free", [False, True])
def test_in_training_a_switch_has_to_pay(free: bool) -> None:
    """a is half as fast in the second window, and moving the state takes longer than one: it begins with b."""
    work, place, plans = two_ways("training", 40_000_000)
    qoe = QoE(objective="energy", latency_s=14.0)
    world = World(place).having("device speed", "a", Trace.steps([(0, 1), (100, 0.5), (200, 1)]))
    knows = Clairvoyant(work, world, qoe, plans.values(), window_s=100, ahead=2, free_changes=free)
    record = simulate(work, world, knows, qoe, horizon_s=400, window_s=100, free_changes=free)
    assert bool(record.changes) == free
    assert record.kept_share == 1.0
    assert {step.plan.label for step in record.steps} == ({"a", "b"} if free else {"b"})
