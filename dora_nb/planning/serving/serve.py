"""From requests that want tokens to a plan with slots for them, with a proven gap."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import get_args

from dora_nb.costs.serving.figures import REQUESTS
from dora_nb.costs.serving.service import check_request, check_times
from dora_nb.costs.table import CostTable, cost_table
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.fits import check_ends
from dora_nb.domain.serving import Batching, Joining, Serving, ServingGoal
from dora_nb.domain.workload import Workload
from dora_nb.errors import InfeasibleError, InputError
from dora_nb.formulation.serving.chains import Chains
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.plan import check_effort
from dora_nb.planning.serving.search import Progress, Search, reported, unit_of
from dora_nb.units import counted

#: More devices make too many sets of them.
MOST_DEVICES = 10

#: Least requests that a prediction is made of: thirds of them are compared.
FEWEST_REQUESTS = 6

#: Waves that are tried unless told otherwise; the first is none.
WAVES = (1, 4, 16)


def serve(
    workload: Workload,
    cluster: Cluster,
    goal: ServingGoal | None = None,
    *,
    slots: Sequence[int] = (1, 2, 4, 8),
    groups: Sequence[int] = (1, 2, 3, 4),
    batching: Batching | None = None,
    waves: Sequence[int] | None = None,
    requests: int = REQUESTS,
    gap: float = 0.01,
    time_limit_s: float = 60.0,
    table: CostTable | None = None,
    on_progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Serving:
    """Plan for requests that want tokens and arrive over time: which layers run where, with how many slots and groups.

    Chains of stages come in the order of what a request takes at least, those beside the best so far before. The
    requests of each are played one by one, until no chain is left that could be better; those that cannot keep the
    limits, or whose capacity is below the rate, are left out. The bound holds for the figures of the first ``requests``
    requests as :func:`~dora_nb.costs.serving.figures.serving_figures` plays them. With the objective ``rate`` it is the
    largest rate of all chains that can be kept up with within the limits however many requests come
    (:mod:`~dora_nb.costs.serving.limits`; without limits the capacity), whereas the rate found is the largest that was
    tried and kept, so that its gap also holds what waiting and batching cost.

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
        Who joins when. None: continuous or static, whichever is better; the answer says which, and its bound holds for
        both.
    waves
        Of continuous batching: numbers of requests that join together at least, where there are so many slots; see
        :mod:`dora_nb.costs.serving.rounds`. None: 1, whoever waits joins where a slot is free, 4 and 16.
    requests
        How many are played at least; in waves or batches, so many more that every third of them has whole ones. With
        the objective ``rate`` at least four for every slot.
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
    if waves is not None:
        _check_waves(waves, batching, max(slots) * max(groups))
    joinings = [Joining("continuous", wave) for wave in sorted(set(waves or WAVES)) if batching != "static"]
    joinings += [Joining("static")] if batching != "continuous" else []
    table = cost_table(workload.replace(batch=max(slots)), cluster) if table is None else table
    check_times(table, max(slots))
    pairs = [(slot, group) for group in sorted(set(groups)) for slot in sorted(set(slots))]
    every = [Chains(workload, cluster, table, goal, slot, group, tuple(joinings)) for slot, group in pairs]
    say = on_progress or (lambda _: None)
    search = Search(goal, joinings, requests, gap, Deadline(started + time_limit_s, cancel), say)
    search.run(every)
    if search.found is None and search.is_over and not search.played and goal.requests_per_s is not None:
        capacity = ServingGoal(objective="rate")
        largest = [Chains(workload, cluster, table, capacity, slot, group) for slot, group in pairs]
        _check_capacity(goal.requests_per_s, cluster, largest)
    return _answer(search, cluster, started, _scope(search, slots, groups))


def _check_capacity(requests_per_s: float, cluster: Cluster, every: Sequence[Chains]) -> None:
    """Refuse a rate that no plan has the capacity for, which is found at once."""
    firsts = (next((chain for _, chain in each.in_order() if chain is not None), None) for each in every)
    least_s = min((chain.least for chain in firsts if chain is not None), default=0.0)
    if requests_per_s * least_s > 1:
        raise InfeasibleError(
            f"{cluster.name}: {requests_per_s:.4g} requests/s are more than any plan serves with these slots and "
            f"groups: at most {1 / least_s:.3g}/s"
        )


def _check_waves(waves: Sequence[int], batching: Batching | None, most: int) -> None:
    for each in waves:
        if not isinstance(each, int) or each < 1 or (batching == "static" and each > 1):
            allowed = "1: a static batch joins as a whole" if batching == "static" else "whole numbers from 1"
            raise InputError("waves", waves, allowed)
    if min(waves, default=most + 1) > most:
        raise InputError("waves", waves, f"at least one number up to {most}, the slots of all groups")


def _check(
    workload: Workload,
    cluster: Cluster,
    slots: Sequence[int],
    groups: Sequence[int],
    batching: str | None,
    requests: int,
) -> None:
    check_request(workload)
    check_ends(workload, cluster)
    for name, given in (("slots", slots), ("groups", groups)):
        if not given or any(not isinstance(each, int) or each < 1 for each in given):
            raise InputError(name, given, "at least one number, each at least 1")
    if batching is not None and batching not in get_args(Batching):
        raise InputError("batching", batching, ", ".join(get_args(Batching)))
    if requests < FEWEST_REQUESTS:
        raise InputError("requests", requests, f"{FEWEST_REQUESTS} or more")
    if len(cluster.devices) > MOST_DEVICES:
        allowed = f"at most {MOST_DEVICES}; leave some out, e.g. with cluster.without(names)"
        raise InputError("cluster.devices", len(cluster.devices), allowed)


def _answer(search: Search, cluster: Cluster, started: float, scope: str) -> Serving:
    """The best plan with what is proven of it.

    Raises
    ------
    InfeasibleError
        If there is none.
    """
    goal, found = search.goal, search.found
    if found is None:
        tried = f"{counted(search.played, 'plan')} played"
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
        batching=found.joining.batching,
        wave=found.joining.wave,
        plan=found.plan,
        figures=found.figures,
        value=reported(found.value, goal),
        unit=unit_of(goal),
        bound=reported(bound, goal),
        gap=left,
        status="optimal" if left <= search.gap else "feasible" if search.is_over else stopped,
        scope=scope,
        played=search.played,
        wall_s=time.monotonic() - started,
    )


def _scope(search: Search, slots: Sequence[int], groups: Sequence[int]) -> str:
    shapes = [", ".join(map(str, sorted(set(each)))) for each in (groups, slots)]
    what = (
        "what stages, media and groups can serve at most within the limits, however many requests come"
        if search.goal.objective == "rate"
        else f"figures of the first {counted(search.requests, 'request')}, evenly spaced"
    )
    batchings = " or ".join(dict.fromkeys(each.batching for each in search.joinings))
    waves = [each.wave for each in search.joinings if each.batching == "continuous"]
    in_waves = f", waves of {', '.join(map(str, waves))}" if waves not in ([], [1]) else ""
    shape = f"contiguous stages on one device each, {shapes[0]} groups of {shapes[1]} slots"
    return f"{shape}, {batchings} batching{in_waves}; {what}"
