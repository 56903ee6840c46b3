"""What is proven of all plans at once: corners of the plane of makespan and energy in which there is none.

Every bound says the same kind of thing. "No plan within E joules is faster than T" and "no plan within T seconds takes
less than E" both say that no plan is below T in makespan and at most E in energy. So what one question proved answers
others: a tighter limit cannot have a better answer, and a limit between two known ones has a bound at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from dora_nb.domain.qoe import ROUNDING


@dataclass
class Proven:
    """Corners without a plan, for questions that differ in their limits on makespan and energy only.

    Attributes
    ----------
    corners
        ``(makespan_s, energy_j)``: no plan that takes at most this energy is faster. None is implied by another.
    """

    corners: list[tuple[float, float]] = field(default_factory=list)

    def no_faster(self, makespan_s: float, energy_limit_j: float = math.inf) -> None:
        """Remember that no plan within an energy limit is faster."""
        self._add(makespan_s, energy_limit_j)

    def no_thriftier(self, energy_j: float, makespan_limit_s: float = math.inf) -> None:
        """Remember that no plan within a makespan takes less energy."""
        self._add(makespan_limit_s, energy_j * (1 - ROUNDING) if math.isfinite(energy_j) else energy_j)

    def least_makespan_s(self, energy_limit_j: float = math.inf) -> float:
        """No plan within an energy limit is faster; 0 where nothing is known, infinite where there is none."""
        return max((makespan_s for makespan_s, energy_j in self.corners if energy_j >= energy_limit_j), default=0.0)

    def least_energy_j(self, makespan_limit_s: float = math.inf) -> float:
        """No plan within a makespan takes less energy; 0 where nothing is known, infinite where there is none."""
        limit_s = makespan_limit_s * (1 + ROUNDING)
        beyond = (energy_j for makespan_s, energy_j in self.corners if makespan_s > limit_s or math.isinf(makespan_s))
        return max(beyond, default=0.0)

    def scaled(self, factor: float) -> Proven:
        """What is proven where every duration is at least this factor, 1 at most, times what it was."""
        return Proven([(makespan_s * factor, energy_j * factor) for makespan_s, energy_j in self.corners])

    def include(self, other: Proven) -> None:
        """Remember what is proven elsewhere and holds here as well."""
        for corner in other.corners:
            self._add(*corner)

    def _add(self, makespan_s: float, energy_j: float) -> None:
        if not (makespan_s > 0 and energy_j > 0):
            return
        if any(other_s >= makespan_s and other_j >= energy_j for other_s, other_j in self.corners):
            return
        kept = [each for each in self.corners if not (each[0] <= makespan_s and each[1] <= energy_j)]
        self.corners = [*kept, (makespan_s, energy_j)]
