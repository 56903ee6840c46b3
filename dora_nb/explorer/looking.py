"""The plans that are known in the case of now, which of them is looked at, and how to keep it: as a file, as code."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import traitlets

from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_file import save_plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.domain.rating import Rating, qoe_value
from dora_nb.errors import InputError
from dora_nb.explorer.known import Known, Library
from dora_nb.explorer.snippet import snippet
from dora_nb.explorer.solving import Effort
from dora_nb.explorer.views.cases import Case
from dora_nb.explorer.views.difference import DifferenceView, difference_view
from dora_nb.explorer.whatif import WhatIf
from dora_nb.planning.explanation.alternatives import question_of
from dora_nb.planning.nearest import nearest
from dora_nb.planning.question import Question
from dora_nb.render import words


class Looking(traitlets.HasTraits):
    """Known plans in the case of now, and which are looked at.

    What is set by one thread is locked against others, and those who watch are told when all is set.

    Parameters
    ----------
    plans
        The plans asked for first.
    time_limit_s
        For each solve.
    provisional
        Whether others will take the place of these plans.

    Attributes
    ----------
    plans
        As given, or those that took their place.
    qoe, changed
        The question as it is now: limits and objective, and what is other than it was.
    known
        Plans that can run in this case, with their figures in it: those asked for first, then those found later.
    selected, compared
        Places among them; ``compared`` -1: nothing is compared.
    answer
        Place of the best plan for the question as it is now, -1 while that is not known.
    baselines
        What other planners and anybody would do in this case, as far as that is known.
    revision
        Grows after every change, when all is set.
    """

    qoe = traitlets.Instance(QoE)
    changed = traitlets.Instance(WhatIf)
    known = traitlets.Tuple()
    selected = traitlets.Int(-1)
    compared = traitlets.Int(-1)
    answer = traitlets.Int(-1)
    baselines = traitlets.Tuple()
    revision = traitlets.Int(0)

    def __init__(self, plans: PlanSet, time_limit_s: float, provisional: bool = False) -> None:
        if not plans.plans or any(plan.prediction is None for plan in plans.plans):
            raise InputError("plans", len(plans.plans), "at least one plan, each with its prediction")
        super().__init__()
        self.plans, self.lock = plans, threading.RLock()
        asked, gap = question_of(plans)
        most = plans.coverage.most_plans if plans.coverage is not None else Effort().most_plans
        self._effort = Effort(gap, time_limit_s, most)
        self._library = Library(plans, asked, most, provisional)
        self._baselines = plans.known_baselines
        self._is_setting = False
        self._follows = True  # whether the plan looked at changes with the question

    def select(self, place: int) -> None:
        """Look at one of the known plans.

        Raises
        ------
        InputError
            If there is no such plan.
        """
        with self._setting():
            self.selected = self._place("selected", place)
            self._follows = False

    def compare_with(self, place: int) -> None:
        """Hold a known plan beside the one looked at; -1: none.

        Raises
        ------
        InputError
            If there is no such plan.
        """
        with self._setting():
            self.compared = -1 if place == -1 else self._place("compared", place)

    @property
    def question(self) -> Question:
        """The question as it is now."""
        return self._library.question(self.changed, self.qoe)

    @property
    def plan(self) -> Plan:
        """The plan that is looked at, with its figures in this case.

        Raises
        ------
        InputError
            If no known plan can run in this case.
        """
        return self._known_plan(self.selected)

    @property
    def compared_plan(self) -> Plan | None:
        """The plan beside it."""
        return None if self.compared < 0 else self._known_plan(self.compared)

    @property
    def difference(self) -> DifferenceView | None:
        """What moves from the plan beside it to the plan that is looked at, and what that costs; None without one."""
        other = self.compared_plan
        if other is None or self.selected < 0:
            return None
        question = self.question
        places = (self.compared, self.selected)
        names = [f"{words.plan_mark(place)}  {self.known[place].plan.label}" for place in places]
        before = Case(other, question.workload, question.cluster, names[0])
        after = Case(self.plan, question.workload, question.cluster, names[1])
        return difference_view(before, after, self.qoe.energy_accounting)

    def rating(self, place: int) -> Rating:
        """What a known plan is worth now, and which limits it keeps.

        Raises
        ------
        InputError
            If there is no such plan.
        """
        prediction = self._known_plan(place).prediction
        assert prediction is not None, "known plans are predicted"
        return qoe_value(prediction, self.question.qoe)

    def save(self, path: str | Path) -> Path:
        """Write the plan that is looked at, with workload, cluster and QoE as they are now, to a plan file.

        Raises
        ------
        DocumentError
            If the file cannot be written.
        """
        question = self.question
        return save_plan(path, self.plan, question.workload, question.cluster, question.qoe)

    def snippet(self, path: str | Path = "plan.json") -> str:
        """Python that gives the question and the plan looked at in a fresh kernel.

        Parameters
        ----------
        path
            Of the plan file that it reads where names of the catalogue are not enough; the file is written then.

        Raises
        ------
        DocumentError
            If the file cannot be written.
        """
        with self.lock:
            known = self.known[self._place("selected", self.selected)]
            made = snippet(self._library.asked, known, self.changed, self.qoe, self._effort, path)
            if made.reads_file:
                self.save(path)
            return made.text

    def _known_plan(self, place: int) -> Plan:
        known: Known = self.known[self._place("place", place)]
        return known.plan

    def _place(self, field: str, place: int) -> int:
        if not 0 <= place < len(self.known):
            allowed = f"0 to {len(self.known) - 1}" if self.known else "nothing: no known plan can run in this case"
            raise InputError(field, place, allowed)
        return place

    @traitlets.validate("selected", "compared")
    def _is_place(self, proposal: Any) -> int:
        place: int = proposal["value"]
        return place if place == -1 else self._place(proposal["trait"].name, place)

    @traitlets.observe("selected", "compared")
    def _set_alone(self, _: Any) -> None:
        if not self._is_setting:
            self.revision += 1

    def _show_known(self) -> None:
        """The plans of this case; those that are looked at stay so, at their new places."""
        before = {name: getattr(self, name) for name in ("selected", "compared", "answer")}
        looked_at = {name: self.known[place].decisions for name, place in before.items() if place >= 0}
        self.known = self._library.known(self.changed)
        self.baselines = self._library.in_case(self._baselines or (), self.changed)
        for name in before:
            setattr(self, name, self._where(looked_at.get(name)))
        if self.selected < 0:
            self.selected = nearest([each.plan for each in self.known], self.qoe)

    def _where(self, decisions: Plan | None) -> int:
        return next((place for place, each in enumerate(self.known) if each.decisions == decisions), -1)

    @contextmanager
    def _setting(self) -> Iterator[None]:
        """One thread at a time; those who watch are told when all is set."""
        with self.lock:
            outer, self._is_setting = self._is_setting, True
            try:
                with self.hold_trait_notifications():
                    yield
                    self.revision += 1
            finally:
                self._is_setting = outer
