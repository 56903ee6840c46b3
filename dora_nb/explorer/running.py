"""A plan sent to the executor, and what its timeline is step by step, next to what was predicted before it began."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from dora_nb.costs.comparison import compare
from dora_nb.costs.table import CostTable
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.comparison import Comparison
from dora_nb.domain.plan import Plan
from dora_nb.domain.run_timeline import INFERENCE, PredictedTimeline, RunEvent
from dora_nb.domain.workload import Workload
from dora_nb.errors import DoraError
from dora_nb.explorer.views.timeline import TimelineView

if TYPE_CHECKING:
    from dora_nb.executor.run import Foreseen, Run

RunState = Literal["starting", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True, eq=False)
class RunView:
    """What is to be shown of a run.

    Attributes
    ----------
    state
        Where it is.
    sentence
        What it does, or what came of it.
    step
        Which step the timelines are of, in words; empty before the first one.
    predicted, measured
        The timeline of that step as predicted on this machine, and as it was; None before there is one.
    comparison
        Predicted against measured, once the run is done.
    """

    state: RunState
    sentence: str
    step: str = ""
    predicted: TimelineView | None = None
    measured: TimelineView | None = None
    comparison: Comparison | None = None

    @property
    def over(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ("done", "failed", "cancelled")


def execute(plan: Plan, workload: Workload, cluster: Cluster, **options: Any) -> Run:
    """The executor's own function, imported when a plan is run: it needs torch, and says so where that is missing."""
    from dora_nb.executor.launch import execute as start  # the one place where this room starts what it shows

    return start(plan, workload, cluster, **options)


class PlanRun:
    """A run under way, started from a thread of its own: importing torch alone takes seconds.

    Parameters
    ----------
    plan, workload, cluster
        What is run.
    table
        Compute times that the plan was made with; None: the roofline estimate.
    options
        Of :func:`dora_nb.execute`.
    start
        Starts the run; None: :func:`execute`.
    """

    def __init__(
        self,
        plan: Plan,
        workload: Workload,
        cluster: Cluster,
        table: CostTable | None = None,
        *,
        start: Callable[..., Run] | None = None,
        **options: Any,
    ) -> None:
        self.plan, self._trains = plan, workload.trains
        self._run: Run | None = None
        self._problem: Exception | None = None
        self._cancelled = threading.Event()
        self._seen: tuple[object, ...] | None = None
        self._comparison: Comparison | None = None
        self._predicted: dict[
            int, TimelineView
        ] = {}  # of each timeline, so that what is shown again is the same object
        call = partial(start or execute, plan, workload, cluster, table=table, **options)
        threading.Thread(target=self._start, args=(call,), name="dora_nb start", daemon=True).start()

    @property
    def run(self) -> Run | None:
        """The executor's run; None while it starts, or where it could not be started."""
        return self._run

    @property
    def state(self) -> RunState:
        """Where it is."""
        if self._problem is not None:
            return "failed"
        if self._run is None:
            return "cancelled" if self._cancelled.is_set() else "starting"
        return self._run.state

    def look(self) -> RunView | None:
        """What is to be shown, if that changed since the last look."""
        state, run = self.state, self._run
        events = [] if run is None else list(run.events)
        line = run.lines[-1] if run is not None and run.lines else "starting"
        seen = (state, line, len(events), run is not None and run.foreseen is not None)
        if seen == self._seen:
            return None
        self._seen = seen
        step, predicted, measured = self._timelines(run.foreseen if run is not None else None, events)
        return RunView(state, self._sentence(state, line), step, predicted, measured, self._compared(state))

    def cancel(self) -> None:
        """Stop it; that it has stopped is seen at a later look."""
        if self._cancelled.is_set() or self.state in ("done", "failed", "cancelled"):
            return
        self._cancelled.set()
        if self._run is not None:  # waits until the workers are gone
            threading.Thread(target=self._run.cancel, name="dora_nb cancel", daemon=True).start()

    def _start(self, call: Callable[[], Run]) -> None:
        try:
            if self._cancelled.is_set():
                return
            run = call()
        except Exception as problem:  # shown to the person: what is missing, or what cannot be run
            self._problem = problem
            return
        self._run = run
        if self._cancelled.is_set():
            run.cancel()

    def _timelines(
        self, foreseen: Foreseen | None, events: list[RunEvent]
    ) -> tuple[str, TimelineView | None, TimelineView | None]:
        """Of the last step that is over; before the first one what is predicted of a step."""
        if foreseen is None:
            return "", None, None
        if not events:
            return "", self._as_predicted(foreseen.training or foreseen.inference, foreseen.plan), None
        last = events[-1].step
        alone = last == INFERENCE or foreseen.training is None
        timeline = foreseen.inference if alone or foreseen.training is None else foreseen.training
        predicted = self._as_predicted(timeline, foreseen.plan)
        measured = TimelineView.measured([each for each in events if each.step == last], foreseen.plan, predicted)
        which = "inference batch" if alone else f"training step {last + 1}"
        return which, predicted, measured

    def _as_predicted(self, timeline: PredictedTimeline, plan: Plan) -> TimelineView:
        if id(timeline) not in self._predicted:
            self._predicted[id(timeline)] = TimelineView.predicted(timeline, plan)
        return self._predicted[id(timeline)]

    def _sentence(self, state: RunState, line: str) -> str:
        if state == "failed":
            problem = self._problem or _problem_of(self._run)
            return str(problem) if isinstance(problem, DoraError) else f"{type(problem).__name__}: {problem}"
        return {"done": "The run is over.", "cancelled": "The run was cancelled."}.get(state, f"{line} ...")

    def _compared(self, state: RunState) -> Comparison | None:
        if state == "done" and self._comparison is None and self._run is not None:
            self._comparison = compare(self.plan, self._run.wait())
        return self._comparison


def _problem_of(run: Run | None) -> Exception:
    assert run is not None, "what failed without a run has a problem of its own"
    try:
        run.wait()
    except Exception as problem:
        return problem
    raise AssertionError("a run that failed raises what it failed with")
