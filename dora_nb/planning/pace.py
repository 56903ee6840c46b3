"""The fastest stream: at which rate requests may arrive at most, whatever their latency.

A plan keeps up with a period exactly if no stage, medium or port has more to do for a request than there is time until
the next one, and its transfers find places that repeat. Halving the interval between a period that some plan keeps and
one that none can keep answers the question to any gap; every step is a bounding search that stops at its first plan.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from dora_nb.costs.table import CostTable
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.fits import check_ends
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload
from dora_nb.errors import InfeasibleError, InputError
from dora_nb.formulation.columns import build_columns
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.bounding.screening import screen
from dora_nb.planning.bounding.search import Search
from dora_nb.planning.bounding.targets import Targets
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.fleets.large import check_large, check_no_shards, is_large
from dora_nb.planning.fleets.stream import fastest_large_stream
from dora_nb.planning.plan import check_effort
from dora_nb.planning.scheduling import predicted
from dora_nb.planning.settle import settle_all
from dora_nb.units import format_seconds

_MOST_LABELS, _SCHEDULES = 20_000, 50

#: Relative gap at which any plan is good enough, so that nothing is looked at after the first.
_ANY = 1 - 1e-9


@dataclass(frozen=True)
class Pace:
    """The largest rate found.

    Attributes
    ----------
    plan
        That keeps it, with requests ``period_s`` apart.
    period_s
        Shortest time between requests that was found possible.
    bound_s
        No plan considered keeps up with requests closer together.
    scope
        Over which plans the bound holds.
    """

    plan: Plan
    period_s: float
    bound_s: float
    scope: str

    @property
    def requests_per_s(self) -> float:
        """The largest rate found."""
        return 1.0 / self.period_s

    @property
    def gap(self) -> float:
        """``(period_s - bound_s) / period_s``."""
        return (self.period_s - self.bound_s) / self.period_s

    def __repr__(self) -> str:
        return (
            f"Pace: a request every {format_seconds(self.period_s)} ({self.requests_per_s:.4g} /s), "
            f"none closer than {format_seconds(self.bound_s)}, gap {100 * self.gap:.1f} %"
        )


def fastest_stream(
    workload: Workload,
    cluster: Cluster,
    *,
    gap: float = 0.01,
    time_limit_s: float = 60.0,
    table: CostTable | None = None,
    space: SearchSpace | None = None,
) -> Pace:
    """The largest rate at which a stream's requests may arrive.

    Parameters
    ----------
    workload
        In mode ``stream``; its own rate is not looked at.
    cluster
        What it runs on.
    gap
        Relative gap of the period that is good enough.
    time_limit_s
        Seconds after which the best so far is returned with its true gap.
    table, space
        As in :func:`dora_nb.plan`.

    Returns
    -------
    Pace

    Raises
    ------
    InputError
        If something given cannot be used.
    InfeasibleError
        If no plan fits the devices' memory.
    """
    if workload.mode != "stream":
        raise InputError("mode", workload.mode, "stream")
    check_effort(gap, time_limit_s, "auto")
    check_ends(workload, cluster)
    deadline = Deadline(time.monotonic() + time_limit_s)
    unhurried = Problem.of(workload, cluster, "participating", table=table, space=space)
    if is_large(unhurried):
        check_no_shards(unhurried)
        check_large(unhurried, ("stream",))
        return Pace(*fastest_large_stream(unhurried, gap, deadline), unhurried.space.describe())
    least_s = workload.batch * float(unhurried.completion.load_s[0, -1])
    # One request after the other on any devices: no plan's loads are larger than all its operations together.
    best, _ = _keeping_up(unhurried, 1e6 * least_s, Deadline())
    if best is None:
        raise InfeasibleError(f"{workload.name} on {cluster.name}: no plan fits the devices' memory")
    best_s, scope = _repeated_s(best, unhurried, 1e6 * least_s), unhurried.space.describe()
    while best_s - least_s > gap * best_s and not deadline.passed:
        middle_s = (best_s + least_s) / 2
        found, refuted = _keeping_up(unhurried, middle_s, deadline)
        if found is not None:
            best, best_s = found, _repeated_s(found, unhurried, middle_s)
        elif refuted:
            least_s = middle_s
        else:
            break
    return Pace(best, best_s, least_s, scope)


def _repeated_s(plan: Plan, unhurried: Problem, kept_s: float) -> float:
    """A period that a plan keeps up with in its own order, given one: its loads' if that order allows it."""
    figures = plan.prediction
    assert figures is not None, "plans found are predicted"
    for period_s in (figures.period_s, figures.makespan_s):
        if period_s < kept_s:
            try:
                predicted(plan, _at(unhurried, period_s))
            except InputError:
                continue
            return period_s
    return kept_s


def _at(unhurried: Problem, period_s: float) -> Problem:
    """The problem with a request every period."""
    workload = unhurried.workload.replace(requests_per_s=1.0 / period_s)
    return Problem.of(workload, unhurried.cluster, "participating", table=unhurried.table, space=unhurried.space)


def _keeping_up(unhurried: Problem, period_s: float, deadline: Deadline) -> tuple[Plan | None, bool]:
    """A plan that keeps up with a period, and whether it is proven that there is none."""
    problem = _at(unhurried, period_s)
    targets = Targets(np.zeros(0), tolerance=_ANY)
    for most_replicas in dict.fromkeys((1, problem.space.most_devices)):
        targets.forget_bounds()
        columns = build_columns(problem, most_replicas, screen(problem, targets, deadline))
        search = Search(problem, columns, targets, _MOST_LABELS, deadline, _SCHEDULES)
        search.run()
        settle_all(problem, targets, search.open, solver="auto", deadline=deadline)
        if targets.latency_plan is not None:
            return predicted(targets.latency_plan, problem), False
    return None, bool(np.isinf(targets.latency.floor[0])) and not deadline.passed
