"""Trace files: what Perfetto needs, on clocks that start at 0 and lanes whose slices do not cross."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest
from runs import made_up_run

from dora_nb.costs.evaluate import evaluate
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.run_timeline import INFERENCE, RunEvent
from dora_nb.errors import DocumentError
from dora_nb.render.trace import trace_events, write_trace


def event(device: str, start_s: float, end_s: float, step: int = 0, kind: str = "forward") -> RunEvent:
    return RunEvent(device=device, kind=kind, stage=0, micro_batch=1, step=step, start_s=start_s, end_s=end_s)


def slices(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in events if each["ph"] == "X"]


def lanes(events: list[dict[str, Any]]) -> dict[int, str]:
    return {each["tid"]: each["args"]["name"] for each in events if each["name"] == "thread_name"}


def check(events: list[dict[str, Any]]) -> None:
    """What every trace has to keep."""
    ends: dict[int, float] = {}
    for each in slices(events):
        assert set(each) == {"name", "cat", "ph", "ts", "dur", "pid", "tid", "args"}
        assert each["ts"] >= 0
        assert each["dur"] >= 0
        assert each["tid"] in lanes(events)
        assert {"stage", "micro_batch"} <= set(each["args"])
        assert each["ts"] >= ends.get(each["tid"], 0.0) - 1e-6
        ends[each["tid"]] = each["ts"] + each["dur"]


def test_a_predicted_timeline_becomes_slices_on_devices_and_media(plans: PlanSet) -> None:
    timeline = evaluate(plans[0], plans.workload, plans.cluster).timeline
    events = trace_events(timeline, "predicted", 7)
    check(events)
    assert {each["pid"] for each in events} == {7}
    assert len(slices(events)) == sum(len(entry.places) for entry in timeline)
    assert {*plans[0].devices, "wifi"} <= set(lanes(events).values())
    assert events[0] == {"name": "process_name", "ph": "M", "pid": 7, "tid": 0, "args": {"name": "predicted"}}
    last_s = max(entry.end_s for entry in timeline)
    assert max(each["ts"] + each["dur"] for each in slices(events)) == pytest.approx(last_s * 1e6, abs=0.01)
    hosted = [each for each in slices(events) if each["args"]["stage"] == -1]
    assert all("hosted first layer" in each["name"] for each in hosted)


def test_measured_steps_follow_one_another() -> None:
    events = trace_events(
        [
            event("a", 0.0, 0.5, step=1),
            event("a", 0.0, 2.0, step=0),
            event("b", 1.0, 3.0, step=0),
            event("a", 0.0, 1.0, step=INFERENCE),
        ],
        "measured",
        1,
    )
    check(events)
    assert [(each["args"]["step"], each["ts"], each["dur"]) for each in slices(events)] == [
        (INFERENCE, 0.0, 1e6),
        (0, 1e6, 2e6),
        (0, 2e6, 2e6),
        (1, 4e6, 5e5),
    ]


def test_clocks_that_began_early_are_moved_and_none_runs_backwards() -> None:
    events = trace_events([event("a", -0.25, 0.5), event("b", 0.0, 0.5), event("c", 0.5, 0.4)], "measured", 1)
    check(events)
    assert [(each["ts"], each["dur"]) for each in slices(events)] == [(0.0, 7.5e5), (2.5e5, 5e5), (7.5e5, 0.0)]


def test_what_overlaps_on_one_device_gets_a_second_lane() -> None:
    events = trace_events([event("a", 0, 2), event("a", 1, 3, kind="send"), event("a", 2, 4), event("b", 0, 1)], "x", 1)
    check(events)
    names = lanes(events)
    assert [names[each["tid"]] for each in slices(events)] == ["b", "a", "a (2)", "a"]
    order = {each["tid"]: each["args"]["sort_index"] for each in events if each["name"] == "thread_sort_index"}
    assert len(set(order.values())) == len(names)
    assert abs(order[_lane(names, "a")] - order[_lane(names, "a (2)")]) == 1


def _lane(names: dict[int, str], name: str) -> int:
    return next(tid for tid, each in names.items() if each == name)


def test_the_file_holds_all_processes(plans: PlanSet, tmp_path: Path) -> None:
    timeline = evaluate(plans[0], plans.workload, plans.cluster).timeline
    processes = [trace_events(timeline, "predicted <&>", 1), trace_events([event("ph\u00f6ne", 0, 1)], "measured", 2)]
    path = write_trace(tmp_path / "trace.json", processes)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["traceEvents"] == [*processes[0], *processes[1]]
    assert document["displayTimeUnit"] == "ms"
    assert [each.name for each in tmp_path.iterdir()] == ["trace.json"]


def test_nothing_to_trace() -> None:
    assert slices(trace_events([], "empty", 1)) == []


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_trace(tmp_path / "trace.json", [])
    before = path.read_bytes()

    def fail(*_: object) -> NoReturn:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(DocumentError, match="cannot be written"):
        write_trace(path, [trace_events([event("a", 0, 1)], "x", 1)])
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["trace.json"]


def test_a_run_shows_what_was_predicted_beside_what_was_measured(tmp_path: Path) -> None:
    record = made_up_run({"a": 1.1, "b": 1.2, "c": 0.9}, steps=2)
    events = json.loads(record.to_trace(tmp_path / "run.json").read_text(encoding="utf-8"))["traceEvents"]
    parts = [[each for each in events if each["pid"] == pid] for pid in (1, 2)]
    for part in parts:
        check(part)
    predicted, measured = (slices(part) for part in parts)
    assert len(measured) == len(record.events)
    computed = 2 * len(record.predicted.computations) + len(record.predicted_inference.computations)
    assert sum(each["cat"] in ("forward", "backward", "step") for each in predicted) == computed
    assert {"a", "b", "c", "net", "net (2)"} == set(lanes(parts[0]).values())  # a sum shares it with a gradient
    for step in (INFERENCE, 0, 1):  # both clocks show 0 at the same moment
        assert min(each["ts"] for each in predicted if each["args"]["step"] == step) == min(
            each["ts"] for each in measured if each["args"]["step"] == step
        )
    # Each activation goes from "a" to both replicas and each gradient from both to "a": two arrows a micro-batch.
    arrows = [each for each in events if each["ph"] in "sf"]
    assert len(arrows) == 2 * 2 * 2 * (2 + 2 + 1)
    for start, end in zip(arrows[::2], arrows[1::2], strict=True):
        assert (start["ph"], end["ph"], start["id"]) == ("s", "f", end["id"])
        assert end["ts"] - start["ts"] == pytest.approx(0.5e6)
