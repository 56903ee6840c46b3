"""What the resident plans would do in a condition, and what the condition may turn into."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dora_nb.adaptation.mix import cheapest_mix
from dora_nb.costs.conditions import under
from dora_nb.costs.table import CostTable, Floats
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.conditions import Condition
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import ROUNDING, QoE
from dora_nb.domain.workload import Workload

#: Slower by less than this, relatively, is no surprise.
NEWS = 0.1


@dataclass(frozen=True)
class Outlook:
    """Figures of every plan, as arrays over them; infinite where one cannot run.

    Attributes
    ----------
    condition, qoe
        The condition, and what is to be kept.
    makespan_s, energy_j
        Of one step.
    """

    condition: Condition
    qoe: QoE
    makespan_s: Floats
    energy_j: Floats

    @cached_property
    def cost(self) -> Floats:
        """What is minimised, for every plan."""
        return np.asarray(self.qoe.base(self.makespan_s, self.energy_j))

    @cached_property
    def fastest_s(self) -> float:
        """The shortest makespan."""
        return float(self.makespan_s.min())

    @cached_property
    def able(self) -> list[int]:
        """Plans that can run."""
        return [int(index) for index in np.flatnonzero(np.isfinite(self.makespan_s))]

    @cached_property
    def useful(self) -> list[int]:
        """Plans that can run, and than which none is both faster and thriftier (of two alike: the first)."""
        found: list[int] = []
        for index in sorted(self.able, key=lambda each: (self.makespan_s[each], self.energy_j[each])):
            if not found or self.energy_j[index] < self.energy_j[found[-1]]:
                found.append(index)
        return found

    @cached_property
    def by_cost(self) -> list[int]:
        """Plans that can run, the cheapest first."""
        return sorted(self.able, key=lambda index: float(self.cost[index]))

    def mix(self, latency_s: float, energy_j: float) -> dict[int, float]:
        """Shares of the plans in the cheapest mix whose means keep some limits."""
        own = self.useful
        shares = cheapest_mix(self.cost[own], [self.makespan_s[own], self.energy_j[own]], [latency_s, energy_j])
        return dict(zip(own, shares.tolist(), strict=True))

    @cached_property
    def in_reach(self) -> bool:
        """Whether some mix keeps the limits of a fresh window."""
        if not self.able:
            return False
        limits = (self.qoe.latency_s or math.inf, self.qoe.energy_j or math.inf)
        shares = self.mix(*limits)
        for figure, limit in zip((self.makespan_s, self.energy_j), limits, strict=True):
            if sum(share * float(figure[index]) for index, share in shares.items()) > limit * (1 + ROUNDING):
                return False
        return True


class Forecast:
    """Outlooks, each worked out once.

    Parameters
    ----------
    workload, cluster, table, qoe
        As for the adapter.
    """

    def __init__(self, workload: Workload, cluster: Cluster, table: CostTable, qoe: QoE) -> None:
        self.workload, self.cluster, self.table, self.qoe = workload, cluster, table, qoe
        self._known: dict[Hashable, Outlook] = {}

    def of(self, plans: Sequence[Plan], condition: Condition) -> Outlook:
        """What plans would do; the same plans as before unless :meth:`forget` was called."""
        key = key_of(condition)
        if key not in self._known:
            found = [(math.inf, math.inf)] * len(plans)
            if not set(condition.absent_devices) >= set(self.cluster.device_ids):
                place = under(self.cluster, self.table, condition)
                for number, plan in enumerate(plans):
                    if self._can_run(plan, condition):
                        figures = place.retimed(plan, self.workload)
                        assert figures is not None
                        found[number] = figures.makespan_s, figures.energy_j(self.qoe.energy_accounting)
            self._known[key] = Outlook(condition, self.qoe, *np.array(found).T)
        return self._known[key]

    def forget(self) -> None:
        """There are other plans now."""
        self._known.clear()

    def _can_run(self, plan: Plan, condition: Condition) -> bool:
        ends = [name for name in (self.workload.source, self.workload.sink) if name is not None]
        return not {*plan.devices, *ends} & set(condition.absent_devices)


class Surprises:
    """What has been seen to happen, and so may happen again: our own, and learnt as it goes.

    Parameters
    ----------
    domains
        Names of media; everything else that grows slow is a device.
    memory_s
        What was not seen for so many seconds is not expected any more.
    """

    def __init__(self, domains: Sequence[str], memory_s: float) -> None:
        self.domains, self.memory_s = tuple(domains), memory_s
        self._slowest: dict[str, tuple[float, float]] = {}  # how slow, and when that was seen last
        self._left: dict[str, float] = {}
        self._known: dict[Hashable, list[Condition]] = {}

    def note_slow(self, name: str, slowness: float, now_s: float) -> None:
        """A device or a medium takes so many times longer than planned."""
        slowest, _ = self._slowest.get(name, (1.0, 0.0))
        if slowness > slowest * (1 - NEWS):
            self._slowest[name] = max(slowness, slowest), now_s
            self._known.clear()

    def note_left(self, name: str, now_s: float) -> None:
        """A device has left."""
        self._left[name] = now_s
        self._known.clear()

    @property
    def any(self) -> bool:
        """Whether something has happened lately."""
        return bool(self._slowest or self._left)

    def after(self, condition: Condition, now_s: float) -> list[Condition]:
        """The same condition with one device or medium as slow as it has been, or a device away that once was."""
        since_s = now_s - self.memory_s
        seen_s = [*self._left.values(), *(at_s for _, at_s in self._slowest.values())]
        if min(seen_s, default=now_s) < since_s:
            self._slowest = {name: seen for name, seen in self._slowest.items() if seen[1] >= since_s}
            self._left = {name: at_s for name, at_s in self._left.items() if at_s >= since_s}
            self._known.clear()
        key = key_of(condition)
        if key not in self._known:
            self._known[key] = [*self._slower(condition), *self._without(condition)]
        return self._known[key]

    def _slower(self, condition: Condition) -> list[Condition]:
        found = []
        for name, (slowness, _) in self._slowest.items():
            field = "domain_rate_factors" if name in self.domains else "device_speed_factors"
            factors = getattr(condition, field)
            if name not in condition.absent_devices and factors.get(name, 1.0) * slowness > 1 + NEWS:
                found.append(condition.replace(**{field: {**factors, name: 1 / slowness}}))
        return found

    def _without(self, condition: Condition) -> list[Condition]:
        away = set(condition.absent_devices)
        speeds = condition.device_speed_factors
        return [
            condition.replace(
                absent_devices=tuple(sorted({*away, name})),
                device_speed_factors={each: factor for each, factor in speeds.items() if each != name},
            )
            for name in sorted(self._left.keys() - away)
        ]


def key_of(condition: Condition) -> Hashable:
    """What tells two conditions apart."""
    factors = (condition.domain_rate_factors, condition.device_speed_factors)
    return (*(tuple(sorted(each.items())) for each in factors), condition.absent_devices)
