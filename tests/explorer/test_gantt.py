"""The timeline as a widget, without a browser: what it sends, and how it reads where there is no kernel."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

pytest.importorskip("anywidget")

import numpy as np
from builders import cluster, layer, pipeline, workload
from runs import made_up_run
from worlds import scheduled

from dora_nb.costs import Evaluation, evaluate
from dora_nb.domain.run_record import RunRecord
from dora_nb.domain.run_timeline import INFERENCE
from dora_nb.errors import InputError, UnknownNameError
from dora_nb.explorer import Gantt
from dora_nb.explorer.views.timeline import TimelineView
from dora_nb.explorer.widgets.gantt import ARRIVAL_UNKNOWN, CRITICAL, MEASURED
from dora_nb.render.kinds import GROUPS, group_of

#: Every array that is sent, and how the browser reads it.
ARRAYS = {
    "_start_s": "<f8",
    "_duration_s": "<f4",
    "_lane": "<u2",
    "_kind": "u1",
    "_stage": "<i2",
    "_micro_batch": "<i4",
    "_flags": "u1",
    "_idle_start_s": "<f8",
    "_idle_duration_s": "<f4",
    "_idle_lane": "<u2",
    "_idle_flags": "u1",
}


def evaluation(micro_batches: int = 2, label: str = "first") -> Evaluation:
    work, place = workload([layer("l0"), layer("l1", flops=2e9)], batch=4), cluster(2)
    size = 4 // micro_batches
    plan = scheduled(work, place, pipeline((0, 1, {"b": size}), (1, 2, {"a": size}), micro_batches=micro_batches))
    return evaluate(plan.replace(label=label), work, place)


def record(**options: object) -> RunRecord:
    return made_up_run({"a": 1.0, "b": 1.0, "c": 1.0}, **options)  # type: ignore[arg-type]


def sent(widget: Gantt) -> dict[str, np.ndarray]:
    return {name: np.frombuffer(getattr(widget, name), dtype) for name, dtype in ARRAYS.items()}


def test_it_sends_an_evaluation_as_arrays() -> None:
    shown = evaluation()
    view, widget = TimelineView.of(shown), Gantt(shown)
    assert (widget.title, widget.tick, widget.picked) == ("Predicted schedule of first", 1, -1)
    arrays = sent(widget)
    assert arrays["_start_s"].tolist() == view.start_s.tolist()
    assert arrays["_duration_s"].tolist() == pytest.approx(view.duration_s.tolist())
    for name in ("lane", "stage", "micro_batch", "idle_lane", "idle_start_s"):
        assert arrays[f"_{name}"].tolist() == getattr(view, name).tolist()
    assert [widget._head["kinds"][code]["name"] for code in arrays["_kind"]] == [view.kinds[code] for code in view.kind]
    assert (arrays["_flags"] & CRITICAL == view.critical).all()
    assert not (arrays["_flags"] & (MEASURED | ARRIVAL_UNKNOWN)).any()
    assert not arrays["_idle_flags"].any()
    assert len(arrays["_idle_start_s"]) > 0
    assert widget._head["end_s"] == shown.prediction.makespan_s
    assert widget._head["lanes"] == [
        {"name": "b", "sort": "device"},
        {"name": "a", "sort": "device"},
        {"name": "net", "sort": "medium"},
    ]
    assert not widget._head["measured"]


def test_colours_and_numbers_come_with_the_kinds() -> None:
    kinds = {kind["name"]: kind for kind in Gantt(evaluation())._head["kinds"]}
    assert kinds.keys() == {"forward", "backward", "step", "activation", "gradient"}
    assert all(kind["group"] == group_of(name) for name, kind in kinds.items())
    assert [group["colour"] for group in Gantt(evaluation())._head["groups"]] == [group.colour for group in GROUPS]
    assert kinds["forward"] == {"name": "forward", "group": 0, "turn": "micro-batch", "numbered": True}
    assert kinds["step"] == {"name": "step", "group": group_of("step"), "turn": "", "numbered": False}
    assert not any(kind["numbered"] for kind in Gantt(evaluation(micro_batches=1))._head["kinds"])


def test_a_run_is_shown_below_its_prediction() -> None:
    run = record()
    widget = Gantt(run)  # of 1 s and 2 s, the lower middle
    assert widget.title == "Predicted and measured schedule of made up, training step 1"
    like = TimelineView.predicted(run.predicted, run.plan)
    view = TimelineView.measured([event for event in run.events if event.step == 0], run.plan, like)
    arrays = sent(widget)
    assert arrays["_start_s"].tolist() == [*like.start_s, *view.start_s]
    assert ((arrays["_flags"] & MEASURED) > 0).tolist() == [False] * len(like) + [True] * len(view)
    names = [widget._head["kinds"][code]["name"] for code in arrays["_kind"]]
    assert names == [each.kinds[code] for each in (like, view) for code in each.kind]
    assert widget._head["measured"]
    assert widget._head["end_s"] == view.end_s > like.end_s
    assert {"predicted busy", "measured busy"} <= set(widget._head["heading"])
    assert not (arrays["_flags"] & ARRIVAL_UNKNOWN).any()
    assert (sent(Gantt(record(waits=False)))["_flags"] & ARRIVAL_UNKNOWN).any()


def test_a_step_of_a_run_can_be_chosen() -> None:
    run = record()
    assert Gantt(run, step=1).title.endswith("made up, training step 2")
    inference = Gantt(run, step=INFERENCE)
    assert inference.title.endswith("made up, inference batch")
    assert {kind["name"] for kind in inference._head["kinds"]} == {"forward", "activation"}
    with pytest.raises(InputError, match=r"got 2.*\[-1, 0, 1\]"):
        Gantt(run, step=2)


def test_a_run_under_way_is_waited_for() -> None:
    class Running:
        def wait(self) -> RunRecord:
            return record()

    assert Gantt(Running(), title="mine").title == "mine"
    with pytest.raises(InputError, match=r"dora_nb\.execute"):
        Gantt("a run")  # type: ignore[arg-type]


def test_only_another_timeline_forgets_what_was_picked() -> None:
    run = record()
    events = [event for event in run.events if event.step == 0]

    def predicted() -> TimelineView:
        return TimelineView.predicted(run.predicted, run.plan)

    widget = Gantt(picked=3)
    widget.show(predicted())
    widget.show(predicted(), TimelineView.measured(events[:9], run.plan, predicted()))
    assert (widget.tick, widget._subject, widget.picked) == (2, 0, 3)
    widget.picked = len(predicted()) + 1  # a measured bar, and other ones are measured
    widget.show(predicted(), TimelineView.measured(events, run.plan, predicted()))
    assert (widget.tick, widget._subject, widget.picked) == (3, 0, -1)
    widget.picked = 3
    widget.show(TimelineView.of(evaluation()))
    assert (widget.tick, widget._subject, widget.picked) == (4, 1, -1)


def test_lanes_must_match() -> None:
    run = record()
    measured = TimelineView.measured([], run.plan, TimelineView.predicted(run.predicted, run.plan))
    with pytest.raises(InputError, match=r"measured.*'b', 'a', 'net'"):
        Gantt().show(TimelineView.of(evaluation()), measured)


def test_all_arrays_travel_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is drawn is never half of one timeline and half of another."""
    messages: list[set[str]] = []
    widget = Gantt()
    monkeypatch.setattr(type(widget), "send_state", lambda self, key=None: messages.append(set(key or ())))
    widget.show(TimelineView.of(evaluation()))
    assert len(messages) == 1
    assert ARRAYS.keys() | {"tick", "_head"} <= messages[0]


def test_it_reads_well_without_a_kernel() -> None:
    html = Gantt(evaluation())._repr_html_()
    root = ElementTree.fromstring(html[html.index("<div>") : html.index("</svg>") + len("</svg></div>")])
    assert root.find("{http://www.w3.org/2000/svg}svg") is not None
    for words in ("Predicted schedule of first", "contention domain", "operations", "bubbles", "forward"):
        assert words in html
    assert "<script" not in html
    both = Gantt(record())._repr_html_()
    assert both.count("<svg") == 2
    assert "training step 1 (measured)" in both
    lines = Gantt(evaluation())._static_text().splitlines()
    assert lines[0] == "Predicted schedule of first"
    assert [line.split()[0] for line in lines[1:]] == ["lane", "b", "a", "net"]
    assert repr(Gantt(evaluation())) == "\n".join(lines)


def test_an_empty_widget_shows_nothing() -> None:
    widget = Gantt()
    assert (widget.tick, widget._head, widget._static_html()) == (0, {}, "")
    assert repr(widget) == "Gantt: nothing to show"


def test_unknown_attributes_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="colour"):
        Gantt(colour="red")


def test_its_module_stands_alone() -> None:
    module = str(Gantt._esm)
    assert "export default {" in module
    assert "\nimport " not in module
    assert module.index("export function el(") < module.index("class Coverage") < module.index("class Gantt")
