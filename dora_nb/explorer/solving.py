"""What is solved for a question: its best plan first, then why there is none or the trade-offs around it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from dora_nb import solvers
from dora_nb.domain.explanation import Relaxation
from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.errors import InfeasibleError
from dora_nb.explorer.asking import Talk
from dora_nb.planning.ask import best
from dora_nb.planning.baselines.comparison import compared_unless
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.explanation.explain import relaxations
from dora_nb.planning.plan import plan_question
from dora_nb.planning.question import Question


@dataclass(frozen=True)
class Answered:
    """The best plan for the objective, with its certificate.

    Attributes
    ----------
    plan
        The plan.
    most_plans
        Of the plan set that is looked for next.
    """

    plan: Plan
    most_plans: int = 1


@dataclass(frozen=True)
class NoPlan:
    """No plan keeps the limits.

    Attributes
    ----------
    proven
        Whether that is proven; else none was found in time.
    """

    proven: bool


@dataclass(frozen=True)
class Relaxed:
    """The smallest changes with which there is a plan."""

    relaxations: tuple[Relaxation, ...]


@dataclass(frozen=True)
class Planned:
    """The best plan checked a second way and its ties broken, and the trade-offs around it.

    Attributes
    ----------
    plans
        The plans.
    most_plans
        How many they were allowed to be; 1: no trade-offs were looked for.
    """

    plans: PlanSet
    most_plans: int


@dataclass(frozen=True)
class Baselines:
    """What other planners and anybody would do."""

    plans: tuple[Plan, ...]


@dataclass(frozen=True)
class Proven:
    """The plans asked for first, which take the place of provisional ones."""

    plans: PlanSet


@dataclass(frozen=True)
class Effort:
    """How well and how long to solve.

    Attributes
    ----------
    gap, time_limit_s, most_plans
        As for :func:`dora_nb.plan`.
    """

    gap: float = 1e-4
    time_limit_s: float = 60.0
    most_plans: int = 5


def solve(question: Question, known: Sequence[Plan], effort: Effort, talk: Talk) -> None:
    """Answer a question step by step, telling each step as soon as it is known.

    Told are :class:`dora_nb.solvers.Event` while the best plan is sought, then :class:`Answered` and :class:`Planned`,
    or :class:`NoPlan` and :class:`Relaxed`.

    Parameters
    ----------
    question
        What is asked.
    known
        Plans that may be as good, with which the search starts.
    effort
        For each step.
    talk
        Whom to tell, and whether to stop.
    """
    deadline = Deadline(time.monotonic() + effort.time_limit_s, talk.cancel)
    answer = best(question, gap=effort.gap, deadline=deadline, known=known, on_event=talk.tell)
    if answer.plan is not None:
        talk.tell(Answered(answer.plan, effort.most_plans))
        _check(question, effort, talk)
    elif not talk.cancel.is_set():
        talk.tell(NoPlan(answer.impossible))
        talk.tell(Relaxed(relaxations(question, effort.gap, effort.time_limit_s, talk.cancel)))


def _check(question: Question, effort: Effort, talk: Talk) -> None:
    if talk.cancel.is_set():
        return
    try:
        plans = _plan(question, effort, talk)
    except InfeasibleError:  # stopped before it found the plan that is known already
        return
    if not talk.cancel.is_set():
        talk.tell(Planned(plans, effort.most_plans))


def _plan(question: Question, effort: Effort, talk: Talk, on_event: solvers.OnEvent | None = None) -> PlanSet:
    return plan_question(
        question,
        most_plans=effort.most_plans,
        gap=effort.gap,
        time_limit_s=effort.time_limit_s,
        on_event=on_event,
        cancel=talk.cancel,
    )


def prove(question: Question, effort: Effort, talk: Talk, *, shown: bool) -> None:
    """Plan what was asked for first, as :func:`dora_nb.plan` does, and tell :class:`Proven`.

    Parameters
    ----------
    question, effort, talk
        As for :func:`solve`.
    shown
        Whether to tell each :class:`dora_nb.solvers.Event`: the question is the one that is looked at.
    """
    talk.tell(Proven(_plan(question, effort, talk, talk.tell if shown else None)))


def seek_baselines(plans: PlanSet, talk: Talk) -> None:
    """Tell the :class:`Baselines` of plans; nothing if it is stopped before."""
    found = compared_unless(plans, talk.cancel.is_set)
    if found is not None:
        talk.tell(Baselines(found))
