"""When to stop: a point in time, or somebody's wish."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Deadline:
    """Asked often, by everything that may take long.

    Attributes
    ----------
    at_s
        ``time.monotonic()`` after which nothing new is looked at; infinity: never.
    cancel
        Set from any thread to stop; None: nobody can.
    """

    at_s: float = math.inf
    cancel: threading.Event | None = None

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked to stop."""
        return self.cancel is not None and self.cancel.is_set()

    @property
    def passed(self) -> bool:
        """Whether to stop."""
        return self.cancelled or time.monotonic() > self.at_s

    @property
    def remaining_s(self) -> float | None:
        """Seconds left, 0 or more; None without a limit."""
        return None if math.isinf(self.at_s) else max(self.at_s - time.monotonic(), 0.0)

    def grant_s(self, least_s: float) -> float | None:
        """Seconds for one more step: those left, but so many at least; None without a limit."""
        left_s = self.remaining_s
        return None if left_s is None else max(left_s, least_s)
