"""Solving in the background: one thread, one question at a time, a newer question puts an end to the former.

The thread touches nothing but its queue. Who shows the answers drains it from a thread of its own choice.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ended:
    """The work is over.

    Attributes
    ----------
    error
        What it failed with; None: it did not.
    """

    error: Exception | None = None


class Talk:
    """What the work has of the one who asked: a way to tell, and whether to stop.

    Attributes
    ----------
    cancel
        Set when the work is to stop with what there is.
    """

    def __init__(self, tell: Callable[[Any], None]) -> None:
        self.cancel = threading.Event()
        self.tell = tell


#: What is done for a question; called in the thread.
Work = Callable[[Talk], None]


@dataclass
class _Job:
    work: Work
    not_before_s: float
    talk: Talk


class Asker:
    """A thread that works for one question at a time, started with the first of them.

    What is told of a question is lost as soon as there is a newer one.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._told: deque[tuple[_Job, Any]] = deque()
        self._next: _Job | None = None
        self._latest: _Job | None = None  # the one whose news counts
        self._thread: threading.Thread | None = None
        self._closed = False

    def ask(self, work: Work, delay_s: float = 0.0) -> None:
        """Do this instead of anything that was asked before.

        Parameters
        ----------
        work
            Called in the thread. It ends soon after ``talk.cancel`` is set.
        delay_s
            Begin only if nothing newer was asked by then.
        """
        with self._changed:
            if self._closed:
                return
            if self._latest is not None:
                self._latest.talk.cancel.set()
            job = _Job(work, time.monotonic() + delay_s, Talk(lambda news: self._told.append((job, news))))
            self._next = self._latest = job
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="dora_nb explorer", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def cancel(self) -> None:
        """Stop with what there is; news of it still count."""
        with self._changed:
            if self._latest is not None:
                self._latest.talk.cancel.set()

    def news(self) -> list[Any]:
        """What was told of the latest question since the last call; :class:`Ended` comes last."""
        found = []
        while self._told:
            job, news = self._told.popleft()
            if job is self._latest:
                found.append(news)
        return found

    def close(self) -> None:
        """Stop, and end the thread; it may take a moment to notice."""
        with self._changed:
            self._closed = True
            self._next, latest, self._latest = None, self._latest, None
            if latest is not None:
                latest.talk.cancel.set()
            self._changed.notify_all()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the thread; returns whether it has ended."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def _work(self) -> None:
        while (job := self._wait()) is not None:
            error = None
            try:
                job.work(job.talk)
            except Exception as problem:  # told to the one who asked, in whose thread it is shown
                error = problem
            job.talk.tell(Ended(error))

    def _wait(self) -> _Job | None:
        """The next thing to do, once it is time for it; None: nothing any more."""
        with self._changed:
            while not self._closed:
                if self._next is None:
                    self._changed.wait()
                    continue
                early_s = self._next.not_before_s - time.monotonic()
                if early_s <= 0:
                    job, self._next = self._next, None
                    return job
                self._changed.wait(early_s)
        return None
