"""The best lower bound on periods that weights on device types prove; what bounds for large fleets have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.formulation.fleets.group_times import GroupTimes
from dora_nb.formulation.fleets.load_chains import ROUNDING, LightChain, LoadChains
from dora_nb.planning.deadline import Deadline

#: Changes of the weights tried for one load.
STEPS = 12

#: Weights are not changed where the lightest chain is lighter than the fleet by more than this.
HOPELESS = 0.1

#: Parts of a value in hand that are tried first.
PARTS = (0.85, 0.6, 0.3, 0.1)

#: Halvings of the interval in which a bound lies.
HALVINGS = 14


@dataclass
class PeriodBound:
    """Periods that no plan of one micro-batch size has.

    Attributes
    ----------
    times
        Seconds of groups on ranges.
    deadline
        After it nothing more is proven.
    weights
        Of one device of each type; improved as bounds are sought.
    """

    times: GroupTimes
    deadline: Deadline
    weights: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.chains = LoadChains(self.times)
        self.weights = scaled(self.times, speeds(self.times))

    def period_s(self, below_s: float, gap: float) -> float:
        """No plan keeps up with requests closer together than this; at most a period in hand, within a gap if found."""

        def refuted(load_s: float) -> bool:
            return self._outweighs(lambda weights: self.chains.within_load(weights, load_s))

        return largest(below_s, gap, refuted, self.deadline)

    def _outweighs(self, lightest: Callable[[Floats], LightChain]) -> bool:
        """Whether some weights make every chain heavier than the fleet: more on what the lightest one overuses.

        Steps go on only while they promise to get there.
        """
        available = self.times.available
        best, chain, step = self.weights, lightest(self.weights), 0.3
        at_first = chain.weight
        for number in range(STEPS):
            if chain.weight > 1 + ROUNDING:
                self.weights = best
                return True
            left = 1 - chain.weight
            slow = number > 3 and chain.weight - at_first < left / 2
            if self.deadline.passed or step < 0.02 or left > HOPELESS or slow:
                break
            tried = scaled(self.times, best * np.exp(step * (chain.used - available) / available))
            found = lightest(tried)
            if found.weight > chain.weight:
                best, chain = tried, found
            else:
                step *= 0.5
        self.weights = best
        return False


def speeds(times: GroupTimes) -> Floats:
    """Layers a second of a device of each type on its own, the start of the search for weights."""
    alone = np.eye(times.used.shape[1], dtype=np.int64)
    rows = [times.group_of[tuple(each)] for each in alone.tolist()]
    layers = times.stop - times.first
    with np.errstate(divide="ignore"):
        speed = (layers[None] / times.seconds[rows]).mean(axis=1)
    return np.where(np.isfinite(speed) & (speed > 0), speed, 1e-12)


def scaled(times: GroupTimes, weights: Floats) -> Floats:
    """Weights such that all devices together weigh 1."""
    return np.asarray(weights / (weights @ times.available))


def largest(below_s: float, gap: float, refuted: Callable[[float], bool], deadline: Deadline) -> float:
    """The largest value below one in hand that is refuted: first some part of that, then by halving, within its gap.

    Parameters
    ----------
    below_s
        The value in hand.
    gap
        Relative gap that is good enough.
    refuted
        Whether a value is proven impossible.
    deadline
        When to stop.
    """
    enough_s = below_s * (1 - gap)
    low_s, high_s = 0.0, enough_s
    for part in PARTS:
        if deadline.passed:
            return 0.0
        if part >= 1 - gap:
            continue
        if refuted(part * below_s):
            low_s = part * below_s
            break
        high_s = part * below_s
    for _ in range(HALVINGS):
        if deadline.passed or high_s - low_s <= gap / 4 * high_s:
            break
        middle_s = (low_s + high_s) / 2 if high_s - low_s > gap * high_s or high_s < enough_s else high_s
        low_s, high_s = (middle_s, high_s) if refuted(middle_s) else (low_s, middle_s)
    return low_s
