"""From a question to a small set of proven plans."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Literal, get_args

from dora_nb import solvers
from dora_nb.costs.table import CostTable
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.coverage import Coverage
from dora_nb.domain.fits import check_ends
from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InfeasibleError, InputError, UnknownNameError
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.answers import answers
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.fleets.large import LargeHunt, check_no_shards, is_large
from dora_nb.planning.fleets.sites import SitesHunt, are_sites
from dora_nb.planning.hunt import Hunt, Progress
from dora_nb.planning.question import Question
from dora_nb.solvers import SolverChoice, SolverOptions

Algorithm = Literal["auto", "decomposed", "monolithic"]


def plan(
    workload: Workload,
    cluster: Cluster,
    qoe: QoE | None = None,
    *,
    most_plans: int = 5,
    gap: float = 1e-4,
    time_limit_s: float = 60.0,
    solver: SolverChoice = "auto",
    algorithm: Algorithm = "auto",
    overlap: bool = True,
    table: CostTable | None = None,
    space: SearchSpace | None = None,
    on_progress: Progress | None = None,
    on_event: solvers.OnEvent | None = None,
    cancel: threading.Event | None = None,
) -> PlanSet:
    """Find the best plan for the objective within the limits, and a few that stand for all trade-offs.

    First valid bounds and good plans (a search over partitions), then the exact transfer schedules of what bounds left
    open, then the partition program as a second computation, then a second solve for each plan (of equally good ones
    the best at the other figure), then the exact evaluation of every plan. The gap on every plan is between its own
    exact figure and what no plan of the search space can beat. A stream's latency is that of a request in the steady
    state, a generating workload's the time until the last token.

    Parameters
    ----------
    workload, cluster
        What to run, and on what.
    qoe
        Limits and objective; None: no limits, lowest latency.
    most_plans
        How many plans the answer may have. The best at the objective is always one of them, the fastest and the
        thriftiest are if there is room; the others are those that cover the trade-offs between them best, see
        :attr:`PlanSet.coverage <dora_nb.domain.plan_set.PlanSet.coverage>`.
    gap
        Relative gap at which an answer is good enough.
    time_limit_s
        Seconds after which the best plans so far are returned with their true gaps.
    solver
        ``auto`` (Gurobi where it is installed and licensed for the size, else HiGHS), ``gurobi`` or ``highs``; with
        threads, seed and log: a :class:`~dora_nb.solvers.SolverOptions`.
    algorithm
        ``decomposed``: bounds first, as described. ``monolithic``: the joint program of columns, start times and
        transfer orders as it stands, for small questions with hard limits. ``auto``: decomposed, which proves the same
        optimum wherever the other finishes, and sooner.
    overlap
        Whether stages compute while they send; if not, a stage waits until what it sent has arrived.
    table
        Measured compute times; None: the roofline estimate.
    space
        Plans to consider; None: :meth:`SearchSpace.default`.
    on_progress
        Called with a sentence about each step.
    on_event
        Called with incumbent, bound, gap and nodes of the question that the objective asks, as they change.
    cancel
        Set from another thread to stop: the best plans so far are returned with their true gaps.

    Returns
    -------
    PlanSet

    Raises
    ------
    InputError
        If something given cannot be used.
    InfeasibleError
        If no plan keeps the limits; it says what can be reached.
    """
    qoe = QoE() if qoe is None else qoe
    check_question(workload, cluster, qoe)
    check_effort(gap, time_limit_s, solver)
    return plan_question(
        Question.of(workload, cluster, qoe, table, space, overlap, solver),
        most_plans=most_plans,
        gap=gap,
        time_limit_s=time_limit_s,
        algorithm=algorithm,
        on_progress=on_progress,
        on_event=on_event,
        cancel=cancel,
    )


def plan_question(
    question: Question,
    *,
    most_plans: int = 5,
    gap: float = 1e-4,
    time_limit_s: float = 60.0,
    algorithm: Algorithm = "auto",
    on_progress: Progress | None = None,
    on_event: solvers.OnEvent | None = None,
    cancel: threading.Event | None = None,
) -> PlanSet:
    """Plans for a question in one piece, with all that its session knows from questions before; see :func:`plan`."""
    started = time.monotonic()
    check_question(question.workload, question.cluster, question.qoe)
    check_effort(gap, time_limit_s, question.solver, most_plans)
    if algorithm not in get_args(Algorithm):
        raise InputError("algorithm", algorithm, ", ".join(get_args(Algorithm)))
    say = on_progress or (lambda _: None)
    deadline = Deadline(started + time_limit_s, cancel)
    if is_large(question.problem):
        check_no_shards(question.problem)
        hunt_large = SitesHunt if are_sites(question.problem) else LargeHunt
        best = hunt_large.plan(question.problem, gap, deadline, say, on_event)
        return _answer(question, (best,), Coverage(None, most_plans), gap, started)
    hunt = Hunt(question, gap, deadline, say, most_plans, algorithm == "monolithic", on_event, started)
    hunt.find_fast_plans()
    hunt.find_thrifty_plans()
    if hunt.monolithic:
        hunt.solve_jointly()
        hunt.choose()
    else:
        hunt.prove()
        hunt.settle_schedules()
        hunt.refine()
        hunt.choose()
        hunt.close_gaps()
        hunt.choose()
        hunt.check_by_program()
    hunt.break_ties()
    hunt.tell()
    hunt.remember()
    try:
        plans, coverage = answers(hunt)
    except InfeasibleError as error:
        from dora_nb.planning.explanation.explain import (
            relaxations,  # explanations are made of plans: imported when needed
        )

        raise InfeasibleError(str(error), partial(relaxations, question, gap, time_limit_s, cancel)) from None
    return _answer(question, plans, coverage, gap, started)


def _answer(question: Question, plans: tuple[Plan, ...], coverage: Coverage, gap: float, started: float) -> PlanSet:
    options = {
        "table": question.table,
        "space": question.space,
        "overlap": question.overlap,
        "gap": gap,
        "solver": question.solver,
        "session": question.session,
    }
    seconds = time.monotonic() - started
    return PlanSet(question.workload, question.cluster, question.qoe, plans, None, seconds, coverage, options=options)


def check_question(workload: Workload, cluster: Cluster, qoe: QoE) -> None:
    """Refuse what cannot be asked together.

    Raises
    ------
    InputError
        Naming the field, the value and what is allowed.
    """
    if workload.mode == "stream" and qoe.samples_per_s is not None:
        raise InputError("samples_per_s", qoe.samples_per_s, "nothing in mode 'stream', where the rate is given")
    if workload.mode == "stream" and qoe.battery_j:
        raise InputError("battery_j", qoe.battery_j, "nothing in mode 'stream', whose batteries cannot be limited yet")
    check_ends(workload, cluster)
    for name in qoe.battery_j:
        if name not in cluster.device_ids:
            raise UnknownNameError("battery_j", name, cluster.device_ids)


def check_effort(gap: float, time_limit_s: float, solver: SolverChoice, most_plans: int = 1) -> None:
    """Refuse gaps, time limits, solvers and numbers of plans that cannot be.

    Raises
    ------
    InputError
        Naming the one that cannot be used.
    """
    if not 0 < gap < 1:
        raise InputError("gap", gap, "above 0 and below 1")
    if not time_limit_s > 0:
        raise InputError("time_limit_s", time_limit_s, "more than 0 seconds")
    if most_plans < 1:
        raise InputError("most_plans", most_plans, "1 or more")
    SolverOptions.of(solver)
