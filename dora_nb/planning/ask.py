"""One question asked once more: what explanations, alternatives and live answers are made of.

The same search as :func:`dora_nb.planning.plan.plan`, for one figure only: no trade-offs, no baselines, and no second
computation by the partition program. Every plan is evaluated again, and every bound is as true as there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dora_nb import solvers
from dora_nb.domain.certificate import Certificate
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import ROUNDING, Objective, QoE
from dora_nb.domain.rating import Rating, qoe_value
from dora_nb.errors import InputError, ObjectiveMismatchError
from dora_nb.formulation.problem import Problem
from dora_nb.planning.bounding.search import Search
from dora_nb.planning.bounding.targets import Figure, Figures, Ladder, Targets, least_possible
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.exact.certify import AGREEMENT
from dora_nb.planning.proof import FEW, MANY, Proof, proven_by, remember_bounds
from dora_nb.planning.question import Question
from dora_nb.planning.scheduling import fits_memory, predicted, scheduled
from dora_nb.planning.settle import settle_all


@dataclass(frozen=True)
class Answer:
    """What is known about one question.

    Attributes
    ----------
    value
        What was minimised, in s or J, of the best plan found; infinity where none was found.
    bound
        No plan within the limits can be below it; infinity where it is proven that there is no plan.
    plan
        That plan with its certificate; None where none was found.
    """

    value: float
    bound: float
    plan: Plan | None

    @property
    def impossible(self) -> bool:
        """Whether it is proven that no plan keeps the limits."""
        return self.plan is None and bool(np.isinf(self.bound))


def best(
    question: Question,
    *,
    gap: float,
    deadline: Deadline,
    figure: Literal["makespan_s", "energy_j"] | None = None,
    known: Iterable[Plan] = (),
    on_event: solvers.OnEvent | None = None,
) -> Answer:
    """The best plan within the hard limits, proven to a gap.

    Parameters
    ----------
    question
        What is planned, and the limits to keep.
    gap
        Relative gap that is good enough.
    deadline
        When to stop; what is known by then is returned.
    figure
        What is minimised; None: the objective of the QoE, with what soft limits add.
    known
        Plans that may be as good, from other questions; those that do not fit this one are left out.
    on_event
        Called with incumbent, bound and gap as they change.
    """
    started, problem, case = time.monotonic(), question.problem, question.case
    targets = _targets(question, figure or _own_figure(question), gap)
    (ladder,) = targets.asked
    proven = case.proven(question.qoe)
    least = max(least_possible(problem, question.qoe, ladder.least), proven_by(proven, targets))
    proof = Proof(question, targets, deadline, least)

    def tell(bound: float) -> None:
        if on_event is not None:
            on_event(_event(time.monotonic() - started, float(ladder.best[0]), bound, proof.nodes))

    targets.floor_s = max(targets.floor_s, least_possible(problem, question.qoe, "makespan_s"))
    for plan in _each_once((*known, *case.plans.values())):
        if targets.improves(*_at_least(plan, problem, targets.floor_s)):
            offer(plan, question, targets)
    tell(least)
    if not proof.is_good:
        proof.find_plans()
        tell(least)
        proof.run(tell)
    found, value, bound = ladder.plans[0], float(ladder.best[0]), min(proof.bound, float(ladder.best[0]))
    remember_bounds(proven, targets, bound)
    case.remember([] if found is None else [found], proof.candidates)
    tell(bound)
    if found is None:
        return Answer(np.inf, bound, None)
    plan = scheduled(found, problem)
    _check(plan, question, ladder.least, value)
    return Answer(value, bound, _certified(plan, question, ladder.least, bound, gap, deadline))


def feasible(question: Question, deadline: Deadline) -> Answer:
    """Whether any plan keeps the hard limits; the first one found will do, and carries no certificate."""
    problem = question.problem
    targets = _targets(question, "makespan_s", ROUNDING)
    until_found = _UntilFound(deadline.at_s, deadline.cancel, targets)
    _search(question, targets, 1, FEW, until_found)
    if targets.latency_plan is None:
        targets.forget_bounds()
        search = _search(question, targets, problem.space.most_devices, MANY, until_found)
        settle_all(problem, targets, search.open, solver=question.solver, deadline=until_found)
    if targets.latency_plan is None:
        return Answer(np.inf, targets.latency_bound_s, None)
    return Answer(targets.best_latency_s, 0.0, predicted(targets.latency_plan, problem))


def keeps(plan: Plan, qoe: QoE) -> bool:
    """Whether a predicted plan fits in memory and keeps the hard limits."""
    return fits_memory(plan) and rating(plan, qoe).keeps_hard


def rating(plan: Plan, qoe: QoE) -> Rating:
    """What a predicted plan is worth."""
    assert plan.prediction is not None, "predict the plan first"
    return qoe_value(plan.prediction, qoe)


def figures(plan: Plan, qoe: QoE) -> Figures:
    """Makespan, energy and value of a predicted plan."""
    assert plan.prediction is not None, "predict the plan first"
    makespan_s, energy_j = plan.prediction.makespan_s, plan.prediction.energy_j(qoe.energy_accounting)
    return Figures(*(np.array([each]) for each in (makespan_s, energy_j, rating(plan, qoe).value)))


def _each_once(plans: Iterable[Plan]) -> list[Plan]:
    return list({plan.decisions(): plan for plan in plans}.values())


def _own_figure(question: Question) -> Figure:
    if not question.problem.terms.is_plain:
        return "value"
    return "makespan_s" if question.qoe.objective == "latency" else "energy_j"


def _targets(question: Question, figure: Figure, tolerance: float) -> Targets:
    """One question after the least of one figure: bounds beyond the hard limits are dropped at once."""
    terms, unlimited = question.problem.terms, np.array([np.inf])
    return Targets(
        unlimited if figure == "energy_j" else np.zeros(0),
        energy_limit_j=terms.energy_limit_j,
        makespan_limit_s=terms.makespan_limit_s,
        tolerance=tolerance,
        seek_latency=figure == "makespan_s",
        further=(Ladder("value", "makespan_s", unlimited),) if figure == "value" else (),
    )


@dataclass(frozen=True)
class _UntilFound(Deadline):
    """Passed as soon as there is a plan."""

    targets: Targets | None = None

    @property
    def passed(self) -> bool:
        """Whether to stop."""
        return (self.targets is not None and self.targets.latency_plan is not None) or super().passed


def _search(question: Question, targets: Targets, replicas: int, size: tuple[int, int], deadline: Deadline) -> Search:
    """Search all plans with so many replicas; in ``open`` are those whose schedules are still to be settled."""
    problem, (most_labels, schedules) = question.problem, size
    columns = question.case.columns(problem, replicas, targets, deadline)
    search = Search(problem, columns, targets, most_labels, deadline, schedules, insists=False, every_cut=size == FEW)
    search.run()
    return search


def _event(wall_s: float, incumbent: float, bound: float, nodes: int) -> solvers.Event:
    """Where neither is known, or no plan can be, there is no number."""
    best = incumbent if np.isfinite(incumbent) else None
    proven = None if np.isinf(bound) else bound if best is None else min(bound, best)
    return solvers.Event(wall_s, best, proven, solvers.relative_gap(best, proven), nodes)


def offer(plan: Plan, question: Question, targets: Targets) -> None:
    """Take a plan from another question where it fits this one and improves an answer."""
    if not set(plan.devices) <= set(question.cluster.device_ids):
        return
    try:
        again = predicted(plan, question.problem)
    except InputError:  # transfers of a stream, in an order that cannot repeat at this rate on this network
        return
    if keeps(again, question.qoe):
        makespan_s, energy_j, value = figures(again, question.qoe).numbers
        targets.offer(makespan_s, energy_j, again, value)


def _at_least(plan: Plan, problem: Problem, floor_s: float) -> tuple[float, float, float]:
    """Bounds on makespan, energy and value of a plan from another question, in much less time than it takes to predict.

    Every stage has to compute, and the devices of the plan draw at least what they draw for that and while they idle.
    """
    ids, table, least_s, dynamic_j = problem.cluster.device_ids, problem.table, floor_s, 0.0
    if not set(plan.devices) <= set(ids):
        return np.inf, np.inf, np.inf
    devices = [problem.cluster.device(name) for name in plan.devices]
    for stage in plan.stages if all(stage.weights is None and not stage.shards for stage in plan.stages) else ():
        for replica in stage.replicas:
            place = slice(stage.first_layer, stage.stop_layer), ids.index(replica.device), replica.samples
            busy_s = plan.micro_batches * float(table.forward_s[place].sum() + table.backward_s[place].sum())
            device = problem.cluster.device(replica.device)
            least_s, dynamic_j = max(least_s, busy_s), dynamic_j + busy_s * (device.active_w - device.idle_w)
    idle_w = np.array(sum(device.idle_w for device in devices))
    return least_s, float(problem.energy_j(np.array(dynamic_j), idle_w, np.array(least_s))), -np.inf


def _check(plan: Plan, question: Question, figure: Figure, claimed: float) -> None:
    """What the search says of a plan must be what its prediction alone says.

    Raises
    ------
    ObjectiveMismatchError
        If it is not.
    """
    computed = float(getattr(figures(plan, question.qoe), figure)[0])
    if abs(claimed - computed) > AGREEMENT * max(abs(computed), AGREEMENT):
        raise ObjectiveMismatchError(f"the search says {claimed:.9g}, the plan {computed:.9g}")
    if not keeps(plan, question.qoe):
        raise ObjectiveMismatchError(f"the plan breaks a limit: {rating(plan, question.qoe).broken!r}")


def _certified(plan: Plan, question: Question, figure: Figure, bound: float, gap: float, deadline: Deadline) -> Plan:
    qoe, terms = question.qoe, question.problem.terms
    by_figure: dict[Figure, Objective] = {"makespan_s": "latency", "energy_j": "energy", "value": qoe.objective}
    objective = by_figure[figure]
    value = float(getattr(figures(plan, qoe), figure)[0])
    bound = min(bound, value)
    reached = (value - bound) / value if value else 0.0
    stopped = ("cancelled" if deadline.cancelled else "time limit") if deadline.passed else "feasible"
    return plan.replace(
        certificate=Certificate(
            objective=objective,
            unit="s" if objective == "latency" else "J",
            latency_limit_s=terms.makespan_limit_s if np.isfinite(terms.makespan_limit_s) else None,
            energy_limit_j=terms.energy_limit_j if np.isfinite(terms.energy_limit_j) else None,
            limits=rating(plan, qoe).limits,
            with_prices=figure == "value" and terms.is_soft,
            value=value,
            bound=bound,
            gap=reached,
            status="optimal" if reached <= gap * (1 + 1e-6) else stopped,
            scope=question.space.describe(),
            solver="bounding search",
            solver_reason="asked again for an explanation; not checked by the partition program",
        ),
    )
