"""A schedule as SVG: a lane per device and per medium."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

from dora_nb.domain.plan import Plan
from dora_nb.render import svg, words
from dora_nb.render.svg import attribute
from dora_nb.render.trace import Span, places_of, stage_words, turn_words

#: Bars that a timeline draws at most.
MOST_BARS = 3_000

_LONGEST_NAME = 24  # characters of a lane's name

_SUMS = ("all-reduce", "tied-reduce", "tied-exchange", "tied-broadcast", "tied-sum")

#: Groups of kinds in a timeline: heading in the legend, colour, colour of text on it, kinds.
_GROUPS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("forward", "#0072b2", "#ffffff", ("forward", "decode")),
    ("backward", "#e69f00", "#000000", ("backward",)),
    ("step", "#cc79a7", "#000000", ("step",)),
    ("activations", "#56b4e9", "#000000", ("activation", "token", "send", "receive")),
    ("gradients", "#d55e00", "#ffffff", ("gradient",)),
    ("sums of gradients", "#009e73", "#ffffff", _SUMS),
    ("inputs, labels, outputs", "#999999", "#000000", ("input", "label", "output")),
)
_NUMBERED = ("forward", "backward", "activation", "gradient")  # kinds that belong to a micro-batch
_GROUP_OF = {kind: index for index, (_, _, _, kinds) in enumerate(_GROUPS) for kind in kinds}
_OTHER_GROUP = len(_GROUPS) - 1


class Evaluated(Protocol):
    """What a timeline is drawn from: the result of the cost model's evaluation."""

    @property
    def timeline(self) -> Sequence[Span]:
        """Every operation."""


def timeline_svg(evaluation: Evaluated, plan: Plan) -> str:
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
    """
    return _Timeline(list(evaluation.timeline), plan).draw()


class _Timeline:
    """A Gantt of operations."""

    width, top, lane_px, bar_px, right = 960.0, 46.0, 26.0, 18.0, 14.0

    def __init__(self, spans: list[Span], plan: Plan) -> None:
        self.plan = plan
        placed = [(span, place) for span in sorted(spans, key=lambda each: each.start_s) for place in places_of(span)]
        self.total = len(placed)
        self.bars = placed[:MOST_BARS]
        found = dict.fromkeys(place for _, place in self.bars)
        devices = [device for device in plan.devices if device in found]
        self.media = sorted(place for place in found if place not in plan.devices)
        self.lanes = {place: index for index, place in enumerate([*devices, *self.media])}
        self.names = {place: words.shorten_middle(words.one_line(place), _LONGEST_NAME) for place in self.lanes}
        self.left = 16 + max([svg.text_width(name) for name in self.names.values()], default=0.0)
        self.end_s = max([span.end_s for span, _ in self.bars], default=0.0)

    def draw(self) -> str:
        """The figure."""
        title = f"Predicted schedule of {self.plan.label or 'a plan'}"
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
        present = sorted({_GROUP_OF.get(span.kind, _OTHER_GROUP) for span, _ in self.bars})
        for group in present:
            label, colour, _, _ = _GROUPS[group]
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
            group = _GROUP_OF.get(span.kind, _OTHER_GROUP)
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
            if wide > svg.text_width(number) + 3 and span.kind in _NUMBERED and self.plan.micro_batches > 1:
                parts.append(
                    f'<text x="{svg.number(x + wide / 2)}" y="{svg.number(y + 13)}" font-size="10" '
                    f'text-anchor="middle" fill="{_GROUPS[group][2]}" pointer-events="none">{number}</text>'
                )
        for group in sorted(groups):
            yield f'<g fill="{_GROUPS[group][1]}">{"".join(groups[group])}</g>'

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
