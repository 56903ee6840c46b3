"""Timelines as arrays: by hand, on random plans, and from what devices of a run noted."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from builders import Dice, cluster, examples, pipeline, questions, random_plan, workload
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import made_up_run

from dora_nb.costs import Evaluation, TimelineEntry, cost_table, evaluate
from dora_nb.costs.details import TimelineDetails
from dora_nb.costs.operations import Shape
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.timing import timing_of
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.run_timeline import INFERENCE, PredictedTimeline, RunEvent
from dora_nb.domain.transfer import ScheduledTransfer
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.explorer.views.timeline import TimelineView
from dora_nb.formulation.schedules.list_schedule import list_schedule


def evaluated(plan: Plan, work: Workload, place: Cluster) -> Evaluation:
    timing = timing_of(plan, work, place, cost_table(work, place))
    schedule = list_schedule(operations_of(Shape.of(plan, work)), timing)
    return evaluate(plan.replace(transfer_order=schedule.transfers()), work, place)


def bars(view: TimelineView) -> list[tuple[str, str, int, int, float, float]]:
    """Lane, kind, stage, micro-batch, start and end of every bar."""
    return [
        (view.lanes[lane].name, view.kinds[kind], stage, micro_batch, start_s, start_s + duration_s)
        for lane, kind, stage, micro_batch, start_s, duration_s in zip(
            view.lane.tolist(),
            view.kind.tolist(),
            view.stage.tolist(),
            view.micro_batch.tolist(),
            view.start_s.tolist(),
            view.duration_s.tolist(),
            strict=True,
        )
    ]


def bubbles(view: TimelineView) -> list[tuple[str, float, float]]:
    ends_s = view.idle_start_s + view.idle_duration_s
    names = [view.lanes[lane].name for lane in view.idle_lane]
    return list(zip(names, view.idle_start_s.tolist(), ends_s.tolist(), strict=True))


def test_two_stages_by_hand() -> None:
    """Stage 0 computes 0-1 and 1-2; transfers 1-3 and 3-5; stage 1 computes 3-4 and 5-6."""
    work = workload(2, batch=2, mode="inference")
    plan = pipeline((0, 1, {"b": 1}), (1, 2, {"a": 1}), micro_batches=2)
    view = TimelineView.of(evaluated(plan, work, cluster(2, 1e6)))
    assert (view.status, view.end_s, len(view)) == ("predicted", 6, 6)
    assert [(lane.name, lane.sort) for lane in view.lanes] == [("b", "device"), ("a", "device"), ("net", "medium")]
    assert bars(view) == [
        ("b", "forward", 0, 0, 0, 1),
        ("b", "forward", 0, 1, 1, 2),
        ("net", "activation", 0, 0, 1, 3),
        ("a", "forward", 1, 0, 3, 4),
        ("net", "activation", 0, 1, 3, 5),
        ("a", "forward", 1, 1, 5, 6),
    ]
    assert view.critical.tolist() == [True, False, True, False, True, True]
    assert bubbles(view) == [("a", 4, 5)]
    assert [(lane.operations, lane.busy_s, lane.idle_s) for lane in view.lanes] == [(2, 2, 0), (2, 2, 1), (2, 4, 0)]
    assert [lane.busy for lane in view.lanes] == pytest.approx([2 / 6, 2 / 6, 4 / 6])


def test_a_fast_replica_waits_for_the_slow_one_which_alone_is_critical() -> None:
    work = workload(2, batch=8, mode="inference")
    plan = pipeline((0, 1, {"a": 3, "b": 1}), (1, 2, {"c": 4}), micro_batches=2)
    view = TimelineView.of(evaluated(plan, work, cluster(3, 1e9, latency_s=0.25)))
    first = [bar for bar in bars(view) if bar[0] in "ab"]
    assert first == [
        ("a", "forward", 0, 0, 0, 3),
        ("b", "forward", 0, 0, 0, 1),
        ("a", "forward", 0, 1, 3, 6),
        ("b", "forward", 0, 1, 3, 4),
    ]
    assert ("b", 1, 3) in bubbles(view)
    critical = {bar[0] for bar, own in zip(bars(view), view.critical, strict=True) if own}
    assert critical == {"a", "net", "c"}
    net = view.lanes[-1]
    assert net.busy_s == pytest.approx(2 * 2 * 4e-3)  # airtime, without latency


@settings(max_examples=examples(20))
@given(questions(kinds=("shared", "switch", "cell", "links", "mixed"), device_count=(2, 4)), st.integers(0, 2**32 - 1))
def test_lanes_of_random_plans(question: tuple[Workload, Cluster], seed: int) -> None:
    evaluation = evaluated(random_plan(Dice(seed), *question), *question)
    view, plan = TimelineView.of(evaluation), evaluation.plan
    devices = [lane.name for lane in view.lanes if lane.sort == "device"]
    assert devices == list(plan.devices) == [lane.name for lane in view.lanes[: len(devices)]]
    assert [lane.name for lane in view.lanes[len(devices) :]] == sorted(
        {place for entry in evaluation.timeline for place in entry.places} - set(devices)
    )
    assert len(view) == sum(len(entry.places) for entry in evaluation.timeline)
    assert (np.diff(view.start_s) >= 0).all()
    assert view.end_s == evaluation.prediction.makespan_s
    assert view.critical.any()
    spans: dict[str, list[tuple[float, float]]] = {}
    for lane, *_, start_s, end_s in bars(view):
        spans.setdefault(lane, []).append((start_s, end_s))
    by_name = {lane.name: lane for lane in view.lanes}
    for name, own in spans.items():
        assert all(end_s <= start_s + 1e-9 * view.end_s for (_, end_s), (start_s, _) in itertools.pairwise(own))
        assert by_name[name].busy_s == pytest.approx(sum(end_s - start_s for start_s, end_s in own))
        if name in devices:
            idle_s = sum(end_s - start_s for each, start_s, end_s in bubbles(view) if each == name)
            assert by_name[name].idle_s == pytest.approx(idle_s)
            assert by_name[name].busy_s + idle_s == pytest.approx(own[-1][1] - own[0][0])
    for figures in evaluation.prediction.devices:
        assert by_name[figures.device].busy_s == pytest.approx(figures.busy_s)


def test_what_a_run_was_predicted_to_do() -> None:
    record = made_up_run({"a": 1.0, "b": 1.0, "c": 1.0})
    view = TimelineView.predicted(record.predicted, record.plan)
    assert [lane.name for lane in view.lanes] == ["a", "b", "c", "net"]
    assert view.end_s == record.predicted.makespan_s
    assert not view.critical.any()
    assert len(view) == len(record.predicted.computations) + len(record.predicted.transfers)
    busy_s = dict.fromkeys("abc", 0.0)
    for each in record.predicted.computations:
        busy_s[each.device] += each.end_s - each.start_s
    assert {lane.name: lane.busy_s for lane in view.lanes[:3]} == pytest.approx(busy_s)


def test_predicted_transfers_may_share_a_medium() -> None:
    def transfer(stage: int, start_s: float, end_s: float) -> ScheduledTransfer:
        return ScheduledTransfer(
            kind="activation",
            stage=stage,
            micro_batch=0,
            part=0,
            senders=("a",),
            receivers=("b",),
            media=("net",),
            start_s=start_s,
            end_s=end_s,
        )

    plan = pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1}))
    both = PredictedTimeline(makespan_s=6, computations=(), transfers=(transfer(1, 2, 6), transfer(0, 1, 5)))
    view = TimelineView.predicted(both, plan)
    assert [bar[4:] for bar in bars(view)] == [(1, 5), (2, 6)]
    assert [(lane.name, lane.busy_s) for lane in view.lanes] == [("a", 0), ("b", 0), ("net", 5)]
    empty = TimelineView.predicted(PredictedTimeline(makespan_s=0, computations=(), transfers=()), plan)
    assert len(empty) == 0
    assert [lane.busy for lane in empty.lanes] == [0, 0]


@pytest.mark.parametrize("buckets", [1, 2])
def test_what_a_run_did(buckets: int) -> None:
    record = made_up_run({"a": 2.0, "b": 1.0, "c": 1.0}, transfer_s=0.5, buckets=buckets)
    like = TimelineView.predicted(record.predicted, record.plan)
    events = [event for event in record.events if event.step == 1]
    view = TimelineView.measured(events, record.plan, like)
    assert view.status == "measured"
    assert view.end_s == max(event.end_s for event in events)
    assert [(lane.name, lane.sort) for lane in view.lanes] == [(lane.name, lane.sort) for lane in like.lanes]
    computed = [event for event in events if event.kind in ("forward", "backward", "step")]
    on_devices = [bar for bar in bars(view) if bar[0] != "net"]
    assert on_devices == sorted(
        ((e.device, str(e.kind), e.stage, e.micro_batch, e.start_s, pytest.approx(e.end_s)) for e in computed),
        key=lambda bar: (bar[4], bar[0]),
    )
    moved = [bar for bar in bars(view) if bar[0] == "net"]
    kinds = sorted(bar[1] for bar in moved)
    assert kinds == ["activation", "activation", *["all-reduce"] * buckets, "gradient", "gradient"]
    # From when the last one has it, or comes to it, until the last one is done: half a second for each.
    assert [bar[5] - bar[4] for bar in moved] == pytest.approx([0.5] * (4 + buckets))
    assert view.arrived.all()
    assert not view.critical.any()


def test_a_transfer_nobody_waited_for_is_no_longer_than_handing_it_over() -> None:
    record = made_up_run({"a": 1.0, "b": 1.0, "c": 1.0}, transfer_s=0.5, waits=False)
    like = TimelineView.predicted(record.predicted, record.plan)
    view = TimelineView.measured([event for event in record.events if event.step == 0], record.plan, like)
    found = [bar for bar, arrived in zip(bars(view), view.arrived, strict=True) if not arrived]
    assert sorted(bar[1] for bar in found) == ["activation", "activation", "gradient", "gradient"]
    assert [bar[5] - bar[4] for bar in found] == pytest.approx([1e-5] * 4)


def test_the_inference_batch_of_a_run_and_a_step_that_has_only_begun() -> None:
    record = made_up_run({"a": 1.0, "b": 1.0, "c": 1.0})
    like = TimelineView.predicted(record.predicted_inference, record.plan)
    events = [event for event in record.events if event.step == INFERENCE]
    view = TimelineView.measured(events, record.plan, like)
    assert set(view.kinds) == {"forward", "activation"}
    begun = TimelineView.measured([event for event in events if event.device == "a"], record.plan, like)
    assert set(begun.kinds) == {"forward"}
    assert [lane.name for lane in begun.lanes] == [lane.name for lane in like.lanes]
    nothing = TimelineView.measured([], record.plan, like)
    assert (len(nothing), nothing.end_s) == (0, 0)


def test_tied_gradients_are_summed_on_the_media_of_all_their_transfers() -> None:
    plan = pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1}), tied="synchronised")
    work = workload(2, batch=1, mode="training")
    like = TimelineView.of(evaluated(plan.replace(tied="none"), work, cluster(2, 1e6, "switch")))
    ports = [lane.name for lane in like.lanes if lane.sort == "medium"]
    exchange = (TimelineEntry("tied-exchange", 1, 0, 0, 0.0, 1.0, tuple(ports)),)
    details = TimelineDetails(((1.0,) * len(ports),), (0.0,))
    like = TimelineView.of(Evaluation(plan, None, None, lambda: exchange, lambda _: details))  # type: ignore[arg-type]
    events = [
        RunEvent(device=device, kind="tied-sum", stage=stage, micro_batch=0, step=0, start_s=start_s, end_s=end_s)
        for device, stage, start_s, end_s in (("a", 0, 0.0, 3.0), ("b", 1, 2.0, 2.9))
    ]
    view = TimelineView.measured(events, plan, like)
    assert bars(view) == [(port, "tied-sum", 1, 0, 2.0, 3.0) for port in ports]


def test_events_that_do_not_belong_are_refused() -> None:
    record = made_up_run({"a": 1.0, "b": 1.0, "c": 1.0})
    like = TimelineView.predicted(record.predicted, record.plan)
    with pytest.raises(InputError, match="events of one step"):
        TimelineView.measured(record.events, record.plan, like)
    event = RunEvent(device="z", kind="forward", stage=0, micro_batch=0, step=0, start_s=0, end_s=1)
    with pytest.raises(InputError, match=r"'z'.*a, b, c, net"):
        TimelineView.measured([event], record.plan, like)


def test_a_view_cannot_be_changed_and_takes_nothing_unknown() -> None:
    view = TimelineView.of(
        evaluated(pipeline((0, 1, {"a": 1})), workload(1, batch=1, mode="inference"), cluster(1, 1e6))
    )
    with pytest.raises(ValueError, match="read-only"):
        view.start_s[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        view.end_s = 1  # type: ignore[misc]
    with pytest.raises(TypeError, match="colour"):
        TimelineView(**vars(view), colour="red")


def test_ten_thousand_bars_come_through() -> None:
    kinds = ("forward", "backward", "activation", "gradient")
    entries = tuple(
        TimelineEntry(kinds[n % 4], n % 2, n // 8, 0, n / 1000, (n + 3) / 1000, ("ab"[n % 2] if n % 4 < 2 else "net",))  # type: ignore[arg-type]
        for n in range(10_000)
    )
    details = TimelineDetails(((0.003,),) * 10_000, (0.0, 1.0) * 5_000)
    plan = pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1}), micro_batches=4)
    evaluation = Evaluation(plan, None, None, lambda: entries, lambda _: details)  # type: ignore[arg-type]
    assert len(TimelineView.of(evaluation)) == 10_000
