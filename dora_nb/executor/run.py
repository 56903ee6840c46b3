"""A run under way: watched, waited for, or cancelled, while the one who started it goes on with other things."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dora_nb.domain.plan import Plan
from dora_nb.domain.run_record import RunRecord
from dora_nb.domain.run_timeline import PredictedTimeline, RunEvent
from dora_nb.errors import DoraError, ExecutionError

if TYPE_CHECKING:
    from dora_nb.costs.table import CostTable
    from dora_nb.domain.cluster import Cluster
    from dora_nb.executor.rehearsal import Expected

#: What a run does: tells how it goes, and looks at whether it is to stop.
Work = Callable[["Run"], RunRecord]

#: Lines of progress that are shown.
SHOWN_LINES = 6


class Foreseen(NamedTuple):
    """What was predicted of a run before its first step.

    Attributes
    ----------
    plan
        The first plan, in the form that is run.
    inference, training
        Every operation of the inference batch, and of each training step (None without training).
    """

    plan: Plan
    inference: PredictedTimeline
    training: PredictedTimeline | None


class Run:
    """A plan being run in the background.

    Shown in a notebook it follows the run: the display changes as the run goes on.

    Parameters
    ----------
    work
        What to do, in a thread of its own.
    on_progress
        Called with every line of progress, from that thread.

    Attributes
    ----------
    lines
        Of progress so far.
    events
        What devices did in the steps that are over.
    foreseen
        What was predicted of them; None until layers and network were measured.
    """

    def __init__(self, work: Work, on_progress: Callable[[str], None] | None = None) -> None:
        self.lines: list[str] = []
        self.events: list[RunEvent] = []
        self.foreseen: Foreseen | None = None
        self._on_progress = on_progress
        self._work = work
        self.stopping = threading.Event()
        self._over = threading.Event()
        self._record: RunRecord | None = None
        self._problem: BaseException | None = None
        self._shown: Any = None  # IPython's handle of what is on the screen
        self._on_cancel: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._carry_out, name="dora_nb run", daemon=True)
        self._thread.start()

    @property
    def state(self) -> Literal["running", "done", "failed", "cancelled"]:
        """Where it is."""
        if not self._over.is_set():
            return "running"
        if self._record is not None:
            return "done"
        return "cancelled" if self.stopping.is_set() else "failed"

    @property
    def record(self) -> RunRecord:
        """What came of it; waits until it is over.

        Raises
        ------
        DoraError
            What the run failed with.
        """
        return self.wait()

    def wait(self, timeout_s: float | None = None) -> RunRecord:
        """Wait until the run is over. Interrupted from the keyboard, the run is cancelled first.

        Parameters
        ----------
        timeout_s
            Longest wait; None: as long as it takes.

        Raises
        ------
        TimeoutError
            If it is not over by then; it goes on.
        DoraError
            What the run failed with.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            while not self._over.wait(0.2 if deadline_s is None else max(0.0, min(0.2, deadline_s - time.monotonic()))):
                if deadline_s is not None and time.monotonic() >= deadline_s:
                    raise TimeoutError(f"the run is not over after {timeout_s:g} s; it goes on")
        except KeyboardInterrupt:
            self.cancel()
            raise
        if self._problem is not None:
            raise self._problem
        assert self._record is not None, "what is over without a problem has a record"
        return self._record

    def as_cost_table(self, cluster: Cluster | None = None, base: CostTable | None = None) -> CostTable:
        """What was measured as compute times to plan with again; waits until the run is over.

        Parameters
        ----------
        cluster
            Whose devices the table has, in this order; None: the devices that took part.
        base
            A table of the same workload and cluster for devices that did not take part; None: there may be none.

        Raises
        ------
        InputError
            If a device did not take part and there is no base.
        DoraError
            What the run failed with.
        """
        return self.wait().as_cost_table(cluster, base)

    def to_trace(self, path: str | Path) -> Path:
        """Write the predicted and the measured timeline for https://ui.perfetto.dev; waits until the run is over.

        Parameters
        ----------
        path
            Where to; an existing file is replaced.

        Raises
        ------
        DocumentError
            If it cannot be written.
        DoraError
            What the run failed with.
        """
        return self.wait().to_trace(path)

    def cancel(self) -> None:
        """Stop the run and wait until its workers are gone or idle; a run that is over stays as it is."""
        if self._over.is_set():
            return
        self.stopping.set()
        for each in self._on_cancel:
            each()
        self._thread.join()

    def on_cancel(self, action: Callable[[], None]) -> None:
        """Have something done when the run is cancelled, from the thread that cancels."""
        self._on_cancel.append(action)

    def _carry_out(self) -> None:
        try:
            self._record = self._work(self)
        except BaseException as problem:
            self._problem = problem
            if self.stopping.is_set():  # whatever it tripped over once its workers were taken from it
                self._problem = ExecutionError("the run was cancelled")
                self._problem.__cause__ = problem
        self._over.set()
        self._show()

    def expect(self, plan: Plan, expected: Expected) -> None:
        """Note what is expected of the first plan; for the work itself."""
        self.foreseen = Foreseen(plan, expected.inference, expected.training)

    def tell(self, line: str) -> None:
        """Add a line of progress; for the work itself."""
        self.lines.append(line)
        if self._on_progress is not None:
            self._on_progress(line)
        self._show()

    def _show(self) -> None:
        if self._shown is not None:
            self._shown.update(_Html(self._repr_html_()))

    def _ipython_display_(self) -> None:
        from IPython.display import display

        self._shown = display(_Html(self._repr_html_()), display_id=True)  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:
        if self._record is not None:
            return repr(self._record)
        if self._over.is_set():
            return f"Run {self.state}: {self._problem}"
        return f"Run {self.state}: {self.lines[-1] if self.lines else 'starting'}"

    def _repr_html_(self) -> str:
        if self._record is not None:
            return self._record._repr_html_()
        from dora_nb.render.runs import progress_html  # a method that looks up a room: imported when called

        problem = "" if self._problem is None else str(self._problem)
        if not isinstance(self._problem, DoraError | None):
            problem = f"{type(self._problem).__name__}: {problem}"
        return progress_html(self.state, self.lines[-SHOWN_LINES:] or ["starting"], problem)


class _Html:
    """HTML for IPython's display."""

    def __init__(self, content: str) -> None:
        self._content = content

    def _repr_html_(self) -> str:
        return self._content
