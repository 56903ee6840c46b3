"""Timelines in the trace format of Chrome, for https://ui.perfetto.dev.

Predicted operations and measured events become slices on one lane per device or medium.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from dora_nb.domain.plan import HOSTED
from dora_nb.domain.plan_file import release, write_whole

_NS_PER_S = 1_000_000_000
_NS_PER_US = 1_000


class Span(Protocol):
    """Something that took time: a predicted operation (``places``) or a measured event (``device``, ``step``)."""

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
    device: str = span.device  # type: ignore[attr-defined]
    return (device,)


def stage_words(stage: int) -> str:
    """A stage as people read it; a first layer hosted by the last stage has no number."""
    return "hosted first layer" if stage == HOSTED else f"stage {stage}"


def trace_events(timeline: Iterable[Span], process_name: str, pid: int) -> list[dict[str, Any]]:
    """Trace events of one timeline.

    Steps of a run follow one another (each counts its seconds from its own start). Where two spans of one place
    overlap, as a send may overlap a computation, the later one goes to a second lane of that place: slices of one
    lane must not cross. Times are microseconds, exact to the nanosecond.

    Parameters
    ----------
    timeline
        Objects with ``kind``, ``stage``, ``micro_batch``, ``start_s``, ``end_s`` and either ``places`` or ``device``;
        ``step`` if they have one. What occupies no place is left out.
    process_name
        Heading of the lanes.
    pid
        Number of the process, different for timelines shown together.

    Returns
    -------
    list of dict
        Metadata first, then the slices by start time.
    """
    lanes: dict[tuple[str, int], int] = {}
    free_at: dict[tuple[str, int], int] = {}
    slices = []
    for start, end, span in _on_one_clock(list(timeline)):
        for place in places_of(span):
            lane = 0
            while free_at.get((place, lane), 0) > start:
                lane += 1
            free_at[place, lane] = end
            slices.append(_slice(span, start, end, pid, lanes.setdefault((place, lane), len(lanes) + 1)))
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
    """Which micro-batch, or which token after the first one."""
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


def _on_one_clock(spans: list[Span]) -> list[tuple[int, int, Span]]:
    """Spans with start and end in nanoseconds, none before 0, steps one after another; by start."""
    steps: dict[int, list[Span]] = {}
    for span in spans:
        steps.setdefault(getattr(span, "step", 0), []).append(span)
    timed, offset = [], 0
    for step in sorted(steps):
        ends = offset
        earliest = min(0.0, *(span.start_s for span in steps[step]), 0.0)
        for span in steps[step]:
            start = offset + round((span.start_s - earliest) * _NS_PER_S)
            end = max(start, offset + round((span.end_s - earliest) * _NS_PER_S))
            timed.append((start, end, span))
            ends = max(ends, end)
        offset = ends
    return sorted(timed, key=lambda each: each[:2])


def _slice(span: Span, start: int, end: int, pid: int, tid: int) -> dict[str, Any]:
    args: dict[str, Any] = {"stage": span.stage, "micro_batch": span.micro_batch}
    step = getattr(span, "step", None)
    if step is not None:
        args["step"] = step
    return {
        "name": f"{span.kind}, {stage_words(span.stage)}, {turn_words(span)}",
        "cat": span.kind,
        "ph": "X",
        "ts": start / _NS_PER_US,
        "dur": (end - start) / _NS_PER_US,
        "pid": pid,
        "tid": tid,
        "args": args,
    }


def _metadata(what: str, /, pid: int, tid: int, **args: object) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": args}
