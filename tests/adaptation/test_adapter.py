"""The adapter at work in the simulator: what it notices, what it does about it, and what it says."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from worlds import scheduled
from worlds import two_ways as home

from dora_nb.adaptation import Adapter, Background, Delayed, planner_for
from dora_nb.costs.table import cost_table
from dora_nb.domain.conditions import Condition, Conditions
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.errors import InfeasibleError, InputError
from dora_nb.simulation import SimulationRecord, Trace, World, simulate


def run(adapter: Adapter, world: World, qoe: QoE, horizon_s: float = 120, **options: Any) -> SimulationRecord:
    window_s = adapter.window.window_s
    return simulate(adapter.workload, world, adapter, qoe, horizon_s=horizon_s, window_s=window_s, **options)


def told(adapter: Adapter, kind: str) -> list[str]:
    return [event.text for event in adapter.log if event.kind == kind]


# ------------------------------------------------------------------ inference


def test_calm_times_take_the_cheapest_mix_that_keeps_the_mean() -> None:
    """Within 3 s on the mean: half the steps on each device, a little more on the faster one in reserve."""
    work, place, plans = home()
    qoe = QoE(objective="energy", latency_s=3.0)
    adapter = Adapter(work, place, qoe, plans.values(), window_s=60)
    record = run(adapter, World(place), qoe, 600)
    assert record.kept_share == 1.0
    by_plan = [step.plan.label for step in record.steps]
    assert 0.4 < by_plan.count("a") / len(by_plan) <= 0.5
    assert 26.0 <= record.energy_per_step_j < 29.0  # 26 J is the mean of the two, and the least that keeps the limit
    assert not told(adapter, "change")


def test_a_plan_alone_when_it_is_enough() -> None:
    work, place, plans = home()
    qoe = QoE(objective="energy", latency_s=5.0)
    adapter = Adapter(work, place, qoe, plans.values(), window_s=60)
    record = run(adapter, World(place), qoe)
    assert {step.plan.label for step in record.steps} == {"a"}
    assert [event.kind for event in adapter.log] == ["resident", "resident", "weights"]


def test_a_device_that_gets_slow_is_noticed_and_used_less() -> None:
    """a slows down to a third at 60 s: 12 s a step keep nothing, so b takes over after two steps of it."""
    work, place, plans = home()
    qoe = QoE(objective="energy", latency_s=5.0)
    adapter = Adapter(work, place, qoe, plans.values(), window_s=60, forget_s=1000)
    world = World(place).having("device speed", "a", Trace.steps([(0, 1), (60, 1 / 3)]))
    record = run(adapter, world, qoe, 300)
    assert told(adapter, "change")[-1] == "measured: a is 3 times slower than planned"
    # What is ahead of the limit is spent on the thriftier plan now and then, which keeps a's speed known as well.
    assert [window.kept for window in record.windows] == [True] * 5
    static = simulate(work, world, plans["a"], qoe, horizon_s=300, window_s=60)
    assert static.kept_share == 0.2


def test_what_is_avoided_is_tried_again() -> None:
    work, place, plans = home()
    qoe = QoE(objective="energy", latency_s=5.0)
    adapter = Adapter(work, place, qoe, plans.values(), window_s=20)
    world = World(place).having("device speed", "a", Trace.steps([(0, 1), (20, 0.1), (80, 1)]))
    record = run(adapter, world, qoe, 400)
    assert "a was not measured for long: taken to be as planned again" in told(adapter, "change")
    assert all(step.plan.label == "a" for step in record.steps[-10:])


def test_a_device_that_leaves_is_done_without_at_once() -> None:
    work, place, plans = home()
    qoe = QoE(objective="energy", latency_s=5.0)
    adapter = Adapter(work, place, qoe, plans.values(), window_s=30)
    world = World(place).having("presence", "a", Trace.steps([(0, 1), (42, 0), (90, 1)]))
    record = run(adapter, world, qoe, resident=plans.values())
    assert record.kept_share == 1.0
    assert len(record.lost) == 1
    after = next(step for step in record.steps if step.end_s > 42)
    assert (after.plan.label, after.start_s) == ("b", 42.0)
    assert told(adapter, "left") == ["a is away; going on with a resident plan that does without it"]
    assert told(adapter, "back") == ["a is there again"]
    assert "from plan 1 to plan 2" in told(adapter, "switch")
    assert not record.waits


def test_without_a_plan_it_waits_and_says_so_once() -> None:
    work, place, plans = home()
    adapter = Adapter(work, place, QoE(), [plans["a"]], window_s=30)
    world = World(place).having("presence", "a", Trace.steps([(0, 1), (10, 0), (20, 0), (30, 0), (50, 1)]))
    world = world.having("device speed", "b", Trace.steps([(n, 1.0) for n in range(60)]))
    record = run(adapter, world, QoE())
    assert [(wait.start_s, wait.end_s) for wait in record.waits] == [(10.0, 50.0)]
    assert told(adapter, "waiting") == ["no resident plan can run"]
    assert record.steps[-1].end_s > 100


def test_all_devices_leave() -> None:
    work, place, plans = home()
    adapter = Adapter(work, place, QoE(), plans.values(), window_s=30)
    world = World(place)
    for name in ("a", "b"):
        world = world.having("presence", name, Trace.steps([(0, 1), (10, 0), (50, 1)]))
    record = run(adapter, world, QoE())
    assert record.steps[-1].end_s > 100


def test_a_lost_window_is_not_paid_for() -> None:
    """A step that waits 90 s for its input ends in the second window and loses it: the rest is as in a fresh one."""
    work, place, plans = home()
    work = work.replace(source="b", input_bytes=1e3)
    ready = [scheduled(work, place, plan.replace(transfer_order=(), prediction=None)) for plan in plans.values()]
    qoe = QoE(objective="energy", latency_s=4.5)
    adapter = Adapter(work, place, qoe, ready, window_s=60, confirm=99)
    world = World(place).having("domain rate", "net", Trace.steps([(0, 1), (8, 0), (98, 1)]))
    record = run(adapter, world, qoe, 120)
    assert [window.kept for window in record.windows] == [True, False]
    assert all(step.plan.devices == ("a",) for step in record.steps)


def test_a_window_whose_energy_is_spent_is_not_paid_for() -> None:
    """The same with a limit on energy: idling for 90 s is more than the window has, and b is still used after it."""
    work, place, plans = home()
    work = work.replace(source="b", input_bytes=1e3)
    ready = [scheduled(work, place, plan.replace(transfer_order=(), prediction=None)) for plan in plans.values()]
    qoe = QoE(objective="latency", energy_j=22.0)
    adapter = Adapter(work, place, qoe, ready, window_s=60, confirm=99)
    world = World(place).having("domain rate", "net", Trace.steps([(0, 1), (8, 0), (98, 1)]))
    record = run(adapter, world, qoe, 120)
    assert [window.kept for window in record.windows] == [True, False]
    assert "b" in {step.plan.label for step in record.steps if step.start_s > 98}


def test_a_device_that_is_faster_than_planned_is_noticed() -> None:
    work, place, plans = home()
    qoe = QoE(objective="energy", latency_s=5.0)
    adapter = Adapter(work, place, qoe, plans.values(), window_s=60)
    run(adapter, World(place).having("device speed", "a", Trace.steps([(0, 1), (20, 2.0)])), qoe)
    assert any("2 times faster than planned" in text for text in told(adapter, "change"))


# ------------------------------------------------------------------ training


def test_out_of_reach_training_takes_the_least_product_of_delay_and_energy() -> None:
    """a takes 12 s and 36 J, b 6 s and 120 J: where no plan keeps 3 s the product decides, 432 against 720."""
    for active_w, chosen in ((20.0, "a"), (5.0, "b")):
        work, place, plans = home("training", 250)
        devices = tuple(each.replace(active_w=active_w) if each.id == "b" else each for each in place.devices)
        place = place.replace(devices=devices)
        qoe = QoE(objective="energy", latency_s=3.0)
        ready = [scheduled(work, place, plan.replace(transfer_order=(), prediction=None)) for plan in plans.values()]
        adapter = Adapter(work, place, qoe, ready, window_s=60)
        record = run(adapter, World(place), qoe, 120)
        assert record.steps[-1].plan.label == chosen


def test_training_stays_with_a_plan_unless_another_is_worth_the_switch() -> None:
    """b slows down to 0.4 of its speed: a is faster then, but a large state takes longer to move than it saves."""
    for parameters, switches in ((25_000_000, 0), (250, 1)):
        work, place, plans = home("training", parameters)
        qoe = QoE(objective="latency")
        ready = [scheduled(work, place, plan.replace(transfer_order=(), prediction=None)) for plan in plans.values()]
        adapter = Adapter(work, place, qoe, ready, window_s=60, forget_s=1e9)
        world = World(place).having("device speed", "b", Trace.steps([(0, 1), (60, 0.4)]))
        record = run(adapter, world, qoe, 300)
        assert len(record.changes) == switches, parameters
        assert len(told(adapter, "switch")) == switches


def test_speeds_that_come_and_go_do_not_make_training_flap() -> None:
    work, place, plans = home("training", 250)
    qoe = QoE(objective="latency")
    ready = [scheduled(work, place, plan.replace(transfer_order=(), prediction=None)) for plan in plans.values()]
    adapter = Adapter(work, place, qoe, ready, window_s=60, forget_s=1e9)
    steps = [(6.0 * number, 1.0 if number % 2 else 0.45) for number in range(200)]
    record = run(adapter, World(place).having("device speed", "b", Trace.steps(steps)), qoe, 1000)
    assert len(record.changes) <= 2


def test_training_keeps_clear_of_a_plan_that_a_known_change_takes_the_qoe_from() -> None:
    """a is thriftier and breaks the limit once it is slow; b never does, and who knows of the change starts with it."""
    work, place, plans = home("training", 2_500_000)
    ready = [scheduled(work, place, plan.replace(transfer_order=(), prediction=None)) for plan in plans.values()]
    alone = {plan.label: plan.prediction for plan in ready}
    qoe = QoE(objective="energy", latency_s=1.5 * alone["a"].makespan_s)
    assert alone["a"].energy_participating_j < alone["b"].energy_participating_j
    slow = Condition(name="slow", probability=0.5, device_speed_factors={"a": 0.4})
    states = Conditions(conditions=(Condition(name="usual", probability=0.5), slow))
    world = World(place).having("device speed", "a", Trace.steps([(0, 1), (300, 0.4)]))
    kept = {}
    for conditions, first in ((None, "a"), (states, "b")):
        adapter = Adapter(work, place, qoe, ready, window_s=60, forget_s=1e9, conditions=conditions)
        record = run(adapter, world, qoe, 600)
        assert record.steps[0].plan.label == first
        assert record.steps[-1].plan.label == "b"
        kept[first] = record.kept_share
    assert kept["a"] < kept["b"] == 1.0


# ------------------------------------------------------------------ new plans


def test_new_plans_are_asked_for_where_none_keeps_the_limits() -> None:
    """Only a is resident; when it gets slow a plan for b is made, and used from when planning is over."""
    work, place, plans = home()
    qoe = QoE(objective="energy", latency_s=5.0)
    asked: list[Condition] = []

    def planner(condition: Condition) -> tuple[Plan, ...]:
        asked.append(condition)
        return (plans["b"],)

    adapter = Adapter(work, place, qoe, [plans["a"]], window_s=60, replanner=Delayed(planner, 7.0), forget_s=1e9)
    world = World(place).having("device speed", "a", Trace.steps([(0, 1), (60, 0.25)]))
    record = run(adapter, world, qoe, 300)
    (condition,) = asked
    assert condition.device_speed_factors["a"] == pytest.approx(0.25, rel=0.03)
    assert told(adapter, "re-plan") == ["asked for: no resident plan keeps the limits in the present condition"]
    first = next(step for step in record.steps if step.plan.label == "b")
    noticed = next(event.at_s for event in adapter.log if event.kind == "re-plan")
    assert first.start_s >= noticed + 7.0
    assert record.windows[-1].kept


def test_a_device_that_leaves_for_good_gets_a_new_plan() -> None:
    work, place, plans = home()
    qoe = QoE(objective="energy", latency_s=5.0)
    planner = planner_for(work, place, cost_table(work, place), qoe)
    adapter = Adapter(work, place, qoe, [plans["a"]], window_s=30, replanner=Delayed(planner, 2.0))
    world = World(place).having("presence", "a", Trace.steps([(0, 1), (42, 0), (43, 0), (45, 0)]))
    world = world.having("domain rate", "net", Trace.steps([(n, 1.0) for n in range(60)]))
    record = run(adapter, world, qoe, resident=[plans["a"]])
    assert record.steps[-1].plan.devices == ("b",)
    assert record.steps[-1].plan.label == "re-planned at 42 s"
    (wait,) = record.waits
    assert wait.start_s == 42.0
    assert wait.end_s <= 45.0


def test_new_plans_have_room_beside_however_many_given() -> None:
    """Six given plans are all on a, which gets slow; the new one for b stays beside them and is used."""
    work, place, plans = home()
    qoe = QoE(objective="energy", latency_s=5.0)
    given = [plans["a"].replace(label=f"a{number}") for number in range(6)]
    adapter = Adapter(
        work, place, qoe, given, window_s=60, replanner=Delayed(lambda _: (plans["b"],), 0.0), forget_s=1e9
    )
    world = World(place).having("device speed", "a", Trace.steps([(0, 1), (60, 0.25)]))
    record = run(adapter, world, qoe, 300)
    assert record.windows[-1].kept
    assert [plan.label for plan in adapter.resident] == [*(plan.label for plan in given), "b"]


def test_where_nothing_can_be_planned_it_says_why() -> None:
    work, place, plans = home()
    qoe = QoE(latency_s=1.0)

    def planner(condition: Condition) -> tuple[Plan, ...]:
        raise InfeasibleError("there is none")

    adapter = Adapter(work, place, qoe, plans.values(), window_s=30, replanner=Delayed(planner, 0.0))
    run(adapter, World(place), qoe)
    assert told(adapter, "re-plan")[1:] == ["found nothing: there is none"]


def test_plans_that_are_resident_already_are_not_news() -> None:
    work, place, plans = home()
    qoe = QoE(latency_s=1.0)
    adapter = Adapter(
        work, place, qoe, plans.values(), window_s=30, replanner=Delayed(lambda _: tuple(plans.values()), 0.0)
    )
    run(adapter, World(place), qoe)
    assert told(adapter, "re-plan")[1:] == ["found nothing better than the resident plans"]
    assert len(adapter.resident) == len(plans)


def test_no_plan_is_asked_for_while_nobody_is_there() -> None:
    work, place, plans = home()
    asked: list[Condition] = []

    def planner(condition: Condition) -> tuple[Plan, ...]:
        asked.append(condition)
        return ()

    qoe = QoE(objective="energy", latency_s=5.0)
    adapter = Adapter(work, place, qoe, plans.values(), window_s=30, replanner=Delayed(planner, 0.0))
    world = World(place)
    for name in ("a", "b"):
        world = world.having("presence", name, Trace.steps([(0, 1), (10, 0), (50, 1)]))
    run(adapter, world, qoe, 60)
    assert all(set(each.absent_devices) != {"a", "b"} for each in asked)


def test_where_no_device_holds_the_network_the_planner_says_so() -> None:
    """Neither within the limits nor beyond them: the reason is told, and no plan is made up."""
    work, place, _ = home("training", 250)
    place = place.replace(devices=tuple(each.replace(memory_bytes=1.0) for each in place.devices))
    planner = planner_for(work, place, cost_table(work, place), QoE(latency_s=50.0))
    with pytest.raises(InfeasibleError, match="memory"):
        planner(Condition(name="now", probability=1.0))


def test_a_planner_in_the_background_does_not_hold_anybody_up() -> None:
    _, _, plans = home()
    let_go = threading.Event()

    def planner(condition: Condition) -> tuple[Plan, ...]:
        assert let_go.wait(10)
        return (plans["a"],)

    background = Background(planner)
    background.ask(Condition(name="now", probability=1.0), 0.0)
    assert background.poll(0.0) is None
    let_go.set()
    found = None
    for _ in range(1000):
        found = background.poll(0.0)
        if found is not None:
            break
        time.sleep(0.01)
    assert found == (plans["a"],)
    assert background.poll(0.0) is None


# ------------------------------------------------------------------ words and refusals


def test_the_log_reads_well() -> None:
    work, place, plans = home()
    qoe = QoE(objective="energy", latency_s=3.0)
    adapter = Adapter(work, place, qoe, plans.values(), window_s=60)
    run(adapter, World(place), qoe, 60)
    assert str(adapter.log[0]).split() == ["0", "s", "resident", "plan", "1", "on", "a", "(a)"]
    assert "within 3 s a step until the window ends" in str(adapter.log[2])


def test_what_cannot_be_kept_is_refused() -> None:
    work, place, plans = home()
    with pytest.raises(InputError, match="at least one plan"):
        Adapter(work, place, QoE(), [], window_s=60)
    with pytest.raises(InputError, match="hard limits on latency and energy only"):
        Adapter(work, place, QoE(latency_s=1, latency_price=2), plans.values(), window_s=60)
