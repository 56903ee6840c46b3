"""Chains of stages that could keep a makespan: rows that every plan meets, and the cheapest chain under prices on them.

Plans are told apart by two figures: the round trip Q of one micro-batch through all stages (hand-overs included) and
the seconds tau of the slowest stage for one micro-batch both ways. A *class* holds all plans with Q in [q, q') and tau
in [u, u') whose first slowest stage, counted from the back, has p stages behind it (or at least R). Let t be the
seconds of a stage, r the stages behind it, D their round trip up to the stage, U that of the stages in front,
Q = U + t + D, M the micro-batches and k = min(M, 1 + depth x r) the micro-batches in flight; R is the least r with
k = M, or 4 if that is less. When training, with f the forward part of t, a plan that keeps a makespan T has

* ``Q + (M - 1) t - (k - 1) f <= T``: after the first round trip through the stage all other backward passes are left,
  and all forward passes but k, which 1F1B has run at most by then;
* ``Q + n D + (M - 1 - n (k - 1)) t <= T`` where n k < M: each further round trip behind the stage holds up the k-th
  next micro-batch, since 1F1B runs it only after the backward pass;
* ``Q - D + (k - 1) v + (M - k) t <= T`` for the seconds v of the stage or of any stage in front: that one runs k
  forward passes, the stage from the k-th on all forward passes and the first M - k + 1 backward passes, which
  alternate, and
  then the other one its last k backward passes.

Each is the length of a path through the operations of the plan, so none can be beaten; a seconds-per-micro-batch
figure that is too small makes them only shorter. In a class, Q may be replaced by q and v by u. The first row is then
an upper limit on t for each number of stages behind, kept stage by stage; the others with r <= p, and ``Q <= q'``, are
linear in the seconds of stages and get prices. With prices on them and on device types, the cheapest chain is found by
dynamic programming over cuts and stages behind, at most R of them counted. If it costs more than what all devices and
limits are worth, no plan of the class keeps T. Any prices prove that; good ones come from a linear program that mixes
the chains met so far. Groups on ranges that no chain cheap enough contains cannot be part of a plan of the class or of
any narrower one, and are dropped there.

Without backward passes the first row is ``Q + (M - 1) t <= T``, and only ``Q <= q'`` is left of the others. The
textbook's ``fill + (M - 1) x slowest`` is not among the rows: with more micro-batches in flight it can be beaten.

Our own design; a Lagrangian relaxation of "each device once" and of the rows, within classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.fleets.group_times import GroupTimes

#: Dearer than everything by this much counts as refuted; what is less may be rounding.
ROUNDING = 1e-9

#: Stages behind are told apart up to this number, which makes no row longer: it is R where 1F1B goes on filling.
MOST_TOLD = 4


class PlanClass(NamedTuple):
    """Plans by round trip and slowest stage, both as parts of the makespan that is asked about.

    Attributes
    ----------
    trip, trip_below
        Bounds on Q, the second excluded.
    slowest, slowest_below
        Bounds on tau.
    place
        Stages behind the slowest; the largest one stands for all larger numbers.
    """

    trip: float
    trip_below: float
    slowest: float
    slowest_below: float
    place: int

    def halves(self, micro_batches: int) -> tuple[PlanClass, PlanClass]:
        """Two classes that have all its plans, halved where it is wider for what the rows say."""
        if self.trip_below - self.trip >= micro_batches * (self.slowest_below - self.slowest):
            middle = (self.trip + self.trip_below) / 2
            return self._replace(trip_below=middle), self._replace(trip=middle)
        middle = (self.slowest + self.slowest_below) / 2
        return self._replace(slowest_below=middle), self._replace(slowest=middle)


@dataclass(frozen=True)
class Ways:
    """Groups on ranges of layers, those of a range next to each other, ranges sorted by their end.

    Attributes
    ----------
    group, range_, seconds
        Of each way.
    begin
        Where the ways of each range begin.
    first, stop
        Of each range.
    """

    group: Ints
    range_: Ints
    seconds: Floats
    begin: Ints
    first: Ints
    stop: Ints

    @classmethod
    def of(cls, times: GroupTimes, group: Ints, range_: Ints, seconds: Floats) -> Ways:
        """From ways in order."""
        begin = np.flatnonzero(np.concatenate([[True], range_[1:] != range_[:-1]])) if len(range_) else np.arange(0)
        return cls(group, range_, seconds, begin, times.first[range_[begin]], times.stop[range_[begin]])

    @classmethod
    def within(cls, times: GroupTimes, most_s: float) -> Ways:
        """All that take at most so long."""
        order = np.lexsort((times.first, times.stop))
        place, group = np.nonzero(times.seconds.T[order] <= most_s)
        return cls.of(times, group, order[place], times.seconds[group, order[place]])

    def take(self, times: GroupTimes, which: Ints | np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Ways:
        """The ways at some places, or where a mask is true."""
        return Ways.of(times, self.group[which], self.range_[which], self.seconds[which])


class Prices(NamedTuple):
    """What a device of each type costs, all together 1; and a second's excess of each row."""

    types: Floats
    rows: Floats


class Chain(NamedTuple):
    """A chain of stages, which may use devices more than once.

    Attributes
    ----------
    used
        Devices of each type that it takes, shape (types,).
    stages
        First to last: (first layer, stop layer, group).
    seconds, hops_s
        Of each stage, and of the hand-overs in front of it, both ways; last to first.
    """

    used: Ints
    stages: tuple[tuple[int, int, int], ...]
    seconds: Floats
    hops_s: Floats


@dataclass(frozen=True)
class Pipelines:
    """What all classes of one in-flight depth have in common.

    Attributes
    ----------
    times
        Seconds of groups on ranges.
    depth
        A stage with r stages behind it holds ``1 + depth x r`` micro-batches.
    trains
        Whether there are backward passes.
    in_flight
        Micro-batches held with 0, 1, 2, ... stages behind, as long as that changes.
    """

    times: GroupTimes
    depth: int
    trains: bool
    in_flight: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        batches, counts = self.times.micro_batches, [1]
        while self.trains and counts[-1] < batches and len(counts) <= MOST_TOLD:
            counts.append(min(batches, 1 + self.depth * len(counts)))
        object.__setattr__(self, "in_flight", tuple(counts))

    @property
    def deepest(self) -> int:
        """R: more stages behind are not told apart."""
        return len(self.in_flight) - 1


class KnownChains:
    """Chains met so far, as far as rows look at them: sums and extremes over stages with as many stages behind.

    Parameters
    ----------
    deepest
        R: more stages behind are not told apart.
    """

    def __init__(self, deepest: int) -> None:
        self.deepest = deepest
        self._chains: list[tuple[Ints | Floats, ...]] = []

    def __len__(self) -> int:
        return len(self._chains)

    def add(self, chain: Chain) -> None:
        """Learn one more."""
        behind = np.minimum(np.arange(len(chain.seconds)), self.deepest)
        sums = [np.bincount(behind, each, self.deepest + 1) for each in (chain.seconds + chain.hops_s, chain.seconds)]
        slowest_s, fastest_s = np.full(self.deepest + 1, -np.inf), np.full(self.deepest + 1, np.inf)
        np.maximum.at(slowest_s, behind, chain.seconds)
        np.minimum.at(fastest_s, behind, chain.seconds)
        self._chains.append((chain.used, *sums, slowest_s, fastest_s))

    def latest(self, most: int) -> tuple[Ints | Floats, ...]:
        """Devices used, round trips, seconds, the slowest and the fastest stage of the latest ones, a row a chain."""
        return tuple(np.stack(each) for each in zip(*self._chains[-most:], strict=True))


class ClassRows:
    """The rows of a class for one makespan.

    Attributes
    ----------
    least_s, most_s
        Bounds on the seconds of a stage by stages behind, shape (R + 1,).
    trips, seconds
        Coefficients of a stage's round trip and of its seconds in each row, shape (rows, R + 1).
    limits_s
        Of the rows, shape (rows,).
    """

    def __init__(self, pipelines: Pipelines, makespan_s: float, plans: PlanClass) -> None:
        times, held = pipelines.times, np.array(pipelines.in_flight)
        batches, deepest, place = times.micro_batches, pipelines.deepest, plans.place
        slowest_s, left_s = plans.slowest * makespan_s, (1 - plans.trip) * makespan_s  # u, T - q
        forward = times.forward_share[1] if pipelines.trains else 0.0
        most_held = np.append(held[:-1], batches if pipelines.trains else 1)  # more stages behind than R hold more
        per_stage = batches - 1 - (most_held - 1) * forward
        caps = np.divide(left_s, per_stage, out=np.full(len(held), np.inf), where=per_stage > 1e-12)
        self.most_s = np.minimum(caps, plans.slowest_below * makespan_s) * (1 + ROUNDING)
        self.least_s = np.full(len(held), -np.inf)
        if place < deepest:
            self.least_s[place] = slowest_s * (1 - ROUNDING)
        rows = [(1.0, deepest + 1, 0.0, 0, plans.trip_below * makespan_s)]
        for behind in range(1, place + 1):
            many = int(held[behind])
            if behind == deepest:
                rows.append((-1.0, behind, 0.0, behind, left_s - (many - 1) * slowest_s))
                continue
            if behind == place:
                rows.append((-1.0, behind, batches - 1.0, behind, left_s))
            else:
                rows.append((-1.0, behind, float(batches - many), behind, left_s - (many - 1) * slowest_s))
            rows += [
                (float(often), behind, float(batches - 1 - often * (many - 1)), behind, left_s)
                for often in range(1, (batches - 1) // many + 1)
            ]
        self.trips, self.seconds = np.zeros((len(rows), deepest + 1)), np.zeros((len(rows), deepest + 1))
        for row, (trip, until, second, at, _) in enumerate(rows):
            self.trips[row, :until] = trip
            self.seconds[row, at] = second
        self.limits_s = np.array([limit for *_, limit in rows])

    def of_known(self, known: KnownChains, most: int) -> tuple[Ints, Floats]:
        """Devices and left-hand sides of the latest known chains, without those that a stage's own limits rule out.

        Shapes (chains, types) and (chains, rows).
        """
        used, trips_s, seconds, slowest_s, fastest_s = known.latest(most)
        within = ((slowest_s <= self.most_s) & (fastest_s >= self.least_s)).all(axis=1)
        return used[within], trips_s[within] @ self.trips.T + seconds[within] @ self.seconds.T

    def of(self, chain: Chain) -> Floats | None:
        """Left-hand sides of a chain; None if a stage's own limits rule it out."""
        deepest = self.trips.shape[1] - 1
        behind = np.minimum(np.arange(len(chain.seconds)), deepest)
        if (chain.seconds > self.most_s[behind]).any() or (chain.seconds < self.least_s[behind]).any():
            return None
        trip_s = chain.seconds + chain.hops_s
        return np.asarray(self.trips[:, behind] @ trip_s + self.seconds[:, behind] @ chain.seconds)


class Cheapest:
    """The cheapest chain of a class under some prices.

    Attributes
    ----------
    excess
        By how much it costs more than all devices and limits are worth, plus 1: above 1, no plan is in the class. At
        most 1 for the prices of a class that has plans.
    """

    def __init__(
        self, pipelines: Pipelines, rows: ClassRows, ways: tuple[Ways, ...], place: int, prices: Prices
    ) -> None:
        self.pipelines, self.ways = pipelines, ways
        times, deepest = pipelines.times, pipelines.deepest
        group_price = times.used @ prices.types
        trip, second = prices.rows @ rows.trips, prices.rows @ rows.seconds
        self.costs, self.each = [], []
        for behind, stage_ways in enumerate(ways):
            cost = group_price[stage_ways.group] + (trip[behind] + second[behind]) * stage_ways.seconds
            hop = trip[behind] * times.directions * times.hop_s[stage_ways.first]
            self.costs.append(cost)
            self.each.append((np.minimum.reduceat(cost, stage_ways.begin) if len(cost) else np.empty(0)) + hop)
        self.hop_price = trip
        self.worth = float(prices.rows @ rows.limits_s)
        layers = len(times.hop_s) - 1
        self.to_front = np.full((deepest + 1, layers + 1), np.inf)
        self.to_front[min(place + 1, deepest) :, 0] = 0.0
        self.came = np.full((deepest + 1, layers + 1), -1)
        self.ends = [np.searchsorted(own.stop, np.arange(layers + 2)) for own in ways]
        for stop in range(1, layers + 1):
            for behind in range(deepest + 1):
                begin, end = self.ends[behind][stop], self.ends[behind][stop + 1]
                if begin == end:
                    continue
                ahead = self.to_front[min(behind + 1, deepest), ways[behind].first[begin:end]]
                cost = self.each[behind][begin:end] + ahead
                at = int(cost.argmin())
                self.to_front[behind, stop], self.came[behind, stop] = cost[at], begin + at
        self.excess = float(self.to_front[0, layers]) - self.worth

    def chain(self) -> Chain:
        """The chain itself; there must be one."""
        times, deepest = self.pipelines.times, self.pipelines.deepest
        stop, behind, picked, seconds = self.to_front.shape[1] - 1, 0, [], []
        while stop:
            ways, at = self.ways[behind], int(self.came[behind, stop])
            end = ways.begin[at + 1] if at + 1 < len(ways.begin) else len(ways.group)
            way = ways.begin[at] + int(self.costs[behind][ways.begin[at] : end].argmin())
            picked.append((int(ways.first[at]), stop, int(ways.group[way])))
            seconds.append(ways.seconds[way])
            stop, behind = int(ways.first[at]), min(behind + 1, deepest)
        groups, firsts = [group for _, _, group in picked], [first for first, _, _ in picked]
        used = np.asarray(times.used[groups].sum(axis=0), dtype=np.int64)
        return Chain(used, tuple(reversed(picked)), np.array(seconds), times.directions * times.hop_s[firsts])

    def useful(self) -> tuple[Ways, ...]:
        """Ways that some chain contains which is cheap enough for a plan of the class."""
        times, deepest = self.pipelines.times, self.pipelines.deepest
        layers = self.to_front.shape[1] - 1
        from_back = np.full((deepest + 1, layers + 1), np.inf)
        from_back[0, layers] = 0.0
        order = [np.argsort(own.first, kind="stable") for own in self.ways]
        ends = [np.searchsorted(own.first[by], np.arange(layers + 2)) for own, by in zip(self.ways, order, strict=True)]
        for first in range(layers - 1, -1, -1):
            for behind in range(deepest + 1):
                which = order[behind][ends[behind][first] : ends[behind][first + 1]]
                if len(which):
                    cost = self.each[behind][which] + from_back[behind, self.ways[behind].stop[which]]
                    ahead = min(behind + 1, deepest)
                    from_back[ahead, first] = min(from_back[ahead, first], float(cost.min()))
        kept = []
        for behind, stage_ways in enumerate(self.ways):
            ahead = self.to_front[min(behind + 1, deepest), stage_ways.first]
            rest = (
                ahead
                + from_back[behind, stage_ways.stop]
                + self.hop_price[behind] * times.directions * times.hop_s[stage_ways.first]
            )
            sizes = np.diff(stage_ways.begin, append=len(stage_ways.group))
            kept.append(
                stage_ways.take(times, self.costs[behind] + np.repeat(rest, sizes) - self.worth <= 1 + ROUNDING)
            )
        return tuple(kept)
