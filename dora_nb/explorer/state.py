"""Everything that the explorer shows, without any widget: set from code, from controls, and by a solve."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import traitlets

from dora_nb import solvers
from dora_nb.domain.explanation import Relaxation
from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.errors import DoraError, InputError
from dora_nb.explorer.asking import Asker, Ended
from dora_nb.explorer.changes import answer_label, qoe_with, relaxed
from dora_nb.explorer.effect import Effect, effect
from dora_nb.explorer.known import Found, Kind
from dora_nb.explorer.looking import Looking
from dora_nb.explorer.progress import Progress, SolveState
from dora_nb.explorer.running import PlanRun, RunView
from dora_nb.explorer.solving import Answered, Baselines, NoPlan, Planned, Proven, Relaxed, prove, seek_baselines, solve
from dora_nb.explorer.whatif import WhatIf
from dora_nb.planning.nearest import nearest
from dora_nb.planning.plan import check_question
from dora_nb.units import counted

#: Seconds that a question must stand before it is solved: a slider that is dragged asks many.
PAUSE_S = 0.3


class ExplorerState(Looking):
    """Plans, the one looked at, the question as it is now, and the solve that answers it.

    Every change of the question shows the nearest known plan at once and starts an exact solve in the background, which
    replaces the one before. News of it arrive with :meth:`follow`, on the thread that calls it; :meth:`wait` calls it
    until all is over.

    Parameters
    ----------
    plans
        The plans asked for first.
    pause_s
        How long a question must stand before it is solved.
    time_limit_s
        For each solve.
    provisional
        Whether :meth:`prove` is to put proven plans into the place of these.

    Attributes
    ----------
    progress
        The solve.
    relaxations
        Where no plan keeps the limits: the smallest changes with which one does.
    effect
        What the changes do to the best plan; None without any, or while that is not known.
    run_view
        The plan being run; None: none was.
    """

    progress = traitlets.Instance(Progress)
    relaxations = traitlets.Tuple()
    effect = traitlets.Instance(Effect, allow_none=True)
    run_view = traitlets.Instance(RunView, allow_none=True)

    def __init__(
        self, plans: PlanSet, *, pause_s: float = PAUSE_S, time_limit_s: float = 60.0, provisional: bool = False
    ) -> None:
        super().__init__(plans, time_limit_s, provisional)
        self._asker = Asker()
        self._pause_s, self._asked_s = pause_s, 0.0
        self._solving, self._seeking = False, False
        self._wants_baselines, self._wants_proof = False, provisional
        self._run: PlanRun | None = None
        self.closed = False
        with self._setting():
            self._show_as_asked()

    # ------------------------------------------------------------------ what a person does

    def ask(self, **changes: Any) -> None:
        """Ask with other limits or another objective: fields of :class:`~dora_nb.QoE`, e.g. ``latency_s=20``.

        Raises
        ------
        InputError
            If that cannot be asked; nothing is changed then.
        """
        with self._setting():
            self._ask(qoe_with(self.qoe, changes), self.changed)

    def what_if(self, **changes: Any) -> None:
        """Ask for another case: ``bandwidth``, ``speed`` and ``memory`` by device as factors, ``batch``, ``off``.

        Factors of devices that are not named stay as they are; 1 is as it was.

        Raises
        ------
        InputError
            If there can be no such case; nothing is changed then.
        """
        with self._setting():
            self._ask(self.qoe, self.changed.with_changes(**changes))

    def switch_off(self, *devices: str) -> None:
        """Ask for the case in which just these devices are off; none: all are on.

        Raises
        ------
        InputError
            If there is no such device, or it cannot be spared; nothing is changed then.
        """
        self.what_if(off=devices)

    def apply(self, relaxation: Relaxation | int) -> None:
        """Ask with the changes of a relaxation, or of one of :attr:`relaxations` by its place.

        Raises
        ------
        InputError
            If there is no such relaxation.
        """
        with self._setting():
            self._ask(*relaxed(self._relaxation(relaxation), self.qoe, self.changed))

    def _relaxation(self, which: Relaxation | int) -> Relaxation:
        if isinstance(which, Relaxation):
            return which
        if not 0 <= which < len(self.relaxations):
            raise InputError(
                "relaxation", which, f"one of {counted(len(self.relaxations), 'relaxation')}, counted from 0"
            )
        found: Relaxation = self.relaxations[which]
        return found

    def reset(self) -> None:
        """Everything as it was when the plans were asked for; what was found since stays known."""
        with self._setting():
            self._asker.ask(lambda _: None)
            self._show_as_asked()
            self._go_on()

    def cancel(self) -> None:
        """Stop the solve with what there is."""
        with self._setting():
            if self.progress.going_on:
                self._asker.cancel()
                self._wants_proof = False
                ends: dict[SolveState, SolveState] = {"checking": "done", "relaxing": "infeasible"}
                self.progress = self.progress.replace(state=ends.get(self.progress.state, "cancelled"))

    def run(self, **options: Any) -> None:
        """Run the plan that is looked at; options of :func:`dora_nb.execute`, such as ``steps=3``.

        Raises
        ------
        InputError
            If another run is still going on.
        """
        with self._setting():
            if self._run is not None and self.run_view is not None and not self.run_view.over:
                raise InputError("run", "another run", "one at a time: cancel the one that is going on, or wait for it")
            question = self.question
            table = question.table
            self._run = PlanRun(self.plan, question.workload, question.cluster, table, **options)
            self.run_view = self._run.look()

    def cancel_run(self) -> None:
        """Stop the plan that is being run."""
        with self._setting():
            if self._run is not None:
                self._run.cancel()

    # ------------------------------------------------------------------ the solve, and the run

    @property
    def busy(self) -> bool:
        """Whether there is news to wait for."""
        return self._solving or self._seeking or (self.run_view is not None and not self.run_view.over)

    def follow(self) -> bool:
        """Take in what is new of the solve and of the run; returns whether there is more to come."""
        with self._setting():
            for news in self._asker.news():
                self._take(news)
            if self.progress.going_on:
                self.progress = self.progress.replace(wall_s=time.monotonic() - self._asked_s)
            view = None if self._run is None else self._run.look()
            if view is not None:
                self.run_view = view
            return self.busy

    def wait(self, timeout_s: float | None = None, *, for_answer: bool = False) -> None:
        """Follow until there is no more to come.

        Parameters
        ----------
        timeout_s
            Longest wait; None: as long as it takes.
        for_answer
            Only until the best plan is known, or that there is none: that it is checked a second way, and the
            trade-offs around it, are not waited for.

        Raises
        ------
        TimeoutError
            If it is not over by then; it goes on.
        """
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while self.follow() and not (for_answer and self.progress.state != "running"):
            if until_s is not None and time.monotonic() > until_s:
                raise TimeoutError(f"not over after {timeout_s:g} s; it goes on")
            time.sleep(0.01)

    def close(self) -> None:
        """Stop what is going on, and end the threads."""
        with self.lock:
            self.closed, self._solving = True, False
            self._asker.close()
            if self._run is not None:
                self._run.cancel()

    def seek_baselines(self) -> None:
        """Look for the baselines of the plans asked for first, as soon as there is nothing else to solve."""
        with self._setting():
            self._wants_baselines = self._baselines is None
            if self._wants_baselines and not self._solving:
                self._seeking = True
                self._asker.ask(lambda talk: seek_baselines(self.plans, talk))

    def prove(self) -> None:
        """Plan what was asked for first in the background where the plans are provisional, unless it solves already."""
        with self._setting():
            if self._solving or not self._wants_proof:
                return
            shown = (self.qoe, self.changed) == (self.plans.qoe, WhatIf())
            self._solving, self._seeking = True, False
            if shown:
                self._asked_s = time.monotonic()
                self.progress = Progress(state="running", unit=self.qoe.unit)
            asked, effort = self._library.asked, self._effort
            self._asker.ask(lambda talk: prove(asked, effort, talk, shown=shown))

    def _go_on(self) -> None:
        """What else there is to look for, once nothing is solved."""
        if self._wants_proof:
            self.prove()
        elif self._wants_baselines:
            self.seek_baselines()

    def _ask(self, qoe: QoE, what_if: WhatIf) -> None:
        """Show the nearest known plan, and solve."""
        if self.closed:
            raise InputError("explorer", "closed", "an open one: call plans.explore() again")
        if (qoe, what_if) == (self.qoe, self.changed):
            return
        question = self._library.question(what_if, qoe)
        check_question(question.workload, question.cluster, question.qoe)
        self._follows = True
        self.qoe, self.answer, self.relaxations, self.effect = qoe, -1, (), None
        if what_if != self.changed:
            self.changed = what_if
            self._show_known()
        self.selected = nearest([each.plan for each in self.known], question.qoe)
        known = [each.plan for each in self.known]
        # The trade-offs of a case stay as they are while limits move over them.
        effort = replace(self._effort, most_plans=1) if self._library.has_trade_offs(what_if) else self._effort
        self._asked_s, self._solving, self._seeking = time.monotonic(), True, False
        self.progress = Progress(state="running", unit=qoe.unit)
        self._asker.ask(lambda talk: solve(question, known, effort, talk), self._pause_s)

    def _take(self, news: object) -> None:
        if isinstance(news, solvers.Event):
            self.progress = self.progress.after(news)
        elif isinstance(news, Answered):
            self._answered(news)
        elif isinstance(news, Planned):
            self._planned(news)
        elif isinstance(news, NoPlan):
            self._no_plan(news)
        elif isinstance(news, Relaxed):
            self.relaxations = news.relaxations
        elif isinstance(news, Proven):
            self._proven(news)
        elif isinstance(news, Baselines):
            self._baselines = news.plans
            self._show_known()
        elif isinstance(news, Ended):
            self._ended(news.error)

    def _answered(self, news: Answered) -> None:
        cancelled = self.progress.state == "cancelled"
        plan = news.plan.replace(label=answer_label(self.qoe, self.changed))
        self._add((plan,), "answer", 1)
        self._show_answer(plan)
        more = "Checking it a second way" if news.most_plans == 1 else "Looking at the trade-offs around it"
        state: SolveState = "cancelled" if cancelled else "checking"
        self.progress = self.progress.replace(state=state, note=more)

    def _planned(self, news: Planned) -> None:
        case, best = self.changed.lines(), news.plans.best
        labels = (", ".join([plan.label, *case]) for plan in news.plans.plans)
        named = {id(plan): plan.replace(label=label) for plan, label in zip(news.plans.plans, labels, strict=True)}
        named[id(best)] = best.replace(label=answer_label(self.qoe, self.changed))
        self._add(tuple(named.values()), "planned", news.most_plans)
        self._show_answer(named[id(best)])

    def _proven(self, news: Proven) -> None:
        """Other plans were asked for first from now on; what is looked at stays, unless it follows the question."""
        at_first = (self.qoe, self.changed) == (self.plans.qoe, WhatIf())
        self.plans, self._wants_proof = news.plans, False
        self._library.begin_with(news.plans)
        self._show_known()
        if at_first:
            cancelled = self.progress.state == "cancelled"
            self._show_answer(news.plans.best)
            self.progress = self.progress.replace(state="cancelled" if cancelled else "done")

    def _no_plan(self, news: NoPlan) -> None:
        self.progress = self.progress.replace(
            state="relaxing",
            incumbent=None,
            bound=None,
            gap=None,
            note="No plan keeps these limits (proven)." if news.proven else "No plan within these limits was found.",
        )

    def _ended(self, error: Exception | None) -> None:
        what = "The baselines were not found" if self._seeking else "The solve failed"
        self._seeking = self._solving = False
        if error is not None:
            said = str(error) if isinstance(error, DoraError) else f"{type(error).__name__}: {error}"
            self.progress = self.progress.replace(state="failed", note=f"{what}: {said}")
            self._wants_baselines = self._wants_proof = False
        elif self.progress.state == "relaxing":
            none = "" if self.relaxations else " No change was found that helps."
            self.progress = self.progress.replace(state="infeasible", note=self.progress.note + none)
        elif self.progress.state == "checking":
            self.progress = self.progress.replace(state="done")
        self._go_on()

    # ------------------------------------------------------------------ showing

    def _show_as_asked(self) -> None:
        best = self.plans.best
        self.qoe, self.changed = self.plans.qoe, WhatIf()
        self.answer, self.compared, self.relaxations, self.effect = -1, -1, (), None
        self.progress = Progress(state="done", unit=self.qoe.unit).proven_by(best.certificate)
        self._follows, self._solving, self._seeking = True, False, False
        self._show_known()
        self._show_answer(best)

    def _add(self, plans: tuple[Plan, ...], kind: Kind, most_plans: int) -> None:
        looked_at = [self.known[place].found for place in (self.selected, self.compared) if place >= 0]
        found = [Found(plan, self.changed, self.qoe, kind, place, most_plans) for place, plan in enumerate(plans)]
        self._library.add(found, keep=looked_at)
        self._show_known()

    def _show_answer(self, plan: Plan) -> None:
        self.answer = self._where(plan.decisions())
        if self._follows:
            self.selected = self.answer
        self.progress = self.progress.proven_by(plan.certificate)
        asked = self._library.asked
        first = (asked.workload, asked.cluster, asked.qoe)
        self.effect = effect(first, self.plans.best, self.changed, self.question.qoe, plan)
