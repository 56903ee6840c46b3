"""The last step of a proof: the best transfer schedule of every plan that bounds and list schedules left open.

Logic-based Benders decomposition (Hooker and Ottosson, 2003): the search proposes partitions in order of their
bounds, the schedule of each is settled apart, and what it proves goes back into the bounds of the whole.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dora_nb.formulation.problem import Problem
from dora_nb.planning.bounding.partitions import Open
from dora_nb.planning.bounding.targets import Targets
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.scheduling import settle
from dora_nb.planning.streaming import settle_stream
from dora_nb.solvers import SolverChoice

#: Seconds for each of several open plans before any of them gets more.
FIRST_S = 3.0


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

    Each plan gets a few seconds first. One that stayed open is asked once more, with a solver's usual time and what
    the others found: the less a schedule may take, the more of it is decided. The answers and bounds are in
    ``targets``, which covers all plans afterwards.

    Parameters
    ----------
    problem, targets
        What is planned; answers and bounds are kept in the targets.
    plans
        Open ones.
    solver, deadline
        Who solves the programs, until when.
    """
    done = Settlement()
    waiting = [_Waiting(each, each.bound_s) for each in sorted(plans, key=lambda each: each.bound_s)]
    for last in (False, True):
        for plan in waiting:
            if deadline.passed or not plan.matters(targets, problem):
                continue
            below_s = _useful_s(targets, problem, plan.open)
            if below_s >= plan.asked_s and not plan.cut_short:
                continue
            own = deadline if last or len(waiting) == 1 else _sooner(deadline)
            settled = (settle if problem.workload.arrival_s is None else settle_stream)(
                plan.open.plan, problem, below_s=below_s, gap=targets.tolerance, solver=solver, deadline=own
            )
            plan.asked_s, plan.cut_short = below_s, own.passed
            plan.bound_s = max(plan.bound_s, settled.bound_s)
            done.schedules += 1
            if settled.solver:
                done.programs += 1
                done.solver = settled.solver
            if settled.plan is not None:
                makespan_s, energy_j, value = plan.open.figures(problem, settled.makespan_s).numbers
                targets.offer(makespan_s, energy_j, settled.plan, value)
    for plan in waiting:
        if math.isfinite(plan.bound_s):  # else no schedule keeps up with the stream
            targets.set_aside(*plan.open.figures(problem, plan.bound_s))
    return done


@dataclass
class _Waiting:
    """An open plan, what is proven of it, what its schedule was to beat when it was asked, and if time ran out then."""

    open: Open
    bound_s: float
    asked_s: float = math.inf
    cut_short: bool = False

    def matters(self, targets: Targets, problem: Problem) -> bool:
        """Whether a schedule as short as is proven would improve an answer."""
        return _relevant(targets, problem, self.open, self.bound_s)


def _sooner(deadline: Deadline) -> Deadline:
    """A few seconds from now; never, where planning has no deadline, so that answers do not depend on the clock."""
    if math.isinf(deadline.at_s):
        return deadline
    return replace(deadline, at_s=min(deadline.at_s, time.monotonic() + FIRST_S))


def _relevant(targets: Targets, problem: Problem, plan: Open, makespan_s: float) -> bool:
    return bool(targets.relevant(*plan.figures(problem, makespan_s))[0])


def _useful_s(targets: Targets, problem: Problem, plan: Open) -> float:
    """The makespan below which a schedule of the plan would improve an answer, between its bound and what it has."""
    low_s, high_s = plan.bound_s, plan.makespan_s
    if _relevant(targets, problem, plan, high_s):
        return high_s
    while high_s - low_s > targets.tolerance / 10 * high_s:
        middle_s = (low_s + high_s) / 2
        low_s, high_s = (middle_s, high_s) if _relevant(targets, problem, plan, middle_s) else (low_s, middle_s)
    return high_s
