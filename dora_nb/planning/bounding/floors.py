"""How long every plan takes that keeps an energy: a thrifty plan has to leave most of the work to few devices."""

from __future__ import annotations

import math

from dora_nb.formulation.problem import Problem

#: To which fraction of itself the makespan is found.
PRECISION = 0.01

#: How many times the floor a makespan may be that is looked at.
FURTHEST = 16.0


def least_makespan_s(problem: Problem, energy_limit_j: float, longest_s: float, floor_s: float) -> float:
    """A makespan that no plan within an energy undercuts.

    A plan that takes between ``a`` and ``b`` seconds draws at least what :mod:`~dora_nb.formulation.energy_left` says
    of all layers within ``b``, while its devices idle for ``a``. If that is more than the limit, no plan within it
    takes less than ``b``; so ``a`` rises to ``b``, until the next step is not proven. Our own design.

    Parameters
    ----------
    problem
        What is planned.
    energy_limit_j
        Joules.
    longest_s
        Longest makespan of interest, in seconds.
    floor_s
        No plan is known to be faster; above 0.

    Returns
    -------
    float
        Seconds; ``floor_s`` or more, ``longest_s`` or less.
    """
    workload = problem.workload
    low_s, high_s = floor_s, min(longest_s, FURTHEST * floor_s)
    if not math.isfinite(energy_limit_j):
        return floor_s
    # A hosted first layer is not in the passes of its stage.
    work = problem.stages_left.work_until(int(workload.trains_tied))[-1:]
    size = min(problem.space.micro_batch_sizes)  # the more micro-batches, the more of them any stages can do

    def is_proven(until_s: float, from_s: float) -> bool:
        idle_s = problem.idle_s(from_s)
        least_j = float(problem.energy_left.least_j(work, size, workload.batch // size, idle_s, until_s)[0, 0])
        if problem.idle_all_w is not None:
            least_j += problem.idle_all_w * idle_s
        return least_j > energy_limit_j

    while high_s - low_s > PRECISION * high_s:
        middle_s = (low_s + high_s) / 2
        low_s, high_s = (middle_s, high_s) if is_proven(middle_s, low_s) else (low_s, middle_s)
    return low_s
