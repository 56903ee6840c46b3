"""The Pareto front of a plan set as SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import EnergyAccounting
from dora_nb.render import svg, words
from dora_nb.render.envelope import Point, proven_for
from dora_nb.render.svg import attribute
from dora_nb.units import counted

_PLAN, _LIMIT, _BASELINE = "#0a7fc2", "#d55e00", "#8a8a8a"

_BOUND_STYLE = 'fill="none" stroke="currentColor" stroke-opacity="0.6" stroke-width="1.2"'

#: Times the slowest or hungriest plan beyond which a baseline or a limit is said in words instead of drawn.
FAR = 3.0


def front_svg(plan_set: PlanSet) -> str:
    """Latency against energy: plans as dots, baselines as hollow circles, limits as dashed lines, what no plan can be.

    Baselines more than three times as slow or as hungry as every plan are named below the figure instead, and so is a
    limit that far away: they would squeeze the plans into a corner.
    """
    return _Front(plan_set).draw()


def near_baselines(
    plans: Iterable[Plan], baselines: Iterable[Plan], accounting: EnergyAccounting, far: float = FAR
) -> tuple[list[Plan], list[str]]:
    """The baselines that are drawn with plans, and a sentence for each that is too far off.

    Far off is what takes more than ``far`` times the makespan or the energy of every plan.
    """
    energy_j, plans = words.energy_of(accounting), list(plans)
    slowest_s = far * max(map(words.makespan_s, plans))
    hungriest_j = far * max(map(energy_j, plans))
    near, notes = [], []
    for plan in baselines:
        if plan.prediction is None:
            continue
        if words.makespan_s(plan) <= slowest_s and energy_j(plan) <= hungriest_j:
            near.append(plan)
        else:
            figures = f"{words.seconds_words(words.makespan_s(plan))}, {words.joules_words(energy_j(plan))}"
            notes.append(f"not drawn, far off: {plan.label} ({figures})")
    return near, notes


class _Front:
    """The Pareto front of a plan set."""

    width, height = 640.0, 340.0
    left, right, top, bottom = 66.0, 16.0, 34.0, 46.0

    def __init__(self, plan_set: PlanSet) -> None:
        self.qoe = plan_set.qoe
        self.energy_j = words.energy_of(self.qoe.energy_accounting)
        self.plans = [plan for plan in plan_set.plans if plan.prediction is not None]
        self.marks = {id(plan): words.plan_mark(index) for index, plan in enumerate(plan_set.plans)}
        self.marks |= {id(plan): words.baseline_mark(index) for index, plan in enumerate(plan_set.baselines)}
        if self.plans:
            self._choose(plan_set)

    def _choose(self, plan_set: PlanSet) -> None:
        self.baselines, self.notes = near_baselines(self.plans, plan_set.baselines, self.qoe.energy_accounting)
        drawn = [*self.plans, *self.baselines]
        slowest_s = FAR * max(map(words.makespan_s, self.plans))
        hungriest_j = FAR * max(map(self.energy_j, self.plans))
        self.latency_limit_s = self._limit(self.qoe.latency_s, slowest_s, "latency", words.seconds_words)
        self.energy_limit_j = self._limit(self.qoe.energy_j, hungriest_j, "energy", words.joules_words)
        seconds = [*map(words.makespan_s, drawn), *_known(self.latency_limit_s)]
        joules = [*map(self.energy_j, drawn), *_known(self.energy_limit_j)]
        self.x = _axis(seconds, self.left, self.width - self.right, svg.time_scale(max(seconds)))
        self.y = _axis(joules, self.height - self.bottom, self.top, svg.energy_scale(max(joules)), headroom=0.15)
        self.proven = self._proven_px(proven_for(plan_set).corners(self.x.low, self.x.high, self.y.high))

    def _proven_px(self, corners: Iterable[Point]) -> list[tuple[float, float]]:
        """The line below which there is no plan, where it is in the figure."""
        return [(self.x.at(seconds), self.y.at(max(joules, self.y.low))) for seconds, joules in corners]

    def _limit(self, limit: float | None, most: float, name: str, say: Callable[[float], str]) -> float | None:
        if limit is None or limit <= most:
            return limit
        self.notes.append(f"not drawn, far off: the {name} limit of {say(limit)}")
        return None

    def draw(self) -> str:
        """The figure; empty when no plan was evaluated."""
        if not self.plans:
            return ""
        title = f"Latency against energy of {counted(len(self.plans), 'plan')} and {len(self.baselines)} baselines"
        note_px = 16.0 * len(self.notes)
        body = [*self._axes(), *self._bound(), *self._limits(), *self._marks(), *self._legend(), *self._notes()]
        return svg.figure(self.width, self.height + note_px, title, body)

    def _axes(self) -> Iterable[str]:
        floor, ceiling = self.y.start_px, self.y.stop_px
        for value, label in self.x.ticks(7):
            at = self.x.at(value)
            yield svg.line(at, floor, at, ceiling, 0.12)
            yield svg.text(at, floor + 16, label, anchor="middle", opacity=0.8)
        for value, label in self.y.ticks(6):
            at = self.y.at(value)
            yield svg.line(self.x.start_px, at, self.x.stop_px, at, 0.12)
            yield svg.text(self.x.start_px - 7, at + 4, label, anchor="end", opacity=0.8)
        yield svg.line(self.x.start_px, floor, self.x.stop_px, floor, 0.6)
        yield svg.line(self.x.start_px, floor, self.x.start_px, ceiling, 0.6)
        yield svg.text((self.x.start_px + self.x.stop_px) / 2, floor + 36, f"latency ({self.x.unit})", anchor="middle")
        middle = (floor + ceiling) / 2
        energy = f"energy, {self.qoe.energy_accounting} ({self.y.unit})"
        yield svg.text(14, middle, energy, anchor="middle", more=f'transform="rotate(-90 14 {svg.number(middle)})"')

    def _bound(self) -> Iterable[str]:
        if not self.proven:
            return
        (left, floor), (_, first), (last, _) = (self.x.start_px, self.y.start_px), self.proven[0], self.proven[-1]
        line = [f"{svg.number(x)},{svg.number(y)}" for x, y in self.proven]
        around = [f"{svg.number(x)},{svg.number(y)}" for x, y in ((last, floor), (left, floor), (left, first))]
        tip = "<title>proven: no plan considered lies below this line</title>"
        yield f'<polygon points="{" ".join([*line, *around])}" fill="currentColor" fill-opacity="0.08">{tip}</polygon>'
        yield f'<polyline points="{" ".join(line)}" {_BOUND_STYLE}/>'

    def _limits(self) -> Iterable[str]:
        style = f'stroke="{_LIMIT}" stroke-width="1.5" stroke-dasharray="6 4"'
        if self.latency_limit_s is not None:
            at = svg.number(self.x.at(self.latency_limit_s))
            ends = f'y1="{svg.number(self.y.start_px)}" y2="{svg.number(self.y.stop_px)}"'
            title = f"latency limit {words.seconds_words(self.latency_limit_s)}"
            yield f'<line x1="{at}" x2="{at}" {ends} {style}><title>{title}</title></line>'
        if self.energy_limit_j is not None:
            at = svg.number(self.y.at(self.energy_limit_j))
            ends = f'x1="{svg.number(self.x.start_px)}" x2="{svg.number(self.x.stop_px)}"'
            title = f"energy limit {words.joules_words(self.energy_limit_j)}"
            yield f'<line y1="{at}" y2="{at}" {ends} {style}><title>{title}</title></line>'

    def _marks(self) -> Iterable[str]:
        drawn = [*self.plans, *self.baselines]
        points = [(self.x.at(words.makespan_s(plan)), self.y.at(self.energy_j(plan))) for plan in drawn]
        front = points[: len(self.plans)]
        path = " ".join(f"{svg.number(x)},{svg.number(y)}" for x, y in sorted(front))
        yield f'<polyline points="{path}" fill="none" stroke="{_PLAN}" stroke-width="1.5" stroke-opacity="0.45"/>'
        for plan, (x, y) in zip(drawn, points, strict=True):
            kind = "baseline: " if plan in self.baselines else ""
            energy = words.joules_words(self.energy_j(plan))
            tip = attribute(f"{kind}{plan.label}: {words.seconds_words(words.makespan_s(plan))}, {energy}")
            look = f'fill="{_PLAN}"' if not kind else f'fill="none" stroke="{_BASELINE}" stroke-width="2"'
            radius = "5" if not kind else "5.5"
            yield f'<circle cx="{svg.number(x)}" cy="{svg.number(y)}" r="{radius}" {look}><title>{tip}</title></circle>'
        for label, plan in zip(self._labels(drawn, points), drawn, strict=True):
            if label is not None:
                faint = 0.75 if plan in self.baselines else 1.0
                yield svg.text(label.x, label.y, label.content, anchor=label.anchor, opacity=faint)

    def _labels(self, drawn: Sequence[Plan], points: Sequence[tuple[float, float]]) -> list[svg.Placed | None]:
        choices = []
        for plan in drawn:
            mark = self.marks[id(plan)]
            choices.append([f"{mark} {words.shorten(words.one_line(plan.label or 'plan'), 34)}", mark])
        frame = svg.Box(self.x.start_px + 2, self.y.stop_px, self.x.stop_px, self.y.start_px - 2)
        taken = []
        if self.latency_limit_s is not None:
            at = self.x.at(self.latency_limit_s)
            taken.append(svg.Box(at - 1, frame.top, at + 1, frame.bottom))
        if self.energy_limit_j is not None:
            at = self.y.at(self.energy_limit_j)
            taken.append(svg.Box(frame.left, at - 1, frame.right, at + 1))
        front = sorted(points[: len(self.plans)])
        for start, stop in (*pairwise(front), *pairwise(self.proven)):
            taken.extend(svg.boxes_along(start, stop))
        return svg.place_labels(points, choices, frame, taken)

    def _legend(self) -> Iterable[str]:
        x, y = self.x.start_px + 4, 14.0
        limits = []
        if self.latency_limit_s is not None:
            limits.append(f"latency limit {words.seconds_words(self.latency_limit_s)}")
        if self.energy_limit_j is not None:
            limits.append(f"energy limit {words.joules_words(self.energy_limit_j)}")
        entries = [("plan", f'<circle cx="{{x}}" cy="{y - 4}" r="5" fill="{_PLAN}"/>', 9.0)]
        if self.baselines:
            hollow = f'<circle cx="{{x}}" cy="{y - 4}" r="4.5" fill="none" stroke="{_BASELINE}" stroke-width="2"/>'
            entries.append(("baseline", hollow, 9.0))
        if limits:
            dashed = (
                f'<line x1="{{x}}" x2="{{end}}" y1="{y - 4}" y2="{y - 4}" stroke="{_LIMIT}" stroke-width="1.5" '
                'stroke-dasharray="6 4"/>'
            )
            entries.append((", ".join(limits), dashed, 28.0))
        if self.proven:
            area = f'<rect x="{{x}}" y="{y - 9}" width="22" height="10" fill="currentColor" fill-opacity="0.08"/>'
            edge = f'<line x1="{{x}}" x2="{{end}}" y1="{y - 9}" y2="{y - 9}" {_BOUND_STYLE}/>'
            entries.append(("proven: no plan", area + edge, 28.0))
        for label, mark, gap in entries:
            yield mark.format(x=svg.number(x), end=svg.number(x + 22))
            yield svg.text(x + gap, y, label)
            x += gap + svg.text_width(label) + 18

    def _notes(self) -> Iterable[str]:
        for index, note in enumerate(self.notes):
            yield svg.text(self.left, self.height + 6 + 16 * index, words.shorten(note, 78), opacity=0.8)


def _known(limit: float | None) -> list[float]:
    return [] if limit is None else [limit]


def _axis(
    values: Sequence[float], start_px: float, stop_px: float, scale: tuple[float, str], headroom: float = 0.08
) -> svg.Axis:
    """From zero, or from below the smallest number where all are close together; a single one is not in a corner."""
    low, high = min(values), max(values)
    if high <= 0:
        low, high = 0.0, 1.0
    low = 0.0 if low < 0.5 * high else max(0.0, low - max(0.35 * (high - low), 0.04 * high))
    return svg.Axis(low, high + max(headroom * (high - low), 0.02 * high), start_px, stop_px, *scale)
