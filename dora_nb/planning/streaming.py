"""The best schedule of one plan in a stream."""

from __future__ import annotations

import math

from dora_nb import solvers
from dora_nb.costs.operations import Operations, Shape, Timing
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.timing import timing_of
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import ROUNDING
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.schedules.stream_schedule import (
    MOST_PAIRS,
    greedy_stream,
    media_s,
    pairs_on_media,
    schedule_of,
    stream_model,
)
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.scheduling import Settled, program_options
from dora_nb.solvers import SolverChoice


def settle_stream(
    plan: Plan, problem: Problem, *, below_s: float, gap: float, solver: SolverChoice, deadline: Deadline
) -> Settled:
    """The schedule of a plan with the least latency below a limit, or the proof that none repeats every period.

    Parameters
    ----------
    plan
        Without a transfer order.
    below_s
        Only smaller latencies are of interest; infinity: any schedule that repeats.
    gap
        Relative gap at which the schedule is good enough.
    solver
        For the program.
    deadline
        When to stop with what there is.

    Raises
    ------
    SolverError
        If the solver refuses the program's numbers, or fails.
    """
    period_s = problem.workload.arrival_s
    assert period_s is not None, "a stream has a rate"
    operations = operations_of(Shape.of(plan, problem.workload))
    timing = timing_of(plan, problem.workload, problem.cluster, problem.table)
    best = Settled(0.0, below_s, None)
    if max(media_s(operations, timing).values(), default=0.0) > period_s * (1 + ROUNDING):
        return Settled(math.inf, below_s, None)
    known = greedy_stream(operations, timing, period_s)
    if known is not None and known.latency_s < below_s:
        best = Settled(0.0, known.latency_s, plan.replace(transfer_order=known.transfers(operations)))
    if len(pairs_on_media(operations, timing)) > MOST_PAIRS or deadline.passed:
        return best
    latest_s = min(_latest_s(operations, timing, period_s), best.makespan_s)
    options = program_options(gap, deadline)
    model = stream_model(operations, timing, period_s, latest_s)
    outcome = solvers.solve(model, options, solver=solver, cancel=deadline.cancel)
    if outcome.status is solvers.Status.INFEASIBLE:
        return Settled(best.makespan_s, best.makespan_s, best.plan, outcome.solver)
    bound_s = 0.0 if outcome.bound is None else min(outcome.bound * period_s, best.makespan_s)
    found = None
    if outcome.status.has_incumbent:
        found = schedule_of(operations, timing, period_s, (outcome.values["start"] * period_s).tolist())
    if found is None or found.latency_s >= best.makespan_s:
        return Settled(bound_s, best.makespan_s, best.plan, outcome.solver)
    ordered = plan.replace(transfer_order=found.transfers(operations))
    return Settled(min(bound_s, found.latency_s), found.latency_s, ordered, outcome.solver)


def _latest_s(operations: Operations, timing: Timing, period_s: float) -> float:
    """If any schedule keeps the period, one ends by then.

    Leave every operation its place within the period and take the least lags: one may exceed that of the operation it
    waits for by its length in periods and two for rounding, and no chain of waits is longer than all operations.
    """
    busy_s = sum(timing.duration_s[kind] for kind in operations.classes)
    return busy_s + 2 * (len(operations.operations) + 1) * period_s
