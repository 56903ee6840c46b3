"""The strip chart of a simulation: every step over time, with waits, missed windows and the limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dora_nb.domain.controller import StepReport
from dora_nb.domain.plan import Plan
from dora_nb.render import svg, words
from dora_nb.render.shares import PLAN_COLOURS
from dora_nb.render.svg import attribute
from dora_nb.units import counted, format_seconds

if TYPE_CHECKING:
    from dora_nb.simulation.record import SimulationRecord

#: Steps that are drawn one by one; of more, those of a plan that end in the same part of the time are one mark.
MOST_POINTS = 1_000

#: Parts of the time when steps are drawn together.
PARTS = 160

#: Windows that are marked one by one.
_MOST_WINDOWS = 400

#: Of plans, the most used first, of all further ones, and of the limit and what misses it.
(*_COLOURS, _OTHER), _LIMIT = (fill for fill, _ in PLAN_COLOURS), "#d55e00"

_LONGEST_NAME = 44  # characters of a plan in the legend

#: A limit this many times as high as every step is named and not drawn; a step this many times as long as nearly all
#: others is drawn at the upper edge.
_FAR, _LONG = 3.0, 2.5

_MEAN_PX = 3.5  # thickness of the line at the mean of steps drawn together


def simulation_svg(record: SimulationRecord) -> str:
    """Latency of every step over the time at which it ended, coloured by plan.

    The latency limit is a dashed line, windows that missed the QoE are shaded, and below are the waits and the steps
    lost. At most about 2,000 marks, however many steps there are.
    """
    return _Strip(record).draw()


def numbered(plans: Iterable[Plan]) -> dict[int, int]:
    """A number from 1 for each plan, by identity; plans of equal decisions have the same."""
    numbers: dict[int, int] = {}
    known: dict[Plan, int] = {}
    for plan in plans:
        if id(plan) not in numbers:
            numbers[id(plan)] = known.setdefault(plan.decisions(), len(known) + 1)
    return numbers


def plan_name(number: int, plan: Plan) -> str:
    """A plan's number and label, as the legend has them."""
    return f"{number} {words.shorten(words.one_line(plan.label or 'plan'), _LONGEST_NAME)}"


class _Span(NamedTuple):
    """A stretch of the time axis in pixels, and how many things it stands for."""

    start: float
    stop: float
    number: int


class _Strip:
    """The chart."""

    width, left, right = 960.0, 66.0, 14.0
    plot_px, lane_px, row_px = 220.0, 18.0, 18.0

    def __init__(self, record: SimulationRecord) -> None:
        self.record = record
        self.numbers = numbered(step.plan for step in record.steps)
        self.plans = {self.numbers[id(step.plan)]: step.plan for step in reversed(record.steps)}
        used = Counter(self.numbers[id(step.plan)] for step in record.steps)
        ranked = sorted(used, key=lambda number: (-used[number], number))
        self.colours = {
            number: (_COLOURS[rank] if rank < len(_COLOURS) else _OTHER) for rank, number in enumerate(ranked)
        }
        self.latencies_s = np.array([step.latency_s for step in record.steps])
        self.x = svg.Axis(0.0, record.horizon_s, self.left, self.width - self.right, *svg.time_scale(record.horizon_s))
        self.one_by_one = len(record.steps) <= MOST_POINTS
        self._choose_heights()

    def _choose_heights(self) -> None:
        """The latency axis: up to the longest step and the limit, unless one of them is far from everything else."""
        longest_s = float(self.latencies_s.max(initial=0.0))
        limit_s = self.record.qoe.latency_s
        self.limit_s = None if limit_s is None or (longest_s and limit_s > _FAR * longest_s) else limit_s
        usual_s = float(np.quantile(self.latencies_s, 0.95, method="lower")) if len(self.latencies_s) else 0.0
        high_s = max(usual_s, self.limit_s or 0.0)
        if longest_s <= _LONG * high_s or not high_s:
            high_s = max(longest_s, high_s)
        self.high_s = 1.12 * high_s or 1.0

    def draw(self) -> str:
        """The figure."""
        legend, rows = self._legend()
        self.ceiling = self.row_px * rows + 12
        self.floor = self.ceiling + self.plot_px
        self.y = svg.Axis(0.0, self.high_s, self.floor, self.ceiling, *svg.time_scale(self.high_s))
        lanes = [lane for lane, any_ in ((self._waits, self.record.waits), (self._lost, self.record.lost)) if any_]
        body = [*legend, *self._missed(), *self._axes(len(lanes)), *self._means(), *self._limit(), *self._steps()]
        for place, lane in enumerate(lanes):
            body += lane(self.floor + 6 + self.lane_px * place)
        height = self.floor + self._lanes_px(len(lanes)) + 42
        title = (
            f"Latency over time of {counted(len(self.record.steps), 'step')} with "
            f"{counted(len(set(self.numbers.values())), 'plan')}"
        )
        return svg.figure(self.width, height, title, body)

    def _lanes_px(self, lanes: int) -> float:
        return self.lane_px * lanes + 8 if lanes else 0.0

    # -------------------------------------------------------------- legend

    def _legend(self) -> tuple[list[str], int]:
        """Marks with words, and how many rows they take."""
        placed, x, row = [], self.left, 0
        for mark, label in self._entries():
            wide = 18 + svg.text_width(label) + 20
            if x > self.left and x + wide > self.width:
                x, row = self.left, row + 1
            y = self.row_px * row + 14
            placed.append(f'<g transform="translate({svg.number(x)} {svg.number(y - 4)})">{mark}</g>')
            placed.append(svg.text(x + 18, y, label))
            x += wide
        return placed, row + 1

    def _entries(self) -> Iterator[tuple[str, str]]:
        """Marks around (0, 0) to (12, 0), and what each says."""
        others = sum(colour == _OTHER for colour in self.colours.values())
        for number, colour in sorted(self.colours.items()):
            if colour != _OTHER or others == 1:
                yield f'<circle cx="6" cy="0" r="5" fill="{colour}"/>', plan_name(number, self.plans[number])
        if others > 1:
            yield f'<circle cx="6" cy="0" r="5" fill="{_OTHER}"/>', f"{counted(others, 'other plan')}"
        if not self.one_by_one:
            within = f"steps that ended within {format_seconds(self.record.horizon_s / PARTS)}"
            bar = '<rect x="3" y="-6" width="6" height="12" fill="currentColor" fill-opacity="0.3"/>'
            yield f"{bar}{svg.line(3, 1, 9, 1, 0.9, width=_MEAN_PX)}", f"{within}: shortest, mean, longest"
        limit_s = self.record.qoe.latency_s
        if limit_s is not None:
            far = "" if self.limit_s is not None else ", far above"
            dashed = f'<line x1="-2" x2="14" y1="0" y2="0" stroke="{_LIMIT}" stroke-width="2" stroke-dasharray="6 3"/>'
            yield dashed, f"latency limit {format_seconds(limit_s)}{far}"
        if self._shows_means:
            yield svg.line(-2, 0, 14, 0, 0.7, width=1.5), "mean of a window"
        if not all(window.kept for window in self.record.windows):
            shade = f'<rect x="-1" y="-6" width="14" height="12" fill="{_LIMIT}" fill-opacity="0.2"/>'
            yield f'{shade}<rect x="-1" y="-6" width="14" height="3" fill="{_LIMIT}"/>', "window missed"
        if (self.latencies_s > self.high_s).any():
            yield f'<path d="{_triangle(6, -5)}" fill="currentColor" fill-opacity="0.7"/>', "longer than shown"
        if self.record.waits:
            yield '<rect x="-1" y="-5" width="14" height="10" fill="currentColor" fill-opacity="0.45"/>', "waited"
        if self.record.lost:
            yield f'<path d="{_cross(6, 0)}" stroke="currentColor" stroke-width="1.8"/>', "step lost"

    # -------------------------------------------------------------- frame

    def _axes(self, lanes: int) -> Iterable[str]:
        bottom = self.floor + self._lanes_px(lanes)
        for value, label in self.x.ticks(10):
            at = self.x.at(value)
            yield svg.line(at, self.ceiling, at, bottom, 0.12)
            inside = at + svg.text_width(label) / 2 < self.width
            yield svg.text(at, bottom + 16, label, anchor="middle" if inside else "end", opacity=0.8)
        for value, label in self.y.ticks(6):
            at = self.y.at(value)
            yield svg.line(self.left, at, self.x.stop_px, at, 0.12)
            yield svg.text(self.left - 7, at + 4, label, anchor="end", opacity=0.8)
        yield svg.line(self.left, self.floor, self.x.stop_px, self.floor, 0.6)
        yield svg.line(self.left, self.ceiling, self.left, self.floor, 0.6)
        yield svg.text((self.left + self.x.stop_px) / 2, bottom + 34, f"time ({self.x.unit})", anchor="middle")
        middle = (self.floor + self.ceiling) / 2
        turned = f'transform="rotate(-90 14 {svg.number(middle)})"'
        yield svg.text(14, middle, f"latency ({self.y.unit})", anchor="middle", more=turned)
        if not self.record.steps:
            yield svg.text((self.left + self.x.stop_px) / 2, middle, "no step was completed", anchor="middle")

    def _missed(self) -> Iterable[str]:
        spans = self._spans((window.start_s, window.end_s) for window in self.record.windows if not window.kept)
        for span in spans:
            times = self._times(span)
            tip = f"{counted(span.number, 'window')} missed, {times}"
            yield _box(span, self.ceiling, self.plot_px, f'fill="{_LIMIT}" fill-opacity="0.16"', tip)
        top = svg.number(self.ceiling)
        edge = "".join(f"M{svg.number(span.start)} {top}h{_wide(span)}v3h-{_wide(span)}z" for span in spans)
        if edge:
            yield f'<path d="{edge}" fill="{_LIMIT}"/>'

    def _limit(self) -> Iterable[str]:
        if self.limit_s is None:
            return
        at = svg.number(self.y.at(self.limit_s))
        ends = f'x1="{svg.number(self.left)}" x2="{svg.number(self.x.stop_px)}"'
        look = f'stroke="{_LIMIT}" stroke-width="1.5" stroke-dasharray="6 4"'
        tip = f"latency limit {format_seconds(self.limit_s)}"
        yield f'<line {ends} y1="{at}" y2="{at}" {look}><title>{tip}</title></line>'

    # -------------------------------------------------------------- steps

    @property
    def _shows_means(self) -> bool:
        return 1 < len(self.record.windows) <= _MOST_WINDOWS and any(window.steps > 1 for window in self.record.windows)

    def _means(self) -> Iterable[str]:
        if not self._shows_means:
            return
        path = ""
        for window in self.record.windows:
            if window.mean_s is not None and window.mean_s <= self.high_s:
                start, stop = self.x.at(window.start_s), self.x.at(window.end_s)
                path += f"M{svg.number(start)} {svg.number(self.y.at(window.mean_s))}H{svg.number(stop)}"
        if path:
            yield f'<path d="{path}" fill="none" stroke="currentColor" stroke-opacity="0.7" stroke-width="1.5"/>'

    def _steps(self) -> Iterable[str]:
        groups: dict[str, list[str]] = {}
        for colour, mark in self._points() if self.one_by_one else self._parts():
            groups.setdefault(colour, []).append(mark)
        for colour, marks in groups.items():
            yield f'<g fill="{colour}" stroke="{colour}">{"".join(marks)}</g>'

    def _points(self) -> Iterator[tuple[str, str]]:
        radius = 3.5 if len(self.record.steps) <= 150 else 2.5
        for step in self.record.steps:
            x, ended = self.x.at(step.end_s), f"ended at {format_seconds(step.end_s)}"
            tip = f"{self._short(step)}: {format_seconds(step.latency_s)}, {ended}"
            if step.latency_s > self.high_s:
                mark = f'<path d="{_triangle(x, self.ceiling + 1)}">{_tip(tip)}</path>'
            else:
                y = svg.number(self.y.at(step.latency_s))
                mark = (
                    f'<circle cx="{svg.number(x)}" cy="{y}" r="{svg.number(radius)}" stroke="none">{_tip(tip)}</circle>'
                )
            yield self.colours[self.numbers[id(step.plan)]], mark

    def _parts(self) -> Iterator[tuple[str, str]]:
        """A bar for all steps of one colour that end in one part of the time, and a line at their mean."""
        part_s, means = self.record.horizon_s / PARTS, dict[str, str]()
        found: dict[tuple[int, str], list[StepReport]] = {}
        for step in self.record.steps:
            part = min(int(step.end_s / part_s), PARTS - 1)
            found.setdefault((part, self.colours[self.numbers[id(step.plan)]]), []).append(step)
        for (part, colour), steps in found.items():
            seconds = [step.latency_s for step in steps]
            alone = len({self.numbers[id(step.plan)] for step in steps}) == 1
            who = self._short(steps[0]) if alone else "other plans"
            tip = (
                f"{counted(len(steps), 'step')} of {who}, ended from {format_seconds(part * part_s)} to "
                f"{format_seconds((part + 1) * part_s)}: {format_seconds(min(seconds))} to "
                f"{format_seconds(max(seconds))}, mean {format_seconds(float(np.mean(seconds)))}"
            )
            left, right = self.x.at(part * part_s) + 0.5, self.x.at((part + 1) * part_s) - 0.5
            if min(seconds) > self.high_s:
                yield colour, f'<path d="{_triangle((left + right) / 2, self.ceiling + 1)}">{_tip(tip)}</path>'
                continue
            top, bottom = (self.y.at(min(each, self.high_s)) for each in (max(seconds), min(seconds)))
            span = _Span(left, right, len(steps))
            grown = max(_MEAN_PX - (bottom - top), 0) / 2  # a single latency is still a mark
            look = 'fill-opacity="0.3" stroke="none"'
            yield colour, _box(span, top - grown, bottom - top + 2 * grown, look, tip)
            mean_s = float(np.mean(seconds))
            if mean_s <= self.high_s:
                means[colour] = (
                    f"{means.get(colour, '')}M{svg.number(left)} {svg.number(self.y.at(mean_s))}h{_wide(span)}"
                )
        for colour, path in means.items():
            yield colour, f'<path d="{path}" stroke-width="{_MEAN_PX}" pointer-events="none"/>'

    def _short(self, step: StepReport) -> str:
        return f"plan {plan_name(self.numbers[id(step.plan)], step.plan)}"

    # -------------------------------------------------------------- lanes

    def _waits(self, y: float) -> Iterator[str]:
        yield svg.text(self.left - 7, y + 12, "waited", anchor="end", opacity=0.8)
        for span in self._spans((each.start_s, each.end_s) for each in self.record.waits):
            tip = f"{counted(span.number, 'wait')}, {self._times(span)}"
            yield _box(span, y + 2, self.lane_px - 6, 'fill="currentColor" fill-opacity="0.45"', tip)

    def _lost(self, y: float) -> Iterator[str]:
        yield svg.text(self.left - 7, y + 12, "lost", anchor="end", opacity=0.8)
        cells: dict[int, list[StepReport]] = {}
        for step in self.record.lost:
            cells.setdefault(int(self.x.at(step.end_s) // 8), []).append(step)
        for steps in cells.values():
            last = steps[-1]
            tip = f"{counted(len(steps), 'step')} lost, the last at {format_seconds(last.end_s)} to {last.lost_to}"
            look = 'stroke="currentColor" stroke-width="1.8"'
            yield f'<path d="{_cross(self.x.at(last.end_s), y + 8)}" {look}>{_tip(tip)}</path>'

    # -------------------------------------------------------------- pieces

    def _spans(self, spans_s: Iterable[tuple[float, float]]) -> list[_Span]:
        """Stretches of time in pixels, those together that are less than two pixels apart."""
        merged: list[_Span] = []
        for start_s, end_s in spans_s:
            start, stop = self.x.at(start_s), max(self.x.at(end_s), self.x.at(start_s) + 1)
            if merged and start - merged[-1].stop < 2:
                last = merged.pop()
                merged.append(_Span(last.start, max(stop, last.stop), last.number + 1))
            else:
                merged.append(_Span(start, stop, 1))
        return merged

    def _times(self, span: _Span) -> str:
        per_px = self.record.horizon_s / (self.x.stop_px - self.x.start_px)
        start_s, end_s = ((at - self.x.start_px) * per_px for at in (span.start, span.stop))
        return f"from {format_seconds(start_s)} to {format_seconds(end_s)}"


def _wide(span: _Span) -> str:
    return svg.number(max(span.stop - span.start, 0.5))


def _box(span: _Span, top: float, height: float, look: str, tip: str) -> str:
    place = f'x="{svg.number(span.start)}" y="{svg.number(top)}" width="{_wide(span)}" height="{svg.number(height)}"'
    return f"<rect {place} {look}>{_tip(tip)}</rect>"


def _tip(text: str) -> str:
    return f"<title>{attribute(text)}</title>"


def _triangle(x: float, top: float) -> str:
    return f"M{svg.number(x)} {svg.number(top)}l4.5 8h-9z"


def _cross(x: float, y: float) -> str:
    return f"M{svg.number(x - 4)} {svg.number(y - 4)}l8 8m0 -8l-8 8"
