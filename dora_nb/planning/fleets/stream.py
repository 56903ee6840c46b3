"""The fastest stream on a fleet too large for the label search: the load is bounded first, then stages are packed."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from dora_nb.domain.plan import Plan
from dora_nb.errors import InfeasibleError
from dora_nb.formulation.fleets.group_times import GroupTimes
from dora_nb.formulation.problem import Problem
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.fleets.large import as_plan
from dora_nb.planning.fleets.packing import packed
from dora_nb.planning.fleets.period_bound import PeriodBound
from dora_nb.planning.scheduling import predicted, quick_schedule

#: How far above the bound stages are packed, in parts of the gap that is good enough, until some plan is found.
STEPS = (0.25, 0.5, 0.9, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)

#: Seconds between requests that no plan is too slow for.
UNHURRIED_S = 1e9

#: A period, in parts of a plan's own, at which its transfers are tried to repeat.
SLACK = (1.0, 1.002, 1.01, 1.03, 1.1, 1.5, 3.0)


def fastest_large_stream(problem: Problem, gap: float, deadline: Deadline) -> tuple[Plan, float, float]:
    """A plan, the shortest time between requests that it was found to keep, and what no plan can keep.

    Parameters
    ----------
    problem
        A stream, whose own rate is not looked at.
    gap
        Relative gap of the period that is good enough.
    deadline
        When to stop with what there is; a first plan is looked for nevertheless.

    Raises
    ------
    InfeasibleError
        If no plan was found that fits the devices' memory.
    """
    best, best_s, bound_s = None, math.inf, math.inf
    for size in problem.space.micro_batch_sizes:
        times = GroupTimes.of(problem, size)
        bound = PeriodBound(times, deadline)
        start_s = _longest_s(times)
        least_s = bound.period_s(start_s, min(gap, 0.01)) if math.isfinite(start_s) else math.inf
        bound_s = min(bound_s, least_s)
        for part in STEPS if math.isfinite(start_s) else ():
            load_s = max(least_s, 1e-3 * start_s) * (1 + part * gap)
            if load_s > best_s or (best is not None and deadline.passed):
                break
            stages = packed(times, bound.weights, load_s)
            plan = None if stages is None else as_plan(problem, times, stages)
            if plan is not None:
                kept, kept_s = _kept(problem, plan)
                if kept_s < best_s:
                    best, best_s = kept, kept_s
                break
    if best is None:
        raise InfeasibleError(
            f"{problem.workload.name} on {problem.cluster.name}: no plan was found that fits the devices' memory"
        )
    return best, best_s, min(bound_s, best_s)


def _longest_s(times: GroupTimes) -> float:
    """The load of one group on everything, or where none has the memory, of the fastest on each layer in turn."""
    whole_s = float(times.seconds[:, times.range_of[0, -1]].min())
    each_s = float(times.seconds.min(axis=0)[np.diagonal(times.range_of, 1)].sum())
    return times.micro_batches * (whole_s if math.isfinite(whole_s) else each_s)


def _kept(problem: Problem, plan: Plan) -> tuple[Plan | None, float]:
    """The plan with transfers that repeat, and the shortest of some periods at which they were found to."""

    def at(period_s: float) -> Plan | None:
        workload = problem.workload.replace(requests_per_s=1.0 / period_s)
        asked = dataclasses.replace(problem, workload=workload)
        latency_s, order = quick_schedule(plan, asked)
        return None if math.isinf(latency_s) else predicted(plan.replace(transfer_order=order), asked)

    slow = at(UNHURRIED_S)
    if slow is None or slow.prediction is None:
        return None, math.inf
    for slack in SLACK:
        period_s = slack * slow.prediction.period_s
        kept = at(period_s)
        if kept is not None:
            return kept, period_s
    return slow, UNHURRIED_S
