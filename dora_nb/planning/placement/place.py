"""From a problem in own numbers to a placement with a proven bound."""

from __future__ import annotations

import time
from collections.abc import Callable

from dora_nb.costs.placement import evaluate_placement
from dora_nb.domain.placement import Evaluation, Placement
from dora_nb.domain.problem import MeasuredProblem
from dora_nb.domain.qoe import ROUNDING
from dora_nb.errors import ObjectiveMismatchError
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.placement.found import Found
from dora_nb.planning.placement.in_order import place_in_order
from dora_nb.planning.placement.rearrange import place_anywhere
from dora_nb.planning.plan import check_effort
from dora_nb.solvers import SolverChoice

Progress = Callable[[str], None]


def place(
    problem: MeasuredProblem,
    *,
    gap: float = 1e-4,
    time_limit_s: float = 60.0,
    solver: SolverChoice = "auto",
    on_progress: Progress | None = None,
) -> Placement:
    """Find which layers run on which devices, by a problem's own numbers and rules.

    Stages that follow one another are found by a dynamic programme over the cuts of the layers' graph, which is exact
    while there are few enough of them; any sets by a search and a mixed-integer program. Every value is recomputed from
    the problem by :func:`dora_nb.costs.placement.evaluate_placement`. The same question has the same answer.

    Parameters
    ----------
    problem
        What to place, e.g. from :func:`dora_nb.load_problem`.
    gap
        Relative gap at which an answer is good enough.
    time_limit_s
        Seconds after which the best so far is returned with its true gap.
    solver
        For any sets: ``auto``, ``gurobi`` or ``highs``.
    on_progress
        Called with a sentence about each step.

    Returns
    -------
    Placement

    Raises
    ------
    InputError
        If something given cannot be used.
    InfeasibleError
        If no placement keeps the memory limits.
    """
    started = time.monotonic()
    check_effort(gap, time_limit_s, solver)
    deadline = Deadline(started + time_limit_s)
    say = on_progress or (lambda _: None)
    if problem.execution.stages == "any":
        found = place_anywhere(problem, gap, deadline, solver, say)
    else:
        found = place_in_order(problem, deadline, say)
    evaluation = evaluate_placement(problem, found.stages)
    _compare(problem, found, evaluation)
    value = evaluation.value_s
    bound = min(found.bound_s, value)
    left = (value - bound) / value if value > 0 else 0.0
    status = "optimal" if left <= gap else "time limit" if found.stopped else "feasible"
    return Placement(
        problem=problem.name,
        objective=problem.execution.objective,
        stages=found.stages,
        loads=evaluation.loads,
        value_s=value,
        bound_s=bound,
        gap=left,
        status=status,
        scope=found.scope,
        method=found.method,
        wall_s=time.monotonic() - started,
    )


def _compare(problem: MeasuredProblem, found: Found, evaluation: Evaluation) -> None:
    if evaluation.broken:
        raise ObjectiveMismatchError(
            f"{problem.name}: a placement that was found is none: {'; '.join(evaluation.broken)}"
        )
    wanted = found.value_s
    if wanted is not None and abs(evaluation.value_s - wanted) > ROUNDING * max(evaluation.value_s, 1e-300):
        raise ObjectiveMismatchError(
            f"{problem.name}: the search says {wanted!r} s, the evaluation {evaluation.value_s!r} s"
        )
