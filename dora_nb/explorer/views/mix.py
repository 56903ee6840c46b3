"""A composition: which share of the requests each plan takes in each condition, and how the limits are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from dora_nb.domain.composition import Composition, ConditionFigures, keeps
from dora_nb.domain.conditions import Condition
from dora_nb.domain.record import Record
from dora_nb.render import words
from dora_nb.render.composition import asked_lines, result_lines
from dora_nb.units import format_joules, format_seconds

#: Within this part of a limit, a figure is at it.
_NEAR = 0.0005


class MixPlan(Record):
    """A resident plan.

    Attributes
    ----------
    mark, label
        What it is called in tables and figures that belong together, and what it is best at.
    devices
        Who runs it.
    share
        Of the requests over all conditions.
    """

    mark: str
    label: str
    devices: tuple[str, ...]
    share: float


class LedgerEntry(Record):
    """A limit in one condition.

    Attributes
    ----------
    name
        ``latency`` and ``energy`` on the mean; ``over``: the share of the requests that exceed a limit.
    unit
        Of ``value`` and ``limit``.
    value, limit
        What is reached, and at most allowed.
    kept
        Whether it is.
    said
        All of it in words.
    """

    name: Literal["latency", "energy", "over"]
    unit: Literal["s", "J", "share"]
    value: float
    limit: float
    kept: bool
    said: str

    @property
    def margin(self) -> float:
        """What is left below the limit; negative beyond it."""
        return self.limit - self.value


class MixCondition(Record):
    """What the composition does in one condition.

    Attributes
    ----------
    name, probability
        Of the condition.
    counts
        Requests of a window that each plan takes.
    shares
        The same as shares of the window.
    mean_s, mean_j
        Expected seconds and joules of a request, changes of plans included.
    ledger
        Each limit.
    kept
        Whether all are kept.
    """

    name: str
    probability: float
    counts: tuple[int, ...]
    shares: tuple[float, ...]
    mean_s: float
    mean_j: float
    ledger: tuple[LedgerEntry, ...]
    kept: bool


class MixView(Record):
    """A composition.

    Attributes
    ----------
    title
        What it is, in a few words.
    asked
        What was asked.
    plans, conditions
        The resident plans, and what happens in each condition.
    window
        Requests (training: iterations) over which counts are whole numbers.
    mean_s, mean_j
        Expected over all conditions.
    kept_share
        Share of the requests that meet a condition in which all limits are kept.
    lines
        How good it is, in sentences.
    """

    title: str
    asked: str
    plans: tuple[MixPlan, ...]
    conditions: tuple[MixCondition, ...]
    window: int
    mean_s: float
    mean_j: float
    kept_share: float
    lines: tuple[str, ...]


def mix_view(mix: Composition) -> MixView:
    """What is shown of a composition."""
    title, asked = asked_lines(mix)
    chances = mix.conditions.probabilities
    plans = tuple(
        MixPlan(
            mark=words.plan_mark(index),
            label=words.one_line(plan.label or "plan"),
            devices=plan.devices,
            share=sum(chance * each.weights[index] for chance, each in zip(chances, mix.figures, strict=True)),
        )
        for index, plan in enumerate(mix.plans)
    )
    both = zip(mix.conditions.conditions, mix.figures, strict=True)
    conditions = tuple(_condition(mix, condition, figures) for condition, figures in both)
    return MixView(
        title=words.one_line(title),
        asked=words.one_line(asked),
        plans=plans,
        conditions=conditions,
        window=mix.window,
        mean_s=mix.expected_s,
        mean_j=mix.expected_j,
        kept_share=sum(each.probability for each in conditions if each.kept),
        lines=tuple(result_lines(mix)),
    )


def _condition(mix: Composition, condition: Condition, figures: ConditionFigures) -> MixCondition:
    return MixCondition(
        name=words.one_line(condition.name),
        probability=condition.probability,
        counts=figures.counts,
        shares=figures.weights,
        mean_s=figures.mean_s,
        mean_j=figures.mean_j,
        ledger=tuple(_ledger(mix, figures)),
        kept=figures.kept,
    )


def _ledger(mix: Composition, figures: ConditionFigures) -> Iterator[LedgerEntry]:
    qoe = mix.qoe
    if not qoe.limits_means:
        return
    if mix.keep == "tail":
        value, limit = figures.missed_share, mix.missed_share
        said = f"{100 * value:.3g} % over, {100 * limit:.3g} % allowed"
        yield LedgerEntry(name="over", unit="share", value=value, limit=limit, kept=figures.kept, said=said)
        return
    mean_s, mean_j = figures.mean_s, figures.mean_j
    if qoe.latency_s is not None:
        kept = keeps(mean_s, mean_j, 0.0, qoe.without("energy"), "mean", 0.0)
        said = _margin_words(mean_s, qoe.latency_s, kept, format_seconds)
        yield LedgerEntry(name="latency", unit="s", value=mean_s, limit=qoe.latency_s, kept=kept, said=said)
    if qoe.energy_j is not None:
        kept = keeps(mean_s, mean_j, 0.0, qoe.without("latency"), "mean", 0.0)
        said = _margin_words(mean_j, qoe.energy_j, kept, format_joules)
        yield LedgerEntry(name="energy", unit="J", value=mean_j, limit=qoe.energy_j, kept=kept, said=said)


def _margin_words(value: float, limit: float, kept: bool, say: Callable[[float], str]) -> str:
    """``4.2 s, 0.8 s below the limit``."""
    away = abs(limit - value)
    if kept and (value >= limit or away < _NEAR * limit):
        return f"{say(value)}, at the limit"
    return f"{say(value)}, {say(away)} {'below' if kept else 'above'} the limit"
