"""The second way of computing: the partition program over what a search left, held against the search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dora_nb import solvers
from dora_nb.costs.timing import timing_of
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import EnergyAccounting
from dora_nb.domain.rating import qoe_value
from dora_nb.errors import ObjectiveMismatchError
from dora_nb.formulation.columns import Columns
from dora_nb.formulation.decode import decode
from dora_nb.formulation.hand_overs import beyond_columns_j
from dora_nb.formulation.partition import Objective, partition_model
from dora_nb.formulation.problem import Problem
from dora_nb.planning.bounding.partitions import Candidates
from dora_nb.planning.bounding.targets import Figure
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.scheduling import finish_all
from dora_nb.solvers import SolverChoice

#: Partitions whose columns the program chooses from. More make it slower and prove nothing more: the search has
#: bounded the rest already.
MOST_PARTITIONS = 12

#: Seconds the program gets even when time is up: its pool is small, and an unchecked answer is worth less.
LEAST_CHECK_S = 1.0

#: Relative disagreement that rounding and solver tolerances explain.
AGREEMENT = 1e-5


#: What the program calls each figure.
_OBJECTIVES: dict[Figure, Objective] = {"makespan_s": "latency", "energy_j": "energy", "value": "value"}


@dataclass(frozen=True)
class Verdict:
    """What the program says.

    Attributes
    ----------
    plans
        The program's own partition, finished, one for every in-flight depth that fits; empty without an incumbent.
    solver, reason
        Which solver, and why that one.
    """

    plans: tuple[Plan, ...]
    solver: str
    reason: str


def check_by_program(
    problem: Problem,
    candidates: Sequence[Candidates],
    figure: Figure,
    *,
    latency_limit_s: float,
    energy_limit_j: float,
    solver: SolverChoice,
    deadline: Deadline,
) -> Verdict | None:
    """Solve the partition program over the best candidates and compare it with the search's own row bounds.

    Parameters
    ----------
    problem, candidates
        What is planned, and partitions with their row bounds.
    figure
        What is minimised.
    latency_limit_s, energy_limit_j
        Limits, infinite where there is none.
    solver, deadline
        Who solves the program, until when.

    Returns
    -------
    Verdict, or None where no candidate is left for the question

    Raises
    ------
    ObjectiveMismatchError
        If the program's optimum is above the smallest row bound of the candidates, or its plan is better than the
        program says a plan can be: then one of the two computations is wrong.
    SolverError
        If the solver refuses the program's numbers, or fails.
    """
    pool = _best_partitions(candidates, figure, latency_limit_s, energy_limit_j)
    if not pool:
        return None
    columns = Columns.join([candidate.columns.take(candidate.chosen[row]) for candidate, row, _ in pool])
    program = partition_model(
        problem,
        columns,
        _OBJECTIVES[figure],
        latency_limit_s=latency_limit_s,
        energy_limit_j=energy_limit_j,
    )
    options = solvers.Options(time_limit_s=deadline.grant_s(LEAST_CHECK_S), mip_gap=AGREEMENT / 10)
    outcome = solvers.solve(program.model, options, solver=solver, cancel=deadline.cancel)
    least = min(bound for _, _, bound in pool)
    if outcome.bound is not None and outcome.bound > least * (1 + AGREEMENT):
        raise ObjectiveMismatchError(
            f"the {_OBJECTIVES[figure]} program proves {outcome.bound:.9g}, but the search bounds one of its "
            f"partitions by {least:.9g}"
        )
    plans: list[Plan] = []
    if outcome.status.has_incumbent:
        chosen = program.chosen(outcome.values["place"])
        plans = finish_all(_with_depths(problem, columns, chosen), problem)
        for plan in plans:
            _check_plan(plan, problem, columns, chosen)
            _check_bound(plan, problem, figure, outcome.bound)
    return Verdict(tuple(plans), outcome.solver, outcome.reason)


def _best_partitions(
    candidates: Sequence[Candidates], name: Figure, latency_limit_s: float, energy_limit_j: float
) -> list[tuple[Candidates, int, float]]:
    pool: list[tuple[Candidates, int, float]] = []
    for candidate in candidates:
        allowed = (candidate.makespan_s <= latency_limit_s) & (candidate.energy_j <= energy_limit_j)
        figure = getattr(candidate, name)
        best = np.flatnonzero(allowed)[np.argsort(figure[allowed], kind="stable")][:MOST_PARTITIONS]
        pool.extend((candidate, int(row), float(figure[row])) for row in best)
    return sorted(pool, key=lambda entry: entry[2])[:MOST_PARTITIONS]


def _with_depths(problem: Problem, columns: Columns, chosen: list[int]) -> list[Plan]:
    batches = int(columns.micro_batches[chosen[0]])
    fitting = [
        held
        for held in problem.space.in_flight_counts(len(chosen), batches)
        if not problem.workload.trains or columns.holds(np.array(chosen), np.array(held)).all()
    ]
    return [decode(columns, chosen, held, problem) for held in fitting]


def _check_bound(plan: Plan, problem: Problem, figure: Figure, bound: float | None) -> None:
    """A plan of the program's columns cannot be better than the program's bound."""
    prediction = plan.prediction
    assert prediction is not None, "a finished plan carries its prediction"
    accounting: EnergyAccounting = "participating" if problem.idle_all_w is None else "all-on"
    values: dict[Figure, float] = {
        "makespan_s": prediction.makespan_s,
        "energy_j": prediction.energy_j(accounting),
        "value": qoe_value(prediction, problem.terms.qoe).value,
    }
    value = values[figure]
    if bound is not None and value < bound * (1 - AGREEMENT):
        raise ObjectiveMismatchError(
            f"a plan's {_OBJECTIVES[figure]} is {value:.9g} where the program proves that none is below {bound:.9g}"
        )


def _check_plan(plan: Plan, problem: Problem, columns: Columns, chosen: list[int]) -> None:
    """What the columns and the evaluation of a plan both compute must agree."""
    prediction = plan.prediction
    assert prediction is not None, "a finished plan carries its prediction"
    timing = timing_of(plan, problem.workload, problem.cluster, problem.table)
    dynamic_j = float(columns.energy_j[chosen].sum()) + beyond_columns_j(plan, timing, problem)
    check_energy(plan, problem, dynamic_j, float(columns.idle_w[chosen].sum()))
    for device in prediction.devices:
        if device.memory_bytes > device.usable_memory_bytes * (1 + AGREEMENT):
            raise ObjectiveMismatchError(
                f"{device.device} needs {device.memory_bytes:.9g} bytes of {device.usable_memory_bytes:.9g}, "
                "but its column was admitted"
            )


def check_energy(plan: Plan, problem: Problem, dynamic_j: float, idle_w: float) -> None:
    """The columns' energy at the plan's makespan must be the evaluation's.

    Raises
    ------
    ObjectiveMismatchError
        If it is not.
    """
    prediction = plan.prediction
    assert prediction is not None, "a finished plan carries its prediction"
    claimed = float(problem.energy_j(np.array(dynamic_j), np.array(idle_w), np.array(prediction.makespan_s)))
    computed = prediction.energy_j("participating" if problem.idle_all_w is None else "all-on")
    if abs(claimed - computed) > AGREEMENT * computed:
        raise ObjectiveMismatchError(f"the columns say {claimed:.9g} J, the evaluation of the plan {computed:.9g} J")
