"""What the workers of a pool say, waited for: answers of those that were asked, and whoever fails meanwhile."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from dora_nb.errors import ExecutionError, WorkerLostError
from dora_nb.executor.control.handle import Handle
from dora_nb.executor.control.messages import ReplyLetter
from dora_nb.executor.control.replies import Failed, Reply

#: Seconds between two looks at who is silent, and the most that one look may add to anybody's silence.
LOOK_S, MOST_SILENCE_S = 0.05, 0.2

#: Seconds after a failure in which further news may name the worker that failed first.
GRACE_S = 1.0

_Answer = TypeVar("_Answer")
_News = tuple[Handle, ReplyLetter | Exception | None]


class Inbox:
    """Collects news of workers.

    Parameters
    ----------
    handles
        By number, as they are at any time; news of others is dropped.
    """

    def __init__(self, handles: Mapping[int, Handle]) -> None:
        self._handles = handles
        self._news: queue.SimpleQueue[_News] = queue.SimpleQueue()

    def put(self, handle: Handle, news: ReplyLetter | Exception | None) -> None:
        """Take a worker's reply, a problem of its channel, or None for its end."""
        self._news.put((handle, news))

    def answers(
        self,
        asked: Mapping[int, Handle],
        answer: type[_Answer],
        *,
        doing: str,
        timeout_s: float,
        silence_s: float,
        on_other: Callable[[int, Reply], None] | None = None,
    ) -> dict[int, _Answer]:
        """Wait for the answer of each worker that was asked.

        Parameters
        ----------
        asked
            By number.
        answer, doing, timeout_s, on_other
            See :meth:`~dora_nb.executor.pool.WorkerPool.ask`.
        silence_s
            A worker silent for longer is lost.

        Raises
        ------
        WorkerLostError
            If a worker, asked or not, ends or falls silent.
        ExecutionError
            If a worker fails, or takes too long.
        """
        answers: dict[int, _Answer] = {}
        deadline_s = time.monotonic() + timeout_s
        while asked.keys() - answers.keys():
            for handle, news in self._next_news(LOOK_S):
                if not isinstance(news, ReplyLetter) or isinstance(news.reply, Failed):
                    raise self._trouble(handle, news, doing, silence_s)
                if isinstance(news.reply, answer):
                    answers[handle.index] = news.reply
                elif on_other is not None:
                    on_other(handle.index, news.reply)
            self._check_silence(doing, silence_s)
            late = [asked[index] for index in sorted(asked.keys() - answers.keys())]
            if late and time.monotonic() > deadline_s:
                raise ExecutionError(f"no answer within {timeout_s:g} s while {doing}: {', '.join(map(str, late))}")
        return answers

    def _next_news(self, wait_s: float) -> Iterator[_News]:
        """News of the workers, the first of it within a time; none of removed ones, nor late answers."""
        if not self._handles:
            raise ExecutionError("the pool of workers is closed; open another one")
        with contextlib.suppress(queue.Empty):
            handle, news = self._news.get(timeout=wait_s)
            while True:
                late = isinstance(news, ReplyLetter) and news.number != handle.expected
                if self._handles.get(handle.index) is handle and not late:
                    yield handle, news
                handle, news = self._news.get_nowait()

    def _check_silence(self, doing: str, silence_s: float) -> None:
        """Find the worker that has been silent for too long.

        A look adds no more than the time of one beat, however long ago the last look was: a coordinator that was held
        up itself heard nobody, and accuses nobody.
        """
        silent_s = {each: each.watch(MOST_SILENCE_S) for each in list(self._handles.values())}
        for handle, seconds in silent_s.items():
            if seconds > silence_s and seconds == max(silent_s.values()):
                raise WorkerLostError(handle.index, _story(handle, doing, f"no sign of life for {silence_s:g} s"))

    def _trouble(
        self, handle: Handle, news: ReplyLetter | Exception | None, doing: str, silence_s: float
    ) -> ExecutionError:
        """Which worker failed, and why.

        A worker that is gone makes its peers fail too, so news is collected for a moment: one that is gone counts as
        the cause before one that complains.
        """
        until_s = time.monotonic() + min(silence_s, GRACE_S)
        while isinstance(news, ReplyLetter) and time.monotonic() < until_s:
            for other, later in self._next_news(LOOK_S):
                if not isinstance(later, ReplyLetter):
                    handle, news = other, later
                    break
            else:
                self._check_silence(doing, silence_s)
        if isinstance(news, ReplyLetter) and isinstance(news.reply, Failed):
            return ExecutionError(_story(handle, doing, news.reply.problem))
        problem = str(news) if isinstance(news, Exception) else handle.how_it_ended()
        return WorkerLostError(handle.index, _story(handle, doing, problem))


def _story(handle: Handle, doing: str, problem: str) -> str:
    """What happened to a worker, and the last it said."""
    lines = "\n".join(handle.last_lines) or "(nothing)"
    said = f"\nIts last lines:\n{lines}" if handle.process is not None else "\nIts last lines are on its own host."
    return f"{handle} failed while {doing}: {problem}{said}"
