"""The best lower bound on makespans that classes of plans prove (:mod:`~dora_nb.formulation.fleets.priced_chains`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.formulation.fleets.group_times import GroupTimes
from dora_nb.formulation.fleets.priced_chains import (
    ROUNDING,
    Cheapest,
    ClassRows,
    KnownChains,
    Pipelines,
    PlanClass,
    Prices,
    Ways,
)
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.fleets.period_bound import scaled, speeds
from dora_nb.solvers.mixing import Mixing

#: Classes are not halved further below this part of the makespan.
NARROWEST = 0.005

#: Chains priced for one class, while it is wide and when it cannot be halved further.
STEPS, LAST_STEPS = 12, 30

#: Part of a makespan in hand that is tried first; then from the gap that is good enough downwards in growing steps.
FIRST, STEP, LONGER = 0.7, 0.03, 1.5

#: Part of what is enough that is asked once on the way: what cannot be refuted there leads to better plans.
DEEPER = 0.94

#: What is enough is asked instead of what is that close to it.
CLOSE = 1.04

#: Chains of earlier classes that a class starts from.
KNOWN = 150


@dataclass
class _Open:
    """A class still to be refuted, with the ways left in it by stages behind."""

    plans: PlanClass
    ways: tuple[Ways, ...]
    prices: Prices | None


@dataclass
class ClassBound:
    """Proves that no plan of one in-flight depth keeps a makespan.

    Attributes
    ----------
    pipelines
        Which plans.
    deadline
        After it nothing more is proven.
    weights
        Price of one device of each type, the start for classes that have none yet.
    chains
        Chains that were met, from which later classes start.
    left
        The class that could not be refuted last, at its dearest: where good plans may lie.
    looked_at
        How many classes were.
    """

    pipelines: Pipelines
    deadline: Deadline
    weights: Floats
    chains: KnownChains = field(init=False)
    left: Cheapest | None = field(default=None, init=False)
    _hardest: PlanClass | None = field(default=None, init=False)
    looked_at: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.chains = KnownChains(self.pipelines.deepest)

    def refuted(self, makespan_s: float) -> bool:
        """Whether no plan keeps a makespan; without a proof by the deadline, False."""
        times, deepest = self.pipelines.times, self.pipelines.deepest
        batches = times.micro_batches
        every = Ways.within(times, makespan_s / batches if deepest == 0 else self._most_s(makespan_s))
        if self._hardest is not None and not self._class(
            makespan_s, _Open(self._hardest, (every,) * (deepest + 1), None)
        ):
            return False
        widest = 1.0 / batches
        stack = [
            _Open(PlanClass(0.0, 1.0, 0.0, widest, place), (every,) * (deepest + 1), None)
            for place in range(deepest + 1)
        ]
        while stack:
            found = self._halved(makespan_s, stack.pop())
            if found is None:
                return False
            stack += found
        return True

    def _most_s(self, makespan_s: float) -> float:
        """No stage takes longer: it works off all micro-batches."""
        return makespan_s / self.pipelines.times.micro_batches

    def _class(self, makespan_s: float, left: _Open) -> bool:
        found = self._halved(makespan_s, left)
        return found is not None and not found

    def _halved(self, makespan_s: float, left: _Open) -> list[_Open] | None:
        """What is left to refute of a class: nothing, or its halves; None if that is hopeless."""
        self.looked_at += 1
        if self.deadline.passed:
            return None
        pipelines, times = self.pipelines, self.pipelines.times
        rows = ClassRows(pipelines, makespan_s, left.plans)
        ways = tuple(
            stage_ways.take(times, (stage_ways.seconds <= most) & (stage_ways.seconds >= least))
            for stage_ways, most, least in zip(left.ways, rows.most_s, rows.least_s, strict=True)
        )
        narrow = (
            max(
                left.plans.trip_below - left.plans.trip,
                times.micro_batches * (left.plans.slowest_below - left.plans.slowest),
            )
            <= NARROWEST
        )
        cheapest, prices = self._dearest(rows, ways, left, LAST_STEPS if narrow else STEPS)
        if cheapest is None:
            return []
        if narrow:
            self._hardest, self.left = left.plans, cheapest
            return None
        useful = cheapest.useful()
        return [_Open(half, useful, prices) for half in left.plans.halves(times.micro_batches)]

    def _dearest(
        self, rows: ClassRows, ways: tuple[Ways, ...], left: _Open, steps: int
    ) -> tuple[Cheapest | None, Prices | None]:
        """The prices found that make the cheapest chain dearest; None if they refute the class."""
        available = self.pipelines.times.available.astype(float)
        unit_s = np.maximum(np.abs(rows.limits_s), ROUNDING)
        prices = left.prices or Prices(self.weights, np.zeros(len(rows.limits_s)))
        mixing: Mixing | None = None
        best: Cheapest | None = None
        best_prices = prices
        for _ in range(steps):
            found = Cheapest(self.pipelines, rows, ways, left.plans.place, prices)
            if best is None or found.excess > best.excess:
                best, best_prices = found, prices
            if best.excess > 1 + ROUNDING:
                self.weights = best_prices.types
                return None, None
            if self.deadline.passed:
                break
            chain = found.chain()
            values = rows.of(chain)
            assert values is not None, "a chain of ways within the limits of the class"
            if mixing is None:
                mixing = Mixing(available, rows.limits_s / unit_s)
                if len(self.chains):
                    known, sides = rows.of_known(self.chains, KNOWN)
                    mixing.add_all(known, sides / unit_s)
            self.chains.add(chain)
            mixing.add(chain.used, values / unit_s)
            least, types, others = mixing.solve()
            if least <= 1 or least - best.excess < 1e-4:  # a mix of chains that no prices refute
                break
            types, others = (types + best_prices.types) / 2, (others / unit_s + best_prices.rows) / 2
            total = types @ available
            prices = Prices(types / total, others / total)
        return best, best_prices


def class_bounds(times: GroupTimes, depths: tuple[int, ...], trains: bool, deadline: Deadline) -> list[ClassBound]:
    """One for every in-flight depth that makes a difference."""
    weights = scaled(times, speeds(times))
    unlike = {each.in_flight: each for each in (Pipelines(times, depth, trains) for depth in depths)}
    return [ClassBound(each, deadline, weights) for each in unlike.values()]


def proven_s(
    classes: list[ClassBound],
    gap: float,
    best_s: Callable[[], float],
    on_left: Callable[[ClassBound], None],
    on_bound: Callable[[float], None],
) -> float:
    """No plan is faster than this; what cannot be refuted leads to plans, so it is asked from above.

    Parameters
    ----------
    classes
        Of all micro-batch sizes and depths; what could not be refuted last is asked first.
    gap
        Relative gap to the best makespan that is good enough.
    best_s
        Best makespan in hand, which may shrink on the way.
    on_left
        Told whose plans could not be refuted.
    on_bound
        Told each better bound.
    """
    brackets = [_Bracket(each, best_s() * min(FIRST, 1 - gap)) for each in classes]
    while not any(each.deadline.passed for each in classes):
        enough_s = best_s() * (1 - gap)
        open_ = min((each for each in brackets if each.low_s < enough_s), key=lambda each: (each.low_s, each.asked))
        if open_.ask(enough_s):
            on_bound(min(each.low_s for each in brackets))
        else:
            on_left(open_.bound)
        enough_s = best_s() * (1 - gap)
        low_s, width_s = min((each.low_s, each.high_s - each.low_s) for each in brackets)
        if low_s >= enough_s or width_s <= gap / 4 * enough_s:
            break
    return min(each.low_s for each in brackets)


@dataclass
class _Bracket:
    """Between which makespans a bound lies, and what is asked next."""

    bound: ClassBound
    next_s: float
    low_s: float = 0.0
    high_s: float = math.inf
    step: float = STEP
    asked: int = 0

    def ask(self, enough_s: float) -> bool:
        """Ask once; more than enough is not asked, nor a little less unless enough could not be refuted."""
        if enough_s < self.next_s or (enough_s < self.next_s * CLOSE and enough_s < self.high_s):
            self.next_s = enough_s
        asked_s, self.asked = self.next_s, self.asked + 1
        refuted = self.bound.refuted(asked_s)
        if refuted:
            self.low_s = asked_s
        else:
            self.high_s = asked_s
        if math.isinf(self.high_s):
            self.next_s = enough_s * (DEEPER if self.asked == 1 else 1)
        elif refuted:
            self.next_s = (self.low_s + self.high_s) / 2
        else:
            self.next_s = max(self.high_s * (1 - self.step), (self.low_s + self.high_s) / 2)
            self.step *= LONGER
        return refuted
