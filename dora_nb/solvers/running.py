"""What both back ends share: the clock, events, interrupts, and the road from a raw answer to an outcome."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from dora_nb.solvers import lineardata
from dora_nb.solvers.contract import Event, FloatArray, OnEvent, Options, Outcome, Status, finite, relative_gap
from dora_nb.solvers.lineardata import LinearData

if TYPE_CHECKING:
    import linopy

    from dora_nb.solvers.lineardata import Readable

#: How often the waiting caller wakes up to let Python deliver a Ctrl-C, and events without news are repeated.
_WAIT_S = 0.05
_QUIET_S = 0.1
#: A solver in a long presolve step does not hear that it should stop; after this the prompt comes back all the same.
_GRACE_S = 2.0


@dataclass(frozen=True, slots=True)
class Raw:
    """What a solver said, before it is put into shape.

    Parameters
    ----------
    status
        None stands for "unbounded or infeasible, not told which", and for an unbounded ray without a feasible point.
    incumbent, bound
        As the solver states them; infinities are allowed here.
    x
        Column values of the incumbent.
    nodes
        Nodes of the search tree explored.
    """

    status: Status | None
    incumbent: float | None = None
    bound: float | None = None
    x: FloatArray | None = None
    nodes: int = 0


class Watch:
    """The clock of one solve, its way to stop, and its stream of events."""

    def __init__(self, on_event: OnEvent | None, cancel: threading.Event | None) -> None:
        self.started = time.perf_counter()
        self.maximise = False
        self._on_event = on_event
        self._cancel = cancel
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._incumbent: float | None = None
        self._bound: float | None = None
        self._nodes = 0
        self._told_s = float("-inf")

    @property
    def wall_s(self) -> float:
        """Wall seconds since the call."""
        return time.perf_counter() - self.started

    def remaining_s(self, options: Options) -> float | None:
        """Wall seconds left of the time limit, or None without one."""
        return None if options.time_limit_s is None else max(0.0, options.time_limit_s - self.wall_s)

    def stopped(self) -> bool:
        """Whether the solver should stop: cancelled, interrupted, or the caller's event handler failed."""
        return self._stop.is_set() or (self._cancel is not None and self._cancel.is_set())

    def mute(self) -> None:
        """Pass on no more events."""
        self._on_event = None

    def report(self, incumbent: float | None, bound: float | None, nodes: int) -> None:
        """Take news from the solver and pass it on when it is news, or when nothing was said for a while."""
        if self._on_event is None or self._stop.is_set():
            return
        with self._lock:
            # Every stated incumbent and bound is valid, so the best so far is too, and the display never jumps back.
            known = self._incumbent, self._bound
            self._incumbent = _best(max if self.maximise else min, self._incumbent, incumbent)
            self._bound = _best(min if self.maximise else max, self._bound, bound)
            news = (self._incumbent, self._bound) != known
            self._nodes = max(self._nodes, nodes)
            wall_s = self.wall_s
            if not news and wall_s - self._told_s < _QUIET_S:
                return
            self._told_s = wall_s
            gap = relative_gap(self._incumbent, self._bound)
            event = Event(wall_s, self._incumbent, self._bound, gap, self._nodes)
            try:
                self._on_event(event)
            except BaseException as failure:  # an exception must not unwind through the solver's C++ frames
                self._failure = failure
                self._stop.set()

    def run(self, work: Callable[[], Raw]) -> Raw:
        """Do the work in a thread of its own and wait for it in a way that Ctrl-C can end.

        The thread also gives each solve its own scheduler in HiGHS, whose thread count is fixed once per thread.
        """
        answers: list[Raw] = []
        done = threading.Event()

        def body() -> None:
            try:
                answers.append(work())
            except BaseException as failure:
                self._failure = self._failure or failure
            finally:
                done.set()

        thread = threading.Thread(target=body, name="solver", daemon=True)
        try:
            thread.start()
            while not done.wait(_WAIT_S):
                pass
        except BaseException:  # KeyboardInterrupt above all
            self._stop.set()
            thread.join(_GRACE_S)
            raise
        if self._failure is not None:
            raise self._failure
        return answers[0]


def _best(choose: Callable[[float, float], float], known: float | None, new: float | None) -> float | None:
    new = finite(new)
    if known is None or new is None:
        return new if known is None else known
    return choose(known, new)


Run: TypeAlias = Callable[[LinearData, Options, Watch], Raw]


def conduct(
    run: Run,
    solver: str,
    model: linopy.Model | Readable,
    options: Options,
    on_event: OnEvent | None,
    cancel: threading.Event | None,
) -> Outcome:
    """Read the model, run the solver on it, put its answer into shape.

    Parameters
    ----------
    run
        The back end's own part: fill the solver, run it, return what it said.
    solver
        Name and version for the outcome.
    model, options, on_event, cancel
        As in :meth:`Backend.solve`.
    """
    watch = Watch(on_event, cancel)
    data = lineardata.read(model)
    watch.maximise = data.maximise
    raw = watch.run(lambda: _settled(run, data, options, watch))

    status = raw.status or Status.NO_INCUMBENT
    objective = finite(raw.incumbent) if status.has_incumbent else None
    bound = finite(raw.bound)
    values = data.unpack(raw.x) if status.has_incumbent and raw.x is not None else {}
    gap = relative_gap(objective, bound)
    return Outcome(
        status, objective, bound, gap, values, watch.wall_s, solver, f"{solver.split()[0]}: asked for", raw.nodes
    )


def _settled(run: Run, data: LinearData, options: Options, watch: Watch) -> Raw:
    """Run, and settle "unbounded or infeasible" by asking for any feasible point.

    A ray along which the objective improves says nothing about whether a feasible point exists. With one the model is
    unbounded (for rational coefficients, which all doubles are, also with integers: Meyer 1974), without it infeasible.
    """
    if watch.stopped():
        return Raw(Status.NO_INCUMBENT)
    raw = run(data, options, watch)
    if raw.status is None:
        watch.mute()
        feasible = run(data.without_objective(), options, watch).status
        return Raw(Status.UNBOUNDED if feasible in (Status.OPTIMAL, Status.FEASIBLE) else feasible)
    if raw.status.has_incumbent:
        watch.report(raw.incumbent, raw.bound, 0)
    return raw
