"""Batteries: by hand, against the predicted draw of a step and the record's own energy, and whatever the world does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from builders import Dice, cluster, device, examples, layer, pipeline, random_plan, seeded, workload
from hypothesis import HealthCheck, given, settings
from worlds import Case, changing, random_case, scheduled

from dora_nb.costs.evaluate import evaluate
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.controller import StepReport
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.rating import qoe_value
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError, UnknownNameError
from dora_nb.simulation import SimulationRecord, Trace, World, simulate

QUICK = {"suppress_health_check": list(HealthCheck)}

#: Relative difference that the order of the same additions explains.
EXACT = 1e-9

ALL_ON = QoE(energy_accounting="all-on")


def home(mode: str = "inference", parameters: int = 0) -> tuple[Workload, Cluster, dict[str, Plan]]:
    """A step takes 4 s on a and 2 s on b: idle 1 W each, 3 W busy; plans for a alone, b alone, and both."""
    layers = [layer("l0", flops=2e9, parameters=parameters), layer("l1", flops=2e9, parameters=parameters)]
    work = workload(layers, mode=mode, batch=1)
    place = cluster([device("a"), device("b", 2e9)], 1e6)
    ways = {
        "a": pipeline((0, 2, {"a": 1})),
        "b": pipeline((0, 2, {"b": 1})),
        "both": pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1})),
    }
    return work, place, {name: scheduled(work, place, plan).replace(label=name) for name, plan in ways.items()}


class InTurns:
    """The next of some plans whose devices are there, every so many steps; remembers who was there."""

    def __init__(self, plans: Sequence[Plan], every: int = 1_000_000) -> None:
        self.plans, self.every, self.present, self.reports = plans, every, list[frozenset[str]](), list[StepReport]()

    def next_plan(self, now_s: float, present: frozenset[str]) -> Plan | None:
        self.present.append(present)
        able = [plan for plan in self.plans if present.issuperset(plan.devices)]
        return able[len(self.reports) // self.every % len(able)] if able else None

    def observe(self, report: StepReport) -> None:
        self.reports.append(report)


def drawn_j(record: SimulationRecord, full_j: dict[str, float]) -> float:
    return sum(full_j[name] - left_j for name, left_j in record.battery_left_j.items())


def free_to_carry(place: Cluster) -> Cluster:
    """The same where bytes take no energy, so that all of it is drawn by devices."""
    return place.replace(domains=tuple(each.replace(energy_j_per_byte=0.0) for each in place.domains))


# ------------------------------------------------------------------ by hand


def test_a_battery_of_ten_steps_lasts_ten_steps() -> None:
    work, place, plans = home()
    record = simulate(work, World(place), plans["a"], horizon_s=60, window_s=10, battery_j={"a": 120})
    assert [step.end_s for step in record.steps] == pytest.approx([4 * n for n in range(1, 11)])
    assert not record.lost
    assert record.battery_left_j == {"a": 0}
    assert record.energy_participating_j == pytest.approx(120, rel=EXACT)
    assert record.notes == ("the battery of a was empty at 40 s",)
    (wait,) = record.waits
    assert (wait.start_s, wait.end_s) == pytest.approx((40, 60))
    assert wait.why == "no plan could run; there were b; the battery of a is empty"
    assert "left in batteries: a nothing" in repr(record)


def test_the_step_under_way_is_lost_when_the_battery_is_empty() -> None:
    """Two and a half steps of 12 J."""
    work, place, plans = home()
    record = simulate(work, World(place), plans["a"], horizon_s=60, window_s=10, battery_j={"a": 30, "b": 5})
    assert len(record.steps) == 2
    (lost,) = record.lost
    assert (lost.lost_to, lost.start_s) == ("a", 8.0)
    assert (lost.end_s, lost.energy_j) == pytest.approx((10, 6))
    assert (lost.expected_s, lost.measured_s) == ({"a": pytest.approx(2)}, {"a": pytest.approx(2)})
    assert record.energy_participating_j == pytest.approx(30, rel=EXACT)
    assert record.battery_left_j == {"a": 0, "b": 5}  # b takes no part
    assert record.waits[0].start_s == lost.end_s


def test_another_plan_goes_on_and_the_device_is_not_there_any_more() -> None:
    work, place, plans = home()
    controller = InTurns([plans["b"], plans["a"]])
    options: dict[str, Any] = {"horizon_s": 30, "window_s": 10, "resident": plans.values()}
    record = simulate(work, World(place), controller, battery_j={"b": 15}, **options)
    assert [step.plan.label for step in record.steps[:3]] == ["b", "b", "a"]
    assert record.steps[2].start_s == pytest.approx(5)
    assert set(controller.present) == {frozenset("ab"), frozenset("a")}
    assert "b" not in controller.present[-1]
    # It never comes back, even where the world says that it does.
    world = World(place).having("presence", "b", Trace.steps([(0, 1), (12, 0), (20, 1)]))
    again = simulate(work, world, InTurns([plans["b"], plans["a"]]), battery_j={"b": 15}, **options)
    assert [step.end_s for step in again.steps] == [step.end_s for step in record.steps]


def test_who_idles_under_all_on_leaves_and_the_step_of_others_goes_on() -> None:
    work, place, plans = home()
    record = simulate(work, World(place), plans["a"], ALL_ON, horizon_s=20, window_s=10, battery_j={"a": 100, "b": 10})
    assert [step.end_s for step in record.steps] == pytest.approx([4, 8, 12, 16, 20])
    assert record.battery_left_j == {"a": pytest.approx(40), "b": 0}
    assert record.notes == ("the battery of b was empty at 10 s",)
    assert record.energy_all_on_j == pytest.approx(60 + 10, rel=EXACT)
    assert [step.energy_j for step in record.steps] == pytest.approx([16, 16, 16, 12, 12])  # b draws nothing any more


def test_under_all_on_a_battery_may_be_empty_between_two_steps() -> None:
    """18 J in 10 s: 12 in the step and 6 after it. 50 J last for two of them, a third step and 2 s more."""
    work, place, plans = home()
    options: dict[str, Any] = {"horizon_s": 60, "window_s": 10, "every_s": 10, "battery_j": {"a": 50}}
    record = simulate(work, World(place), plans["a"], ALL_ON, **options)
    assert len(record.steps) == 3
    assert record.notes == ("the battery of a was empty at 26 s",)
    assert [(wait.start_s, wait.end_s) for wait in record.waits] == [(30, 60)]
    # Under participating only the steps count, and the fifth would need 10 J more than there are.
    record = simulate(work, World(place), plans["a"], **options)
    assert len(record.steps) == 4
    assert record.lost[0].end_s == pytest.approx(40 + 4 * 2 / 12)


def test_who_is_away_draws_nothing_under_all_on() -> None:
    work, place, plans = home()
    world = World(place).having("presence", "b", Trace.steps([(0, 1), (3, 0), (9, 1), (50, 0)]))
    record = simulate(work, world, plans["a"], ALL_ON, horizon_s=40, window_s=10, battery_j={"b": 20})
    assert record.notes == ("the battery of b was empty at 26 s",)
    record = simulate(work, world, plans["a"], ALL_ON, horizon_s=100, window_s=10, battery_j={"b": 60})
    assert record.battery_left_j == {"b": pytest.approx(60 - 44)}
    assert not record.notes


def test_a_battery_may_be_empty_while_nothing_can_run() -> None:
    """b is away for good, so its plan waits; a leaves while it waits, and that is told."""
    work, place, plans = home()
    world = World(place).having("presence", "b", Trace.constant(0.0))
    record = simulate(work, world, plans["b"], ALL_ON, horizon_s=40, window_s=10, battery_j={"a": 15})
    assert [(wait.start_s, wait.end_s) for wait in record.waits] == [(0, 15), (15, 40)]
    assert record.waits[1].why == "no plan could run; there were no devices; the battery of a is empty"


def test_a_battery_may_be_empty_while_nothing_moves() -> None:
    """a computes for 2 s at 3 W and then waits for a medium that stands still, at 1 W."""
    work, place, plans = home()
    world = World(place).having("domain rate", "net", Trace.constant(0.0))
    full_j = {"a": 10.0, "b": 100.0}
    record = simulate(work, world, plans["both"], ALL_ON, horizon_s=40, window_s=10, battery_j=full_j)
    (lost,) = record.lost
    assert (lost.lost_to, lost.start_s, lost.end_s) == ("a", 0, pytest.approx(6))
    assert "the battery of a is empty" in record.waits[0].why
    assert record.battery_left_j == {"a": 0, "b": pytest.approx(60)}
    assert drawn_j(record, full_j) == pytest.approx(record.energy_all_on_j, rel=EXACT)
    # What stands still for ever takes no part any more.
    record = simulate(work, world, plans["both"], horizon_s=40, window_s=10, battery_j=full_j)
    assert record.waits[-1].why == "nothing moved any more"
    assert record.battery_left_j == {"a": pytest.approx(4), "b": pytest.approx(98)}


def test_a_source_is_needed_and_draws_only_when_all_are_on() -> None:
    work, place, plans = home()
    work = work.replace(source="b", input_bytes=0)
    plan = scheduled(work, place, plans["a"].replace(transfer_order=(), prediction=None))
    record = simulate(work, World(place), plan, ALL_ON, horizon_s=40, window_s=10, battery_j={"b": 10})
    assert (record.lost[0].lost_to, record.lost[0].end_s) == ("b", pytest.approx(10))
    assert record.waits[-1].end_s == 40
    assert record.waits[-1].why == "no plan could run; there were a; the battery of b is empty"
    record = simulate(work, World(place), plan, horizon_s=40, window_s=10, battery_j={"b": 10})
    assert record.battery_left_j == {"b": 10}


def test_batteries_that_are_empty_at_once_are_all_named() -> None:
    work, place, plans = home()
    record = simulate(work, World(place), plans["a"], ALL_ON, horizon_s=40, window_s=10, battery_j={"b": 8, "a": 24})
    assert record.notes == ("the battery of b was empty at 8 s", "the battery of a was empty at 8 s")
    assert record.waits[0].why == "no plan could run; there were no devices; the batteries of b and a are empty"


# ------------------------------------------------------------------ changes of plans


@pytest.mark.parametrize("accounting", ["participating", "all-on"])
def test_a_change_of_plans_is_taken_from_batteries(accounting: str) -> None:
    """In training: 12 bytes of state of 250,000 parameters go over two hops of 1 MB/s from b to a, both idling."""
    work, place, plans = home("training", parameters=250_000)
    qoe, full_j = QoE(energy_accounting=accounting), {"a": 1e3, "b": 1e3}
    options: dict[str, Any] = {"horizon_s": 100, "window_s": 10}
    record = simulate(work, World(place), InTurns([plans["b"], plans["a"]], 2), qoe, battery_j=full_j, **options)
    moved = [change for change in record.changes if change.duration_s]
    assert len(moved) > 1
    assert moved[0].energy_j == pytest.approx(2 * moved[0].duration_s)
    assert drawn_j(record, full_j) == pytest.approx(record.energy_j, rel=EXACT)
    plain = simulate(work, World(place), InTurns([plans["b"], plans["a"]], 2), qoe, **options)
    assert replace(record, battery_left_j={}) == plain


def test_an_empty_battery_gives_nothing_for_a_change() -> None:
    """b runs out during the change from it to a, which is carried through; then b can take part no more."""
    work, place, plans = home("training", parameters=250_000)
    whole = simulate(work, World(place), InTurns([plans["b"], plans["a"]], 2), horizon_s=100, window_s=10)
    began, first = whole.changes[0].at_s, whole.changes[0]
    full_j = {"a": 1e3, "b": 3 * began + first.duration_s / 4}
    controller = InTurns([plans["b"], plans["a"]], 2)
    record = simulate(work, World(place), controller, horizon_s=100, window_s=10, battery_j=full_j)
    assert record.changes[0].duration_s == pytest.approx(first.duration_s)
    assert record.changes[0].energy_j == pytest.approx(first.energy_j - 0.75 * first.duration_s)
    assert {step.plan.label for step in record.steps if step.start_s > began} == {"a"}
    assert drawn_j(record, full_j) == pytest.approx(record.energy_j, rel=EXACT)
    # If it is empty when the change begins, a alone idles.
    full_j = {"a": 1e3, "b": 3 * began}
    record = simulate(
        work, World(place), InTurns([plans["b"], plans["a"]]), horizon_s=100, window_s=10, battery_j=full_j
    )
    assert record.changes[0].energy_j == pytest.approx(first.duration_s)
    assert drawn_j(record, full_j) == pytest.approx(record.energy_j, rel=EXACT)


# ------------------------------------------------------------------ against predictions and the record


@settings(max_examples=examples(20), deadline=None, **QUICK)
@given(seeded(lambda dice: (random_case(dice), dice.pick(("participating", "all-on")), dice.pick(("ordered", "fair")))))
def test_a_step_draws_what_the_cost_model_counts_as_a_batterys(drawn: tuple[Case, str, str]) -> None:
    (work, place, plan), accounting, sharing = drawn
    figures = evaluate(plan, work, place).prediction
    if sharing == "fair":  # the fair schedule takes its own time: idling is longer or shorter
        free = simulate(work, World(place), plan, horizon_s=1e6, window_s=1e6, every_s=9e5, sharing="fair")
        busy_j = {
            each.device: each.energy_j - place.device(each.device).idle_w * figures.makespan_s
            for each in figures.devices
        }
        lasts_s = free.steps[0].latency_s
        counted = place.device_ids if accounting == "all-on" else plan.devices
        expected = {name: place.device(name).idle_w * lasts_s + busy_j.get(name, 0.0) for name in counted}
    else:
        lasts_s = figures.makespan_s
        qoe = QoE(energy_accounting=accounting, battery_j=dict.fromkeys(place.device_ids, 1.0))
        limits = qoe_value(figures, qoe).limits
        expected = {limit.device: limit.value for limit in limits if limit.term == "battery" and limit.device}
    full_j = {name: 2 * expected.get(name, 0.0) + 1 for name in place.device_ids}
    record = simulate(
        work,
        World(place),
        plan,
        QoE(energy_accounting=accounting),
        horizon_s=lasts_s * (1 + 1e-12),
        window_s=lasts_s,
        sharing=sharing,  # type: ignore[arg-type]
        battery_j=full_j,
    )
    assert len(record.steps) == 1
    for name in place.device_ids:
        assert full_j[name] - record.battery_left_j[name] == pytest.approx(
            expected.get(name, 0.0), rel=EXACT, abs=1e-12
        )
    # What is in nobody's battery is what the network takes.
    network_j = figures.energy_participating_j - sum(each.energy_j for each in figures.devices)
    assert drawn_j(record, full_j) + network_j == pytest.approx(record.energy_j, rel=EXACT)


@settings(max_examples=examples(12), deadline=None, **QUICK)
@given(seeded(lambda dice: (random_case(dice), dice.pick(("participating", "all-on")), dice.pick((0.6, 2.5, 7.0)))))
def test_what_is_drawn_is_the_records_energy(drawn: tuple[Case, str, float]) -> None:
    """Nothing changes, and no battery is ever empty; the last step is cut off."""
    (work, place, plan), accounting, steps = drawn
    place, qoe = free_to_carry(place), QoE(energy_accounting=accounting)
    figures = evaluate(plan, work, place).prediction
    options: dict[str, Any] = {"horizon_s": steps * figures.makespan_s, "window_s": figures.makespan_s}
    counted = place.device_ids if accounting == "all-on" else plan.devices
    full_j = dict.fromkeys(counted, 10 * figures.energy_all_on_j + 1)
    record = simulate(work, World(place), plan, qoe, battery_j=full_j, **options)
    assert drawn_j(record, full_j) == pytest.approx(record.energy_j, rel=EXACT)
    assert not record.lost
    assert replace(record, battery_left_j={}) == simulate(work, World(place), plan, qoe, **options)


# ------------------------------------------------------------------ whatever happens


def unruly(dice: Dice) -> tuple[Case, Plan, World, dict[str, float], dict[str, Any]]:
    """Two plans in turns, devices that come and go, media that may stand still, batteries for some steps each."""
    work, place, plan = random_case(dice)
    place = free_to_carry(place)
    other = scheduled(work, place, random_plan(dice, work, place))
    world = changing(dice, place, least=0.0 if dice.number(0, 1) else 0.2)
    world = World(place, tuple(i for i in world.influences if i.quantity != "device rate"))
    for name in place.device_ids:
        if dice.number(0, 1):
            ups = [(0, 1.0), *((dice.number(1, 9) + 10 * n, float(dice.number(0, 1))) for n in range(3))]
            world = world.having("presence", name, Trace.steps(ups))
    figures = evaluate(plan, work, place).prediction
    step_j = figures.energy_all_on_j / len(place.devices)
    full_j = {name: step_j * dice.pick((1e-9, 0.3, 1.0, 2.0, 9.0, 1e3)) for name in place.device_ids}
    options = {
        "qoe": QoE(energy_accounting=dice.pick(("participating", "all-on"))),
        "horizon_s": dice.pick((3.0, 12.0)) * figures.makespan_s,
        "window_s": figures.makespan_s,
        "every_s": dice.pick((0.0, 0.0, 2.1)) * figures.makespan_s,
        "sharing": dice.pick(("ordered", "fair")),
    }
    return (work, place, plan), other, world, full_j, options


@settings(max_examples=examples(40), deadline=None, **QUICK)
@given(seeded(unruly))
def test_every_joule_and_every_second_is_accounted_for(
    drawn: tuple[Case, Plan, World, dict[str, float], dict[str, Any]],
) -> None:
    (work, place, plan), other, world, full_j, options = drawn
    controller, again = (InTurns([plan, other], 2) for _ in range(2))
    record = simulate(work, world, controller, battery_j=full_j, **options)
    assert record == simulate(work, world, again, battery_j=full_j, **options)
    step_j = evaluate(plan, work, place).prediction.energy_all_on_j  # what is added up, and cancels in a tiny battery
    assert drawn_j(record, full_j) == pytest.approx(record.energy_j, rel=EXACT, abs=EXACT * step_j)
    assert all(0 <= left_j <= full_j[name] for name, left_j in record.battery_left_j.items())
    horizon_s = options["horizon_s"]
    spans = sorted((each.start_s, each.end_s) for each in (*record.steps, *record.lost, *record.waits))
    assert all(0 <= start_s <= end_s <= horizon_s for start_s, end_s in spans)
    assert all(start_s >= end_s for (_, end_s), (start_s, _) in itertools.pairwise(spans))
    # Whoever is empty takes no part from then on, neither in what runs nor in what the controller is told.
    empty = [name for name, left_j in record.battery_left_j.items() if left_j == 0]
    told = [note for note in record.notes if note.startswith("the battery of ")]
    assert len(told) == len(empty)
    for name in empty:
        gone = [name not in present for present in controller.present]
        away = any(i.quantity == "presence" and i.name == name for i in world.influences)
        assert away or gone == sorted(gone), "it never returns"


@pytest.mark.parametrize("joules", [0.0, -1.0, math.nan, math.inf])
def test_a_battery_holds_something(joules: float) -> None:
    work, place, plans = home()
    with pytest.raises(InputError) as refused:
        simulate(work, World(place), plans["a"], horizon_s=10, window_s=10, battery_j={"a": 5, "b": joules})
    assert refused.value.field == "battery_j.b"


def test_a_battery_is_of_a_device() -> None:
    work, place, plans = home()
    with pytest.raises(UnknownNameError) as refused:
        simulate(work, World(place), plans["a"], horizon_s=10, window_s=10, battery_j={"c": 5})
    assert (refused.value.field, refused.value.value) == ("battery_j", "c")


def test_without_batteries_there_is_nothing_left_in_them() -> None:
    work, place, plans = home()
    record = simulate(work, World(place), plans["a"], horizon_s=10, window_s=10)
    assert record.battery_left_j == {}
    assert "batteries" not in repr(record)
