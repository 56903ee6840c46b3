"""The ledger as it fills: what the rest of a window may take so that its mean keeps the limits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dora_nb.domain.controller import StepReport
from dora_nb.domain.qoe import ROUNDING, QoE

#: Part of a step by which it may end earlier or later than foreseen: half the grain of estimates, and a little.
BLUR = 0.03


@dataclass
class RunningWindow:
    """The window of the QoE ledger that is under way.

    Attributes
    ----------
    qoe, window_s, every_s
        What is kept on the mean of every window, how long one is, and how often steps are asked for (0: one follows the
        other).
    index, steps
        Which window it is, and how many steps ended in it.
    latency_s, energy_j
        Of these steps together.
    """

    qoe: QoE
    window_s: float
    every_s: float = 0.0
    index: int = 0
    steps: int = 0
    latency_s: float = 0.0
    energy_j: float = 0.0

    def observe(self, report: StepReport) -> None:
        """Enter a completed step where it ended."""
        self._turn_to(report.end_s)
        self.steps += 1
        self.latency_s += report.latency_s
        self.energy_j += report.energy_j

    def _turn_to(self, time_s: float) -> None:
        index = max(math.ceil(time_s / self.window_s) - 1, 0)  # what ends with a window belongs to it
        if index != self.index:
            self.index, self.steps, self.latency_s, self.energy_j = index, 0, 0.0, 0.0

    def survives(self, now_s: float, step_s: float, rest_s: float) -> bool:
        """Whether the latency of this window and the next can still be kept after a step, if haste follows it."""
        return self.short_s(now_s, step_s, rest_s) <= (self.qoe.latency_s or 0.0) * ROUNDING

    def short_s(self, now_s: float, step_s: float, rest_s: float, lost_s: float = 0.0) -> float:
        """Seconds by which a window would miss its latency after a step; not above 0 if it is kept.

        Of this window and, if the step ends in it, the next: whichever is worse.

        Parameters
        ----------
        step_s
            What the step takes.
        rest_s
            What every step after it takes; as many are counted as end with the window, whole ones.
        lost_s
            What a step before it takes that is lost.
        """
        limit_s = self.qoe.latency_s
        if limit_s is None:
            return -math.inf
        self._turn_to(now_s)
        took_s, behind_s = lost_s + step_s, self.latency_s - limit_s * self.steps
        left_s = (self.index + 1) * self.window_s - now_s - took_s

        def short_s(behind_s: float, left_s: float) -> float:
            more = math.floor(left_s / max(rest_s, self.every_s) * (1 + ROUNDING))
            return behind_s + took_s - limit_s + more * (rest_s - limit_s)

        inside_s = outside_s = -math.inf
        if left_s > -BLUR * took_s:  # it ends in this window, as far as can be told
            inside_s = short_s(behind_s, max(left_s, 0.0))
        if left_s < BLUR * took_s:  # too late to make up for anything, and the next window begins with it
            outside_s = max(behind_s, short_s(0.0, left_s % self.window_s if left_s < 0 else self.window_s))
        return max(inside_s, outside_s)

    def lost_ahead(
        self, now_s: float, ahead_s: float, wait_s: float, wait_j: float, step_s: float, step_j: float
    ) -> float:
        """Windows that miss the limits if steps of one kind follow each other, the first one after a wait.

        Parameters
        ----------
        ahead_s
            How far to look.
        wait_s, wait_j
            What passes, and is taken, before the first of them begins; it counts as part of that step.
        step_s, step_j
            Of every step.
        """
        self._turn_to(now_s)
        first_end_s = now_s + wait_s + step_s
        meets = max(math.ceil(first_end_s / self.window_s) - 1, self.index)
        lost = 0.0
        steps, latency_s, energy_j = self.steps, self.latency_s, self.energy_j
        if meets > self.index:  # nothing more ends in the present window, and nothing at all until that one
            lost += (
                meets - self.index - 1 + (steps == 0 or not self.qoe.keeps_means(latency_s / steps, energy_j / steps))
            )
            steps, latency_s, energy_j = 0, 0.0, 0.0
        end_s = (meets + 1) * self.window_s
        more = 1 + math.floor((end_s - first_end_s) / step_s)
        steps += more
        latency_s, energy_j = latency_s + wait_s + more * step_s, energy_j + wait_j + more * step_j
        lost += not self.qoe.keeps_means(latency_s / steps, energy_j / steps)
        if not self.qoe.keeps_means(step_s, step_j):
            lost += max((now_s + ahead_s - end_s) / self.window_s, 0.0)
        return lost

    def share_left(self, now_s: float) -> float:
        """How much of the window is still ahead, 1 at its start."""
        self._turn_to(now_s)
        return min(max(self.index + 1 - now_s / self.window_s, 0.0), 1.0)

    def latency_left_s(self, now_s: float) -> float:
        """The mean latency that steps may have from now on; infinite without a limit, 0 if it cannot be kept any more.

        Steps at a rate are as many as are asked for. Steps of T seconds one after the other are k = R / T more in the
        R seconds ahead: S + k T <= L (n + k), with S seconds of n steps behind. Where there is something to make up
        for, one step less is counted on, since the last one may end with the next window.
        """
        limit_s = self.qoe.latency_s
        if limit_s is None:
            return math.inf
        self._turn_to(now_s)
        left_s = (self.index + 1) * self.window_s - now_s
        if left_s <= 0:
            return limit_s
        behind_s = self.latency_s - limit_s * self.steps
        if self.every_s:
            asked = max(round(left_s / self.every_s), 1)
            return max(limit_s - behind_s / asked, 0.0)
        if behind_s > 0:  # (R / T - 1) (L - T) >= what is behind: the smaller root
            half = (left_s + limit_s + behind_s) / 2
            return half - math.sqrt(half**2 - left_s * limit_s)
        more = (self.latency_s + left_s) / limit_s - self.steps
        return left_s / more if more > 0 else math.inf

    def energy_left_j(self, now_s: float, step_s: float) -> float:
        """The mean energy that steps of a length may take from now on; infinite without a limit."""
        limit_j = self.qoe.energy_j
        if limit_j is None:
            return math.inf
        self._turn_to(now_s)
        left_s = max((self.index + 1) * self.window_s - now_s, 0.0)
        more = max(left_s / max(step_s, self.every_s), 1.0)
        return max((limit_j * (self.steps + more) - self.energy_j) / more, 0.0)
