"""The timeline of a plan or a run as a widget: ten thousand bars on a canvas."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import traitlets
from numpy.typing import ArrayLike, DTypeLike

from dora_nb.costs.comparison import Running, record_of
from dora_nb.costs.evaluate import Evaluation
from dora_nb.domain.run_record import RunRecord
from dora_nb.domain.run_timeline import INFERENCE
from dora_nb.errors import InputError
from dora_nb.explorer.html.timeline import lane_table, timeline_html, timeline_text
from dora_nb.explorer.views.timeline import TimelineView
from dora_nb.explorer.widgets.base import DrawnWidget, module_text, style_text
from dora_nb.render.kinds import GROUPS, NUMBERED, group_of, turn_of

#: Bits of a bar's flags.
CRITICAL, MEASURED, ARRIVAL_UNKNOWN = 1, 2, 4


class Gantt(DrawnWidget):
    """Who computes what when, and which medium carries what meanwhile.

    ::

        from dora_nb.explorer import Gantt

        Gantt(dora.evaluate(plans.best, workload, cluster))  # what a plan is predicted to do
        Gantt(dora.execute(plans.best, workload, cluster))  # waits for the run: predicted above, measured below

    A lane per device and per contention domain. Bars on the critical path are outlined: if one of them were later, so
    would be the end. Bubbles, where a device waits between its first and its last operation, are hatched. Where bars
    are narrower than a pixel, the colour is as strong as they cover it.

    The mouse shows what a bar is, a click picks it, dragging moves along the time axis, Ctrl and the wheel zoom (the
    wheel alone once the figure has the focus). On the keyboard the arrows go from bar to bar, with Shift they move
    along the axis, + and - zoom, Home shows everything, Escape picks nothing.

    Parameters
    ----------
    what
        An evaluation, the record of a run, or a run, the end of which is waited for; None: nothing until :meth:`show`.
    step
        Which training step of a run, from 0, or -1 for its inference batch; None: the one that took the median time.
    traits
        Any of the attributes.

    Attributes
    ----------
    title
        Heading.
    picked
        The bar picked, as index into the predicted and then the measured bars of what is shown; -1: none.
    tick
        How often something was shown.

    Raises
    ------
    InputError
        If there is nothing like that to show, or the run has no such step, or nothing was predicted of it.
    """

    _esm = module_text("gantt_bars.js", "gantt_drawing.js", "gantt.js")
    _css = style_text("gantt.css")

    title = traitlets.Unicode().tag(sync=True)
    picked = traitlets.Int(-1).tag(sync=True)
    tick = traitlets.Int(0).tag(sync=True)
    # Set by show() only. Starts are in double precision: in single they would be off by pixels when zoomed in deeply.
    _subject = traitlets.Int(0).tag(sync=True)
    _head = traitlets.Dict().tag(sync=True)
    _start_s = traitlets.Bytes().tag(sync=True)
    _duration_s = traitlets.Bytes().tag(sync=True)
    _lane = traitlets.Bytes().tag(sync=True)
    _kind = traitlets.Bytes().tag(sync=True)
    _stage = traitlets.Bytes().tag(sync=True)
    _micro_batch = traitlets.Bytes().tag(sync=True)
    _flags = traitlets.Bytes().tag(sync=True)
    _idle_start_s = traitlets.Bytes().tag(sync=True)
    _idle_duration_s = traitlets.Bytes().tag(sync=True)
    _idle_lane = traitlets.Bytes().tag(sync=True)
    _idle_flags = traitlets.Bytes().tag(sync=True)

    def __init__(
        self, what: Evaluation | RunRecord | Running | None = None, *, step: int | None = None, **traits: Any
    ) -> None:
        super().__init__(**traits)
        self._views: tuple[TimelineView, ...] = ()
        if isinstance(what, Evaluation):
            title = f"Predicted schedule of {what.plan.label or 'a plan'}"
            self.show(TimelineView.of(what))
        elif what is not None:
            title = self._show_run(record_of(what), step)
        if what is not None and "title" not in traits:
            self.title = title

    def show(self, view: TimelineView, measured: TimelineView | None = None) -> None:
        """Show a timeline. Where it is the same as before, what is zoomed to and the predicted bar picked stay so.

        Parameters
        ----------
        view
            What is predicted.
        measured
            What was measured of it, on the same lanes; drawn in the lower half of each.

        Raises
        ------
        InputError
            If what was measured has other lanes.
        """
        views = (view,) if measured is None else (view, measured)
        names = [[lane.name for lane in each.lanes] for each in views]
        if names[0] != names[-1]:
            raise InputError("measured", names[-1], f"a timeline with the lanes {names[0]}")
        another = bool(self._views) and not _alike(self._views[0], view)
        measured_picked = bool(self._views) and self.picked >= len(self._views[0])
        self._views = views
        kinds = tuple(dict.fromkeys(kind for each in views for kind in each.kinds))
        with self.hold_sync():
            self._subject += another
            if another or measured_picked:
                self.picked = -1
            self._head = self._head_of(kinds)
            self._start_s = _joined([each.start_s for each in views], np.float64)
            self._duration_s = _joined([each.duration_s for each in views], np.float32)
            self._lane = _joined([each.lane for each in views], np.uint16)
            codes = [np.array([kinds.index(kind) for kind in each.kinds], np.uint8) for each in views]
            self._kind = _joined([code[each.kind] for code, each in zip(codes, views, strict=True)], np.uint8)
            self._stage = _joined([each.stage for each in views], np.int16)
            self._micro_batch = _joined([each.micro_batch for each in views], np.int32)
            self._flags = _joined([_flags_of(each) for each in views], np.uint8)
            self._idle_start_s = _joined([each.idle_start_s for each in views], np.float64)
            self._idle_duration_s = _joined([each.idle_duration_s for each in views], np.float32)
            self._idle_lane = _joined([each.idle_lane for each in views], np.uint16)
            self._idle_flags = _joined([np.full(len(each.idle_lane), _side_of(each)) for each in views], np.uint8)
            self.tick += 1

    def _show_run(self, record: RunRecord, step: int | None) -> str:
        """Shows a step; returns what it is."""
        durations_s = dict(record.compared_steps)
        if record.predicted_training is not None and record.inference_measured_s > 0:
            durations_s[INFERENCE] = record.inference_measured_s
        if step is None:
            compared = record.compared_steps
            middle_s = statistics.median_low(compared.values()) if compared else 0.0
            step = next((each for each, seconds in compared.items() if seconds == middle_s), None)
        if step not in durations_s:
            raise InputError("step", step, f"one that was taken as predicted: {sorted(durations_s) or 'there is none'}")
        timeline = record.predicted_inference if step == INFERENCE else record.predicted
        view = TimelineView.predicted(timeline, record.plan)
        events = (event for event in record.events if event.step == step)
        part = "" if record.predicted_training is None else ", inference batch"
        part = part if step == INFERENCE else f", training step {step + 1}"
        self.show(view, TimelineView.measured(events, record.plan, view))
        return f"Predicted and measured schedule of {record.plan.label or 'a plan'}{part}"

    def _head_of(self, kinds: tuple[str, ...]) -> dict[str, Any]:
        """Everything but the bars."""
        view = self._views[0]
        heading, rows = lane_table(self._views)
        numbered = any(each.micro_batch.any() for each in self._views)
        return {
            "end_s": max(each.end_s for each in self._views),
            "lanes": [{"name": lane.name, "sort": lane.sort} for lane in view.lanes],
            "groups": [{"label": each.label, "colour": each.colour, "ink": each.ink} for each in GROUPS],
            "kinds": [
                {
                    "name": kind,
                    "group": group_of(kind),
                    "turn": turn_of(kind),
                    "numbered": numbered and kind in NUMBERED,
                }
                for kind in kinds
            ],
            "measured": len(self._views) > 1,
            "heading": heading,
            "rows": rows,
        }

    def _static_html(self) -> str:
        return timeline_html(self.title, self._views) if self._views else ""

    def _static_text(self) -> str:
        return timeline_text(self.title, self._views) if self._views else "Gantt: nothing to show"

    __repr__ = _static_text


def _joined(parts: list[ArrayLike], dtype: DTypeLike) -> bytes:
    """Arrays one behind the other, as the browser reads them (little-endian)."""
    whole = np.concatenate([np.asarray(each) for each in parts])
    return whole.astype(np.dtype(dtype).newbyteorder("<")).tobytes()


def _alike(a: TimelineView, b: TimelineView) -> bool:
    """Whether two timelines look the same."""
    if a is b:
        return True
    columns = ("start_s", "duration_s", "lane")
    return a.lanes == b.lanes and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in columns)


def _side_of(view: TimelineView) -> int:
    return MEASURED if view.status == "measured" else 0


def _flags_of(view: TimelineView) -> ArrayLike:
    return CRITICAL * view.critical + ARRIVAL_UNKNOWN * ~view.arrived + _side_of(view)
