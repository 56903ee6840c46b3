"""A schedule as SVG: a lane per device and per medium."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

from dora_nb.domain.plan import Plan
from dora_nb.render import svg, words
from dora_nb.render.kinds import GROUPS, NUMBERED, group_of
from dora_nb.render.svg import attribute
from dora_nb.render.trace import Span, places_of, stage_words, turn_words

#: Bars that a timeline draws at most.
MOST_BARS = 3_000

_LONGEST_NAME = 24  # characters of a lane's name


class Evaluated(Protocol):
    """What a timeline is drawn from: the result of the cost model's evaluation."""

    @property
    def timeline(self) -> Sequence[Span]:
        """Every operation."""


def timeline_svg(evaluation: Evaluated, plan: Plan, until_s: float | None = None) -> str:
    """The predicted schedule of one iteration: a lane per device and per medium, bars by kind, a time axis.

    On a medium a bar lasts until its bytes have arrived; it is cut short where the next transfer starts earlier,
    because the last part of a message's latency holds nothing. The replicas of a stage share one bar length, that of
    the slowest: its output leaves when all are done.

    Parameters
    ----------
    evaluation
        With a ``timeline``; beyond :data:`MOST_BARS` bars only its beginning is drawn, and the figure says so.
    plan
        Gives the devices their order, and the figure its name.
    until_s
        Where the time axis ends at least, so that several figures have the same one; None: with the last bar.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    return spans_svg(evaluation.timeline, plan.devices, f"Predicted schedule of {plan.label or 'a plan'}", until_s)


def spans_svg(spans: Iterable[Span], devices: Sequence[str], title: str, until_s: float | None = None) -> str:
    """Anything that took time, in the same form: a lane per device and per medium, bars by kind, a time axis.

    Parameters
    ----------
    spans
        Objects with ``kind``, ``stage``, ``micro_batch``, ``start_s``, ``end_s`` and one of ``places``, ``media`` and
        ``device``.
    devices
        In the order of their lanes; every other place is a medium.
    title
        Name of the figure.
    until_s
        As in :func:`timeline_svg`.
    """
    return _Timeline(list(spans), devices, title, until_s or 0.0).draw()


class _Timeline:
    """A Gantt of operations."""

    width, top, lane_px, bar_px, right = 960.0, 46.0, 26.0, 18.0, 14.0

    def __init__(self, spans: list[Span], devices: Sequence[str], title: str, until_s: float) -> None:
        self.title = title
        self.numbered = any(span.micro_batch for span in spans)
        placed = [(span, place) for span in sorted(spans, key=lambda each: each.start_s) for place in places_of(span)]
        self.total = len(placed)
        self.bars = placed[:MOST_BARS]
        found = dict.fromkeys(place for _, place in self.bars)
        self.media = sorted(place for place in found if place not in devices)
        own = [device for device in devices if device in found]
        self.lanes = {place: index for index, place in enumerate([*own, *self.media])}
        self.names = {place: words.shorten_middle(words.one_line(place), _LONGEST_NAME) for place in self.lanes}
        self.left = 16 + max([svg.text_width(name) for name in self.names.values()], default=0.0)
        self.end_s = max([until_s, *(span.end_s for span, _ in self.bars)])

    def draw(self) -> str:
        """The figure."""
        title = self.title
        if not self.bars or self.end_s <= 0:
            return svg.figure(self.width, 30, title, [svg.text(4, 19, f"{title}: nothing to show")])
        scale = svg.time_scale(self.end_s)
        self.axis = svg.Axis(0.0, self.end_s, self.left, self.width - self.right, *scale)
        floor = self.top + self.lane_px * len(self.lanes)
        cut = f" Shortened: the first {len(self.bars):,} of {self.total:,} bars." if self.total > len(self.bars) else ""
        heading = svg.text(4, 15, f"{words.one_line(title)}.{cut}", more='font-weight="600"')
        body = [heading, *self._legend(), *self._grid(floor), *self._bars()]
        return svg.figure(self.width, floor + 42, f"{title}.{cut}", body)

    def _legend(self) -> Iterable[str]:
        x = 4.0
        present = sorted({group_of(span.kind) for span, _ in self.bars})
        for group in present:
            label, colour = GROUPS[group].label, GROUPS[group].colour
            yield f'<rect x="{svg.number(x)}" y="25" width="11" height="11" rx="2" fill="{colour}"/>'
            yield svg.text(x + 16, 35, label)
            x += 16 + svg.text_width(label) + 18

    def _grid(self, floor: float) -> Iterable[str]:
        for value, label in self.axis.ticks(10):
            at = self.axis.at(value)
            yield svg.line(at, self.top, at, floor, 0.15)
            yield svg.text(at, floor + 16, label, anchor="middle", opacity=0.8)
        middle = (self.axis.start_px + self.axis.stop_px) / 2
        yield svg.text(middle, floor + 34, f"time ({self.axis.unit})", anchor="middle")
        for place, index in self.lanes.items():
            at = self.top + self.lane_px * index
            divides = self.media and place == self.media[0] and index
            yield svg.line(4 if divides else self.left, at, self.axis.stop_px, at, 0.5 if divides else 0.15)
            yield svg.text(self.left - 8, at + self.lane_px / 2 + 4, self.names[place], anchor="end")
        yield svg.line(self.left, floor, self.axis.stop_px, floor, 0.6)

    def _bars(self) -> Iterable[str]:
        ends = self._visible_ends()
        groups: dict[int, list[str]] = {}
        for (span, place), end_s in zip(self.bars, ends, strict=True):
            group = group_of(span.kind)
            x, y = self.axis.at(span.start_s), self.top + self.lane_px * self.lanes[place]
            y += (self.lane_px - self.bar_px) / 2
            wide = self.axis.at(end_s) - x
            gap = 0.5 if wide > 3 else 0.0  # neighbours stay apart
            times = f"{words.seconds_words(span.start_s)} to {words.seconds_words(span.end_s)}"
            tip = attribute(f"{span.kind}, {stage_words(span.stage)}, {turn_words(span)}: {times}")
            parts = groups.setdefault(group, [])
            parts.append(
                f'<rect x="{svg.number(x)}" y="{svg.number(y)}" width="{svg.number(max(wide - gap, 0.3))}" '
                f'height="{svg.number(self.bar_px)}"><title>{tip}</title></rect>'
            )
            number = str(span.micro_batch)
            if wide > svg.text_width(number) + 3 and self.numbered and span.kind in NUMBERED:
                parts.append(
                    f'<text x="{svg.number(x + wide / 2)}" y="{svg.number(y + 13)}" font-size="10" '
                    f'text-anchor="middle" fill="{GROUPS[group].ink}" pointer-events="none">{number}</text>'
                )
        for group in sorted(groups):
            yield f'<g fill="{GROUPS[group].colour}">{"".join(groups[group])}</g>'

    def _visible_ends(self) -> list[float]:
        """Where each bar ends on paper: on a medium no later than the next one starts."""
        ends: list[float] = []
        next_start: dict[str, float] = {}
        for span, place in reversed(self.bars):
            end_s = span.end_s
            if place in self.media:
                end_s = max(min(end_s, next_start.get(place, math.inf)), span.start_s)
                next_start[place] = span.start_s
            ends.append(end_s)
        return ends[::-1]
