"""The best plan to serve with: chains one by one, until none is left that could be better."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from dora_nb.costs.serving.bound import Limited
from dora_nb.costs.serving.figures import serving_figures
from dora_nb.costs.serving.limits import ROUNDING
from dora_nb.costs.serving.rounds import least_wait_s
from dora_nb.costs.serving.service import Service
from dora_nb.domain.plan import Plan
from dora_nb.domain.serving import AT_ONCE, Joining, ServingFigures, ServingGoal
from dora_nb.formulation.serving.chains import Chain, Chains
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.serving.rearrange import beside

Progress = Callable[[str], None]

#: The largest rate that a plan keeps is found to one part in 2 to the power of this many halvings of its capacity.
_HALVINGS = 7

#: Where the rate is looked for, the part of the time that is given to the bound before any plan is played.
_BOUND_PART = 0.3

#: Where the rate is looked for, so many requests a slot are played at least: the first ones fill the slots.
_REQUESTS_PER_SLOT = 4


class Found(NamedTuple):
    """The best so far: what is minimised, and of what."""

    value: float
    plan: Plan
    joining: Joining
    figures: ServingFigures


class Search:
    """Chains one by one, until none is left that could be better.

    Parameters
    ----------
    goal
        What is asked.
    joinings
        Ways of joining to choose from.
    requests
        That are played at least.
    gap
        At which an answer is good enough.
    deadline
        Until when.
    say
        Told of what is found.
    """

    def __init__(
        self,
        goal: ServingGoal,
        joinings: Sequence[Joining],
        requests: int,
        gap: float,
        deadline: Deadline,
        say: Progress,
    ) -> None:
        self.goal, self.joinings = goal, joinings
        self.requests, self.gap = requests, gap
        self.deadline, self.say = deadline, say
        self.found: Found | None = None
        self.bound = math.inf  # of all chains, in what is minimised
        self.is_over = False
        self._first_least = math.inf  # of the first chain that came
        self._seen: set[tuple[Plan, Joining]] = set()
        self._enough: dict[tuple[object, int], int] = {}  # slots, by stages and groups

    @property
    def played(self) -> int:
        """Plans whose requests were played."""
        return len({plan for plan, _ in self._seen})

    def run(self, every: Sequence[Chains]) -> None:
        """Until it is proven, or time is up."""
        ordered = _in_order(every)
        known = self._begin_bound(ordered) if self.goal.objective == "rate" else []
        self._begin(every)
        for least, chain in itertools.chain(known, ordered):
            self.bound = self._proven(least, chain)
            if self._is_good(least):
                self.is_over = True
                return
            if self.deadline.passed:
                return
            if chain is not None:
                self._settle(chain)
        self.is_over = True
        self.bound = self._proven(math.inf, None)

    def _begin_bound(self, ordered: Iterator[tuple[float, Chain | None]]) -> list[tuple[float, Chain | None]]:
        """What no chain takes less than, from the first one that is completed or the last before a part of the time.

        Where the rate is looked for, that is the bound, whatever is tried; it is to go on with what is returned.
        """
        remaining_s = self.deadline.remaining_s
        until_s = 0.0 if remaining_s is None else (1 - _BOUND_PART) * remaining_s
        for least, chain in ordered:
            self.bound = self._proven(least, chain)
            if chain is not None or self.deadline.cancelled or (self.deadline.remaining_s or math.inf) < until_s:
                return [(least, chain)]
        return []

    def _begin(self, every: Sequence[Chains]) -> None:
        """Settle the first chain of every number of slots and groups, and what is beside the best of them.

        Where the rate is looked for, that of every number of stages too: the more there are the larger is the capacity,
        but not what is kept of it.
        """
        if self.goal.objective == "rate":
            every = sorted(every, key=lambda each: each.slots * each.groups, reverse=True)
        most = len(every[0].cluster.devices)
        for most_stages in range(most, 0, -1) if self.goal.objective == "rate" else (most,):
            before = self.found
            for chains in every:
                self._settle_first(chains, most_stages)
                if self.deadline.passed:
                    return
            if self.found is not before:
                self._climb(every)

    def _settle_first(self, chains: Chains, most_stages: int) -> None:
        """Settle the first chain, in the order of capacity where the rate is looked for: it comes sooner."""
        for least, chain in chains.in_order(most_stages, by_capacity=self.goal.objective == "rate"):
            if self.deadline.passed or self._is_good(least):
                return
            if chain is not None:
                if not self._is_good(chain.least):
                    self._settle(chain)
                return

    def _climb(self, every: Sequence[Chains]) -> None:
        """Play chains beside the best so far until none is better.

        With as many slots and groups, or with most; joined in the same way, in the largest wave, or as a batch.
        """
        by_shape = {(each.slots, each.groups): each for each in every}
        while True:
            best = self.found
            assert best is not None, "there is something to begin with"
            own = by_shape[best.plan.micro_batch, best.plan.token_groups]
            largest = max(every, key=lambda each: each.slots * each.groups)
            shapes = [own] if own is largest else [own, largest]
            stages = [(each.first_layer, each.stop_layer, each.leader) for each in best.plan.stages]
            near = beside(stages, every[0].cluster.device_ids)
            for next_stages, chains in itertools.product(near, shapes):
                if self.deadline.passed:
                    return
                chain = chains.of(next_stages)
                if chain is not None and not self._is_good(chain.least):
                    for joining in dict.fromkeys((best.joining, *self._most_together(chain))):
                        self._play(chain, joining)
                if self.found is not best:
                    break
            else:
                return

    def _is_good(self, least: float) -> bool:
        """Whether no chain that takes so much at least could be better by more than the gap."""
        return self.found is not None and least >= self.found.value * (1 - self.gap)

    def _proven(self, least: float, chain: Chain | None) -> float:
        """What no chain is below, where all whose least is smaller have been settled.

        A chain is settled by its figures at the rate that is given. Where the rate is looked for, others than those
        that were tried might be kept, so that the least of the first chain holds for all.
        """
        if self.goal.objective == "rate":
            self._first_least = min(self._first_least, least if chain is not None else math.inf)
            return min(self._first_least, least)
        return min(least, math.inf if self.found is None else self.found.value)

    def _settle(self, chain: Chain) -> None:
        """Play a chain's requests, joined in every way that its slots may hold."""
        for joining in self._joinings_of(chain):
            self._play(chain, joining)

    def _joinings_of(self, chain: Chain) -> list[Joining]:
        """Ways that its slots may hold; a batch of one is joined like any free slot."""
        slots, groups = chain.service.slots, chain.service.groups
        is_known = slots == 1 and AT_ONCE in self.joinings
        return [
            each
            for each in self.joinings
            if each.wave <= slots * groups and not (each.batching == "static" and is_known)
        ]

    def _most_together(self, chain: Chain) -> list[Joining]:
        """Its largest wave, and a batch."""
        possible = self._joinings_of(chain)
        of_each = [[each for each in possible if each.batching == name] for name in ("continuous", "static")]
        return [each[-1] for each in of_each if each]

    def _play(self, chain: Chain, joining: Joining) -> None:
        if (chain.plan, joining) in self._seen or self._is_good(chain.least_of(joining)):
            return
        where = tuple((stage.first_layer, stage.leader) for stage in chain.plan.stages), chain.service.groups
        is_plain = self.goal.objective != "rate" and joining == AT_ONCE
        if is_plain and chain.service.slots >= self._enough.get(where, math.inf):
            return
        if self._waits_too_long(chain, joining):
            return
        self._seen.add((chain.plan, joining))
        is_rate = self.goal.objective == "rate"
        figures = self._fastest(chain, joining) if is_rate else self._figures(chain.service, joining)
        if is_plain and figures is not None and figures.together < chain.service.slots:
            self._enough[where] = figures.together  # with more slots nobody waits less
        if figures is None or not self.goal.keeps(figures):
            return
        value = self._value(figures)
        if self.found is None or value < self.found.value:
            self.found = Found(value, chain.plan, joining, figures)
            shape = f"{chain.service.groups} x {chain.service.slots} slots on {', '.join(chain.plan.devices)}"
            waves = f" in waves of {joining.wave}" if joining.wave > 1 else ""
            self.say(f"{shape}, {joining.batching}{waves}: {reported(value, self.goal):.4g} {unit_of(self.goal)}")

    def _waits_too_long(self, chain: Chain, joining: Joining) -> bool:
        """Whether waiting for those who join together alone breaks a limit, or is worse than the best so far."""
        goal, together = self.goal, joining.together(chain.service.slots)
        if goal.requests_per_s is None or together == 1:
            return False
        wait_s = least_wait_s(together, goal.requests_per_s, whole_waves(self.requests, together))
        limits = [(chain.service.first_token_alone_s, goal.first_token_s), (chain.service.alone_s, goal.latency_s)]
        if goal.objective == "latency" and self.found is not None:
            limits.append((chain.service.alone_s, self.found.value))
        return any(limit is not None and alone_s + wait_s > limit * (1 + ROUNDING) for alone_s, limit in limits)

    def _figures(self, service: Service, joining: Joining, requests_per_s: float | None = None) -> ServingFigures:
        rate = requests_per_s or self.goal.requests_per_s
        assert rate is not None, "a goal without a rate looks for one"
        least = self.requests
        if requests_per_s is not None:
            least = max(least, _REQUESTS_PER_SLOT * service.slots * service.groups)
        requests = whole_waves(least, joining.together(service.slots))
        return serving_figures(service, rate, requests=requests, joining=joining)

    def _fastest(self, chain: Chain, joining: Joining) -> ServingFigures | None:
        """At the largest rate that was found to keep the limits; None where it is none, or below the best so far.

        Below the slowest rate none is kept, so that it is looked for above; there, as if all below a kept one were.
        """
        slow, fast = Limited(chain.service, self.goal).slowest_per_s(joining), 1.0 / chain.least_of(joining)
        better = 0.0 if self.found is None else (1 + self.gap) / self.found.value
        if max(slow, better) > fast:
            return None
        best = None
        if better > slow:  # a little faster, or not at all
            best, slow = self._figures(chain.service, joining, better), better
            if not self.goal.keeps(best):
                return None
        for _ in range(_HALVINGS):
            rate = (slow + fast) / 2
            figures = self._figures(chain.service, joining, rate)
            if self.goal.keeps(figures):
                best, slow = figures, rate
            else:
                fast = rate
        return best

    def _value(self, figures: ServingFigures) -> float:
        if self.goal.objective == "latency":
            return figures.latency_s
        if self.goal.objective == "energy":
            return figures.energy_j(self.goal.energy_accounting)
        return 1.0 / figures.requests_per_s


def whole_waves(requests: int, together: int) -> int:
    """So many requests, or a few more: if several join together, every third has whole waves or batches, to compare."""
    return 3 * together * math.ceil(requests / (3 * together)) if together > 1 else requests


def unit_of(goal: ServingGoal) -> str:
    """Of the objective."""
    return {"latency": "s", "energy": "J", "rate": "requests/s"}[goal.objective]


def reported(minimised: float, goal: ServingGoal) -> float:
    """As the objective is stated: a rate instead of the seconds between requests."""
    return 1.0 / minimised if goal.objective == "rate" else minimised


def _in_order(every: Sequence[Chains]) -> Iterator[tuple[float, Chain | None]]:
    """All chains of all numbers of slots and groups, by what they take at least; of equal ones those with fewer."""

    def ranked(place: int, chains: Chains) -> Iterator[tuple[float, int, Chain | None]]:
        return ((least, place, chain) for least, chain in chains.in_order())

    merged = heapq.merge(*itertools.starmap(ranked, enumerate(every)), key=lambda each: each[:2])
    return ((least, chain) for least, _, chain in merged)
