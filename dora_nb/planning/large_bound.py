"""The best lower bound that weights on device types prove, see :mod:`~dora_nb.formulation.round_trips`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.formulation.round_trips import ROUNDING, Chain, RoundTrips
from dora_nb.planning.deadline import Deadline

#: Round trips are guessed within this part of the makespan at best.
NARROWEST = 0.008

#: Changes of the weights tried for one class of round trips, and in the search for the least period.
STEPS = 12

#: Weights are not changed where the lightest chain is lighter than the fleet by more than this.
HOPELESS = 0.1

#: Halvings of the interval in which a bound lies.
HALVINGS = 14


@dataclass
class LargeBound:
    """Makespans and periods that no plan of one micro-batch size has.

    Attributes
    ----------
    trips
        The chains of stages.
    deadline
        After it nothing more is proven.
    weights
        Of one device of each type; improved as bounds are sought.
    chains
        The lightest chains that were met: where good plans may lie.
    hardest
        Class of round trips that could not be refuted last, as parts of the makespan.
    """

    trips: RoundTrips
    deadline: Deadline
    weights: Floats = field(init=False)
    chains: list[Chain] = field(default_factory=list)
    hardest: tuple[float, float] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.weights = self._scaled(self._speeds())

    def _speeds(self) -> Floats:
        """Layers a second of a device of each type on its own, the start of the search for weights."""
        times = self.trips.times
        alone = np.eye(times.used.shape[1], dtype=np.int64)
        rows = [times.group_of[tuple(each)] for each in alone.tolist()]
        layers = times.stop - times.first
        with np.errstate(divide="ignore"):
            speed = (layers[None] / times.seconds[rows]).mean(axis=1)
        return np.where(np.isfinite(speed) & (speed > 0), speed, 1e-12)

    def _scaled(self, weights: Floats) -> Floats:
        return np.asarray(weights / (weights @ self.trips.times.available))

    def makespan_s(self, below_s: float, gap: float) -> float:
        """No plan is faster than this; at most a makespan in hand, and not sought beyond a gap to it."""
        return self._largest(below_s, gap, self._refuted)

    def period_s(self, below_s: float, gap: float) -> float:
        """No plan keeps up with requests closer together than this; otherwise likewise."""
        return self._largest(
            below_s, gap, lambda load_s: self._outweighs(lambda weights: self.trips.within_load(weights, load_s))
        )

    def _largest(self, below_s: float, gap: float, refuted: Callable[[float], bool]) -> float:
        """The largest value below one in hand that is refuted: first that within the gap, then by halving."""
        enough_s = below_s * (1 - gap)
        low_s, high_s = 0.0, enough_s
        for part in (0.75, 0.5, 0.25, 0.1):
            if self.deadline.passed:
                return 0.0
            if refuted(part * below_s):
                low_s = part * below_s
                break
            high_s = part * below_s
        for _ in range(HALVINGS):
            if self.deadline.passed or high_s - low_s <= gap / 4 * high_s:
                break
            middle_s = (low_s + high_s) / 2 if high_s - low_s > gap * high_s or high_s < enough_s else high_s
            low_s, high_s = (middle_s, high_s) if refuted(middle_s) else (low_s, middle_s)
        return low_s

    def _refuted(self, makespan_s: float) -> bool:
        """Whether it is proven that no plan keeps a makespan: in every class of round trips, wide classes first."""
        if self.hardest is not None and not self._class_refuted(makespan_s, self.hardest):
            return False
        classes = [(0.0, 1.0)]
        while classes:
            least, below = classes.pop()
            if self._class_refuted(makespan_s, (least, below)):
                continue
            if self.deadline.passed or below - least <= NARROWEST:
                self.hardest = least, below
                return False
            middle = (least + below) / 2
            classes += [(least, middle), (middle, below)]
        return True

    def _class_refuted(self, makespan_s: float, trips: tuple[float, float]) -> bool:
        """The same for round trips between two parts of the makespan."""
        trip_s = trips[0] * makespan_s, trips[1] * makespan_s
        return self._outweighs(lambda weights: self.trips.within_makespan(weights, makespan_s, trip_s))

    def _outweighs(self, lightest: Callable[[Floats], Chain]) -> bool:
        """Whether some weights make every chain heavier than the fleet: more on what the lightest one overuses.

        Steps go on only while they promise to get there.
        """
        available = self.trips.times.available
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
            tried = self._scaled(best * np.exp(step * (chain.used - available) / available))
            found = lightest(tried)
            if found.weight > chain.weight:
                best, chain = tried, found
            else:
                step *= 0.5
        self.weights = best
        if chain.stages:
            self.chains.append(chain)
        return False
