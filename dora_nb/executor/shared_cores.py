"""Devices that are threads of one machine and compute at once on fewer cores than there are of them.

Whoever computes at a moment has an equal part of all cores, and no more than one of them (processor sharing, as an
operating system's scheduler has it on the mean). Played event by event. Our own design.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

#: Core-seconds below which a thread has nothing left to compute: rounding.
_NOTHING_S = 1e-12


class _Thread(NamedTuple):
    """A device that computes its part of an operation: the operation, and how many computed core-seconds end it."""

    operation: int
    ends_at_s: float


class SharedCores:
    """Cores, and who computes on them.

    Parameters
    ----------
    number
        Of cores.
    at
        Has something done at a moment, in seconds, which it is told then.
    over
        Told which operation has ended, and when.
    """

    def __init__(
        self, number: int, at: Callable[[float, Callable[[float], None]], None], over: Callable[[int, float], None]
    ) -> None:
        self._number, self._at, self._over = number, at, over
        self._running: list[_Thread] = []
        self._had_s = 0.0  # what a thread that runs since the start has had of a core
        self._known_s = 0.0  # up to when that is known
        self._looks = 0

    def begin(self, operation: int, seconds: Sequence[float], now_s: float) -> None:
        """Begin an operation, whose devices each compute so many seconds of a core of their own."""
        self._go_on(now_s)
        self._running += [_Thread(operation, self._had_s + each) for each in seconds]
        self._look_again(now_s)

    @property
    def _rate(self) -> float:
        """Core-seconds that each thread has in a second."""
        return min(1.0, self._number / len(self._running)) if self._running else 1.0

    def _go_on(self, now_s: float) -> None:
        self._had_s += (now_s - self._known_s) * self._rate
        self._known_s = now_s

    def _look_again(self, now_s: float) -> None:
        """Look at the moment at which the next thread ends, unless another begins before."""
        self._looks += 1
        if self._running:
            left_s = max(0.0, min(each.ends_at_s for each in self._running) - self._had_s)
            self._at(now_s + left_s / self._rate, functools.partial(self._look, self._looks))

    def _look(self, look: int, now_s: float) -> None:
        if look != self._looks:
            return
        self._go_on(now_s)
        before = dict.fromkeys(each.operation for each in self._running)
        first_s = min(each.ends_at_s for each in self._running)
        self._running = [each for each in self._running if each.ends_at_s > first_s + _NOTHING_S]
        left = {each.operation for each in self._running}
        for operation in before:
            if operation not in left:
                self._over(operation, now_s)
        self._look_again(now_s)
