"""A schedule as a Gantt chart shows it: lanes, bars and idle times as arrays."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.comparison import SUMS_OF, HandOver, hand_over_kind, hand_over_times
from dora_nb.costs.evaluate import Evaluation
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import ROUNDING
from dora_nb.domain.record import Record
from dora_nb.domain.run_timeline import PredictedTimeline, RunEvent
from dora_nb.errors import InputError

_COMPUTE = ("forward", "backward", "decode", "step")
_TIED = ("tied-reduce", "tied-exchange", "tied-broadcast")


class Lane(Record):
    """One line of a timeline, and what happens on it.

    Attributes
    ----------
    name
        The device, or the medium: a contention domain, or a port, a direction or a link of one.
    sort
        Which of the two.
    operations
        Bars.
    busy_s
        Seconds in which at least one of them lasts.
    busy
        The same as a share of the whole timeline.
    idle_s
        Seconds of bubbles: between the first and the last operation, without one. 0 for a medium, which may rest.
    """

    name: str
    sort: Literal["device", "medium"]
    operations: int
    busy_s: float
    busy: float
    idle_s: float


@dataclass(frozen=True, eq=False, kw_only=True)
class TimelineView:
    """The bars of a timeline by start time, and the bubbles of its devices. Arrays cannot be written to.

    Attributes
    ----------
    status
        ``predicted`` by the cost model or ``measured`` in a run.
    end_s
        Seconds from the start to the end of everything.
    lanes
        The plan's devices in its order, then the media by name.
    kinds
        Names of the kinds that occur.
    start_s, duration_s
        Of every bar, shape (bars,).
    lane, kind
        Of every bar, as indices into ``lanes`` and ``kinds``.
    stage, micro_batch
        Of every bar, as in :class:`~dora_nb.costs.TimelineEntry`.
    critical
        Whether the end would be later if this bar began later; shape (bars,). All false where that is not known.
    arrived
        Whether the end is when the bytes were there; false for a measured transfer that may have been there before its
        receiver came for it: such a bar is only as long as its sender took to hand it over. Shape (bars,).
    idle_start_s, idle_duration_s, idle_lane
        Of every bubble, shape (bubbles,): where a device waits between its first and its last operation.
    """

    status: Literal["predicted", "measured"]
    end_s: float
    lanes: tuple[Lane, ...]
    kinds: tuple[str, ...]
    start_s: NDArray[np.float64]
    duration_s: NDArray[np.float64]
    lane: NDArray[np.uint16]
    kind: NDArray[np.uint8]
    stage: NDArray[np.int16]
    micro_batch: NDArray[np.int32]
    critical: NDArray[np.bool_]
    arrived: NDArray[np.bool_]
    idle_start_s: NDArray[np.float64]
    idle_duration_s: NDArray[np.float64]
    idle_lane: NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.start_s)

    @classmethod
    def of(cls, evaluation: Evaluation) -> TimelineView:
        """The timeline of one iteration, batch or request, as the cost model predicts it.

        A replica's bar is as long as its own computing (it may then wait for the slowest replica of its stage), a
        medium's bar as long as the transfer holds it (the bytes arrive a latency later). Of the replicas of a critical
        computation only the slowest are critical.
        """
        timeline, details = evaluation.timeline, evaluation.details
        counts = np.fromiter((len(entry.places) for entry in timeline), np.int64, len(timeline))
        places = list(itertools.chain.from_iterable(entry.places for entry in timeline))
        names = _lane_names(evaluation.plan, places)
        numbers = {name: number for number, name in enumerate(names)}
        lane = np.fromiter((numbers[place] for place in places), np.uint16, len(places))
        start_s = np.repeat(np.fromiter((entry.start_s for entry in timeline), float, len(timeline)), counts)
        end_s = np.repeat(np.fromiter((entry.end_s for entry in timeline), float, len(timeline)), counts)
        busy_s = np.fromiter(itertools.chain.from_iterable(details.busy_s), float, len(places))
        whole_s = max((entry.end_s for entry in timeline), default=0.0)
        slack_s = np.repeat(np.fromiter(details.slack_s, float, len(timeline)), counts)
        slowest = start_s + busy_s >= end_s - ROUNDING * whole_s
        return _view(
            "predicted",
            whole_s,
            names,
            _Bars(
                start_s=start_s,
                duration_s=busy_s,
                lane=lane,
                kinds=np.repeat(np.array([entry.kind for entry in timeline], dtype=object), counts),
                stage=np.repeat(np.fromiter((entry.stage for entry in timeline), np.int16, len(timeline)), counts),
                micro_batch=np.repeat(
                    np.fromiter((entry.micro_batch for entry in timeline), np.int32, len(timeline)), counts
                ),
                critical=(slack_s == 0) & (slowest | (lane >= len(evaluation.plan.devices))),
                arrived=np.ones(len(places), bool),
            ),
        )

    @classmethod
    def predicted(cls, timeline: PredictedTimeline, plan: Plan) -> TimelineView:
        """What was predicted of a run before it began.

        A medium's bar lasts until the bytes have arrived, so that bars overlap where transfers share the medium, and by
        the latency of a message. What is critical is not known.
        """
        spans = [
            _Span(place, each.kind, each.stage, each.micro_batch, each.start_s, each.end_s)
            for each in timeline.transfers
            for place in each.media
        ]
        spans += [
            _Span(each.device, each.kind, each.stage, each.micro_batch, each.start_s, each.end_s)
            for each in timeline.computations
        ]
        names = _lane_names(plan, (span.place for span in spans))
        return _view("predicted", timeline.makespan_s, names, _bars(spans, names))

    @classmethod
    def measured(cls, events: Iterable[RunEvent], plan: Plan, like: TimelineView) -> TimelineView:
        """What devices did in one step of a run, or in its inference batch, on the lanes of a prediction.

        Time 0 is when the first device began the step, as in the prediction. On the lane of a device is what it
        computed; while it waits to receive, it is idle. A transfer is noted by the devices at its ends, not by the
        medium, so it is put together from them and shown on the lanes of the media that the prediction says it holds:

        - a hand-over from when its last sender had it until its last receiver had it, so that bars overlap where one
          waits for its turn on the medium. Where the receiver came for it later than half-way, it may have been there
          long before: the bar is as long as handing it over took, and ``arrived`` is false;
        - a sum of gradients, or all sums over shards of a pass, from when the last device came to it until the last one
          was done.

        Parameters
        ----------
        events
            Of one step; of a step that is still going on, what there is of it.
        plan
            The plan that ran.
        like
            The prediction whose lanes are taken.

        Raises
        ------
        InputError
            If the events are of several steps, or of a device that the prediction has no lane for.
        """
        events = list(events)
        names = {lane.name: lane.sort for lane in like.lanes}
        steps = sorted({event.step for event in events})
        if len(steps) > 1:
            raise InputError("events", steps, "events of one step")
        strangers = sorted({event.device for event in events} - names.keys())
        if strangers:
            raise InputError("events", strangers, f"events of the devices of the prediction: {', '.join(names)}")
        spans = [
            _Span(each.device, each.kind, each.stage, each.micro_batch, each.start_s, each.end_s)
            for each in events
            if each.kind in _COMPUTE
        ]
        spans += _transfers(events, plan, _media_of(like))
        end_s = max((event.end_s for event in events), default=0.0)
        return _view("measured", end_s, names, _bars(spans, names))


class _Span(NamedTuple):
    """A bar before it is a row of arrays."""

    place: str
    kind: str
    stage: int
    micro_batch: int
    start_s: float
    end_s: float
    arrived: bool = True


class _Bars(NamedTuple):
    """Columns of bars in any order; ``kinds`` are names."""

    start_s: NDArray[np.float64]
    duration_s: NDArray[np.float64]
    lane: NDArray[np.uint16]
    kinds: NDArray[np.object_]
    stage: NDArray[np.int16]
    micro_batch: NDArray[np.int32]
    critical: NDArray[np.bool_]
    arrived: NDArray[np.bool_]


def _lane_names(plan: Plan, places: Iterable[str]) -> dict[str, Literal["device", "medium"]]:
    """The plan's devices in its order, then the media by name."""
    names: dict[str, Literal["device", "medium"]] = dict.fromkeys(plan.devices, "device")
    return names | dict.fromkeys(sorted(set(places) - names.keys()), "medium")


def _media_of(like: TimelineView) -> Mapping[tuple[str, int], Sequence[str]]:
    """The media that transfers of each kind and stage are predicted to hold."""
    media: dict[tuple[str, int], list[str]] = {}
    places = np.unique(np.stack([like.kind, like.stage, like.lane]).astype(np.int64), axis=1).T.tolist()
    for kind, stage, lane in places:
        media.setdefault((like.kinds[kind], stage), []).append(like.lanes[lane].name)
    return media


def _transfers(events: list[RunEvent], plan: Plan, media: Mapping[tuple[str, int], Sequence[str]]) -> list[_Span]:
    """The transfers of a step, put together from what the devices at their ends noted."""
    handing_s = _handing_seconds(events, plan)
    spans = []
    for key, times in hand_over_times(plan, events).items():
        waited = times.had_s - times.came_s > (times.had_s - times.sent_s) / 2
        end_s = times.had_s if waited else times.sent_s + handing_s[key]
        whole = _Span("", key.kind, key.stage, key.micro_batch, times.sent_s, end_s, waited)
        spans += [whole._replace(place=place) for place in media.get((key.kind, key.stage), ())]
    sums: dict[tuple[str, int, int], list[RunEvent]] = {}
    for event in events:
        if event.kind in ("all-reduce", "tied-sum"):
            stage = event.stage if event.kind == "all-reduce" else len(plan.stages) - 1
            sums.setdefault((event.kind, stage, event.part), []).append(event)
    shards: dict[tuple[str, int, int], list[RunEvent]] = {}
    for event in events:
        if event.kind in SUMS_OF:
            shards.setdefault((event.kind, event.stage, event.micro_batch), []).append(event)
    for (kind, stage, number), parts in shards.items():
        over_s = max(each.end_s for each in parts)
        whole = _Span("", kind, stage, number, min(max(each.start_s for each in parts), over_s), over_s)
        spans += [whole._replace(place=place) for place in media.get((kind, stage), ())]
    tied = sorted({name for (kind, _), names in media.items() if kind in _TIED for name in names})
    for (kind, stage, _), parts in sums.items():
        whole = _Span("", kind, stage, 0, max(each.start_s for each in parts), max(each.end_s for each in parts))
        places = tied if kind == "tied-sum" else media.get((kind, stage), ())
        spans += [whole._replace(place=place) for place in places]
    return spans


def _handing_seconds(events: Iterable[RunEvent], plan: Plan) -> dict[HandOver, float]:
    """How long the slowest sender took to hand over what it sends."""
    seconds: dict[HandOver, float] = {}
    for event in events:
        if event.kind in ("send", "token-send"):
            kind = "token" if event.kind != "send" else hand_over_kind(plan, event.device, "send", event.stage)
            key = HandOver(kind, event.stage, event.micro_batch, event.step)
            seconds[key] = max(seconds.get(key, 0.0), event.end_s - event.start_s)
    return seconds


def _bars(spans: Sequence[_Span], names: Iterable[str]) -> _Bars:
    numbers = {name: number for number, name in enumerate(names)}
    columns = list(zip(*spans, strict=True)) or [()] * len(_Span._fields)
    place, kind, stage, micro_batch, start_s, end_s, arrived = columns
    return _Bars(
        start_s=np.array(start_s, float),
        duration_s=np.array(end_s, float) - np.array(start_s, float),
        lane=np.array([numbers[each] for each in place], np.uint16),
        kinds=np.array(kind, dtype=object),
        stage=np.array(stage, np.int16),
        micro_batch=np.array(micro_batch, np.int32),
        critical=np.zeros(len(spans), bool),
        arrived=np.array(arrived, bool),
    )


def _view(
    status: Literal["predicted", "measured"],
    end_s: float,
    names: Mapping[str, Literal["device", "medium"]],
    bars: _Bars,
) -> TimelineView:
    """Sorts bars by start, and finds the bubbles."""
    order = np.lexsort((bars.lane, bars.start_s))
    start_s, duration_s, lane = bars.start_s[order], bars.duration_s[order], bars.lane[order]
    kinds = tuple(dict.fromkeys(bars.kinds[order].tolist()))
    codes = {kind: code for code, kind in enumerate(kinds)}
    lanes, idle = [], []
    for number, (name, sort) in enumerate(names.items()):
        own = lane == number
        gap_start_s, gap_s = _gaps(start_s[own], duration_s[own], ROUNDING * end_s)
        busy_s = _span_s(start_s[own], duration_s[own]) - float(gap_s.sum())
        if sort == "device":
            idle.append((gap_start_s, gap_s, np.full(len(gap_s), number, np.uint16)))
        lanes.append(
            Lane(
                name=name,
                sort=sort,
                operations=int(own.sum()),
                busy_s=busy_s,
                busy=busy_s / end_s if end_s > 0 else 0.0,
                idle_s=float(gap_s.sum()) if sort == "device" else 0.0,
            )
        )
    idle_start_s, idle_duration_s, idle_lane = (
        (np.concatenate(column) for column in zip(*idle, strict=True))
        if idle
        else (np.zeros(0), np.zeros(0), np.zeros(0, np.uint16))
    )
    arrays: dict[str, NDArray[Any]] = {
        "start_s": start_s,
        "duration_s": duration_s,
        "lane": lane,
        "kind": np.fromiter((codes[kind] for kind in bars.kinds[order].tolist()), np.uint8, len(order)),
        "stage": bars.stage[order],
        "micro_batch": bars.micro_batch[order],
        "critical": bars.critical[order],
        "arrived": bars.arrived[order],
        "idle_start_s": idle_start_s,
        "idle_duration_s": idle_duration_s,
        "idle_lane": idle_lane,
    }
    for array in arrays.values():
        array.flags.writeable = False
    return TimelineView(status=status, end_s=end_s, lanes=tuple(lanes), kinds=kinds, **arrays)


def _gaps(
    start_s: NDArray[np.float64], duration_s: NDArray[np.float64], least_s: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Start and length of the breaks between bars of one lane, which may overlap; bars by start."""
    over_s = np.maximum.accumulate(start_s + duration_s)[:-1]
    gap_s = start_s[1:] - over_s
    real = gap_s > least_s
    return over_s[real], gap_s[real]


def _span_s(start_s: NDArray[np.float64], duration_s: NDArray[np.float64]) -> float:
    """From the first start to the last end."""
    return float((start_s + duration_s).max() - start_s[0]) if len(start_s) else 0.0
