"""A plan in a situation, and the figures of two of them side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from dora_nb.costs.media import held_s
from dora_nb.costs.network import Network
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.prediction import Prediction
from dora_nb.domain.qoe import ROUNDING, EnergyAccounting
from dora_nb.domain.record import Record
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.render import words
from dora_nb.render.media import BUSIEST_WORDS
from dora_nb.units import format_bytes, format_joules, format_seconds


@dataclass(frozen=True)
class Case:
    """A plan in a situation.

    Attributes
    ----------
    plan
        With its prediction in this situation.
    workload, cluster
        The situation.
    name
        What it is called; empty: by the plan's label.
    """

    plan: Plan
    workload: Workload
    cluster: Cluster
    name: str = ""

    @property
    def figures(self) -> Prediction:
        """What is predicted.

        Raises
        ------
        InputError
            If the plan was not evaluated.
        """
        if self.plan.prediction is None:
            raise InputError("plan.prediction", None, "a plan that was evaluated")
        return self.plan.prediction


class Figure(Record):
    """One figure before and after.

    Attributes
    ----------
    group
        Of the whole plan, memory by device, or seconds that domains are held.
    name
        What it is: ``latency``, ``memory of phone``, ``airtime of wifi``.
    before, after
        In ``unit``; None where there is none.
    said
        Before, after and the change in words.
    """

    group: Literal["plan", "memory", "airtime"]
    name: str
    unit: Literal["s", "J", "bytes", "devices"]
    before: float | None
    after: float | None
    said: tuple[str, str, str]

    @property
    def change(self) -> float | None:
        """After minus before; None where one is missing."""
        return None if self.before is None or self.after is None else self.after - self.before


def figures_of(before: Case, after: Case, accounting: EnergyAccounting) -> Iterator[Figure]:
    """Figures of the whole plan, then memory by device, then how long domains are held."""
    yield from _whole(before, after, accounting)
    yield from _memory(before, after)
    yield from _airtime(before, after)


def _whole(before: Case, after: Case, accounting: EnergyAccounting) -> Iterator[Figure]:
    was, will = before.figures, after.figures
    other: EnergyAccounting = "all-on" if accounting == "participating" else "participating"
    yield _figure("plan", "latency", "s", was.makespan_s, will.makespan_s)
    yield _figure("plan", "period", "s", was.period_s, will.period_s)
    if was.first_token_s is not None or will.first_token_s is not None:
        yield _figure("plan", "first token", "s", was.first_token_s, will.first_token_s)
        yield _figure("plan", "next token", "s", was.token_s, will.token_s)
    for counted in (accounting, other):
        yield _figure("plan", f"energy, {counted}", "J", was.energy_j(counted), will.energy_j(counted))
    yield _figure("plan", "sent over the network", "bytes", was.network_bytes, will.network_bytes)
    yield _figure("plan", "devices", "devices", len(before.plan.devices), len(after.plan.devices))


def _memory(before: Case, after: Case) -> Iterator[Figure]:
    was, will = (
        {f"memory of {each.device}": each.memory_bytes for each in case.figures.devices} for case in (before, after)
    )
    yield from _by_name("memory", "bytes", was, will)


def _airtime(before: Case, after: Case) -> Iterator[Figure]:
    yield from _by_name("airtime", "s", _busiest_s(before), _busiest_s(after))


def _busiest_s(case: Case) -> dict[str, float]:
    """Seconds that the busiest medium, port or link of every domain is held."""
    held, of = held_s(case.plan, case.workload, case.cluster), Network.of(case.cluster).domain_of
    return {
        f"{BUSIEST_WORDS[domain.kind]} of {domain.id}": max(
            (seconds for name, seconds in held.items() if of[name] == domain.id), default=0.0
        )
        for domain in case.cluster.domains
    }


def _by_name(
    group: Literal["memory", "airtime"],
    unit: Literal["s", "bytes"],
    was: Mapping[str, float],
    will: Mapping[str, float],
) -> Iterator[Figure]:
    for name in dict.fromkeys((*was, *will)):
        yield _figure(group, words.one_line(name), unit, was.get(name), will.get(name))


_SAY: dict[str, Callable[[float], str]] = {
    "s": format_seconds,
    "J": format_joules,
    "bytes": format_bytes,
    "devices": "{:.0f}".format,
}


def _figure(
    group: Literal["plan", "memory", "airtime"],
    name: str,
    unit: Literal["s", "J", "bytes", "devices"],
    before: float | None,
    after: float | None,
) -> Figure:
    say = _SAY[unit]

    def one(value: float | None) -> str:
        return words.NOTHING if value is None else say(value) if value else "0"

    change = words.NOTHING
    if before is not None and after is not None:
        change = _change_words(before, after, say)
    said = (one(before), one(after), change)
    return Figure(group=group, name=name, unit=unit, before=before, after=after, said=said)


def same_figures(before: float, after: float) -> bool:
    """Whether two figures differ by no more than rounding."""
    return abs(after - before) <= ROUNDING * max(abs(before), abs(after))


def _change_words(before: float, after: float, say: Callable[[float], str]) -> str:
    """``-3.1 s (-20 %)``."""
    change = after - before
    if same_figures(before, after):
        return "same"
    percent = 100 * change / before if before else 0.0
    share = f" ({percent:+.{0 if abs(percent) >= 10 else 1}f} %)" if 0 < abs(percent) < 1000 else ""
    return f"{'+' if change > 0 else ''}{say(change)}{share}"
