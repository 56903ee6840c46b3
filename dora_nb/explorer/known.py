"""The plans that are known, and what each would do in the case that is looked at.

A plan keeps all its decisions in every case; where the batch is another, it has as many more or fewer micro-batches and
its transfers are scheduled anew. Figures of a case are computed once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from dora_nb.costs.evaluate import evaluate
from dora_nb.costs.table import CostTable, cost_table
from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.errors import DoraError
from dora_nb.explorer.whatif import WhatIf, check, question_under
from dora_nb.planning.question import Question
from dora_nb.planning.scheduling import finish, fits_memory

#: Plans that are remembered at most, those asked for first apart.
MOST_FOUND = 20

#: Cases whose figures are remembered.
_MOST_CASES = 64

#: ``asked``: one of the plans asked for first; ``provisional``: one shown until those are there. ``answer``: found by a
#: search for the objective alone. ``planned``: one of a plan set that :func:`dora_nb.plan` gave later.
Kind = Literal["asked", "provisional", "answer", "planned"]


@dataclass(frozen=True)
class Found:
    """A plan and the question that it answers.

    Attributes
    ----------
    plan
        With the figures and the certificate of that question.
    what_if, qoe
        The question.
    kind, place, most_plans
        How it was found, at which place of a plan set, and how many plans that was allowed to have.
    """

    plan: Plan
    what_if: WhatIf
    qoe: QoE
    kind: Kind
    place: int = 0
    most_plans: int = 1

    @cached_property
    def decisions(self) -> Plan:
        """What equal plans share."""
        return self.plan.decisions()


@dataclass(frozen=True)
class Known:
    """A plan in the case that is looked at.

    Attributes
    ----------
    plan
        With its figures in this case. The certificate is there where it holds for this case.
    found
        How it was found.
    """

    plan: Plan
    found: Found

    @cached_property
    def decisions(self) -> Plan:
        """What equal plans share."""
        return self.plan.decisions()


@dataclass(frozen=True)
class _Case:
    """The question of a what-if, its compute times, and by identity the plans looked at by now."""

    question: Question
    table: CostTable
    plans: dict[int, tuple[Found, Known | None]] = field(default_factory=dict)


class Library:
    """All plans that were found, by the questions they answer.

    Parameters
    ----------
    plans
        The plans asked for first.
    asked
        Their question.
    most_plans
        How many they were allowed to be.
    provisional
        Whether others will take their place.
    """

    def __init__(self, plans: PlanSet, asked: Question, most_plans: int, provisional: bool = False) -> None:
        self.asked, self._most_plans = asked, most_plans
        self._first: list[Found] = []
        self.begin_with(plans, provisional)
        self._later: list[Found] = []
        self._cases: dict[str, _Case] = {}

    def begin_with(self, plans: PlanSet, provisional: bool = False) -> None:
        """Take these for the plans asked for first, instead of those so far."""
        kind: Kind = "provisional" if provisional else "asked"
        most_plans = 1 if provisional else self._most_plans  # they are not the trade-offs there are
        self._first = [
            Found(plan, WhatIf(), plans.qoe, kind, place, most_plans) for place, plan in enumerate(plans.plans)
        ]

    def question(self, what_if: WhatIf, qoe: QoE) -> Question:
        """A question about a case; limits of devices that are switched off are left out.

        Raises
        ------
        InputError
            If there can be no such case.
        """
        check(self.asked, what_if)
        battery_j = {name: joules for name, joules in qoe.battery_j.items() if name not in what_if.off}
        left = qoe.replace(battery_j=battery_j, battery_price=qoe.battery_price if battery_j else None)
        return self._case(what_if).question.with_qoe(left)

    def add(self, found: Iterable[Found], keep: Sequence[Found] = ()) -> None:
        """Remember plans. What is known already is replaced; of too many the oldest are forgotten.

        A plan set replaces the answer that was found for its question alone.

        Parameters
        ----------
        found
            The plans.
        keep
            Those that are looked at and must stay.
        """
        found = list(found)
        whole = [(each.what_if, each.qoe) for each in found if each.kind == "planned"]
        self._later = [each for each in self._later if each.kind != "answer" or (each.what_if, each.qoe) not in whole]
        for each in found:
            if self._replaced(self._first, each):
                continue
            if not self._replaced(self._later, each):
                self._later.append(each)
        spare = [each for each in self._later if not any(each is one for one in keep)]
        gone = [id(each) for each in spare[: max(0, len(self._later) - MOST_FOUND)]]
        self._later = [each for each in self._later if id(each) not in gone]

    @staticmethod
    def _replaced(among: list[Found], new: Found) -> bool:
        """Whether the same plan was among them; it has the new certificate now, unless it was asked for first."""
        for index, each in enumerate(among):
            if each.what_if == new.what_if and each.decisions == new.decisions:
                if each.kind not in ("asked", "provisional"):
                    among[index] = new
                return True
        return False

    def known(self, what_if: WhatIf) -> tuple[Known, ...]:
        """Every plan that can run in a case, with its figures there: those asked for first, then the others.

        A plan that was found for several cases is there once.
        """
        case = self._case(what_if)
        made = {each.decisions: Known(each.plan, each) for each in self._later if each.what_if == what_if}
        shown: dict[Plan, Known] = {}
        for found in (*self._first, *self._later):
            here = found.what_if == what_if
            known = Known(found.plan, found) if here else made.get(found.decisions) or _in_case(found, case)
            if known is not None:
                shown.setdefault(known.decisions, known)
        return tuple(shown.values())

    def has_trade_offs(self, what_if: WhatIf) -> bool:
        """Whether a whole plan set was planned for a case."""
        made = (*self._first, *self._later)
        return any(each.what_if == what_if and each.most_plans == self._most_plans for each in made)

    def in_case(self, plans: Iterable[Plan], what_if: WhatIf) -> tuple[Plan, ...]:
        """Plans that were made for the question asked first, with their figures in a case, if they can run there."""
        case = self._case(what_if)
        adapted = (plan if what_if.is_none else _adapted(plan, case.question, case.table) for plan in plans)
        return tuple(plan for plan in adapted if plan is not None)

    def _case(self, what_if: WhatIf) -> _Case:
        key = what_if.digest()
        if key not in self._cases:
            question = question_under(self.asked, what_if)
            table = cost_table(question.workload, question.cluster) if question.table is None else question.table
            self._cases[key] = _Case(question, table)
            if len(self._cases) > _MOST_CASES:
                del self._cases[next(iter(self._cases))]
        return self._cases[key]


def _in_case(found: Found, case: _Case) -> Known | None:
    if id(found) not in case.plans:
        plan = _adapted(found.plan, case.question, case.table)
        case.plans[id(found)] = (found, None if plan is None else Known(plan, found))
    return case.plans[id(found)][1]


def _adapted(plan: Plan, question: Question, table: CostTable) -> Plan | None:
    """A plan with its figures for another workload or cluster; None where it cannot run there."""
    bare = plan.replace(prediction=None, certificate=None)
    if not set(plan.devices) <= set(question.cluster.device_ids):
        return None
    try:
        if plan.micro_batch * plan.micro_batches == question.workload.batch:
            evaluation = evaluate(bare, question.workload, question.cluster, table)
            finished = bare.replace(prediction=evaluation.prediction)
        else:
            finished = finish(_rebatched(bare, question.workload.batch), question.problem)
    except DoraError:  # it does not divide the batch, or its transfers cannot repeat at the rate of a stream there
        return None
    return finished if fits_memory(finished) else None


def _rebatched(plan: Plan, batch: int) -> Plan:
    """As many micro-batches as make up another batch."""
    count = max(1, batch // plan.micro_batch)
    stages = tuple(stage.replace(in_flight=min(stage.in_flight, count)) for stage in plan.stages)
    groups = math.gcd(plan.token_groups, count)
    return plan.replace(micro_batches=count, stages=stages, transfer_order=(), token_groups=groups)
