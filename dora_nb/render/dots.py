"""Gains as a dot chart: a row a setting, a mark a baseline, ours where nothing is gained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dora_nb.render import svg, words
from dora_nb.render.svg import attribute
from dora_nb.units import counted

if TYPE_CHECKING:
    from dora_nb.reproduction.summary import Answer, HeadlineRow

#: Of the strongest baseline, of one that is better than ours, of the others, of ours, and of the paper's range (the
#: palette of Okabe and Ito).
_STRONGEST, _BETTER, _OTHER, _OURS, _PAPER = "#0072b2", "#d55e00", "#8a8a8a", "#009e73", "#e69f00"

#: Energy saved below this is drawn at the edge of the axis, and so are gains in speed beyond this.
_LEAST_SAVED, _MOST_SPEED = -1.0, 100.0

_MOST_TICKS = 7


@dataclass(frozen=True)
class Scale:
    """A horizontal axis of gains that several charts share.

    Attributes
    ----------
    speed
        Times as fast, on a logarithmic axis; else the share of the energy saved, on a linear one.
    low, high
        Its ends.
    paper
        The paper's own range.
    """

    speed: bool
    low: float
    high: float
    paper: tuple[float, float]

    @classmethod
    def of(cls, rows: Iterable[HeadlineRow], speed: bool, paper: tuple[float, float]) -> Scale:
        """A scale with everything that is drawn on it, rare extremes apart."""
        gains = [each.gain for row in rows for each in row.others if each.gain is not None]
        if speed:
            gains = [min(each, _MOST_SPEED) for each in (*gains, *paper, 1.0)]
            return cls(True, min(gains) * 0.85, max(gains) * 1.12, paper)
        low = max(_LEAST_SAVED, min([*gains, 0.0]))
        return cls(False, min(-0.1, low - 0.05), 1.0, paper)

    @property
    def neutral(self) -> float:
        """Where ours stands: nothing gained."""
        return 1.0 if self.speed else 0.0

    @property
    def title(self) -> str:
        """What is on the axis, with its unit."""
        return "times as fast as a baseline (log scale)" if self.speed else "energy saved against a baseline (%)"

    @property
    def paper_words(self) -> str:
        """The paper's range in words."""
        return f"the paper's own: {range_words(self.paper, self.speed)}"

    def axis(self, start_px: float, stop_px: float) -> svg.Axis:
        """The axis in pixels."""
        if self.speed:
            return svg.Axis(math.log10(self.low), math.log10(self.high), start_px, stop_px)
        return svg.Axis(self.low, self.high, start_px, stop_px, 0.01)

    def on(self, gain: float) -> float:
        """A gain as the axis counts, its ends at most."""
        kept = min(max(gain, self.low), self.high)
        return math.log10(kept) if self.speed else kept

    def ticks(self) -> list[tuple[float, str]]:
        """Round gains with their labels."""
        if not self.speed:
            ticks = self.axis(0.0, 1.0).ticks(6)
            return list(ticks)
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1, 2, 5), (1,)):  # the first that leaves room between labels
            values = [step * 10.0**power for power in powers for step in steps]
            values = [value for value in values if self.low <= value <= self.high]
            if len(values) <= _MOST_TICKS:
                break
        return [(value, f"{value:g}x") for value in values]


def range_words(gains: tuple[float, float], speed: bool) -> str:
    """A range of gains: ``1.1-6.3x`` or ``21-82 %``."""
    low, high = gains
    return f"{low:.3g}-{high:.3g}x" if speed else f"{100 * low:.3g}-{100 * high:.3g} %"


def legend(rows: Sequence[HeadlineRow], scale: Scale) -> list[tuple[str, str]]:
    """Marks, drawn in 14 by 14 pixels, with what each of them means."""
    others = [each for row in rows for each in row.others]
    entries = [(_ours_line(7, 0, 14), "ours: where nothing is gained")]
    strongest = f"strongest baseline{'' if scale.speed else ' that keeps as much QoE'}"
    if any(row.verdict in ("gain", "nothing") for row in rows):
        entries.append((_strongest(7, 7, False), strongest))
    if any(row.verdict == "worse" for row in rows):
        entries.append((_strongest(7, 7, True), f"{strongest}, better than ours"))
    for transfers, what in (("list-scheduled", "list-scheduled"), ("fair-shared", "sharing the network fairly")):
        if any(each.transfers == transfers and each.gain is not None for each in others):
            entries.append((_plain(7, 7, transfers), f"another one, transfers {what}"))
    if any(_uncomparable(each) for each in others):
        entries.append((_cross(7, 7), "keeps less QoE than ours: not compared"))
    if any(_beyond(each, scale) for each in others):
        entries.append((_arrow(7, 7, True), "beyond the axis"))
    entries.append((_band(1, 12, 1, 12), f"{scale.paper_words}, on its deployments and against its baselines"))
    return entries


def dots_svg(rows: Sequence[HeadlineRow], scale: Scale, title: str, verdicts: Sequence[str]) -> str:
    """One chart.

    Parameters
    ----------
    rows
        In the order in which they are drawn; one heading for each deployment in a row.
    scale
        The axis.
    title
        What stands above it.
    verdicts
        What stands at the right of each row: the gain over the strongest baseline, in words.
    """
    return _Dots(rows, scale, title, verdicts).draw()


class _Dots:
    """The chart."""

    width, left, right, top, bottom = 418.0, 138.0, 88.0, 46.0, 44.0
    row_px, heading_px = 19.0, 23.0

    def __init__(self, rows: Sequence[HeadlineRow], scale: Scale, title: str, verdicts: Sequence[str]) -> None:
        self.rows, self.scale, self.title, self.verdicts = rows, scale, title, verdicts
        self.x = scale.axis(self.left, self.width - self.right)
        self.headings: list[tuple[float, str]] = []
        self.at_px: list[float] = []
        below, place = self.top, None
        for row in rows:
            if row.deployment != place:
                place = row.deployment
                self.headings.append((below + self.heading_px - 6, place))
                below += self.heading_px
            self.at_px.append(below + self.row_px / 2)
            below += self.row_px
        self.floor = below + 4

    def draw(self) -> str:
        """The figure."""
        said = f"{self.title}: {self.scale.title} in {counted(len(self.rows), 'setting')}"
        body = [*self._frame(), *self._paper(), *self._ours(), *self._labels()]
        for row, y in zip(self.rows, self.at_px, strict=True):
            body += self._marks(row, y)
        return svg.figure(self.width, self.floor + self.bottom, said, body)

    def _frame(self) -> Iterator[str]:
        yield svg.text(0, 14, self.title, more='font-weight="600"')
        for value, label in self.scale.ticks():
            at = self._px(value)
            yield svg.line(at, self.top, at, self.floor, 0.12)
            yield svg.text(at, self.floor + 15, label, anchor="middle", opacity=0.8)
        yield svg.line(self.x.start_px, self.floor, self.x.stop_px, self.floor, 0.6)
        middle = (self.x.start_px + self.x.stop_px) / 2
        yield svg.text(middle, self.floor + 34, self.scale.title, anchor="middle")

    def _paper(self) -> Iterator[str]:
        start, stop = (self._px(gain) for gain in self.scale.paper)
        yield _band(start, stop, self.top, self.floor)
        label = self.scale.paper_words
        half = svg.text_width(label) / 2
        middle = max((start + stop) / 2, self.left + half)
        yield svg.text(min(middle, self.x.stop_px + 6 - half), self.top - 6, label, anchor="middle", opacity=0.8)

    def _ours(self) -> Iterator[str]:
        yield _ours_line(self._px(self.scale.neutral), self.top, self.floor)

    def _labels(self) -> Iterator[str]:
        yield svg.text(self.width, self.top - 20, "over the strongest", anchor="end", opacity=0.8)
        for y, heading in self.headings:
            yield svg.text(0, y, _short(heading, self.left), more='font-weight="600"')
        for row, y, verdict in zip(self.rows, self.at_px, self.verdicts, strict=True):
            yield svg.line(self.x.start_px, y, self.x.stop_px, y, 0.12)
            yield svg.text(8, y + 4, _short(f"{row.model}, {row.mode}", self.left - 8))
            yield svg.text(self.width, y + 4, verdict, anchor="end", opacity=1 if row.verdict != "nothing" else 0.8)

    def _marks(self, row: HeadlineRow, y: float) -> Iterator[str]:
        """The strongest last, so that nothing covers it."""
        best = row.strongest
        for each in sorted(row.others, key=lambda each: each == best):
            if each.apparent is None:
                continue
            at = self._px(each.apparent)
            if _beyond(each, self.scale):
                mark = _arrow(at, y, each.apparent < self.scale.low)
            elif each == best:
                mark = _strongest(at, y, row.verdict == "worse")
            else:
                mark = _cross(at, y) if _uncomparable(each) else _plain(at, y, each.transfers)
            yield f"<g>{mark}<title>{attribute(self._tip(row, each))}</title></g>"

    def _tip(self, row: HeadlineRow, each: Answer) -> str:
        say = words.seconds_words if self.scale.speed else words.joules_words
        figures = f"{say(each.value or math.nan)}, ours {say(row.value or math.nan)}"
        kept = f"QoE kept {100 * each.qoe_kept:.3g} %, ours {100 * row.qoe_kept:.3g} %"
        return words.one_line(f"{each.planner}, {each.transfers}: {figures}; {kept}")

    def _px(self, gain: float) -> float:
        return self.x.at(self.scale.on(gain))


def _uncomparable(each: Answer) -> bool:
    return each.gain is None and each.apparent is not None


def _beyond(each: Answer, scale: Scale) -> bool:
    return each.apparent is not None and not scale.low <= each.apparent <= scale.high


def _short(text: str, width_px: float) -> str:
    return words.shorten(words.one_line(text), int(width_px / svg.CHARACTER_PX))


def _ours_line(x: float, top: float, bottom: float) -> str:
    ends = f'x1="{svg.number(x)}" x2="{svg.number(x)}" y1="{svg.number(top)}" y2="{svg.number(bottom)}"'
    return f'<line {ends} stroke="{_OURS}" stroke-width="2"/>'


def _band(start: float, stop: float, top: float, bottom: float) -> str:
    box = f'x="{svg.number(start)}" y="{svg.number(top)}" width="{svg.number(stop - start)}"'
    fill = f'<rect {box} height="{svg.number(bottom - top)}" fill="{_PAPER}" fill-opacity="0.15"/>'
    edges = "".join(f"M{svg.number(at)} {svg.number(top)}V{svg.number(bottom)}" for at in (start, stop))
    return f'{fill}<path d="{edges}" stroke="{_PAPER}" stroke-dasharray="3 3"/>'


def _strongest(x: float, y: float, better: bool) -> str:
    if better:  # a shape of its own as well as a colour
        d = f"M{svg.number(x)} {svg.number(y - 6.5)}l6.5 6.5l-6.5 6.5l-6.5 -6.5z"
        return f'<path d="{d}" fill="{_BETTER}"/>'
    return f'<circle cx="{svg.number(x)}" cy="{svg.number(y)}" r="5.5" fill="{_STRONGEST}"/>'


def _plain(x: float, y: float, transfers: str) -> str:
    """A ring, or a dot that fits into it: often both stand at the same place."""
    centre = f'cx="{svg.number(x)}" cy="{svg.number(y)}"'
    if transfers == "list-scheduled":
        return f'<circle {centre} r="4.5" fill="none" stroke="{_OTHER}" stroke-width="1.5"/>'
    return f'<circle {centre} r="2" fill="{_OTHER}"/>'


def _cross(x: float, y: float) -> str:
    d = f"M{svg.number(x - 3.5)} {svg.number(y - 3.5)}l7 7m0 -7l-7 7"
    return f'<path d="{d}" fill="none" stroke="{_OTHER}" stroke-width="1.5" stroke-opacity="0.8"/>'


def _arrow(x: float, y: float, leftwards: bool) -> str:
    d = f"M{svg.number(x)} {svg.number(y)}l{'7 -5v10' if leftwards else '-7 -5v10'}z"
    return f'<path d="{d}" fill="none" stroke="{_OTHER}" stroke-width="1.5"/>'
