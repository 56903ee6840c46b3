"""The transfers of a given plan in another order: what nobody's planning, a rule and the best there is come to."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from typing import Literal, get_args

from dora_nb.costs.table import CostTable
from dora_nb.domain.certificate import Certificate
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.fits import check_fits
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError, UnknownNameError
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.schedules.list_schedule import as_ready, by_critical_path
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.plan import check_effort
from dora_nb.planning.scheduling import operations_and_timing, predicted, settle
from dora_nb.solvers import SolverChoice

#: ``as-ready``: first come, first served. ``critical-path``: whenever a medium is free, of the transfers that are ready
#: the one with the longest chain of work behind it. ``exact``: the shortest schedule that can be found, with a proof of
#: how short any can be.
Rule = Literal["as-ready", "critical-path", "exact"]


def order_transfers(
    plan: Plan,
    workload: Workload,
    cluster: Cluster,
    rule: Rule = "exact",
    *,
    table: CostTable | None = None,
    most_chunks: int | None = None,
    gap: float = 1e-4,
    time_limit_s: float = 20.0,
    solver: SolverChoice = "auto",
    cancel: threading.Event | None = None,
) -> Plan:
    """The same plan with its transfers in another order, and what it is then predicted to do.

    Parameters
    ----------
    plan
        Which layers run where; the order it has, its figures and its proof are left aside.
    workload, cluster
        What the plan is for. Not a stream, whose order is one of its period.
    rule
        See :data:`Rule`.
    table
        Measured compute times; None: the roofline estimate.
    most_chunks
        ``exact``: in how many pieces activations and gradients may travel at most (1, 2 or 4); None: 4. The other
        rules keep the plan's.
    gap, time_limit_s, solver, cancel
        Of ``exact``, as in :func:`dora_nb.plan`.

    Returns
    -------
    Plan
        Named after the rule. Of ``exact`` with a certificate, whose bound holds for every order of these transfers.

    Raises
    ------
    UnknownNameError
        If there is no such rule.
    InputError
        If something else given cannot be used.
    """
    if rule not in get_args(Rule):
        raise UnknownNameError("rule", rule, get_args(Rule))
    if workload.arrival_s is not None:
        raise InputError("workload.mode", workload.mode, "training, inference or generate")
    check_effort(gap, time_limit_s, solver)
    check_fits(plan, workload, cluster)
    problem = Problem.of(workload, cluster, "participating", table=table, overlap=plan.overlap)
    bare = plan.replace(label=rule, transfer_order=(), prediction=None, certificate=None)
    if rule == "exact":
        if most_chunks is not None:
            problem = replace(problem, space=replace(problem.space, most_chunks=most_chunks))
            problem.space.check(workload)
        return _exact(bare, problem, gap, solver, Deadline(time.monotonic() + time_limit_s, cancel))
    schedule = (as_ready if rule == "as-ready" else by_critical_path)(*operations_and_timing(bare, problem))
    return predicted(bare.replace(transfer_order=schedule.transfers()), problem)


def _exact(plan: Plan, problem: Problem, gap: float, solver: SolverChoice, deadline: Deadline) -> Plan:
    settled = settle(plan.replace(chunks=1), problem, below_s=math.inf, gap=gap, solver=solver, deadline=deadline)
    assert settled.plan is not None, "there is always a schedule"
    reached = max(1 - settled.bound_s / settled.makespan_s, 0.0)
    chunks = problem.space.most_chunks
    certificate = Certificate(
        objective="latency",
        unit="s",
        value=settled.makespan_s,
        bound=settled.bound_s,
        gap=reached,
        status=_status(reached <= gap, deadline),
        scope=f"every order of the transfers of this plan, {'whole' if chunks == 1 else f'in up to {chunks} chunks'}",
        solver=f"transfer program, {settled.solver}" if settled.solver else "schedules that meet a bound",
        solver_reason="bounds and schedules left it open" if settled.solver else "no program was needed",
    )
    return predicted(settled.plan, problem).replace(certificate=certificate)


def _status(proven: bool, deadline: Deadline) -> Literal["optimal", "feasible", "time limit", "cancelled"]:
    if proven:
        return "optimal"
    if deadline.cancelled:
        return "cancelled"
    return "time limit" if deadline.passed else "feasible"
