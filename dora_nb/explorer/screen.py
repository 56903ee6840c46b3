"""The explorer: its state, and one screen that shows it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ipywidgets

from dora_nb import solvers
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.composition import Composition
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import DoraError
from dora_nb.explorer import cells
from dora_nb.explorer.controls import QoEControls, WhatIfControls, close
from dora_nb.explorer.drawing import Drawn, Timelines, bound_of, front_of, map_of
from dora_nb.explorer.panels import ComparePanel, KeepPanel, MixPanel, Panel, PlansPanel, RunPanel
from dora_nb.explorer.state import PAUSE_S, ExplorerState
from dora_nb.explorer.views.front import FrontView
from dora_nb.explorer.widgets.base import Shown
from dora_nb.explorer.widgets.gantt import Gantt
from dora_nb.explorer.widgets.headline import Headline
from dora_nb.explorer.widgets.network_map import NetworkMap
from dora_nb.explorer.widgets.pareto import ParetoPlot
from dora_nb.planning.plan import plan
from dora_nb.render import words
from dora_nb.render.html import plan_set_html
from dora_nb.render.tables import plan_text
from dora_nb.units import counted

#: Seconds between two looks at what is going on.
INTERVAL_S = 0.1


class Screen:
    """The widgets of an explorer, and what they and its state tell each other.

    Parameters
    ----------
    state
        What is shown.
    mix
        A composition to show as well.

    Attributes
    ----------
    root
        The widget that holds all others.
    headline, plot, gantt, network
        The drawn ones.
    """

    def __init__(self, state: ExplorerState, mix: Composition | None) -> None:
        self.state, self._showing = state, False
        self._timelines, self._drawn = Timelines(), Drawn()
        self._front: FrontView | None = None  # the one that is drawn
        self.headline, self.plot, self.gantt, self.network = Headline(), ParetoPlot(), Gantt(), NetworkMap()
        drawn = self._drawn
        self._limits, self._run = QoEControls(state, self.act, drawn), RunPanel(state, self.act, drawn)
        self._panels: list[Panel] = [
            PlansPanel(state, drawn),
            ComparePanel(state, self.act, drawn),
            WhatIfControls(state, self.act, drawn),
            MixPanel(mix),
            self._run,
            KeepPanel(state, self.act),
        ]
        self._tabs = ipywidgets.Tab(
            [each.box for each in self._panels], titles=[each.title for each in self._panels], selected_index=0
        )
        top = ipywidgets.Box([self.plot, self._limits.box])
        top.add_class("dora-explorer-top")
        self.root = ipywidgets.VBox([self.headline, top, self.gantt, self.network, self._tabs])
        self.root.add_class("dora-explorer")
        self._listen()
        self.show()

    def _listen(self) -> None:
        state, plot, network = self.state, self.plot, self.network

        def heard(widget: Any, name: str, do: Callable[[Any], object]) -> None:
            widget.observe(lambda change: self.act(lambda: do(change["new"])), name)

        heard(plot, "selected", state.select)
        heard(plot, "compared", state.compare_with)
        heard(plot, "latency_limit_s", lambda value: state.ask(latency_s=value))
        heard(plot, "energy_limit_j", lambda value: state.ask(energy_j=value))
        heard(network, "switched_off", lambda names: state.switch_off(*names))
        self._tabs.observe(lambda _: self.act(lambda: None), "selected_index")
        state.observe(lambda _: self.show(), ["revision", "selected", "compared"])

    def act(self, what: Callable[[], object]) -> None:
        """Do what a control asks for, and show what is refused; nothing while the controls follow the state."""
        with self.state.lock:
            if self._showing:
                return
            try:
                what()
                self.headline.problem = ""
            except (DoraError, OSError) as problem:
                self._drawn.forget()
                self.headline.problem = words.one_line(str(problem))
            self.show()

    # ------------------------------------------------------------------ showing

    def show(self) -> None:
        """Let all widgets show the state; those that already do stay as they are."""
        with self.state.lock:
            if self._showing:
                return
            self._showing = True
            try:
                for drawn in (self.plot, self.gantt):  # they keep their place while there is no plan to show
                    drawn.layout.visibility = "visible" if self.state.known else "hidden"
                self._show_plot()
                self._show_timeline()
                self._show_map()
                self._show_headline()
                self._limits.show()
                shown = self._tabs.selected_index
                if shown is not None:
                    self._panels[shown].show()
            finally:
                self._showing = False

    def _show_plot(self) -> None:
        state, plot = self.state, self.plot
        with plot.hold_sync():
            if self._drawn.is_new("plot", state.known, state.qoe, state.baselines):
                self._front = front_of(state) or self._front
                plot.view = {} if self._front is None else self._front.model_dump(mode="json")
            for name in ("selected", "compared"):
                self._drawn.put(plot, name, getattr(state, name))
            self._drawn.put(plot, "latency_limit_s", state.qoe.latency_s)
            self._drawn.put(plot, "energy_limit_j", state.qoe.energy_j)
            corners = () if self._front is None else bound_of(state, self._front)
            self._drawn.put(plot, "bound", [list(each) for each in corners])
            self._drawn.put(plot, "bound_words", state.progress.bound_words if corners else "")

    def _show_timeline(self) -> None:
        state, gantt, run = self.state, self.gantt, self.state.run_view
        if run is not None and run.predicted is not None and self._run.in_timeline(state):
            if self._drawn.is_new("timeline", run, None):
                step = f"{run.step[:1].upper()}{run.step[1:]}" if run.step else "A step"
                gantt.title = f"{step} on this machine: predicted above, measured below"
                gantt.show(run.predicted, run.measured)
            return
        view = self._timelines.of(state)
        if view is not None and self._drawn.is_new("timeline", None, view):
            gantt.title = f"{words.plan_mark(state.selected)}  {state.plan.label or 'plan'}, predicted"
            gantt.show(view)

    def _show_map(self) -> None:
        state = self.state
        plan = state.plan if state.selected >= 0 else None
        if self._drawn.is_new("map", plan, state.changed, state.qoe.energy_accounting):
            self.network.view = map_of(state).model_dump(mode="json")
        self._drawn.put(self.network, "switched_off", list(state.changed.off))

    def _show_headline(self) -> None:
        state, headline = self.state, self.headline
        with headline.hold_sync():
            headline.question = _question_lines(state)
            headline.plan, headline.keeps = _plan_line(state)
            headline.state, headline.sentence = state.progress.state, state.progress.sentence
            headline.moments = [moment.model_dump() for moment in state.progress.moments]

    def close(self) -> None:
        """Close all widgets."""
        close(self.root)


def _question_lines(state: ExplorerState) -> list[str]:
    question, changed = state.question, state.changed
    devices = counted(len(question.cluster.devices), "device")
    place = f"{question.cluster.name}: {devices}{words.network_words(question.cluster)}"
    case = f". What if: {words.sentence(changed.lines())}" if changed.lines() else ""
    return [f"{words.workload_words(question.workload)}; {place}", words.qoe_words(state.qoe) + case]


def _plan_line(state: ExplorerState) -> tuple[str, bool]:
    """The plan that is looked at, and whether it keeps the hard limits."""
    if state.selected < 0:
        return "No plan that is known can run in this case.", False
    plan, rating = state.plan, state.rating(state.selected)
    assert plan.prediction is not None, "known plans are predicted"
    energy_j = plan.prediction.energy_j(state.qoe.energy_accounting)
    broken = dict.fromkeys(limit.term for limit in rating.broken)
    limits = f"misses {words.sentence(broken)}" if broken else "keeps the limits" if rating.limits else "no limits"
    best = ""
    if state.selected == state.answer:
        provisional = state.known[state.selected].found.kind == "provisional"
        best = "the best found so far" if provisional else "the best for this question"
    said = [
        f"{words.seconds_words(plan.prediction.makespan_s)}, {words.joules_words(energy_j)} predicted",
        limits,
        *filter(None, [best]),
    ]
    return f"Plan {words.plan_mark(state.selected)}, {plan.label or 'plan'}: {'; '.join(said)}.", rating.keeps_hard


class Explorer(Shown, ExplorerState):
    """Plans to look at, ask on and run: the state with its screen.

    Shown in a notebook it is one screen; everything on it can be done from code as well, see
    :class:`~dora_nb.explorer.state.ExplorerState`. It follows what goes on in the background ten times a second, on the
    event loop of the kernel. All of it ends when the cell that made it runs again, or with :meth:`close`.

    Parameters
    ----------
    plans
        The plans asked for first.
    mix
        A composition to show as well; None: none.
    pause_s, time_limit_s, provisional
        As for the state; provisional plans are proven in the background from now on.
    """

    def __init__(
        self,
        plans: PlanSet,
        mix: Composition | None = None,
        *,
        pause_s: float = PAUSE_S,
        time_limit_s: float = 60.0,
        provisional: bool = False,
    ) -> None:
        super().__init__(plans, pause_s=pause_s, time_limit_s=time_limit_s, provisional=provisional)
        self._following = False
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:  # no notebook: who waits follows
            self._loop = None
        self.screen = Screen(self, mix)
        self.static_id = self.screen.headline.static_id
        self.observe(lambda _: self._wake(), "revision")
        cells.close_on_rerun(self)
        self.prove()
        self.seek_baselines()

    def close(self) -> None:
        """Stop what is going on, end the threads and close the widgets."""
        if not self.closed:
            super().close()
            self.screen.close()

    # ------------------------------------------------------------------ following

    def _wake(self) -> None:
        """Follow from now on, as long as there is news to come."""
        if self._loop is None or self._following or not self.busy:
            return
        self._following = True
        self._loop.call_soon_threadsafe(lambda: asyncio.ensure_future(self._follow_on()))

    async def _follow_on(self) -> None:
        while True:
            with self.lock:
                try:
                    self._following = not self.closed and self.follow()
                except BaseException:
                    self._following = False
                    raise
                if not self._following:
                    return
            await asyncio.sleep(INTERVAL_S)

    # ------------------------------------------------------------------ as an output

    def _live(self) -> Any:
        return self.screen.root

    def _static_html(self) -> str:
        timeline, network = (each._static_html() for each in (self.screen.gantt, self.screen.network))
        return f"{plan_set_html(self._known_set())}{timeline}{network}"

    def _static_text(self) -> str:
        return plan_text(self._known_set())

    def _known_set(self) -> PlanSet:
        """The plans as asked for, with the baselines that are known: none are planned for an output."""
        return replace(self.plans, given_baselines=self.plans.known_baselines or ())

    def __repr__(self) -> str:
        known = counted(len(self.known), "plan")
        return f"Explorer of {known} for {self.plans.workload.name} on {self.plans.cluster.name}"


def explore(
    workload: Workload,
    cluster: Cluster,
    qoe: QoE | None = None,
    *,
    mix: Composition | None = None,
    time_limit_s: float = 60.0,
    **options: Any,
) -> Explorer:
    """Explore a question before it is answered: with good plans at once, which proven ones replace as soon as they are.

    The screen of :meth:`PlanSet.explore <dora_nb.domain.plan_set.PlanSet.explore>` stands after a first quick search;
    :func:`dora_nb.plan` goes on in the background, where its bound can be watched.

    Parameters
    ----------
    workload, cluster, qoe
        What to run, on what, and how well; as for :func:`dora_nb.plan`.
    mix
        A composition to show as well; None: none.
    time_limit_s
        For this and for every further solve.
    options
        Of :func:`dora_nb.plan`: ``most_plans``, ``gap``, ``solver``, ``overlap``, ``table``, ``space``.

    Returns
    -------
    Explorer
        Whose first plans are provisional where the search went on.

    Raises
    ------
    InputError
        If something given cannot be used.
    InfeasibleError
        If no plan keeps the limits; it says what can be reached.
    """
    found = threading.Event()

    def stop_at_first(event: solvers.Event) -> None:
        if event.incumbent is not None:
            found.set()

    plans = plan(workload, cluster, qoe, time_limit_s=time_limit_s, on_event=stop_at_first, cancel=found, **options)
    return Explorer(plans, mix, time_limit_s=time_limit_s, provisional=found.is_set())
