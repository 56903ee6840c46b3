"""Many steps: the ledger, changes of plans, what is lost, and that nothing hangs whatever the world does."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from builders import Dice, cluster, device, examples, layer, pipeline, seeded, workload
from hypothesis import HealthCheck, given, settings
from worlds import Case, changing, random_case, scheduled

from dora_nb.costs.switching import switch
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.controller import StepReport
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.simulation import Trace, World, simulate

QUICK = {"suppress_health_check": list(HealthCheck)}


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


class Fallback:
    """The first of some plans whose devices are there."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self.plans, self.reports = plans, list[StepReport]()

    def next_plan(self, now_s: float, present: frozenset[str]) -> Plan | None:
        return next((plan for plan in self.plans if present.issuperset(plan.devices)), None)

    def observe(self, report: StepReport) -> None:
        self.reports.append(report)


# ------------------------------------------------------------------ steady


def test_steps_follow_one_another() -> None:
    work, place, plans = home()
    record = simulate(work, World(place), plans["a"], QoE(latency_s=4.0), horizon_s=42, window_s=10)
    assert [step.end_s for step in record.steps] == pytest.approx([4 * n for n in range(1, 11)])
    assert record.mean_latency_s == pytest.approx(4.0)
    assert [window.steps for window in record.windows] == [2, 3, 2, 3]  # 40 s belongs to the window that it ends
    assert record.kept_share == 1.0
    # Busy all the time, the step under way at the end included: 42 s at 3 W; b idles along at 1 W.
    assert record.energy_participating_j == pytest.approx(42 * 3)
    assert record.energy_all_on_j == pytest.approx(42 * 3 + 42)
    assert [step.energy_j for step in record.steps] == pytest.approx([12.0] * 10)
    assert not record.lost
    assert not record.changes
    assert not record.waits
    assert not record.notes
    assert "10 steps completed" in repr(record)
    assert record.to_frame()["latency_s"].tolist() == pytest.approx([4.0] * 10)


def test_what_is_asked_for_at_a_rate_waits_for_its_turn() -> None:
    """A step of 4 s every 5 s is done in time; every 3 s each waits a second longer than the one before."""
    work, place, plans = home()
    calm = simulate(work, World(place), plans["a"], horizon_s=20, window_s=20, every_s=5)
    assert [step.start_s for step in calm.steps] == pytest.approx([0, 5, 10, 15])
    assert calm.energy_participating_j == pytest.approx(4 * 12.0)  # between them nobody takes part
    assert calm.energy_all_on_j == pytest.approx(20 * 2 + 4 * 4 * 2)
    late = simulate(work, World(place), plans["a"], horizon_s=20.5, window_s=20, every_s=3)
    assert [step.latency_s for step in late.steps] == pytest.approx([4, 5, 6, 7, 8])


def test_limits_are_kept_window_by_window() -> None:
    """b slows down to a quarter from 10 s to 20 s: a step takes 8 s; the one that it ends in, 3.5 s."""
    work, place, plans = home()
    world = World(place).having("device speed", "b", Trace.steps([(0, 1), (10, 0.25), (20, 1)]))
    record = simulate(work, world, plans["b"], QoE(latency_s=3.0), horizon_s=40, window_s=10)
    assert [window.kept for window in record.windows] == [True, False, True, True]
    assert record.windows[1].mean_s == pytest.approx(8.0)
    assert record.kept_share == 0.75
    thrifty = simulate(work, world, plans["b"], QoE(energy_j=7.0), horizon_s=40, window_s=10)
    assert [window.kept for window in thrifty.windows] == [True, False, True, True]


def test_replayed_steps_are_simulated_steps() -> None:
    """A change that changes nothing prevents a replay, and everything else stays the same."""
    work, place, plans = home()
    usual = simulate(work, World(place), plans["both"], horizon_s=200, window_s=50)
    still = World(place).having("domain rate", "net", Trace.steps([(0.7 * n, 1.0) for n in range(300)]))
    same = simulate(work, still, plans["both"], horizon_s=200, window_s=50)
    assert [step.end_s for step in same.steps] == pytest.approx([step.end_s for step in usual.steps])
    assert same.energy_all_on_j == pytest.approx(usual.energy_all_on_j)
    assert same.energy_participating_j == pytest.approx(usual.energy_participating_j)


@settings(max_examples=examples(10), deadline=None, **QUICK)
@given(seeded(lambda dice: (random_case(dice), dice.number(0, 10**6), dice.pick(("ordered", "fair")))))
def test_the_same_world_twice_gives_the_same_record(drawn: tuple[Case, int, str]) -> None:
    (work, place, plan), seed, sharing = drawn
    options = {"horizon_s": 30.0, "window_s": 5.0, "sharing": sharing}
    one, two = (simulate(work, changing(Dice(seed), place), plan, **options) for _ in range(2))  # type: ignore[arg-type]
    assert one == two


# ------------------------------------------------------------------ changes of plans


def test_the_controller_is_told_what_was_measured() -> None:
    work, place, plans = home()
    world = (
        World(place).having("device speed", "a", Trace.constant(0.5)).having("domain rate", "net", Trace.constant(0.2))
    )
    controller = Fallback([plans["both"]])
    simulate(work, world, controller, horizon_s=30, window_s=30)
    report = controller.reports[0]
    assert report.completed
    assert report.expected_s == pytest.approx({"a": 2.0, "b": 1.0, "net": 2.0})
    assert report.measured_s == pytest.approx({"a": 4.0, "b": 1.0, "net": 10.0})
    assert report.latency_s == pytest.approx(15.0)


def test_a_device_that_leaves_costs_the_step_and_comes_back() -> None:
    work, place, plans = home()
    world = World(place).having("presence", "b", Trace.steps([(0, 1), (5, 0), (14, 1)]))
    controller = Fallback([plans["b"], plans["a"]])
    record = simulate(work, world, controller, horizon_s=20, window_s=10, resident=plans.values())
    assert [(step.plan.label, step.end_s) for step in record.steps] == [
        *(("b", 2.0), ("b", 4.0), ("a", 9.0), ("a", 13.0), ("a", 17.0), ("b", 19.0))
    ]
    (lost,) = record.lost
    assert (lost.lost_to, lost.start_s, lost.end_s) == ("b", 4.0, 5.0)
    assert record.steps[2].latency_s == pytest.approx(5.0)  # asked for at 4 s, begun again at 5 s
    assert [(change.at_s, change.after.label) for change in record.changes] == [(5.0, "a"), (17.0, "b")]
    assert all(change.duration_s == 0 for change in record.changes)  # inference: what is resident stays valid
    assert controller.reports[2].lost_to == "b"


def test_in_training_a_change_moves_the_state() -> None:
    work, place, plans = home("training", parameters=250_000)
    world = World(place).having("device speed", "b", Trace.steps([(0, 1), (10, 0.1)]))

    class Switching(Fallback):
        def next_plan(self, now_s: float, present: frozenset[str]) -> Plan | None:
            return self.plans[int(now_s >= 10)]

    record = simulate(work, world, Switching([plans["b"], plans["a"]]), horizon_s=60, window_s=60)
    (change,) = record.changes
    cost = switch(plans["b"], plans["a"], work, place, "participating")
    assert cost.duration_s > 0
    assert (change.size_bytes, change.duration_s, change.energy_j) == pytest.approx(
        (cost.size_bytes, cost.duration_s, cost.energy_j)
    )
    after = next(step for step in record.steps if step.plan.label == "a")
    assert after.start_s == pytest.approx(change.at_s + cost.duration_s)


def test_a_plan_that_was_never_resident_moves_its_parameters_once() -> None:
    """1 MB of parameters a layer, and b at first has both: 2 MB to a take 4 s over the two hops, and only once."""
    work, place, plans = home(parameters=250_000)
    world = World(place).having("presence", "b", Trace.steps([(0, 1), (5, 0), (14, 1), (20, 0)]))
    record = simulate(work, world, Fallback([plans["b"], plans["a"]]), horizon_s=40, window_s=10)
    assert [(change.after.label, change.size_bytes) for change in record.changes] == [("a", 2e6), ("b", 0), ("a", 0)]
    assert record.changes[0].duration_s == pytest.approx(4.0)
    assert record.steps[2].end_s == pytest.approx(5 + 4 + 4)


def test_where_memory_is_short_a_plan_makes_room() -> None:
    """Each device holds one layer of 1 MB and its buffers, not two: what was moved away has to be moved back."""
    work, place, plans = home(parameters=250_000)
    need_bytes = max(each.memory_bytes for each in plans["both"].prediction.devices)
    small = place.replace(devices=tuple(each.replace(memory_bytes=need_bytes + 5e5) for each in place.devices))
    turned = scheduled(work, small, pipeline((0, 1, {"b": 1}), (1, 2, {"a": 1}))).replace(label="turned")

    class InTurns(Fallback):
        def next_plan(self, now_s: float, present: frozenset[str]) -> Plan | None:
            return self.plans[len(self.reports) % 2]

    order = [scheduled(work, small, plans["both"].replace(transfer_order=(), prediction=None)), turned]
    record = simulate(work, World(small), InTurns(order), horizon_s=40, window_s=10)
    assert len(record.changes) > 2
    assert {change.size_bytes for change in record.changes} == {2e6}
    roomy = simulate(work, World(place), InTurns(order), horizon_s=40, window_s=10)
    assert [change.size_bytes for change in roomy.changes[:3]] == [2e6, 0, 0]


# ------------------------------------------------------------------ whatever happens


def test_a_device_that_never_returns_is_waited_for_in_vain() -> None:
    work, place, plans = home()
    world = World(place).having("presence", "b", Trace.steps([(0, 1), (5, 0)]))
    record = simulate(work, world, plans["b"], QoE(latency_s=3.0), horizon_s=40, window_s=10)
    assert len(record.steps) == 2
    assert [window.kept for window in record.windows] == [True, False, False, False]
    (wait,) = record.waits
    assert (wait.start_s, wait.end_s) == (5.0, 40.0)
    assert "no plan could run; there were a" in repr(record)


def test_all_devices_but_one_leave() -> None:
    work, place, plans = home()
    world = World(place).having("presence", "b", Trace.steps([(0, 1), (3, 0)]))
    controller = Fallback([plans["both"], plans["a"], plans["b"]])
    record = simulate(work, world, controller, horizon_s=40, window_s=10)
    assert {step.plan.label for step in record.steps} == {"a"}
    assert len(record.lost) == 1


def test_nobody_is_left() -> None:
    work, place, plans = home()
    world = World(place)
    for name in ("a", "b"):
        world = world.having("presence", name, Trace.steps([(0, 1), (3, 0), (30, 1)]))
    record = simulate(work, world, Fallback(list(plans.values())), horizon_s=40, window_s=10)
    assert [(wait.start_s, wait.end_s) for wait in record.waits] == [(3.0, 30.0)]
    assert "there were no devices" in record.waits[0].why
    assert record.steps[-1].end_s > 30


def test_no_bandwidth_for_a_minute_and_for_ever() -> None:
    work, place, plans = home()
    minute = World(place).having("domain rate", "net", Trace.steps([(0, 1), (3, 0), (63, 1)]))
    record = simulate(work, minute, plans["both"], QoE(latency_s=6.0), horizon_s=100, window_s=10)
    assert record.steps[0].latency_s == pytest.approx(65.0)
    assert [window.kept for window in record.windows] == [False] * 7 + [True] * 3
    ever = World(place).having("domain rate", "net", Trace.steps([(0, 1), (3, 0)]))
    record = simulate(work, ever, plans["both"], horizon_s=100, window_s=10)
    assert not record.steps
    assert "nothing moved any more" in repr(record)
    assert record.waits[-1].end_s == 100


def test_a_trace_that_ends_early_is_told() -> None:
    work, place, plans = home()
    world = World(place).with_bandwidth("net", Trace.steps([(0, 1e6), (4, 5e5)], end_s=8))
    record = simulate(work, world, plans["both"], horizon_s=40, window_s=10)
    assert record.notes == ("a trace ends at 8 s; from then on its last value was held",)
    assert record.steps[-1].latency_s == pytest.approx(2 + 4 + 1)


def test_a_source_that_is_away_is_waited_for() -> None:
    work, place, plans = home()
    work = work.replace(source="b", input_bytes=1e3)
    plan = scheduled(work, place, plans["a"].replace(transfer_order=(), prediction=None))
    world = World(place).having("presence", "b", Trace.steps([(0, 0), (7, 1)]))
    record = simulate(work, world, plan, horizon_s=20, window_s=10)
    assert record.waits[0].end_s == 7.0
    assert record.steps[0].start_s == 7.0


@settings(max_examples=examples(20), deadline=None, **QUICK)
@given(seeded(lambda dice: (random_case(dice), dice.number(0, 10**6), dice.pick(("ordered", "fair")))))
def test_every_second_is_accounted_for(drawn: tuple[Case, int, str]) -> None:
    """Devices come and go, media stand still: steps, losses, changes and waits neither overlap nor overrun."""
    (work, place, plan), seed, sharing = drawn
    dice = Dice(seed)
    world = changing(dice, place, least=0.0 if dice.number(0, 1) else 0.2)
    world = World(place, tuple(i for i in world.influences if i.quantity != "device rate"))
    for name in place.device_ids:
        ups = [(0, 1.0), *((dice.number(1, 9) + 10 * n, float(dice.number(0, 1))) for n in range(3))]
        world = world.having("presence", name, Trace.steps(ups))
    record = simulate(work, world, plan, horizon_s=50, window_s=7, sharing=sharing)  # type: ignore[arg-type]
    spans = [(each.start_s, each.end_s) for each in (*record.steps, *record.lost, *record.waits)]
    for (_, end_s), (start_s, _) in zip(sorted(spans), sorted(spans)[1:], strict=False):
        assert start_s >= end_s - 1e-9
    assert all(0 <= start_s <= end_s <= 50 for start_s, end_s in spans)
    assert len(record.windows) == 7
    assert 0 <= record.kept_share <= 1
    assert record.energy_participating_j <= record.energy_all_on_j + 1e-6 + sum(d.idle_w for d in place.devices) * 50


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"horizon_s": 0}, "horizon_s"),
        ({"horizon_s": float("inf")}, "horizon_s"),
        ({"window_s": -1}, "window_s"),
        ({"every_s": -1}, "every_s"),
        ({"sharing": "loud"}, "sharing"),
    ],
)
def test_what_cannot_be_used_is_refused(options: dict[str, object], field: str) -> None:
    work, place, plans = home()
    with pytest.raises(InputError) as refused:
        simulate(work, World(place), plans["a"], **({"horizon_s": 10, "window_s": 10} | options))  # type: ignore[arg-type]
    assert refused.value.field == field
