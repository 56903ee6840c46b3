"""The exact programs of a question, each solved by every solver, side by side."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from dora_nb import solvers
from dora_nb.costs.table import CostTable
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.solver_comparison import SolverComparison, SolverRow
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError, SolverError
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.exact.programs import Program, ProgramName, program_of
from dora_nb.planning.hunt import Progress
from dora_nb.planning.plan import check_effort
from dora_nb.planning.plan import plan as make_plan
from dora_nb.solvers import SolverOptions


def compare_solvers(
    workload: Workload,
    cluster: Cluster,
    qoe: QoE | None = None,
    *,
    plan: Plan | None = None,
    programs: Sequence[ProgramName] = get_args(ProgramName),
    gap: float = 1e-4,
    time_limit_s: float = 30.0,
    threads: int | None = None,
    seed: int | None = None,
    log: bool | str | Path = False,
    table: CostTable | None = None,
    space: SearchSpace | None = None,
    on_progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> SolverComparison:
    """Solve the same programs with HiGHS and with Gurobi, with the same options.

    Parameters
    ----------
    workload, cluster, qoe
        The question; ``qoe`` None: no limits, lowest latency.
    plan
        A plan in hand, whose question the programs ask; None: the best one of :func:`dora_nb.plan`.
    programs
        Which programs, see :class:`~dora_nb.planning.exact.programs.Program`.
    gap
        Relative gap at which a solution is good enough.
    time_limit_s
        Seconds for each solve.
    threads, seed, log
        As of :class:`~dora_nb.solvers.SolverOptions`, for both.
    table
        Measured compute times; None: the roofline estimate.
    space
        Plans to consider; None: :meth:`SearchSpace.default`.
    on_progress
        Called with a sentence about each solve.
    cancel
        Set from another thread to stop; what is not solved yet says so.

    Returns
    -------
    SolverComparison
        A program that is too large for a solver's licence says so in its row.

    Raises
    ------
    InputError
        If something given cannot be used.
    InfeasibleError
        If no plan is given and none keeps the limits.
    """
    qoe = QoE() if qoe is None else qoe
    check_effort(gap, time_limit_s, "auto")
    say = on_progress or (lambda _: None)
    choices = [SolverOptions(name, threads, seed, log) for name in ("highs", "gurobi")]
    if plan is None:
        say("looking for a plan")
        known = make_plan(
            workload, cluster, qoe, most_plans=1, time_limit_s=time_limit_s, table=table, space=space, cancel=cancel
        )
        plan = known.best
    options = solvers.Options(time_limit_s=time_limit_s, mip_gap=gap)
    rows: list[SolverRow] = []
    left_out: list[str] = []
    for name in programs:
        try:
            program = program_of(plan, workload, cluster, qoe, which=name, table=table, space=space)
        except InputError as problem:
            if problem.field != "program" or name not in get_args(ProgramName):
                raise
            left_out.append(f"{name}; {problem.allowed}")
            continue
        for choice in choices:
            say(f"the {name} program with {choice.name}")
            rows.append(_solved(program, choice, options, cancel))
    question = f"{workload.name} ({workload.mode}) on {cluster.name}, least {qoe.objective}"
    return SolverComparison(question=question, label=plan.label, rows=tuple(rows), left_out=tuple(left_out))


def _solved(
    program: Program, choice: SolverOptions, options: solvers.Options, cancel: threading.Event | None
) -> SolverRow:
    size = {"variables": program.model.nvars, "constraints": program.model.ncons, "unit": program.unit_name}
    try:
        outcome = solvers.solve(program.model, options, solver=choice, cancel=cancel)
    except SolverError as problem:  # not installed, no licence for the size, or numbers that cannot be solved reliably
        name = {"highs": "HiGHS", "gurobi": "Gurobi"}[choice.name]
        return SolverRow(program=program.name, solver=name, status="not solved", note=str(problem), **size)
    value, bound = (None if each is None else each * program.unit for each in (outcome.objective, outcome.bound))
    return SolverRow(
        program=program.name,
        solver=outcome.solver,
        status=outcome.status.value,
        value=value,
        bound=bound,
        gap=outcome.gap,
        wall_s=outcome.wall_s,
        nodes=outcome.nodes,
        **size,
    )
