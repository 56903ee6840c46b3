"""The last step of a proof: the best transfer schedule of every plan that bounds and list schedules left open.

Logic-based Benders decomposition (Hooker and Ottosson, 2003): the search proposes partitions in order of their
bounds, the schedule of each is settled apart, and what it proves goes back into the bounds of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dora_nb.formulation.problem import Problem
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.partitions import Open
from dora_nb.planning.scheduling import settle
from dora_nb.planning.streaming import settle_stream
from dora_nb.planning.targets import Targets
from dora_nb.solvers import SolverChoice


@dataclass
class Settlement:
    """What was done.

    Attributes
    ----------
    schedules, programs
        Plans whose schedules were looked at, and how many needed the transfer program.
    solver
        Which solver solved them; empty if none was needed.
    """

    schedules: int = 0
    programs: int = 0
    solver: str = ""


def settle_all(
    problem: Problem, targets: Targets, plans: Sequence[Open], *, solver: SolverChoice, deadline: Deadline
) -> Settlement:
    """Settle open plans, most promising first, until none can improve an answer or time is up.

    The answers and bounds are in ``targets``, which covers all plans afterwards.
    """
    done = Settlement()
    for each in sorted(plans, key=lambda each: each.bound_s):
        bound_s = each.bound_s
        if not deadline.passed and _relevant(targets, problem, each, bound_s):
            settled = (settle if problem.workload.arrival_s is None else settle_stream)(
                each.plan,
                problem,
                below_s=_useful_s(targets, problem, each),
                gap=targets.tolerance,
                solver=solver,
                deadline=deadline,
            )
            bound_s = max(bound_s, settled.bound_s)
            done.schedules += 1
            if settled.solver:
                done.programs += 1
                done.solver = settled.solver
            if settled.plan is not None:
                makespan_s, energy_j, value = each.figures(problem, settled.makespan_s).numbers
                targets.offer(makespan_s, energy_j, settled.plan, value)
        if math.isfinite(bound_s):  # else no schedule keeps up with the stream
            targets.set_aside(*each.figures(problem, bound_s))
    return done


def _relevant(targets: Targets, problem: Problem, each: Open, makespan_s: float) -> bool:
    return bool(targets.relevant(*each.figures(problem, makespan_s))[0])


def _useful_s(targets: Targets, problem: Problem, each: Open) -> float:
    """The makespan below which a schedule of the plan would improve an answer, between its bound and what it has."""
    low_s, high_s = each.bound_s, each.makespan_s
    if _relevant(targets, problem, each, high_s):
        return high_s
    while high_s - low_s > targets.tolerance / 10 * high_s:
        middle_s = (low_s + high_s) / 2
        low_s, high_s = (middle_s, high_s) if _relevant(targets, problem, each, middle_s) else (low_s, middle_s)
    return high_s
