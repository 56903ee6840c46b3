"""The best sequence of plans for a world that is known beforehand: a label-setting search, step by step.

Our own design. A label is a way to have come to a moment: what is resident and which plan ran last, windows kept so
far, what the present window still has in reserve, and what was paid. Of the labels that come to about the same moment
with the same plans in place, one that kept fewer windows, has less in reserve and paid more than another is of no use.
Of more than ``BEAM`` others those stay that are on the convex hull of reserve and price, the extremes and those nearest
to no reserve at all: so the optimum may be missed, by a little where latency is limited; reserve is time, so with a
limit on energy alone by much (a mean of 3.95 s where 3.0 s can be had, in one case by hand). Steps of one plan are
taken together where neither a change nor the end of a window is near. What steps and changes of plans take comes from
the simulator itself.

Most windows kept come first, then the least mean of the objective: a ratio, minimised as a difference with a price
that is corrected a few times (Dinkelbach, "On nonlinear fractional programming", Management Science 13, 1967).
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.domain.qoe import ROUNDING, QoE
from dora_nb.simulation.rehearsal import Rehearsal

#: Labels of one moment and with the same plans in place that are carried on.
BEAM = 6

#: Moments of a window that are told apart.
MOMENTS_A_WINDOW = 60

#: A plan that is never better than another one by more than this part is left out.
ALIKE = 0.002

#: Plans that cost something to change to and are considered, beside those resident from the start: those that would be
#: used most if it cost nothing.
MOST_COSTLY = 4

#: Steps are taken together up to this part of a window.
TOGETHER = 1 / 30

#: The beam of a first search, from which only the price of a step and the plans worth loading are taken.
HASTY_BEAM = 2

#: A price that changes by less than this part when it is corrected stays.
SETTLED = 0.05

_INFINITE = math.inf


class Label(NamedTuple):
    """A way to have come to a moment.

    Attributes
    ----------
    kept
        Windows kept so far, the present one not counted.
    spare_s, spare_j
        Of the present window's steps: their number times the limit, less what they took; minus infinity for both where
        the limit cannot be kept any more.
    hope_s
        The reserve, less what has passed since the step to come was asked for, and what could be earned from the moment
        on, up to a constant.
    cost
        What was paid, less the price of every completed step.
    now_s, asked_s
        The moment, and when the step to come was asked for.
    window, steps, done
        Number of the present window, steps that ended in it, and all that were completed.
    resident, running
        Plans in place, the one used last at the end; and the one that ran last.
    way
        The choices made so far, the last one first: (those before, plan or None to wait, how many steps of it).
    """

    kept: int
    spare_s: float
    hope_s: float
    spare_j: float
    cost: float
    now_s: float
    asked_s: float
    window: int
    steps: int
    done: int
    resident: tuple[int, ...]
    running: int | None
    way: tuple[Any, int | None, int] | None


@dataclass
class Foresight:
    """The search.

    Attributes
    ----------
    rehearsal
        What steps and changes take.
    qoe, horizon_s, window_s, every_s
        As in :func:`dora_nb.simulate`.
    trains
        Whether only the state of the plan that ran last is up to date.
    resident
        Plans in place from the start.
    free_changes
        Whether changing plans costs nothing.
    beam
        See :data:`BEAM`.
    """

    rehearsal: Rehearsal
    qoe: QoE
    horizon_s: float
    window_s: float
    every_s: float
    trains: bool
    resident: tuple[int, ...]
    free_changes: bool
    beam: int = BEAM

    def __post_init__(self) -> None:
        self.limit_s, self.limit_j = self.qoe.latency_s or _INFINITE, self.qoe.energy_j or _INFINITE
        self.rows = self.rehearsal.row_at(self.horizon_s) + 1
        self.at_hand = self._at_hand()
        self.plans = self._worth_trying()
        self.moment_s, self.together_s = self.window_s / MOMENTS_A_WINDOW, self.window_s * TOGETHER
        self.windows = math.floor(self.horizon_s / self.window_s * (1 + ROUNDING))
        self._starts_s = np.array([0.0, *(self.rehearsal.until_s(row) for row in range(self.rows - 1))])
        limit_s = self.qoe.latency_s or 0.0  # without a limit nothing is earned, and reserves are not looked at
        self._earned_s = self._integral(np.maximum(limit_s / self._spans_s(min) - 1, 0.0))
        self._spent_s = self._integral(np.maximum(1 - limit_s / self._spans_s(max), 0.0))

    # ------------------------------------------------------------------ what can be told beforehand

    def _figures(self, plan: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Seconds and joules of a step in every state, infinite where it cannot run; shape (2 rows,)."""
        steps = [
            self.rehearsal.calm(plan, row) if plan in self.rehearsal.able(row) else None for row in range(self.rows)
        ]
        seconds = [_INFINITE if step is None else step.duration_s for step in steps]
        return np.array(seconds + [_INFINITE if step is None else step.energy_j for step in steps])

    def _at_hand(self) -> set[int]:
        """Plans that need nothing that is not in place from the start."""
        everything = set(range(len(self.rehearsal.plans)))
        if self.free_changes or self.trains or not self.resident:
            return everything
        first = self.resident[0]
        return {each for each in everything if not self.rehearsal.change(self.resident, first, each, 0.0).size_bytes}

    def _worth_trying(self) -> list[int]:
        """Plans than which no other that is at hand as early is better in every state, or worse by next to nothing."""
        figures = {plan: self._figures(plan) for plan in range(len(self.rehearsal.plans))}
        kept = list(figures)
        for plan, own in figures.items():
            rivals = (other for other in kept if other != plan and other in self.at_hand)
            if any((figures[other] <= own * (1 + ALIKE)).all() for other in rivals):
                kept.remove(plan)
        return kept

    def _spans_s(self, which: Callable[[list[float]], float]) -> Floats:
        """The shortest or the longest step in every state; a plan that cannot run counts as one that does its duty."""
        steps = [
            [self.rehearsal.calm(plan, row) for plan in self.plans if plan in self.rehearsal.able(row)]
            for row in range(self.rows)
        ]
        return np.array([which([step.duration_s for step in own if step] or [self.limit_s]) for own in steps])

    def _integral(self, rates: Floats) -> Callable[[float], float]:
        """What something that grows at a rate in every state has come to at a time."""
        starts_s, come_to = self._starts_s.tolist(), np.append(0.0, np.cumsum(np.diff(self._starts_s) * rates[:-1]))

        def at(time_s: float) -> float:
            row = bisect_right(starts_s, time_s) - 1
            return float(come_to[row] + (time_s - starts_s[row]) * rates[row])

        return at

    # ------------------------------------------------------------------ the search

    def best(self) -> list[tuple[int | None, int]]:
        """The choices in turn: a plan, or None to wait for a change; and how many times."""
        if not self.free_changes:
            self.plans = self._worth_changing_to()
        price, found = self._first_price(), None
        for beam in (HASTY_BEAM, HASTY_BEAM, self.beam, self.beam):
            last = self._search(price, beam)
            if last.done == 0:
                return _choices(last)
            mean = last.cost / last.done + price
            if found is None or (-last.kept, mean) < (-found[0].kept, found[1]):
                found = last, mean
            if beam == self.beam and abs(mean - price) <= SETTLED * abs(price):
                break
            price = mean
        assert found is not None
        return _choices(found[0])

    def _worth_changing_to(self) -> list[int]:
        """Plans that cost nothing to change to, and of the others those used most if none did."""
        costly = set(self.plans) if self.trains else set(self.plans) - self.at_hand
        if len(costly) <= MOST_COSTLY:
            return self.plans
        used = Counter[int]()
        for plan, count in _choices(replace(self, free_changes=True)._search(self._first_price(), HASTY_BEAM)):
            if plan in costly:
                used[plan] += count
        chosen = {*self.resident, *(plan for plan, _ in used.most_common(MOST_COSTLY))}
        return [plan for plan in self.plans if plan not in costly or plan in chosen]

    def _first_price(self) -> float:
        """What a step is taken to cost at first: the mean over all states of the cheapest plan."""
        means = []
        for row in range(self.rows):
            steps = [self.rehearsal.calm(plan, row) for plan in self.plans if plan in self.rehearsal.able(row)]
            costs = [self.qoe.base(step.duration_s, step.energy_j) for step in steps if step is not None]
            means.extend([min(costs)] if costs else [])
        return float(np.mean(means)) if means else 0.0

    def _search(self, price: float, beam: int) -> Label:
        first = Label(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0, 0, self.resident, None, None)
        moments: dict[int, dict[Hashable, list[Label]]] = {0: {None: [first]}}
        queue, over = [0], []
        while queue:
            moment = heapq.heappop(queue)
            for group in moments.pop(moment).values():
                for label in self._carried_on(group, beam):
                    for after in self._moves(label, price):
                        if after.now_s >= self.horizon_s:
                            kept, _ = self._closed(
                                after.kept,
                                after.window,
                                after.steps,
                                after.spare_s,
                                after.spare_j,
                                after.asked_s,
                                _INFINITE,
                            )
                            over.append(after._replace(kept=kept))
                            continue
                        # A moment once left is not entered again, however short a step was.
                        at = max(int(after.now_s / self.moment_s), moment + 1)
                        if at not in moments:
                            moments[at] = {}
                            heapq.heappush(queue, at)
                        moments[at].setdefault(self._place(after), []).append(after)
            if len(over) > 1000:
                over = [min(over, key=lambda label: (-label.kept, label.cost))]
        return min(over, key=lambda label: (-label.kept, label.cost))

    def _place(self, label: Label) -> Hashable:
        """What the costs of changes to come depend on."""
        if self.free_changes:
            return None
        return label.running if self.trains else self.rehearsal.in_place(label.resident)

    def _carried_on(self, group: list[Label], beam: int) -> list[Label]:
        """The labels that none of the others makes useless, thinned out."""
        if len(group) == 1:
            return group
        group.sort(key=lambda label: (-label.kept, -label.hope_s, label.cost))
        front: list[Label] = []
        for label in group:
            if label.kept < group[0].kept - 1:
                break
            if not any(_is_better(other, label) for other in front):
                front.append(label)
        if len(front) <= beam:
            return front
        hull: list[Label] = []
        for label in front:
            while len(hull) > 1 and not _turns(hull[-2], hull[-1], label):
                hull.pop()
            hull.append(label)
        front = hull
        if len(front) <= beam:
            return front
        inner = sorted(front[1:-1], key=lambda label: abs(label.spare_s))
        return [front[0], *inner[: beam - 2], front[-1]]

    # ------------------------------------------------------------------ moves

    def _moves(self, label: Label, price: float) -> Iterator[Label]:
        """What can be done next."""
        if self.every_s:
            asked_s = label.done * self.every_s
            label = label._replace(asked_s=asked_s, now_s=max(label.now_s, asked_s))
            if label.now_s >= self.horizon_s:
                yield label
                return
        row = self.rehearsal.row_at(label.now_s)
        able, ends = self.rehearsal.able(row), False
        for plan in self.plans:
            if plan in able:
                after = self._with(plan, label, row, price)
                ends = ends or after.done > label.done
                yield after
        if not ends or not set(self.plans).issubset(able):  # for a device that is away, or not to begin in vain
            until_s = min(self.rehearsal.until_s(row), self.horizon_s)
            yield self._at(label._replace(now_s=until_s, way=(label.way, None, 1)))

    def _with(self, plan: int, label: Label, row: int, price: float) -> Label:
        """Go on with a plan: one step; several if they are shorter than a moment, or no change is near."""
        way = (label.way, plan, 1)
        if plan != label.running and not self.free_changes:
            change = self.rehearsal.change(label.resident, label.running, plan, label.now_s)
            now_s, cost = label.now_s + change.duration_s, label.cost + self.qoe.base(0.0, change.energy_j)
            resident = self.rehearsal.resident_after(label.resident, plan)
            label = label._replace(now_s=now_s, cost=cost, resident=resident)
            if now_s >= self.horizon_s:
                return label._replace(way=way)
        kept, spare_s, _, spare_j, cost, now_s, asked_s, window, steps, done, resident, _, before = label
        end_s = min(self.rehearsal.until_s(row), (window + 1) * self.window_s)
        near = self.every_s or now_s + 2 * self.together_s > end_s
        go_on_s = now_s + (self.moment_s if near else self.together_s)
        count = 0
        while True:
            step = self.rehearsal.step(plan, now_s)
            count += 1
            now_s += step.duration_s
            if not step.completed:
                cost += self.qoe.base(0.0, step.energy_j)
                break
            if now_s > (window + 1) * self.window_s:
                kept, window = self._closed(kept, window, steps, spare_s, spare_j, asked_s, now_s)
                spare_s, spare_j, steps = 0.0, 0.0, 0
            latency_s = now_s - asked_s
            if self.limit_s < _INFINITE:
                spare_s += self.limit_s - latency_s
            if self.limit_j < _INFINITE:
                spare_j += self.limit_j - step.energy_j
            cost += self.qoe.base(latency_s, step.energy_j) - price
            steps, done, asked_s = steps + 1, done + 1, now_s
            if now_s >= go_on_s or self.every_s:
                break
            more = 0 if near else math.ceil((go_on_s - now_s) / step.duration_s)
            if more > 1:  # no change is near, so they are all alike
                now_s += more * step.duration_s
                if self.limit_s < _INFINITE:
                    spare_s += more * (self.limit_s - step.duration_s)
                if self.limit_j < _INFINITE:
                    spare_j += more * (self.limit_j - step.energy_j)
                cost += more * (self.qoe.base(step.duration_s, step.energy_j) - price)
                count, steps, done, asked_s = count + more, steps + more, done + more, now_s
                break
        way = (before, plan, count)
        return self._at(
            Label(kept, spare_s, 0.0, spare_j, cost, now_s, asked_s, window, steps, done, resident, plan, way)
        )

    def _at(self, label: Label) -> Label:
        """A label as it is at its moment: windows that are over closed, and its reserve as far as it can be told."""
        kept, spare_s, spare_j, window, steps = label.kept, label.spare_s, label.spare_j, label.window, label.steps
        if label.now_s > (window + 1) * self.window_s:  # the last step did not end: there was a wait, or it was lost
            kept, window = self._closed(kept, window, steps, spare_s, spare_j, label.asked_s, label.now_s)
            spare_s, spare_j, steps = 0.0, 0.0, 0
        waited_s = 0.0 if self.every_s else label.now_s - label.asked_s
        reach_s = self._in_reach(spare_s - waited_s, label.now_s, window)
        if not waited_s:  # else the window may yet be kept, if nothing more ends in it
            spare_s = reach_s
            spare_j = -_INFINITE if reach_s == -_INFINITE else spare_j
        hope_s = reach_s - self._earned_s(label.now_s)
        return label._replace(kept=kept, spare_s=spare_s, hope_s=hope_s, spare_j=spare_j, window=window, steps=steps)

    def _in_reach(self, spare_s: float, now_s: float, window: int) -> float:
        """A reserve as far as it makes a difference: minus infinity if lost for good, no more than can be spent.

        Steps that meet a change may be shorter or longer than those of either state, so one step's limit is added.
        """
        if self.every_s or self.limit_s == _INFINITE:
            return spare_s
        end_s = max(min((window + 1) * self.window_s, self.horizon_s), now_s)
        if spare_s < 0 and spare_s + self._earned_s(end_s) - self._earned_s(now_s) + self.limit_s < 0:
            return -_INFINITE
        return min(spare_s, self._spent_s(end_s) - self._spent_s(now_s) + self.limit_s)

    def _closed(
        self, kept: int, window: int, steps: int, spare_s: float, spare_j: float, asked_s: float, until_s: float
    ) -> tuple[int, int]:
        """Windows kept, and the present one, once all that end before a time are over."""
        while window < self.windows and (window + 1) * self.window_s < until_s:
            if steps:
                over = steps * ROUNDING / 2  # may be exceeded by so many limits
                kept += spare_s >= -self.limit_s * over and spare_j >= -self.limit_j * over
            else:  # nothing ended, which is well if nothing was asked for
                kept += asked_s >= (window + 1) * self.window_s
            window, steps = window + 1, 0
        return kept, window


def _is_better(one: Label, other: Label) -> bool:
    """Whether a label makes another one useless that has no more hope."""
    if one.cost > other.cost:
        return False
    if one.kept > other.kept:
        return True
    # A window is kept as well if nothing more ends in it, so what it stands at counts beside what it may come to.
    return one.spare_j >= other.spare_j and (one.spare_s >= 0 or other.spare_s < 0)


def _turns(one: Label, two: Label, three: Label) -> bool:
    """Whether the second of three labels, each with less in reserve and cheaper, is below the line of the others."""
    if three.hope_s == -_INFINITE or one.kept > three.kept:
        return True
    return (one.cost - two.cost) * (two.hope_s - three.hope_s) > (two.cost - three.cost) * (one.hope_s - two.hope_s)


def _choices(label: Label) -> list[tuple[int | None, int]]:
    choices, way = [], label.way
    while way is not None:
        way, plan, count = way
        choices.append((plan, count))
    return choices[::-1]
