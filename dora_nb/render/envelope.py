"""What certificates and coverage prove about every plan, shown or not: a lower envelope of latency and energy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from dora_nb.domain.certificate import Certificate
from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE

#: A makespan in seconds and an energy in joules.
Point = tuple[float, float]


@dataclass(frozen=True)
class Floor:
    """No plan with a makespan below ``until_s`` takes less than ``base_j - falls_w * makespan``.

    Attributes
    ----------
    until_s, base_j
        An infinite ``base_j``: there is no such plan.
    falls_w
        0: flat.
    most_j
        It is never higher than this: plans that take more were not looked at.
    """

    until_s: float
    base_j: float
    falls_w: float = 0.0
    most_j: float = math.inf

    def at(self, makespan_s: float) -> float:
        """Its height, wherever it ends."""
        return min(max(0.0, self.base_j - self.falls_w * makespan_s), self.most_j)

    def bends(self, other: Floor) -> list[float]:
        """Makespans at which the higher of the two may change, or one change its direction."""
        if self.falls_w == 0:
            return []
        levels = [each for each in (0.0, self.most_j, other.base_j, other.most_j) if math.isfinite(each)]
        crossings = [(self.base_j - level) / self.falls_w for level in levels]
        if other.falls_w != self.falls_w:
            crossings.append((self.base_j - other.base_j) / (self.falls_w - other.falls_w))
        return crossings


@dataclass(frozen=True)
class Envelope:
    """No plan considered lies below any of its floors."""

    floors: tuple[Floor, ...] = ()

    def __or__(self, other: Envelope) -> Envelope:
        """What both prove together."""
        return Envelope(self.floors + other.floors)

    @property
    def least_s(self) -> float:
        """No plan is faster; 0 where nothing is proven."""
        return max((each.until_s for each in self.floors if math.isinf(each.base_j)), default=0.0)

    def floor_j(self, makespan_s: float) -> float:
        """No plan with this makespan takes less; infinite where there is no plan, 0 where nothing is proven."""
        return self._height(makespan_s, makespan_s)

    def _height(self, makespan_s: float, within_s: float) -> float:
        """At a makespan, of those floors that hold at ``within_s``."""
        return max((each.at(makespan_s) for each in self.floors if within_s < each.until_s), default=0.0)

    def corners(self, left_s: float, right_s: float, top_j: float) -> tuple[Point, ...]:
        """The envelope as corners of a line from its left end down and to the right; empty where nothing is proven.

        Parameters
        ----------
        left_s, right_s, top_j
            The part of the plane to draw it in. It ends before ``right_s`` where nothing is proven beyond.
        """
        ends = {each.until_s for each in self.floors}
        start_s, stop_s = max(left_s, self.least_s), min(right_s, max(ends, default=0.0))
        if start_s >= stop_s:
            upright = left_s < self.least_s < right_s
            return ((self.least_s, top_j), (self.least_s, 0.0)) if upright else ()
        others = (*self.floors, Floor(math.inf, top_j))
        bends = {bend for one in self.floors for other in others for bend in one.bends(other)}
        edges = [start_s, *sorted(each for each in ends | bends if start_s < each < stop_s), stop_s]
        line = [(start_s, top_j)] if self.least_s > left_s else []
        for first_s, last_s in pairwise(edges):
            line += [(at_s, min(self._height(at_s, first_s), top_j)) for at_s in (first_s, last_s)]
        return tuple(point for index, point in enumerate(line) if index == 0 or point != line[index - 1])


def proven_for(plan_set: PlanSet) -> Envelope:
    """What the certificates of a plan set and its coverage prove together."""
    return proven_by(plan_set.plans, plan_set.qoe) | covered_by(plan_set)


def proven_so_far(qoe: QoE, batch: int, bound: float) -> Envelope:
    """What a bound on the objective proves while the best plan for it is still sought.

    It says the same as that of a certificate, see :func:`proven_by`.

    Parameters
    ----------
    qoe
        What is asked.
    batch
        Samples of the workload.
    bound
        No plan within the hard limits is below it, in s or J. With prices on limits it bounds a sum that the plane
        does not show: nothing is drawn of it.
    """
    if any(price is not None for price in _prices(qoe)):
        return Envelope()
    within_s = _longest_s(qoe, batch)
    most_j = math.inf if qoe.energy_j is None else qoe.energy_j
    if qoe.objective == "latency":
        return Envelope((Floor(min(bound, within_s), most_j),))
    falls_w = (qoe.joules_per_s or 0.0) if qoe.objective == "price" else 0.0
    return Envelope((Floor(within_s, bound, falls_w, most_j),))


def _prices(qoe: QoE) -> tuple[float | None, ...]:
    """On soft limits."""
    return qoe.latency_price, qoe.throughput_price, qoe.energy_price, qoe.battery_price, qoe.headroom_price


def _longest_s(qoe: QoE, batch: int) -> float:
    """The longest makespan within the hard limits on latency and throughput."""
    limits_s = [qoe.latency_s] if "latency" in qoe.hard else []
    limits_s += [batch / qoe.samples_per_s] if "throughput" in qoe.hard and qoe.samples_per_s else []
    return min((limit for limit in limits_s if limit is not None), default=math.inf)


def bounds_hold(asked: QoE, qoe: QoE) -> bool:
    """Whether what was proven for one question says something under another QoE.

    What is proven within limits on latency, energy and throughput is said of all plans, see :func:`proven_by`. Limits
    of single devices the plane does not show: where there were any, they must be the same.
    """

    def of_devices(each: QoE) -> tuple[object, ...]:
        battery_j = each.battery_j if "battery" in each.hard else {}
        headroom = (each.headroom_fraction, each.headroom_bytes) if "headroom" in each.hard else (None, None)
        return battery_j, headroom

    free = of_devices(QoE())
    return asked.energy_accounting == qoe.energy_accounting and of_devices(asked) in (free, of_devices(qoe))


def proven_by(plans: Iterable[Plan], asked: QoE) -> Envelope:
    """What the certificates of plans prove about every plan considered that keeps the limits of single devices.

    A bound on latency or energy that holds for the plans within a limit on the other holds for a part of the plane:

    - For latency within an energy limit: no plan that is faster than the bound keeps the energy limit, so each takes at
      least that much; without a limit there is no faster plan.
    - For energy within a latency limit: no plan within the latency limit takes less than the bound. It does not matter
      whether plans above an energy limit were looked at: the bound is below that limit.
    - For the price, energy + joules_per_s x makespan: as for energy, with a floor that falls with the makespan; plans
      above an energy limit take at least that much.
    - Tie-break after latency: no plan as fast as this one takes less than the tie-break's bound. After energy: no plan
      that takes as little as this one is faster than the bound, so every faster plan takes more.

    A bound with prices on soft limits bounds a sum that the plane does not show, and a tie-break after a price is about
    such a sum: both are left out.

    Parameters
    ----------
    plans
        With certificates; others prove nothing.
    asked
        The QoE that they answer.
    """
    found = Envelope()
    for plan in plans:
        if plan.certificate is not None and not plan.certificate.with_prices:
            found |= _proven(plan.certificate, asked)
    return found


def _proven(proof: Certificate, asked: QoE) -> Envelope:
    latency_s = math.inf if proof.latency_limit_s is None else proof.latency_limit_s
    energy_j = math.inf if proof.energy_limit_j is None else proof.energy_limit_j
    then = proof.then
    if proof.objective == "price":
        return Envelope((Floor(latency_s, proof.bound, asked.joules_per_s or 0.0, energy_j),))
    if proof.objective == "latency":
        tie = () if then is None else (Floor(proof.value, then.bound),)
        return Envelope((Floor(proof.bound, energy_j), *tie))
    tie = () if then is None else (Floor(then.bound, proof.value),)
    return Envelope((Floor(latency_s, proof.bound), *tie))


def covered_by(plan_set: PlanSet) -> Envelope:
    """What the coverage of a plan set proves.

    For every plan within the hard limits, one of the set has at most 1 + delta times its makespan and its energy. So a
    plan that is faster than (the set's fastest) / (1 + delta) breaks a limit: it takes at least the energy limit. One
    that is faster than (the set's next slower) / (1 + delta) is covered by a faster member of the set, and takes at
    least (that member's energy) / (1 + delta).
    """
    coverage, qoe = plan_set.coverage, plan_set.qoe
    if coverage is None or coverage.delta is None:
        return Envelope()
    times, hard = 1 + coverage.delta, qoe.hard
    last_s = _longest_s(qoe, plan_set.workload.batch)
    least_j = qoe.energy_j if "energy" in hard and qoe.energy_j is not None else math.inf
    steps = []
    for makespan_s, energy_j in _figures(plan_set):
        steps.append(Floor(min(makespan_s / times, last_s), least_j))
        least_j = min(least_j, energy_j / times)
    return Envelope((*steps, Floor(last_s, least_j)))


def _figures(plan_set: PlanSet) -> list[Point]:
    accounting = plan_set.qoe.energy_accounting
    predicted = [plan.prediction for plan in plan_set.plans if plan.prediction is not None]
    return sorted((each.makespan_s, each.energy_j(accounting)) for each in predicted)
