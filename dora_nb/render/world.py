"""A world as a person meets it in a notebook: what changes, when, and where that is known from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dora_nb.render import svg, words
from dora_nb.render.html import fragment
from dora_nb.render.svg import attribute
from dora_nb.units import counted, format_seconds

if TYPE_CHECKING:
    from dora_nb.simulation.world import Influence, World

#: What each quantity is called below its device's or domain's name, and how a value of it is told.
_CALLED = {
    "domain rate": ("rates", "{:.3g} times its rates"),
    "device rate": ("its rate", "{:.3g} times its rate"),
    "device speed": ("speed", "{:.3g} times its speed"),
    "presence": ("there", ""),
}

#: Steps of a lane that have a tooltip each; of more, the lane has one.
_MOST_TIPS = 300

_INK, _AWAY = "#0072b2", "#d55e00"

_LONGEST_NAME = 10  # characters of a lane's name


def world_html(world: World) -> str:
    """A world as a fragment of HTML: a lane per influence, and where each comes from."""
    if not world.influences:
        return fragment([f'<p class="dora-head">{attribute(world_words(world))}</p>'])
    said = "".join(f"<li>{attribute(line)}</li>" for line in _sources(world))
    return fragment(
        [
            f'<p class="dora-head">{attribute(world_words(world))}</p>',
            f'<div class="dora-scroll">{world_svg(world)}</div>',
            f"<ul>{said}</ul>",
        ]
    )


def world_words(world: World) -> str:
    """A world in a line."""
    if not world.influences:
        return f"{world.cluster.name}, where nothing changes"
    until = "" if math.isinf(world.known_until_s) else f" in {format_seconds(world.known_until_s)}"
    changes = counted(len(world.times_s) - 1, "change")
    return f"{world.cluster.name}, with {counted(len(world.influences), 'influence')}: {changes}{until}"


def world_svg(world: World) -> str:
    """A lane per influence over time: factors as steps with 1 as the upper line, absences as gaps.

    The time axis is that of a simulation's strip chart, so that the two can stand one below the other.
    """
    return _Lanes(world).draw()


def _sources(world: World) -> Iterator[str]:
    for each in world.influences:
        source = f" ({each.trace.source})" if each.trace.source else ""
        yield words.one_line(f"{each.name}, {_CALLED[each.quantity][0]}: {each.trace.origin}{source}")


class _Lanes:
    """The figure."""

    width, left, right, top, lane_px, gap_px = 960.0, 66.0, 14.0, 8.0, 34.0, 18.0

    def __init__(self, world: World) -> None:
        self.world = world
        last_s = float(world.times_s[-1])
        self.end_s = world.known_until_s if math.isfinite(world.known_until_s) else 1.1 * last_s or 1.0
        self.x = svg.Axis(0.0, self.end_s, self.left, self.width - self.right, *svg.time_scale(self.end_s))

    def draw(self) -> str:
        """All lanes."""
        floor = self.top + (self.lane_px + self.gap_px) * len(self.world.influences)
        body = list(self._grid(floor))
        for place, each in enumerate(self.world.influences):
            body += self._lane(each, self.top + (self.lane_px + self.gap_px) * place)
        return svg.figure(self.width, floor + 38, world_words(self.world), body)

    def _grid(self, floor: float) -> Iterator[str]:
        for value, label in self.x.ticks(10):
            at = self.x.at(value)
            yield svg.line(at, self.top, at, floor, 0.12)
            inside = at + svg.text_width(label) / 2 < self.width
            yield svg.text(at, floor + 14, label, anchor="middle" if inside else "end", opacity=0.8)
        yield svg.text((self.left + self.x.stop_px) / 2, floor + 32, f"time ({self.x.unit})", anchor="middle")

    def _lane(self, each: Influence, top: float) -> Iterator[str]:
        floor, called = top + self.lane_px, _CALLED[each.quantity][0]
        name = words.shorten_middle(words.one_line(each.name), _LONGEST_NAME)
        yield svg.text(self.left - 22, top + 13, name, anchor="end")
        yield svg.text(self.left - 22, top + 27, called, anchor="end", opacity=0.8)
        yield svg.line(self.left, floor, self.x.stop_px, floor, 0.5)
        if each.quantity == "presence":
            yield from self._presence(each, top)
        else:
            yield from self._factors(each, svg.Axis(0.0, max(1.0, float(each.trace.values.max())), floor, top))

    def _factors(self, each: Influence, y: svg.Axis) -> Iterator[str]:
        """Steps between 0 and the highest factor."""
        yield svg.line(self.left, y.at(1.0), self.x.stop_px, y.at(1.0), 0.3, dashes="3 3")
        for value in (0.0, 1.0):
            yield svg.text(self.left - 5, y.at(value) + 4, f"{value:g}", anchor="end", opacity=0.8)
        spans = list(self._spans(each))
        path = "".join(f"V{svg.number(y.at(value))}H{svg.number(self.x.at(end_s))}" for _, end_s, value in spans)
        start, floor = svg.number(self.left), svg.number(y.start_px)
        area = f'<path d="M{start} {floor}{path}V{floor}z" fill="{_INK}" fill-opacity="0.3"/>'
        edge = (
            f'<path d="M{start} {svg.number(y.at(spans[0][2]))}{path}" fill="none" stroke="{_INK}" stroke-width="1.5"/>'
        )
        yield area + edge
        told = _CALLED[each.quantity][1]
        for start_s, end_s, value in spans if len(spans) <= _MOST_TIPS else ():
            tip = f"{each.name} from {format_seconds(start_s)} to {format_seconds(end_s)}: {told.format(value)}"
            yield self._box(start_s, end_s, y.stop_px, 'fill="transparent"', tip)

    def _presence(self, each: Influence, top: float) -> Iterator[str]:
        """A bar while it is there; where it is away, a thin line of another colour."""
        for start_s, end_s, value in self._spans(each):
            tip = (
                f"{each.name} {'there' if value else 'away'} from {format_seconds(start_s)} to {format_seconds(end_s)}"
            )
            look = f'fill="{_INK}" fill-opacity="0.3"' if value else f'fill="{_AWAY}" fill-opacity="0.75"'
            height = self.lane_px if value else 5.0
            yield self._box(start_s, end_s, top + self.lane_px - height, look, tip, height)

    def _spans(self, each: Influence) -> Iterator[tuple[float, float, float]]:
        """From when to when which value holds, until the end of the axis."""
        times_s = each.trace.times_s.tolist()
        for start_s, end_s, value in zip(times_s, [*times_s[1:], math.inf], each.trace.values.tolist(), strict=True):
            if start_s < self.end_s:
                yield start_s, min(end_s, self.end_s), value

    def _box(self, start_s: float, end_s: float, top: float, look: str, tip: str, height: float = lane_px) -> str:
        x, wide = self.x.at(start_s), self.x.at(end_s) - self.x.at(start_s)
        place = f'x="{svg.number(x)}" y="{svg.number(top)}" width="{svg.number(max(wide, 0.5))}"'
        return f'<rect {place} height="{svg.number(height)}" {look}><title>{attribute(tip)}</title></rect>'
