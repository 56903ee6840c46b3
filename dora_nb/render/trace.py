"""Timelines in the trace format of Chrome, for https://ui.perfetto.dev.

Predicted operations and measured events become slices on one lane per device or medium.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from dora_nb.costs.comparison import hand_over_kind
from dora_nb.domain.document import release, write_whole
from dora_nb.domain.plan import Plan
from dora_nb.domain.run_record import RunRecord
from dora_nb.domain.run_timeline import INFERENCE
from dora_nb.domain.transfer import HOSTED

_NS_PER_S = 1_000_000_000
_NS_PER_US = 1_000


class Span(Protocol):
    """Something that took time: an operation of a plan (``places`` or ``media``), or of a ``device``."""

    @property
    def kind(self) -> str:
        """What it was."""

    @property
    def stage(self) -> int:
        """Stage it belongs to."""

    @property
    def micro_batch(self) -> int:
        """Micro-batch it belongs to."""

    @property
    def start_s(self) -> float:
        """When it began."""

    @property
    def end_s(self) -> float:
        """When it ended."""


def places_of(span: Span) -> tuple[str, ...]:
    """The devices or media that a span occupies."""
    places: Sequence[str] | None = getattr(span, "places", None)
    if places is not None:
        return tuple(places)
    media: Sequence[str] | None = getattr(span, "media", None)
    if media is not None:
        return tuple(media)
    device: str = span.device  # type: ignore[attr-defined]
    return (device,)


def stage_words(stage: int) -> str:
    """A stage as people read it; a first layer hosted by the last stage has no number."""
    return "hosted first layer" if stage == HOSTED else f"stage {stage}"


def trace_events(
    timeline: Iterable[Span], process_name: str, pid: int, starts_ns: Mapping[int, int] | None = None
) -> list[dict[str, Any]]:
    """Trace events of one timeline.

    Steps of a run follow one another (each counts its seconds from its own start). Where two spans of one place
    overlap, as a send may overlap a computation, the later one goes to a second lane of that place: slices of one
    lane must not cross. Times are microseconds, exact to the nanosecond.

    Parameters
    ----------
    timeline
        Objects with ``kind``, ``stage``, ``micro_batch``, ``start_s``, ``end_s`` and one of ``places``, ``media`` and
        ``device``; ``step`` if they have one. What occupies no place is left out.
    process_name
        Heading of the lanes.
    pid
        Number of the process, different for timelines shown together.
    starts_ns
        When the clock of every step shows 0, in nanoseconds; None: each step starts when the one before is over.

    Returns
    -------
    list of dict
        Metadata first, then the slices by start time.
    """
    lanes: dict[tuple[str, int], int] = {}
    free_at: dict[tuple[str, int], int] = {}
    slices = []
    spans = list(timeline)
    for start, end, span in _on_one_clock(spans, step_starts(spans) if starts_ns is None else starts_ns):
        for place in places_of(span):
            lane = 0
            while free_at.get((place, lane), 0) > start:
                lane += 1
            free_at[place, lane] = end
            thread = lanes.setdefault((place, lane), len(lanes) + 1)
            slices.append(_slice(span, place, start, end, pid, thread))
    metadata = [
        _metadata("process_name", pid, 0, name=process_name),
        _metadata("process_sort_index", pid, 0, sort_index=pid),
    ]
    order = {place: index for index, place in enumerate(dict.fromkeys(place for place, _ in lanes))}
    for position, (place, lane) in enumerate(sorted(lanes, key=lambda each: (order[each[0]], each[1]))):
        thread = lanes[place, lane]
        metadata.append(_metadata("thread_name", pid, thread, name=place if lane == 0 else f"{place} ({lane + 1})"))
        metadata.append(_metadata("thread_sort_index", pid, thread, sort_index=position))
    return metadata + slices


def turn_words(span: Span) -> str:
    """Which micro-batch, which token after the first one, or ``whose`` request."""
    whose: str | None = getattr(span, "whose", None)
    if whose is not None:
        return whose
    return f"{'step' if span.kind in ('decode', 'token') else 'micro-batch'} {span.micro_batch}"


def write_trace(path: str | Path, processes: Iterable[Sequence[dict[str, Any]]]) -> Path:
    """Write a trace file, as a whole or not at all.

    Parameters
    ----------
    path
        Where to; an existing file is replaced.
    processes
        Results of :func:`trace_events`, one per process.

    Raises
    ------
    DocumentError
        If it cannot be written.
    """
    trace = {
        "traceEvents": [event for process in processes for event in process],
        "displayTimeUnit": "ms",
        "otherData": {"created_by": release()},
    }
    return write_whole(path, json.dumps(trace, ensure_ascii=False, allow_nan=False) + "\n")


def run_trace(record: RunRecord) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Trace events of a run: the steps under its plan as they were predicted, and below all steps as measured.

    Both clocks show the same when a step begins. Arrows lead from sending to receiving.
    """
    expected: list[Span] = []
    compared = {*record.compared_steps}
    if record.predicted_training is not None:
        compared.add(INFERENCE)
    for step in sorted({event.step for event in record.events} & compared):
        timeline = record.predicted_inference if step == INFERENCE else record.predicted
        spans: tuple[Span, ...] = (*timeline.computations, *timeline.transfers)
        expected += [_InStep(span, step) for span in spans]
    starts_ns = step_starts([*expected, *record.events])
    measured = trace_events(record.events, "measured", 2, starts_ns)
    arrows = _arrows(record.plan, [each for each in measured if each["args"].get("step") in compared])
    return trace_events(expected, "predicted, before the run", 1, starts_ns), measured + arrows


class _InStep:
    """A predicted operation as one of a step."""

    def __init__(self, span: Span, step: int) -> None:
        self.kind, self.stage, self.micro_batch = span.kind, span.stage, span.micro_batch
        self.start_s, self.end_s, self.step = span.start_s, span.end_s, step
        self.places, self.part = places_of(span), _part(span)


def _arrows(plan: Plan, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Flow events from every sending slice to those where its samples are received."""
    sent: dict[tuple[object, ...], list[dict[str, Any]]] = {}
    received: dict[tuple[object, ...], list[dict[str, Any]]] = {}
    for each in events:
        ends = {"send": sent, "receive": received}.get(each.get("cat", ""))
        if ends is not None:
            args = each["args"]
            kind = hand_over_kind(plan, args["place"], each["cat"], args["stage"])
            ends.setdefault((kind, args["stage"], args["micro_batch"], args["step"]), []).append(each)
    intervals = {
        device: interval
        for stage in plan.stages
        for device, interval in zip(stage.devices, stage.intervals, strict=True)
    }
    arrows: list[dict[str, Any]] = []
    for key, senders in sent.items():
        for sender, receiver in itertools.product(senders, received.get(key, [])):
            (low, high), (start, stop) = (intervals[each["args"]["place"]] for each in (sender, receiver))
            if max(low, start) < min(high, stop):
                common = {"name": key[0], "cat": "hand-over", "id": len(arrows) // 2 + 1, "pid": sender["pid"]}
                arrows.append(common | {"ph": "s", "ts": sender["ts"], "tid": sender["tid"]})
                until = receiver["ts"] + receiver["dur"]
                arrows.append(common | {"ph": "f", "bp": "e", "ts": until, "tid": receiver["tid"]})
    return arrows


def step_starts(spans: Iterable[Span]) -> dict[int, int]:
    """When the clock of every step shows 0, in nanoseconds: steps one after another, nothing before 0."""
    first_s: dict[int, float] = {}
    last_s: dict[int, float] = {}
    for span in spans:
        step = getattr(span, "step", 0)
        first_s[step] = min(first_s.get(step, 0.0), span.start_s)
        last_s[step] = max(last_s.get(step, 0.0), span.start_s, span.end_s)
    starts, over = {}, 0
    for step in sorted(first_s):
        starts[step] = over - round(first_s[step] * _NS_PER_S)
        over = starts[step] + round(last_s[step] * _NS_PER_S)
    return starts


def _on_one_clock(spans: list[Span], starts_ns: Mapping[int, int]) -> list[tuple[int, int, Span]]:
    """Spans with start and end in nanoseconds; by start."""
    timed = []
    for span in spans:
        zero = starts_ns[getattr(span, "step", 0)]
        start = zero + round(span.start_s * _NS_PER_S)
        timed.append((start, max(start, zero + round(span.end_s * _NS_PER_S)), span))
    return sorted(timed, key=lambda each: each[:2])


def _slice(span: Span, place: str, start: int, end: int, pid: int, tid: int) -> dict[str, Any]:
    args: dict[str, Any] = {"place": place, "stage": span.stage, "micro_batch": span.micro_batch}
    step = getattr(span, "step", None)
    if step is not None:
        args["step"] = step
    name = f"{span.kind}, {stage_words(span.stage)}, {turn_words(span)}"
    if part := _part(span):
        args["part"] = part
        name += f", part {part}"
    return {
        "name": name,
        "cat": span.kind,
        "ph": "X",
        "ts": start / _NS_PER_US,
        "dur": (end - start) / _NS_PER_US,
        "pid": pid,
        "tid": tid,
        "args": args,
    }


def _part(span: Span) -> int:
    """Which chunk of a hand-over, bucket of a sum, or part of a pass that fills one; 0: all of it."""
    part: int = getattr(span, "part", 0)
    return part


def _metadata(what: str, /, pid: int, tid: int, **args: object) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": args}
