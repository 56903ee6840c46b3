"""Small pieces of SVG: escaped text, axes with round numbers, labels that keep out of each other's way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

#: Text is drawn in the colour of the page around the figure, so that it is readable in light and dark themes.
FONT = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"'

#: Font size of labels in pixels, and the width of a typical character at that size.
SIZE_PX, CHARACTER_PX = 11, 5.8


def attribute(text: object) -> str:
    """Text for markup, between tags or in a quoted attribute; characters that XML forbids become blanks."""
    legal = "".join(each if each.isprintable() or each in "\n\t" else " " for each in str(text))
    return escape(legal.encode("utf-8", "replace").decode(), quote=True)


def number(value: float) -> str:
    """A coordinate, to a hundredth of a pixel."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def text_width(text: str) -> float:
    """Estimated pixels of a label; an upper estimate for ordinary text."""
    return CHARACTER_PX * len(text)


def text(x: float, y: float, content: str, *, anchor: str = "start", opacity: float = 1.0, more: str = "") -> str:
    """A label."""
    faint = f' fill-opacity="{opacity}"' if opacity < 1 else ""
    return (
        f'<text x="{number(x)}" y="{number(y)}" font-size="{SIZE_PX}" text-anchor="{anchor}" fill="currentColor"'
        f"{faint}{' ' + more if more else ''}>{attribute(content)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, opacity: float, *, dashes: str = "", width: float = 1) -> str:
    """A straight line in the colour of the text."""
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<line x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}" stroke="currentColor" '
        f'stroke-opacity="{opacity}" stroke-width="{number(width)}"{dashed}/>'
    )


def figure(width: float, height: float, title: str, body: Iterable[str]) -> str:
    """A complete figure that shrinks with the page; ``title`` is what a screen reader says."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {number(width)} {number(height)}" '
        f'width="{number(width)}" height="{number(height)}" role="img" aria-label="{attribute(title)}" {FONT} '
        f'style="max-width:100%;height:auto">{"".join(body)}</svg>'
    )


@dataclass(frozen=True)
class Axis:
    """Numbers from ``low`` to ``high`` on pixels from ``start_px`` to ``stop_px``.

    Attributes
    ----------
    scale, unit
        A number is divided by ``scale`` to be shown in ``unit``.
    """

    low: float
    high: float
    start_px: float
    stop_px: float
    scale: float = 1.0
    unit: str = ""

    def at(self, value: float) -> float:
        """Pixel of a number."""
        return self.start_px + (value - self.low) / (self.high - self.low) * (self.stop_px - self.start_px)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Round numbers on the axis with their labels, at most so many."""
        span = (self.high - self.low) / self.scale
        step = _round_step(span / most)
        decimals = max(0, -math.floor(math.log10(step)))
        first, last = math.ceil(self.low / self.scale / step - 1e-9), math.floor(self.high / self.scale / step + 1e-9)
        return [(index * step * self.scale, f"{index * step:,.{decimals}f}") for index in range(first, last + 1)]


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))


def time_scale(largest_s: float) -> tuple[float, str]:
    """The unit in which times up to this are shown, and its seconds."""
    return (1.0, "s") if largest_s >= 1 else (1e-3, "ms") if largest_s >= 1e-3 else (1e-6, "us")


def energy_scale(largest_j: float) -> tuple[float, str]:
    """The unit in which energies up to this are shown, and its joules."""
    return (1e3, "kJ") if largest_j >= 10_000 else (1.0, "J") if largest_j >= 1 else (1e-3, "mJ")


class Box(NamedTuple):
    """A rectangle by its edges, in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether the two share a point."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


def boxes_along(start: tuple[float, float], stop: tuple[float, float], step_px: float = 4.0) -> list[Box]:
    """Small rectangles that cover a straight line."""
    pieces = max(1, math.ceil(math.dist(start, stop) / step_px))
    between = [
        (start[0] + (stop[0] - start[0]) * part / pieces, start[1] + (stop[1] - start[1]) * part / pieces)
        for part in range(pieces + 1)
    ]
    return [Box(x - 1, y - 1, x + 1, y + 1) for x, y in between]


class Placed(NamedTuple):
    """A label and where it stands."""

    x: float
    y: float
    anchor: str
    content: str


def place_labels(
    points: Sequence[tuple[float, float]], choices: Sequence[Sequence[str]], frame: Box, taken: Sequence[Box] = ()
) -> list[Placed | None]:
    """Labels next to points that meet neither each other, nor a point, nor what is taken.

    Parameters
    ----------
    points
        In pixels.
    choices
        Per point, its label in words from long to short.
    frame
        Where labels may stand.
    taken
        Where they may not.

    Returns
    -------
    list
        Per point its label, or None where not even the shortest fits.
    """
    occupied = [Box(x - 5, y - 5, x + 5, y + 5) for x, y in points] + list(taken)
    placed: list[Placed | None] = []
    for (x, y), labels in zip(points, choices, strict=True):
        fitting = None
        for label in labels:
            for candidate in _around(x, y, label):
                box = _box(candidate)
                inside = box.left >= frame.left and box.right <= frame.right
                inside = inside and box.top >= frame.top and box.bottom <= frame.bottom
                if inside and not any(box.meets(other) for other in occupied):
                    fitting = candidate
                    occupied.append(box)
                    break
            if fitting is not None:
                break
        placed.append(fitting)
    return placed


def _around(x: float, y: float, label: str) -> list[Placed]:
    return [
        Placed(x + 9, y + 4, "start", label),
        Placed(x + 6, y - 8, "start", label),
        Placed(x - 9, y + 4, "end", label),
        Placed(x, y - 11, "middle", label),
        Placed(x + 6, y + 17, "start", label),
        Placed(x - 6, y + 17, "end", label),
        Placed(x, y + 20, "middle", label),
        Placed(x - 6, y - 8, "end", label),
    ]


def _box(label: Placed) -> Box:
    width = text_width(label.content)
    left = label.x - {"start": 0.0, "middle": width / 2, "end": width}[label.anchor]
    return Box(left - 2, label.y - SIZE_PX, left + width + 2, label.y + 3)
