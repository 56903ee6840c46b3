"""A run under way: watched, waited for, or cancelled, while the one who started it goes on with other things."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from dora_nb.domain.run_record import RunEvent, RunRecord
from dora_nb.errors import ExecutionError

#: What a run does: tells how it goes, and looks at whether it is to stop.
Work = Callable[["Run"], RunRecord]

#: Lines of progress that are shown.
SHOWN_LINES = 6


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
    """

    def __init__(self, work: Work, on_progress: Callable[[str], None] | None = None) -> None:
        self.lines: list[str] = []
        self.events: list[RunEvent] = []
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
        self._over.set()
        self._show()

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
        lines = self.lines[-SHOWN_LINES:]
        if isinstance(self._problem, ExecutionError):
            lines = [*lines, *str(self._problem).splitlines()]
        elif self._problem is not None:
            lines = [*lines, f"{type(self._problem).__name__}: {self._problem}"]
        body = "<br>".join(html.escape(line) for line in lines)
        return f'<div role="status"><b>Run {self.state}</b><br>{body}</div>'


class _Html:
    """HTML for IPython's display."""

    def __init__(self, content: str) -> None:
        self._content = content

    def _repr_html_(self) -> str:
        return self._content
