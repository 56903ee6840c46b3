"""The cheapest single plan at given prices of a second and of a joule, with a proven bound: what mixing asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.formulation.columns import build_columns
from dora_nb.formulation.problem import Problem
from dora_nb.planning.bounding.partitions import Open
from dora_nb.planning.bounding.screening import screen
from dora_nb.planning.bounding.search import Search
from dora_nb.planning.bounding.targets import Figure, Ladder, Targets
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.scheduling import predicted
from dora_nb.planning.settle import settle_all
from dora_nb.solvers import SolverChoice

#: Labels and schedules of the quick search for a first plan, and of the one that proves.
_QUICK, _THOROUGH = (1_000, 100), (100_000, 2_000)


@dataclass(frozen=True)
class Cheapest:
    """The answer to one pricing question.

    Attributes
    ----------
    plan
        The cheapest plan found, its transfers scheduled for the problem asked about; None without one.
    bound
        No plan of the space costs less; infinite if there is proven to be none.
    """

    plan: Plan | None
    bound: float


def cheapest(
    problem: Problem,
    *,
    per_s: float,
    per_j: float,
    latency_limit_s: float = np.inf,
    energy_limit_j: float = np.inf,
    known: Iterable[Plan],
    gap: float,
    solver: SolverChoice,
    deadline: Deadline,
) -> Cheapest:
    """Minimise ``per_s x makespan + per_j x energy`` over all plans of a problem's space.

    The bounding search for the least price between latency and energy answers the question; the transfer schedules it
    leaves open are settled one by one.

    Parameters
    ----------
    per_s, per_j
        Prices, at least one above 0.
    latency_limit_s, energy_limit_j
        Limits on the single plan.
    known
        Plans to start from: the search prunes against them.
    gap
        Relative gap that is good enough.
    solver
        For transfer schedules that bounds and list scheduling leave open.
    deadline
        After it the bound is weaker, never wrong.
    """
    problem, figure, unit = priced(problem, per_s, per_j)
    ladder = Ladder(figure, "makespan_s", np.array([np.inf]))
    targets = Targets(
        np.zeros(0),
        energy_limit_j=energy_limit_j,
        makespan_limit_s=latency_limit_s,
        tolerance=gap,
        seek_latency=False,
        further=(ladder,),
    )
    _offer(targets, problem, known)
    if not targets.plans:
        _search(problem, targets, 1, *_QUICK, deadline)
        targets.forget_bounds()  # those of this search hold for one device a stage only
    still_open = _search(problem, targets, problem.space.most_devices, *_THOROUGH, deadline)
    settle_all(problem, targets, still_open, solver=solver, deadline=deadline)
    return Cheapest(ladder.plans[0], unit * float(ladder.bounds[0]))


def priced(problem: Problem, per_s: float, per_j: float) -> tuple[Problem, Figure, float]:
    """The problem that asks for the least price, which figure that is, and what one unit of the figure costs."""
    asked = QoE(objective="latency" if per_j == 0 else "energy", energy_accounting=problem.terms.qoe.energy_accounting)
    figure: Figure = "makespan_s" if per_j == 0 else "energy_j"
    if per_s > 0 and per_j > 0:
        asked, figure = asked.replace(objective="price", joules_per_s=per_s / per_j), "value"
    return dataclasses.replace(problem, terms=dataclasses.replace(problem.terms, qoe=asked)), figure, per_j or per_s


def _offer(targets: Targets, problem: Problem, known: Iterable[Plan]) -> None:
    qoe = problem.terms.qoe
    for plan in known:
        if set(plan.devices) <= set(problem.cluster.device_ids):
            prediction = predicted(plan, problem).prediction
            assert prediction is not None, "just predicted"
            makespan_s, energy_j = prediction.makespan_s, prediction.energy_j(qoe.energy_accounting)
            targets.offer(makespan_s, energy_j, plan, qoe.base(makespan_s, energy_j))


def _search(
    problem: Problem, targets: Targets, replicas: int, labels: int, schedules: int, deadline: Deadline
) -> list[Open]:
    """Search; returns the plans that the bounds in ``targets`` do not cover yet."""
    columns = build_columns(problem, replicas, screen(problem, targets, deadline))
    search = Search(problem, columns, targets, labels, deadline, schedules)
    search.run()
    return search.open
