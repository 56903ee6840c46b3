"""Sums of gradients beside the passes: a device computes on while its buckets are on the network."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from dora_nb.executor.device.instructions import AllReduce, TiedSum


class Summed(NamedTuple):
    """A sum that is over; times of ``time.perf_counter``, from when nothing was left to do before it."""

    instruction: AllReduce | TiedSum
    start_s: float
    end_s: float


class _Handed(NamedTuple):
    instruction: AllReduce | TiedSum
    work: Callable[[], None]


class Summing:
    """Carries out the sums of one iteration in a thread, one after the other, as they are handed over.

    All devices that sum together hand their sums over in the same order, so none waits for another one's later sum.
    """

    def __init__(self) -> None:
        self._handed: queue.SimpleQueue[_Handed | None] = queue.SimpleQueue()
        self._over: queue.SimpleQueue[Summed | BaseException] = queue.SimpleQueue()
        self._left = 0
        self._given_up = False
        self._thread: threading.Thread | None = None

    def begin(self, instruction: AllReduce | TiedSum, work: Callable[[], None]) -> None:
        """Hand a sum over; returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work_off, daemon=True)
            self._thread.start()
        self._left += 1
        self._handed.put(_Handed(instruction, work))

    def wait(self) -> list[Summed]:
        """Wait until everything is summed.

        Returns
        -------
        the sums since the last time

        Raises
        ------
        BaseException
            What a sum raised.
        """
        over = []
        while self._left:
            done = self._over.get()
            if isinstance(done, BaseException):
                raise done
            self._left -= 1
            over.append(done)
        return over

    def end(self) -> None:
        """Begin no further sum; one under way ends with what it waits for."""
        self._given_up = True
        self._handed.put(None)

    def _work_off(self) -> None:
        while (handed := self._handed.get()) is not None and not self._given_up:
            start_s = time.perf_counter()
            try:
                handed.work()
            except BaseException as problem:
                self._over.put(problem)
                return
            self._over.put(Summed(handed.instruction, start_s, time.perf_counter()))
