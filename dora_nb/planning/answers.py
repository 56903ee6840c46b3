"""The plans of an answer: chosen among equally good ones, checked, and certified."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dora_nb.domain.certificate import Certificate, SecondSolve
from dora_nb.domain.coverage import Coverage
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import ROUNDING
from dora_nb.errors import InfeasibleError, ObjectiveMismatchError
from dora_nb.planning.exact.certify import AGREEMENT
from dora_nb.planning.hunt import Hunt
from dora_nb.planning.known import Asked
from dora_nb.planning.scheduling import scheduled
from dora_nb.planning.why_not import why_infeasible


@dataclass(frozen=True)
class Answer:
    """A question with the best plan for it and what is proven: for the question, and for its tie-break.

    Attributes
    ----------
    question, plan
        What was asked, and the best plan for it.
    bound
        No plan is better at the question.
    tie_bound
        No equally good plan is better at the question's second figure; None: not proven.
    """

    question: Asked
    plan: Plan
    bound: float
    tie_bound: float | None = None


def answers(hunt: Hunt) -> tuple[tuple[Plan, ...], Coverage]:
    """Every answer once, by ascending makespan, with its certificate; and what they cover.

    Raises
    ------
    InfeasibleError
        If no plan keeps the limits.
    """
    if not hunt.feasible:
        raise InfeasibleError(why_infeasible(hunt))
    # A plan may answer several questions; it carries the certificate of the most important one.
    found: dict[Plan, Plan] = {}
    for question in hunt.questions:
        answer = _answer(hunt, question)
        decisions = answer.plan.decisions()
        if decisions not in found:
            found[decisions] = _certified(hunt, answer)
        elif {question.label, found[decisions].label} == {"latency-optimal", "energy-optimal"}:
            found[decisions] = found[decisions].replace(label="latency- and energy-optimal")
    best, *others = found.values()
    plans = _not_dominated(hunt, best, others)
    delta = hunt.front().delta([hunt.known.figures(each) for each in plans]) if hunt.asks_energy else np.inf
    return plans, Coverage(delta if np.isfinite(delta) else None, hunt.most_plans)


def _answer(hunt: Hunt, question: Asked) -> Answer:
    """The best plan for a question; of equally good ones the one that is better at the other figure."""
    ladder, place = hunt.ladder(question)
    bound = float(ladder.bounds[place])
    equal, tie_bound = hunt.equal(question), None
    _check_incumbent(hunt, question)
    offered = hunt.targets.plans if hunt.ties is None else [*hunt.targets.plans, *hunt.ties.plans]
    known = [hunt.known.predicted(each) for each in offered]
    if hunt.ties is not None:
        ties = next(e for e in hunt.ties.further if (e.least, e.within) == (question.tie_figure, question.figure))
        tie_bound = float(ties.bounds[np.flatnonzero(ties.limits == equal)[0]])
    limit_s = min(question.latency_limit_s, hunt.latency_limit_s) * (1 + ROUNDING)
    within = [
        each
        for each in known
        if hunt.known.figures(each)[0] <= limit_s
        and hunt.known.rating(each).keeps_hard
        and hunt.known.figure(each, question.figure) <= equal * (1 + ROUNDING)
    ]
    figure = hunt.known.figure
    chosen = min(within, key=lambda each: (figure(each, question.tie_figure), figure(each, question.figure)))
    return Answer(question, chosen, bound, tie_bound)


def _check_incumbent(hunt: Hunt, question: Asked) -> None:
    """What the search says of a plan must be what its prediction alone says.

    Raises
    ------
    ObjectiveMismatchError
        If it is not.
    """
    ladder, place = hunt.ladder(question)
    plan = hunt.known.predicted(hunt.incumbent(question))
    claimed, computed = float(ladder.best[place]), hunt.known.figure(plan, question.figure)
    if abs(claimed - computed) > AGREEMENT * max(abs(computed), AGREEMENT):
        raise ObjectiveMismatchError(f"{question.label}: the search says {claimed:.9g}, the plan {computed:.9g}")
    broken = [limit for limit in hunt.known.rating(plan).broken if limit.price is None]
    if broken:
        raise ObjectiveMismatchError(f"{question.label}: the plan breaks its {broken[0].term} limit: {broken[0]!r}")


def _certified(hunt: Hunt, answer: Answer) -> Plan:
    question, each, bound = answer.question, answer.plan, answer.bound
    value = hunt.known.figure(each, question.figure)
    if bound > value * (1 + AGREEMENT):
        raise ObjectiveMismatchError(f"{question.label}: the bound {bound:.9g} is above the plan's own {value:.9g}")
    gap = _gap(value, bound)
    status = "optimal" if gap <= hunt.gap * (1 + 1e-6) else hunt.stopped or "feasible"
    limit_s = question.latency_limit_s
    then = None
    if answer.tie_bound is not None:
        other = hunt.known.figure(each, question.tie_figure)
        then = SecondSolve(
            objective="energy" if question.tie_figure == "energy_j" else "latency",
            unit="J" if question.tie_figure == "energy_j" else "s",
            value=other,
            bound=min(answer.tie_bound, other),
            gap=_gap(other, answer.tie_bound),
        )
    return scheduled(each, hunt.problem).replace(
        label=question.label,
        certificate=Certificate(
            objective=question.objective,
            unit="s" if question.objective == "latency" else "J",
            latency_limit_s=limit_s if np.isfinite(limit_s) else None,
            energy_limit_j=hunt.energy_limit_j if np.isfinite(hunt.energy_limit_j) else None,
            limits=hunt.known.rating(each).limits,
            with_prices=question.priced and hunt.problem.terms.is_soft,
            value=value,
            bound=min(bound, value),
            gap=gap,
            status=status,
            scope=hunt.problem.space.describe(),
            algorithm="monolithic" if hunt.monolithic else "decomposed",
            solver=hunt.solved_by,
            solver_reason=hunt.reason,
            then=then,
        ),
    )


def _not_dominated(hunt: Hunt, best: Plan, others: list[Plan]) -> tuple[Plan, ...]:
    """By ascending makespan, without those that another matches or beats in both figures.

    The best at the objective stays; what is better at it by less than the gap counts as equal and goes.
    """
    at_best = hunt.known.rating(best).value
    rivals = [each for each in others if hunt.known.rating(each).value > at_best]
    kept: list[Plan] = []
    figures = hunt.known.figures
    for plan in sorted([best, *rivals], key=figures):
        beaten = kept and figures(plan)[1] >= min(figures(one)[1] for one in kept) * (1 - ROUNDING)
        if plan is best or not beaten:
            kept.append(plan)
    if hunt.problem.terms.is_plain:  # then the best plan is at an end, and may beat one that was kept before it
        kept = [each for each in kept if each is best or not _beats(hunt, best, each)]
    return tuple(kept)


def _beats(hunt: Hunt, plan: Plan, other: Plan) -> bool:
    mine, theirs = hunt.known.figures(plan), hunt.known.figures(other)
    return all(a <= b * (1 + ROUNDING) for a, b in zip(mine, theirs, strict=True))


def _gap(value: float, bound: float) -> float:
    return max(0.0, (value - bound) / value) if value else 0.0
