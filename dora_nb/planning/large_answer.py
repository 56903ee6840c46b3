"""Answers to questions that only one figure of one plan is asked of: events on the way, and the certificate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from dora_nb import solvers
from dora_nb.domain.certificate import Certificate
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import ROUNDING
from dora_nb.domain.rating import qoe_value
from dora_nb.errors import InfeasibleError, ObjectiveMismatchError
from dora_nb.formulation.problem import Problem
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.scheduling import scheduled
from dora_nb.units import format_seconds


def tell_bounds(on_event: solvers.OnEvent | None) -> Callable[[float, float], None]:
    """What passes incumbents and bounds on as a solver's events, from now on."""
    started_s = time.monotonic()

    def on_bound(incumbent_s: float, bound_s: float) -> None:
        if on_event is not None and math.isfinite(incumbent_s):
            reached = solvers.relative_gap(incumbent_s, bound_s)
            on_event(solvers.Event(time.monotonic() - started_s, incumbent_s, bound_s, reached, 0))

    return on_bound


def certified(
    best: Plan | None,
    bound_s: float,
    problem: Problem,
    *,
    gap: float,
    deadline: Deadline,
    scope: str,
    solver: str,
    reason: str,
) -> Plan:
    """The fastest plan found, with its certificate.

    Parameters
    ----------
    best
        Predicted; None where none was found that fits.
    bound_s
        No plan of the scope takes less.
    problem, gap, deadline
        What was asked.
    scope, solver, reason
        As the certificate has them.

    Raises
    ------
    InfeasibleError
        If no plan was found that fits, or none within the latency limit.
    ObjectiveMismatchError
        If the plan is better than it can be.
    """
    limit_s, where = problem.terms.makespan_limit_s, f"{problem.workload.name} on {problem.cluster.name}"
    if best is None:
        raise InfeasibleError(f"{where}: no plan was found that fits the devices' memory")
    assert best.prediction is not None, "the best plan is predicted"
    value_s = best.prediction.makespan_s
    if value_s > limit_s:
        proven = "impossible" if bound_s > limit_s else "not found"
        raise InfeasibleError(
            f"{where}: a latency of {format_seconds(limit_s)} is {proven}: the best plan takes "
            f"{format_seconds(value_s)}, and none can take less than {format_seconds(bound_s)}"
        )
    if bound_s > value_s * (1 + ROUNDING):
        raise ObjectiveMismatchError(f"the bound {bound_s:.9g} is above the plan's own {value_s:.9g}")
    reached = max(0.0, (value_s - bound_s) / value_s)
    stopped = ("cancelled" if deadline.cancelled else "time limit") if deadline.passed else "feasible"
    return scheduled(best, problem).replace(
        label="latency-optimal",
        certificate=Certificate(
            objective="latency",
            unit="s",
            latency_limit_s=limit_s if math.isfinite(limit_s) else None,
            limits=qoe_value(best.prediction, problem.terms.qoe).limits,
            value=value_s,
            bound=bound_s,
            gap=reached,
            status="optimal" if reached <= gap * (1 + 1e-6) else stopped,
            scope=scope,
            solver=solver,
            solver_reason=reason,
        ),
    )
