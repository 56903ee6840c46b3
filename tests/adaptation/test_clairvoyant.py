"""Knowing what will happen: as many windows as any sequence of plans keeps, and no worse than one that is found."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from builders import Dice, pipeline, seeded
from hypothesis import given, settings
from worlds import changing, scheduled, two_ways

from dora_nb.adaptation import Clairvoyant
from dora_nb.domain.controller import StepReport
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.simulation import SimulationRecord, Trace, World, simulate


def play(work: Workload, world: World, qoe: QoE, plans: Sequence[Plan], **options: Any) -> SimulationRecord:
    """What the clairvoyant does; all plans are resident."""
    options = {"resident": plans, **options}
    knows = Clairvoyant(work, world, qoe, plans, **options)
    return simulate(work, world, knows, qoe, **options)


class Sequential:
    """Plays given plans in turn, the last one until the end."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self.plans = list(plans)

    def next_plan(self, now_s: float, present: frozenset[str]) -> Plan | None:
        plan = self.plans.pop(0) if len(self.plans) > 1 else self.plans[0]
        return plan if present.issuperset(plan.devices) else None

    def observe(self, report: StepReport) -> None:
        pass


def test_it_is_ready_before_a_device_slows_down() -> None:
    """a is three times as slow from 60 s to 120 s: only who knows keeps the very window, and takes a again after it."""
    work, place, ways = two_ways()
    plans = list(ways.values())
    qoe = QoE(objective="energy", latency_s=5.0)
    world = World(place).having("device speed", "a", Trace.steps([(0, 1), (60, 1 / 3), (120, 1)]))
    record = play(work, world, qoe, plans, horizon_s=240, window_s=60)
    assert record.kept_share == 1.0
    by_window = [{s.plan.label for s in record.steps if w.start_s < s.end_s <= w.end_s} for w in record.windows]
    assert by_window[0] == {"a"}
    assert "b" in by_window[1]
    assert by_window[3] == {"a"}
    fixed = simulate(work, world, ways["b"], qoe, horizon_s=240, window_s=60)
    assert fixed.kept_share == 1.0
    assert record.energy_per_step_j < fixed.energy_per_step_j


@pytest.mark.parametrize("free", [False, True])
def test_in_training_a_switch_has_to_pay(free: bool) -> None:
    """a is half as fast in the second window, and moving the state takes longer than one: it begins with b."""
    work, place, plans = two_ways("training", 40_000_000)
    qoe = QoE(objective="energy", latency_s=14.0)
    world = World(place).having("device speed", "a", Trace.steps([(0, 1), (100, 0.5), (200, 1)]))
    record = play(work, world, qoe, list(plans.values()), horizon_s=400, window_s=100, free_changes=free)
    assert bool(record.changes) == free
    assert record.kept_share == 1.0
    assert {step.plan.label for step in record.steps} == ({"a", "b"} if free else {"b"})


def test_it_waits_for_a_device_without_which_nothing_runs() -> None:
    """a leaves at 10 s and is back at 30 s; a step begun at 8 s would be lost, which costs energy only."""
    work, place, plans = two_ways()
    world = World(place).having("presence", "a", Trace.steps([(0, 1), (10, 0), (30, 1)]))
    record = play(work, world, QoE(objective="energy", latency_s=10.0), [plans["a"]], horizon_s=60, window_s=60)
    assert [step.start_s for step in record.steps[:3]] == [0, 4, 30]
    assert len(record.windows) == 1
    assert record.kept_share == 1.0


def test_at_a_rate_windows_without_a_request_are_kept() -> None:
    work, place, plans = two_ways()
    qoe = QoE(objective="energy", latency_s=4.5)
    record = play(work, World(place), qoe, list(plans.values()), horizon_s=90, window_s=10, every_s=30)
    assert record.kept_share == 1.0
    assert [step.plan.label for step in record.steps] == ["a"] * 3


def test_in_long_calm_windows_steps_are_counted_together_and_none_is_wasted() -> None:
    """Every other step on each device is 3 s and 26 J on the mean: nothing keeps the limit for less."""
    qoe = QoE(objective="energy", latency_s=3.0)
    work, place, ways = two_ways()
    plans = list(ways.values())
    knows = Clairvoyant(work, World(place), qoe, plans, horizon_s=4000, window_s=2000, resident=plans)
    record = simulate(work, World(place), knows, qoe, horizon_s=4000, window_s=2000, resident=plans)
    assert record.kept_share == 1.0
    assert len(record.steps) in (len(knows.course), len(knows.course) - 1)
    mean_s = sum(step.end_s - step.start_s for step in record.steps) / len(record.steps)
    assert mean_s == pytest.approx(3.0, rel=0.03)
    assert record.energy_per_step_j == pytest.approx(26.0, rel=0.03)


def test_where_nothing_can_ever_run_it_waits_to_the_end() -> None:
    work, place, ways = two_ways()
    world = World(place).having("presence", "a", Trace.constant(0.0))
    record = play(work, world, QoE(latency_s=5.0), [ways["a"]], horizon_s=60, window_s=60)
    assert record.steps == ()


def test_of_many_plans_that_cost_a_change_the_useful_ones_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """In training, resident on a alone; of b and of both one behind the other only b is worth moving to."""
    work, place, ways = two_ways("training", 250)
    both = scheduled(work, place, pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1}))).replace(label="both")
    plans, qoe = [ways["a"], ways["b"], both], QoE(latency_s=100.0)
    options = {"horizon_s": 120, "window_s": 60, "resident": plans[:1]}
    records = []
    for most in (4, 1):
        monkeypatch.setattr("dora_nb.adaptation.foresight.MOST_COSTLY", most)
        records.append(play(work, World(place), qoe, plans, **options))
    assert {step.plan.label for step in records[0].steps} == {"b"}
    assert [step.plan.label for step in records[1].steps] == [step.plan.label for step in records[0].steps]


def little(dice: Dice) -> tuple[World, Workload, list[Plan], QoE, dict[str, Any]]:
    """Few steps in a restless world."""
    mode = dice.pick(("inference", "training"))
    work, place, plans = two_ways(mode, dice.pick((250, 500_000)))
    times = 3 if mode == "training" else 1
    world = World(place)
    for name in ("a", "b"):
        jumps = sorted({0.0, *(dice.number(1, 29) * times + 0.37 for _ in range(3))})
        world = world.having("device speed", name, Trace.steps([(at, dice.pick((0.4, 0.7, 1, 1.5))) for at in jumps]))
    leaves = dice.number(1, 20) * times + 0.11
    world = world.having("presence", "a", Trace.steps([(0, 1), (leaves, 0), (leaves + 5.0, 1)]))
    qoe = QoE(
        objective="energy",
        latency_s=times * dice.pick((2.5, 3.0, 4.0)),
        energy_j=dice.pick((None, times * 30.0)),
    )
    options = {"horizon_s": 16.0 * times, "window_s": 8.0 * times, "free_changes": dice.pick((False, True))}
    return world, work, list(plans.values()), qoe, options


@settings(max_examples=10, deadline=None)
@given(seeded(little))
def test_no_sequence_keeps_more(case: tuple[World, Workload, list[Plan], QoE, dict[str, Any]]) -> None:
    """Against all sequences of the two plans, seven choices long."""
    world, work, plans, qoe, options = case
    record = play(work, world, qoe, plans, **options)
    every = [
        simulate(work, world, Sequential(sequence), qoe, resident=plans, **options)
        for sequence in itertools.product(plans, repeat=7)
    ]
    most = max(each.kept_share for each in every)
    assert record.kept_share >= most


def test_it_plays_what_it_foresaw() -> None:
    """On a world with many changes, steps and windows come out as the search counted them."""
    work, place, ways = two_ways()
    dice = Dice(7)
    world = changing(dice, place)
    plans, qoe = list(ways.values()), QoE(objective="energy", latency_s=4.0)
    knows = Clairvoyant(work, world, qoe, plans, horizon_s=200, window_s=20, resident=plans)
    record = simulate(work, world, knows, qoe, horizon_s=200, window_s=20, resident=plans)
    assert len(record.steps) + len(record.lost) in (len(knows.course), len(knows.course) - 1)
