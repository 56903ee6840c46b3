"""What devices with batteries can still draw while steps run, and when each is empty."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from dora_nb.domain.qoe import ROUNDING, QoE
from dora_nb.simulation.clock import StepResult
from dora_nb.simulation.traces import Trace
from dora_nb.simulation.world import World


class Batteries:
    """What some devices can still draw, under the accounting of a QoE.

    Attributes
    ----------
    world
        Without the devices whose batteries are empty, from that moment on.
    empty_s
        Since when each empty battery is.
    """

    def __init__(self, full_j: Mapping[str, float], world: World, qoe: QoE, horizon_s: float) -> None:
        self.full_j, self.world, self.horizon_s = dict(full_j), world, horizon_s
        self.all_on = qoe.energy_accounting == "all-on"
        self.empty_s: dict[str, float] = {}
        self._drawn_j = dict.fromkeys(full_j, 0.0)
        self._place = {name: world.cluster.device_ids.index(name) for name in full_j}
        devices = {name: world.cluster.device(name) for name in full_j}
        self._idle_w = {name: device.idle_w for name, device in devices.items()}
        self._above_w = {name: device.active_w - device.idle_w for name, device in devices.items()}
        self._until_s = 0.0  # what was drawn before has been taken
        self._tabulate()

    def left_j(self, name: str) -> float:
        """Joules that are left."""
        return max(self.full_j[name] - self._drawn_j[name], 0.0)

    def next_s(self) -> float:
        """When the next battery is empty if everybody idles from now on."""
        if not self.all_on:
            return math.inf
        return min((self._idles_until_s(name) for name in self.full_j if name not in self.empty_s), default=math.inf)

    def cut(self, needed: Iterable[str], idling: Collection[str], result: StepResult) -> tuple[StepResult, str | None]:
        """A step until the first battery that it cannot do without is empty, and whose that is.

        Parameters
        ----------
        needed, idling
            Devices without which the step cannot end, and those of its plan.
        result
            The step as it would be without batteries.
        """
        stuck = result.lost_to == "" and result.end_s < self.horizon_s
        first_s, first = math.inf, None
        for name in needed:
            if name not in self.full_j:
                continue
            drawn_j = self._above_w[name] * result.busy_s[self._place[name]]
            if self.all_on or name in idling:
                drawn_j += self._idle_w[name] * result.duration_s
            spare_j = self.left_j(name) - drawn_j
            if spare_j < -ROUNDING * self.full_j[name]:
                empty_s = result.start_s + result.duration_s * self.left_j(name) / drawn_j
            elif stuck and self.all_on and self._idle_w[name] > 0:  # nothing moves, but it is there and idles on
                empty_s = result.end_s + max(spare_j, 0.0) / self._idle_w[name]
            else:
                continue
            if empty_s < min(first_s, self.horizon_s):
                first_s, first = empty_s, name
        if first is None:
            return result, None
        if first_s >= result.end_s:
            return replace(result, end_s=first_s, lost_to=first), first
        share = (first_s - result.start_s) / result.duration_s
        return (
            replace(
                result,
                end_s=first_s,
                lost_to=first,
                busy_s=tuple(share * each for each in result.busy_s),
                network_j=share * result.network_j,
                work_s=tuple(share * each for each in result.work_s),
                took_s=tuple(share * each for each in result.took_s),
            ),
            first,
        )

    def draw(
        self, until_s: float, idling: Collection[str] = (), busy_s: Sequence[float] = (), spent: str | None = None
    ) -> float:
        """Take what is drawn until a time; whose battery is empty by then has left.

        Parameters
        ----------
        until_s
            From when on the next call goes on.
        idling
            Devices of the plans that run or are changed.
        busy_s
            Seconds that every device computes, by place in the cluster.
        spent
            Whose battery is empty at that time in any case.

        Returns
        -------
        Joules of idling that empty batteries did not give
        """
        since_s, missing_j, gone = self._until_s, 0.0, []
        self._until_s = until_s = max(since_s, until_s)
        for name, idle_w in self._idle_w.items():
            if name not in self.empty_s:
                computing_j = self._above_w[name] * busy_s[self._place[name]] if busy_s else 0.0
                empty_s = self._take(name, since_s, computing_j, name in idling, name == spent)
                if empty_s is not None:
                    self.empty_s[name] = empty_s
                    gone.append(name)
            if name in idling and name in self.empty_s:
                missing_j += idle_w * (until_s - max(self.empty_s[name], since_s))
        for name in gone:
            at_s = self.empty_s[name]
            away = Trace.steps([(0.0, 1.0), (at_s, 0.0)]) if at_s > 0 else Trace.constant(0.0)
            self.world = self.world.having("presence", name, away)
        if gone:
            self._tabulate()
        return missing_j

    def _take(self, name: str, since_s: float, computing_j: float, idling: bool, spent: bool) -> float | None:
        """Take what one device draws from a time until now; when its battery was empty, or None if it is not."""
        until_s, idle_w, left_j = self._until_s, self._idle_w[name], self.left_j(name)
        slack_j = ROUNDING * self.full_j[name]
        if self.all_on:
            until_s = min(until_s, self.horizon_s)
            drawn_j = computing_j + idle_w * max(self._there_s(name, until_s) - self._there_s(name, since_s), 0.0)
            empty_s = math.inf if computing_j else self._idles_until_s(name, since_s)
        else:
            drawn_j = computing_j + (idle_w * (until_s - since_s) if idling else 0.0)
            empty_s = math.inf
        if not spent and empty_s > until_s and drawn_j < left_j - slack_j:
            self._drawn_j[name] += drawn_j
            return None
        self._drawn_j[name] = self.full_j[name]
        if empty_s == math.inf and drawn_j > left_j + slack_j:
            return since_s + (until_s - since_s) * left_j / drawn_j
        return min(empty_s, until_s)

    def _tabulate(self) -> None:
        """How long each device has been there when the world changes."""
        self._times_s: list[float] = self.world.times_s.tolist()
        lasted_s = np.diff(self.world.times_s)
        self._here: dict[str, list[bool]] = {}
        self._before_s: dict[str, list[float]] = {}
        for name, place in self._place.items():
            here = [state.present[place] for state in self.world.states]
            self._here[name] = here
            self._before_s[name] = [0.0, *np.cumsum(lasted_s * np.array(here[:-1], dtype=float)).tolist()]

    def _there_s(self, name: str, at_s: float) -> float:
        """Seconds that a device has been there."""
        row = bisect_right(self._times_s, at_s) - 1
        return self._before_s[name][row] + (at_s - self._times_s[row]) * self._here[name][row]

    def _idles_until_s(self, name: str, since_s: float | None = None) -> float:
        """When a battery is empty if its device idles from a time on whenever it is there; infinite: never."""
        since_s = self._until_s if since_s is None else since_s
        if not self._idle_w[name]:
            return math.inf
        enough_s = self._there_s(name, since_s) + self.left_j(name) / self._idle_w[name]
        row = max(bisect_left(self._before_s[name], enough_s) - 1, 0)
        if not self._here[name][row]:
            return math.inf
        return max(self._times_s[row] + enough_s - self._before_s[name][row], since_s)
