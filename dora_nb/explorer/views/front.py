"""The trade-off between latency and energy: plans, baselines, limits, what is dominated and what is proven."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.domain.rating import qoe_value
from dora_nb.domain.record import Record
from dora_nb.domain.workload import Mode
from dora_nb.errors import InputError
from dora_nb.render import svg, words
from dora_nb.render.envelope import Envelope, Point, bounds_hold, proven_for
from dora_nb.render.front import near_baselines
from dora_nb.units import counted

#: Ticks of an axis at most, and how many fine steps lie between two of them.
_MOST_TICKS, _FINE_STEPS = 7, 20

#: Room around the plans and baselines: as a share of what they span, and at least as a share of the largest.
_ROOM, _LEAST_ROOM = 0.1, 0.02

#: Times the slowest or hungriest plan beyond which a baseline or a limit is not drawn: people look closer here than in
#: a figure on paper, and zero need not be on an axis of positions.
_FAR = 2.0


class Tick(NamedTuple):
    """A number on an axis and how it is written."""

    value: float
    label: str


class AxisView(Record):
    """One axis.

    Attributes
    ----------
    low, high
        Its ends, in SI units. They move in large steps: a limit that moves a little does not move the axis.
    step
        The smallest sensible change of a limit on it.
    scale, unit
        A number is divided by ``scale`` to be shown in ``unit``.
    title
        With the unit.
    ticks
        Round numbers on it.
    """

    low: float
    high: float
    step: float
    scale: float
    unit: str
    title: str
    ticks: tuple[Tick, ...]


class FrontPoint(Record):
    """A plan or a baseline.

    Attributes
    ----------
    mark
        What it is called in tables and figures that belong together.
    label
        What it is best at.
    latency_s, energy_j
        Predicted, energy under the QoE's accounting.
    period_s
        In a stream: the shortest time between requests that it keeps up with; None in other modes.
    gap
        To the bound of its certificate; None without one.
    missed
        What it does not keep, hard or soft: ``latency``, ``energy``, ``throughput``, ``battery of phone``, ``memory of
        hub``.
    lines
        All of this in words, line by line.
    """

    mark: str
    label: str
    latency_s: float
    energy_j: float
    period_s: float | None = None
    gap: float | None = None
    missed: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()

    @property
    def keeps(self) -> bool:
        """Whether it keeps every limit."""
        return not self.missed


class FrontView(Record):
    """The trade-off between latency and energy.

    Attributes
    ----------
    title
        What a screen reader says first.
    points
        The plans, in the order of the plan set.
    baselines
        Those near enough to be drawn.
    notes
        A sentence for each that is not.
    latency_limit_s, energy_limit_j
        The limits, or None.
    latency_limit_words, energy_limit_words
        What kind each is: ``latency limit``, or ``soft latency limit``.
    latency, energy
        The axes.
    dominated
        Corners of the staircase above and right of which one of the plans is better in both; from the top left.
    proven
        Corners of the line below which there is no plan; from the top left. It ends where nothing is proven beyond, and
        is empty where nothing is proven at all.
    proven_words
        What that line says, and for which plans.
    """

    title: str
    points: tuple[FrontPoint, ...]
    baselines: tuple[FrontPoint, ...] = ()
    notes: tuple[str, ...] = ()
    latency_limit_s: float | None = None
    energy_limit_j: float | None = None
    latency_limit_words: str = "latency limit"
    energy_limit_words: str = "energy limit"
    latency: AxisView
    energy: AxisView
    dominated: tuple[Point, ...]
    proven: tuple[Point, ...]
    proven_words: str = ""


def front_view(plan_set: PlanSet, qoe: QoE | None = None, baselines: Sequence[Plan] | None = None) -> FrontView:
    """What a plot of a plan set shows.

    Parameters
    ----------
    plan_set
        Whose plans were predicted.
    qoe
        The limits to show; None: those that were asked for.
    baselines
        What to compare with; None: the set's own, which are planned when first asked for.

    Raises
    ------
    InputError
        As :func:`front_of_plans`.
    """
    qoe = plan_set.qoe if qoe is None else qoe
    envelope = Envelope()
    if bounds_hold(plan_set.qoe, qoe):
        envelope = proven_for(plan_set)
    return front_of_plans(
        plan_set.plans,
        qoe,
        plan_set.workload.mode,
        baselines=plan_set.baselines if baselines is None else baselines,
        envelope=envelope,
    )


def front_of_plans(
    plans: Sequence[Plan], qoe: QoE, mode: Mode, *, baselines: Sequence[Plan] = (), envelope: Envelope | None = None
) -> FrontView:
    """What a plot of some plans shows.

    Parameters
    ----------
    plans
        With their predictions.
    qoe
        The limits to show, and whose energy counts.
    mode
        Of the workload.
    baselines
        What to compare with; those without a prediction are left out.
    envelope
        What is proven about every plan, see :mod:`dora_nb.render.envelope`; None: nothing.

    Raises
    ------
    InputError
        If there is no plan, or one was never evaluated.
    """
    if not plans:
        raise InputError("plans", plans, "at least one plan")
    for index, plan in enumerate(plans):
        if plan.prediction is None:
            raise InputError(f"plans[{index}].prediction", None, "a prediction; dora_nb.evaluate makes one")
    envelope = Envelope() if envelope is None else envelope
    points = [_point(plan, words.plan_mark(index), qoe, mode) for index, plan in enumerate(plans)]
    near, notes = near_baselines(plans, baselines, qoe.energy_accounting, _FAR)
    marks = {id(plan): words.baseline_mark(index) for index, plan in enumerate(baselines)}
    compared = [_point(plan, marks[id(plan)], qoe, mode, baseline=True) for plan in near]
    seconds = [each.latency_s for each in (*points, *compared)]
    joules = [each.energy_j for each in (*points, *compared)]
    floor_j = envelope.floor_j(max(each.latency_s for each in points))
    latency = _axis("latency", _with_bound(seconds, envelope.least_s), qoe.latency_s, svg.time_scale(max(seconds)))
    energy = _axis(
        f"energy, {qoe.energy_accounting}", _with_bound(joules, floor_j), qoe.energy_j, svg.energy_scale(max(joules))
    )
    proven = envelope.corners(latency.low, latency.high, energy.high)
    return FrontView(
        title=f"Latency against energy of {counted(len(points), 'plan')} and "
        f"{counted(len(compared), 'baseline')}, predicted",
        points=tuple(points),
        baselines=tuple(compared),
        notes=tuple(words.one_line(note) for note in notes),
        latency_limit_s=qoe.latency_s,
        energy_limit_j=qoe.energy_j,
        latency_limit_words=f"{'' if qoe.latency_price is None else 'soft '}latency limit",
        energy_limit_words=f"{'' if qoe.energy_price is None else 'soft '}energy limit",
        latency=latency,
        energy=energy,
        dominated=_staircase(points),
        proven=proven,
        proven_words=_proven_words(plans, qoe) if proven else "",
    )


def _with_bound(values: Sequence[float], bound: float) -> list[float]:
    """A bound near the plans counts as one of the numbers to show; one far below would squeeze them."""
    return [*values, bound] if bound >= min(values) / _FAR else list(values)


def _point(plan: Plan, mark: str, qoe: QoE, mode: Mode, baseline: bool = False) -> FrontPoint:
    prediction = plan.prediction
    assert prediction is not None, "only evaluated plans are drawn"
    latency_s, energy_j = prediction.makespan_s, prediction.energy_j(qoe.energy_accounting)
    names = {"battery": "battery of {}", "headroom": "memory of {}"}
    broken = qoe_value(prediction, qoe).broken
    missed = tuple(dict.fromkeys(names.get(limit.term, limit.term).format(limit.device) for limit in broken))
    label = words.one_line(plan.label or "plan")
    lines = [
        f"{mark} {label}{' (baseline)' if baseline else ''}",
        f"{words.seconds_words(latency_s)}, {words.joules_words(energy_j)} (predicted)",
        f"{counted(len(plan.devices), 'device')} in {counted(len(plan.stages), 'stage')}",
        words.pace_words(plan, mode),
        "" if plan.certificate is None else f"{plan.certificate.status}: gap {words.gap_words(plan)}",
        f"misses {words.sentence(missed)}" if missed else "",
    ]
    return FrontPoint(
        mark=mark,
        label=label,
        latency_s=latency_s,
        energy_j=energy_j,
        period_s=prediction.period_s if mode == "stream" else None,
        gap=None if plan.certificate is None else plan.certificate.gap,
        missed=missed,
        lines=tuple(words.one_line(line) for line in lines if line),
    )


def _axis(name: str, values: Sequence[float], limit: float | None, scale: tuple[float, str]) -> AxisView:
    """An axis for some numbers that also holds a limit, unless that is too far off to be drawn.

    Its ends are multiples of half the distance between its ticks, and a limit between them does not move them.
    """
    least, most = min(values), max(values)
    room = max(_ROOM * (most - least), _LEAST_ROOM * most) or 1.0
    low, high = _rounded(least - room, most + room, scale)
    if limit is not None and high < limit <= _FAR * most:
        low, high = _rounded(low, limit + room, scale)
    if limit is not None and limit < low:
        low, high = _rounded(limit - room, high, scale)
    ticks = svg.Axis(low, high, 0.0, 1.0, *scale).ticks(_MOST_TICKS)
    apart = ticks[1][0] - ticks[0][0]
    return AxisView(
        low=low,
        high=high,
        step=apart / _FINE_STEPS,
        scale=scale[0],
        unit=scale[1],
        title=f"{name} ({scale[1]})",
        ticks=tuple(Tick(*each) for each in ticks),
    )


def _rounded(low: float, high: float, scale: tuple[float, str]) -> tuple[float, float]:
    """Both ends moved outwards to multiples of half the distance between ticks, none below zero."""
    low = max(0.0, low)
    ticks = svg.Axis(low, high, 0.0, 1.0, *scale).ticks(_MOST_TICKS)
    half = (ticks[1][0] - ticks[0][0]) / 2
    return math.floor(low / half + 1e-9) * half, math.ceil(high / half - 1e-9) * half


def _staircase(points: Iterable[FrontPoint]) -> tuple[Point, ...]:
    """Corners of what the plans dominate: for each that is on the front, where its step begins and ends."""
    corners: list[Point] = []
    least_j = math.inf
    for latency_s, energy_j in sorted((each.latency_s, each.energy_j) for each in points):
        if energy_j >= least_j:
            continue
        if corners:
            corners.append((latency_s, least_j))
        corners.append((latency_s, energy_j))
        least_j = energy_j
    return tuple(corners)


def _proven_words(plans: Iterable[Plan], qoe: QoE) -> str:
    scopes = dict.fromkeys(plan.certificate.scope for plan in plans if plan.certificate is not None)
    names = {"battery": "batteries", "headroom": "memory"}
    own = [names[term] for term in qoe.hard if term in names]
    limits = f" that keeps the limits on {words.sentence(own)}" if own else ""
    return f"Proven: no plan considered{limits} lies below this line{_in_brackets('; '.join(scopes))}."


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""
