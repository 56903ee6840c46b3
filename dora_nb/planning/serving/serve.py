"""From requests that want tokens to a plan with slots for them, with a proven gap."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, get_args

from dora_nb.costs.serving import Service, check_request, check_times
from dora_nb.costs.serving_figures import REQUESTS, serving_figures
from dora_nb.costs.table import CostTable, cost_table
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.fits import check_ends
from dora_nb.domain.plan import Plan
from dora_nb.domain.serving import Batching, Serving, ServingFigures, ServingGoal
from dora_nb.domain.workload import Workload
from dora_nb.errors import InfeasibleError, InputError
from dora_nb.formulation.serving.chains import Chain, Chains
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.plan import check_effort

Progress = Callable[[str], None]

#: More devices make too many sets of them.
MOST_DEVICES = 10

#: Least requests that a prediction is made of: thirds of them are compared.
FEWEST_REQUESTS = 6

#: The largest rate that a plan keeps is found to one part in 2 to the power of this many halvings of its capacity.
_HALVINGS = 7


class _Found(NamedTuple):
    """The best so far: what is minimised, and of what."""

    value: float
    plan: Plan
    figures: ServingFigures


def serve(
    workload: Workload,
    cluster: Cluster,
    goal: ServingGoal | None = None,
    *,
    slots: Sequence[int] = (1, 2, 4, 8),
    groups: Sequence[int] = (1, 2, 3, 4),
    batching: Batching = "continuous",
    requests: int = REQUESTS,
    gap: float = 0.01,
    time_limit_s: float = 60.0,
    table: CostTable | None = None,
    on_progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Serving:
    """Plan for requests that want tokens and arrive over time: which layers run where, with how many slots and groups.

    Chains of stages come in the order of what a request takes at least. The requests of each are played one by one,
    until no chain is left that could be better; those that cannot keep the limits, or whose capacity is below the rate,
    are left out before. The bound holds
    for the figures of the first ``requests`` requests as :func:`~dora_nb.costs.serving_figures.serving_figures` plays
    them. With the objective ``rate`` it is the largest capacity of all chains: no plan serves more, whereas the rate
    found is the largest that was tried and kept, so that its gap also holds what waiting and batching cost.

    Parameters
    ----------
    workload
        In mode ``generate``, one request: its batch is 1.
    cluster
        At most ten devices.
    goal
        Objective, rate and limits; None: the largest rate.
    slots
        Numbers of requests that a group may have at once.
    groups
        Numbers of groups that may follow each other.
    batching
        Who joins when.
    requests
        How many are played.
    gap
        Relative gap at which an answer is good enough.
    time_limit_s
        Seconds after which the best so far is returned with its true gap.
    table
        Measured times of up to as many samples as there are slots; None: the roofline estimate.
    on_progress
        Called with a sentence about each step.
    cancel
        Set from another thread to stop.

    Returns
    -------
    Serving

    Raises
    ------
    InputError
        If something given cannot be used.
    InfeasibleError
        If no plan keeps the limits at this rate, or none was found.
    """
    started, goal = time.monotonic(), goal or ServingGoal(objective="rate")
    _check(workload, cluster, slots, groups, batching, requests)
    check_effort(gap, time_limit_s, "auto")
    table = cost_table(workload.replace(batch=max(slots)), cluster) if table is None else table
    check_times(table, max(slots))
    pairs = [(slot, group) for group in sorted(set(groups)) for slot in sorted(set(slots))]
    every = [Chains(workload, cluster, table, goal, slot, group) for slot, group in pairs]
    say = on_progress or (lambda _: None)
    search = _Search(goal, batching, requests, gap, Deadline(started + time_limit_s, cancel), say)
    search.run(every)
    return _answer(search, cluster, started, _scope(search, slots, groups))


class _Search:
    """Chains one by one, until none is left that could be better."""

    def __init__(
        self, goal: ServingGoal, batching: Batching, requests: int, gap: float, deadline: Deadline, say: Progress
    ) -> None:
        self.goal, self.batching, self.requests, self.gap = goal, batching, requests, gap
        self.deadline, self.say = deadline, say
        self.found: _Found | None = None
        self.bound = math.inf  # of all chains, in what is minimised
        self.is_over = False
        self._first_least = math.inf
        self._seen: set[Plan] = set()
        self._enough: dict[tuple[object, int], int] = {}  # slots, by stages and groups

    @property
    def played(self) -> int:
        """Plans whose requests were played."""
        return len(self._seen)

    def run(self, every: Sequence[Chains]) -> None:
        """Until it is proven, or time is up."""
        self._begin(every)
        for least, chain in _in_order(every):
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

    def _begin(self, every: Sequence[Chains]) -> None:
        """Settle the first chain of every number of slots and groups, so that there is something to be better than.

        Where the rate is looked for, that of every number of stages too: the more there are the larger is the capacity,
        but not what is kept of it.
        """
        counts = range(1, len(every[0].cluster.devices) + 1) if self.goal.objective == "rate" else (None,)
        for most_stages, chains in itertools.product(counts, every):
            for least, chain in chains.in_order(most_stages):
                if self._is_good(least):
                    break
                if self.deadline.passed:
                    return
                if chain is not None:
                    self._settle(chain)
                    break

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
        where = tuple((stage.first_layer, stage.leader) for stage in chain.plan.stages), chain.service.groups
        if chain.plan in self._seen or chain.service.slots >= self._enough.get(where, math.inf):
            return
        self._seen.add(chain.plan)
        figures = self._fastest(chain) if self.goal.objective == "rate" else self._figures(chain.service)
        is_asked = self.batching == "continuous" and self.goal.objective != "rate"
        if figures is not None and is_asked and figures.together < chain.service.slots:
            self._enough[where] = figures.together  # with more slots nobody waits less
        if figures is None or not self.goal.keeps(figures):
            return
        value = self._value(figures)
        if self.found is None or value < self.found.value:
            self.found = _Found(value, chain.plan, figures)
            shape = f"{chain.service.groups} x {chain.service.slots} slots on {', '.join(chain.plan.devices)}"
            self.say(f"{shape}: {_reported(value, self.goal):.4g} {_unit(self.goal)}")

    def _figures(self, service: Service, requests_per_s: float | None = None) -> ServingFigures:
        rate = requests_per_s or self.goal.requests_per_s
        assert rate is not None, "a goal without a rate looks for one"
        return serving_figures(service, rate, requests=self.requests, batching=self.batching)

    def _fastest(self, chain: Chain) -> ServingFigures | None:
        """At the largest rate that was found to keep the limits; None where it is none, or below the best so far."""
        best, slow, fast = None, 0.0, chain.service.capacity_per_s
        if self.found is not None:  # a little faster, or not at all
            slow = (1 + self.gap) / self.found.value
            best = self._figures(chain.service, slow) if slow <= fast else None
            if best is None or not self.goal.keeps(best):
                return None
        for _ in range(_HALVINGS):
            rate = (slow + fast) / 2
            figures = self._figures(chain.service, rate)
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


def _in_order(every: Sequence[Chains]) -> Iterator[tuple[float, Chain | None]]:
    """All chains of all numbers of slots and groups, by what they take at least; of equal ones those with fewer."""

    def ranked(place: int, chains: Chains) -> Iterator[tuple[float, int, Chain | None]]:
        return ((least, place, chain) for least, chain in chains.in_order())

    merged = heapq.merge(*itertools.starmap(ranked, enumerate(every)), key=lambda each: each[:2])
    return ((least, chain) for least, _, chain in merged)


def _check(
    workload: Workload,
    cluster: Cluster,
    slots: Sequence[int],
    groups: Sequence[int],
    batching: str,
    requests: int,
) -> None:
    check_request(workload)
    check_ends(workload, cluster)
    for name, given in (("slots", slots), ("groups", groups)):
        if not given or any(not isinstance(each, int) or each < 1 for each in given):
            raise InputError(name, given, "at least one number, each at least 1")
    if batching not in get_args(Batching):
        raise InputError("batching", batching, ", ".join(get_args(Batching)))
    if requests < FEWEST_REQUESTS:
        raise InputError("requests", requests, f"{FEWEST_REQUESTS} or more")
    if len(cluster.devices) > MOST_DEVICES:
        allowed = f"at most {MOST_DEVICES}; leave some out, e.g. with cluster.without(names)"
        raise InputError("cluster.devices", len(cluster.devices), allowed)


def _unit(goal: ServingGoal) -> str:
    return {"latency": "s", "energy": "J", "rate": "requests/s"}[goal.objective]


def _reported(minimised: float, goal: ServingGoal) -> float:
    """As the objective is stated: a rate instead of the seconds between requests."""
    return 1.0 / minimised if goal.objective == "rate" else minimised


def _answer(search: _Search, cluster: Cluster, started: float, scope: str) -> Serving:
    """The best plan with what is proven of it.

    Raises
    ------
    InfeasibleError
        If there is none.
    """
    goal, found = search.goal, search.found
    if found is None:
        tried = f"{search.played} plans were played"
        if search.is_over and (goal.objective != "rate" or not search.played):
            raise InfeasibleError(f"{cluster.name}: no plan fits in memory and keeps the limits; {tried}")
        raise InfeasibleError(
            f"{cluster.name}: no plan was found that keeps the limits, and none is proven impossible; {tried}: allow "
            "more time, fewer slots or a lower rate"
        )
    bound = min(search.bound, found.value)
    left = max(0.0, (found.value - bound) / found.value if goal.objective != "rate" else found.value / bound - 1.0)
    stopped = "cancelled" if search.deadline.cancelled else "time limit"
    return Serving(
        cluster=cluster.name,
        goal=goal,
        batching=search.batching,
        plan=found.plan,
        figures=found.figures,
        value=_reported(found.value, goal),
        unit=_unit(goal),
        bound=_reported(bound, goal),
        gap=left,
        status="optimal" if left <= search.gap else "feasible" if search.is_over else stopped,
        scope=scope,
        played=search.played,
        wall_s=time.monotonic() - started,
    )


def _scope(search: _Search, slots: Sequence[int], groups: Sequence[int]) -> str:
    shapes = [", ".join(map(str, sorted(set(each)))) for each in (groups, slots)]
    what = (
        "what stages, media and groups can serve at most, whenever requests arrive"
        if search.goal.objective == "rate"
        else f"figures of the first {search.requests} requests, evenly spaced"
    )
    return f"contiguous stages on one device each, {shapes[0]} groups of {shapes[1]} slots; {what}"
