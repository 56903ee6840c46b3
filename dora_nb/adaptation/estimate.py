"""What the network and the devices are like right now, from what steps were measured to take."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field
from statistics import median

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.conditions import Condition
from dora_nb.domain.controller import StepReport

#: Measurements that an estimate rests on.
MEMORY = 8

#: Relative difference from the estimate that may be chance.
NOISE = 0.1

#: How finely slownesses are told apart: steps of so much, relatively. Finer ones would only make plans flap.
GRAIN = 0.05


@dataclass
class Channel:
    """One device or contention domain: how many times longer than planned its work takes.

    A robust estimate with change detection, our own: the median of the last few measurements, until several in a row
    are off on the same side by more than noise; then everything before them is forgotten. A single outlier changes
    nothing.

    Attributes
    ----------
    confirm
        How many in a row make a change.
    slowness
        The estimate; 1 as planned.
    known_at_s
        When it was last measured.
    """

    confirm: int = 2
    slowness: float = 1.0
    known_at_s: float = -math.inf
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=MEMORY))
    _off: list[float] = field(default_factory=list)

    def measure(self, slowness: float, now_s: float) -> bool:
        """Take a measurement; whether it made a change."""
        self.known_at_s = now_s
        apart = math.log(slowness / self.slowness)
        if abs(apart) <= math.log1p(NOISE):
            self._off.clear()
            self._recent.append(slowness)
            self.slowness = median(self._recent)
            return False
        if self._off and (self._off[-1] > self.slowness) != (slowness > self.slowness):
            self._off.clear()
        self._off.append(slowness)
        if len(self._off) < self.confirm:
            return False
        self.slowness = median(self._off)
        self._recent.clear()
        self._recent.extend(self._off)
        self._off.clear()
        return True

    def forget(self) -> None:
        """Nothing is known any more: as planned."""
        self.slowness, self.known_at_s = 1.0, -math.inf
        self._recent.clear()
        self._off.clear()


class Estimator:
    """The estimates of a whole cluster.

    Parameters
    ----------
    cluster
        As planned for.
    confirm
        Measurements in a row that make a change.
    forget_s
        After so many seconds without a measurement a channel is taken to be as planned again (our own choice: a plan
        that avoids a slow device never measures it, and would avoid it for ever).
    """

    def __init__(self, cluster: Cluster, *, confirm: int = 2, forget_s: float = 60.0) -> None:
        self.domains = tuple(domain.id for domain in cluster.domains)
        self.devices = cluster.device_ids
        self.forget_s = forget_s
        self.channels = {name: Channel(confirm) for name in (*self.devices, *self.domains)}
        self._conditions: dict[Hashable, Condition] = {}

    def observe(self, report: StepReport) -> list[str]:
        """Take what a step measured; names of the channels that changed."""
        changed = []
        for name, expected_s in report.expected_s.items():
            measured_s = report.measured_s.get(name, 0.0)
            if expected_s > 0 and measured_s > 0 and self.channels[name].measure(measured_s / expected_s, report.end_s):
                changed.append(name)
        return changed

    def forget(self, now_s: float) -> list[str]:
        """Give up what has not been measured for long; names of the channels that this changed."""
        old = []
        for name, channel in self.channels.items():
            if channel.slowness != 1.0 and channel.known_at_s < now_s - self.forget_s:
                channel.forget()
                old.append(name)
        return old

    def slowness(self) -> Mapping[str, float]:
        """How many times longer than planned the work of every channel takes, where it is not as planned."""
        rounded = {name: _grained(channel.slowness) for name, channel in self.channels.items()}
        return {name: slowness for name, slowness in rounded.items() if slowness != 1.0}

    def condition(self, absent: Collection[str] = ()) -> Condition:
        """The estimates as a condition."""
        slow, away = self.slowness(), tuple(sorted(absent))
        key = (tuple(slow.items()), away)
        if key not in self._conditions:
            self._conditions[key] = Condition(
                name="now",
                probability=1.0,
                domain_rate_factors={name: 1 / slow[name] for name in self.domains if name in slow},
                device_speed_factors={
                    name: 1 / slow[name] for name in self.devices if name in slow and name not in absent
                },
                absent_devices=away,
            )
        return self._conditions[key]


def _grained(slowness: float) -> float:
    return math.exp(round(math.log(slowness) / math.log1p(GRAIN)) * math.log1p(GRAIN))
