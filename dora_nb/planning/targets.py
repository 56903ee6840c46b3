"""What a search is after: the best latency, the least energy within latency limits, and how far each is proven."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.table import Floats
from dora_nb.domain.plan import Plan

#: Relative difference by which two sums of the same numbers may differ; a limit is kept if it is exceeded by less.
ROUNDING = 1e-9


@dataclass
class Targets:
    """Best plans found and lower bounds, for several questions that one search answers together.

    One question asks for the shortest makespan within the energy limit; each latency limit asks for the least energy
    within it and the energy limit.

    Attributes
    ----------
    latency_limits_s
        Ascending; infinity means no limit.
    energy_limit_j
        Largest energy allowed in every question.
    tolerance
        Relative gap that is good enough: what cannot improve an answer by more is not looked at further.
    seek_latency
        Whether the shortest makespan is asked for.
    """

    latency_limits_s: Floats
    energy_limit_j: float = np.inf
    tolerance: float = 0.0
    seek_latency: bool = True
    best_latency_s: float = np.inf
    latency_plan: Plan | None = None
    best_energy_j: Floats = field(init=False)
    energy_plans: list[Plan | None] = field(init=False)
    latency_floor_s: float = np.inf
    energy_floor_j: Floats = field(init=False)

    def __post_init__(self) -> None:
        questions = len(self.latency_limits_s)
        self.best_energy_j = np.full(questions, np.inf)
        self.energy_plans = [None] * questions
        self.energy_floor_j = np.full(questions, np.inf)

    def _within_energy(self, energy_j: Floats) -> NDArray[np.bool_]:
        return np.asarray(energy_j <= self.energy_limit_j * (1 + ROUNDING))

    def _tightest(self, makespan_s: Floats) -> NDArray[np.int64]:
        """The tightest latency limit that each makespan still meets."""
        return np.searchsorted(self.latency_limits_s * (1 + ROUNDING), makespan_s)

    def relevant(self, makespan_s: Floats, energy_j: Floats) -> NDArray[np.bool_]:
        """Which lower bounds still leave room for a better answer to some question."""
        keep = np.zeros(np.shape(makespan_s), dtype=bool)
        allowed = self._within_energy(energy_j)
        if self.seek_latency:
            keep |= makespan_s < self.best_latency_s * (1 - self.tolerance)
        # A looser limit never has a larger incumbent, so the tightest limit that can still be met decides.
        tightest = self._tightest(makespan_s)
        to_beat = np.append(self.best_energy_j, -np.inf)[tightest]
        keep |= energy_j < to_beat * (1 - self.tolerance)
        return keep & allowed

    def set_aside(self, makespan_s: Floats, energy_j: Floats) -> None:
        """Remember the lower bounds of plans that are not looked at further: every answer's bound must stay true."""
        allowed = self._within_energy(energy_j)
        makespan_s, energy_j = makespan_s[allowed], energy_j[allowed]
        if not makespan_s.size:
            return
        self.latency_floor_s = min(self.latency_floor_s, float(makespan_s.min()))
        tightest = self._tightest(makespan_s)
        met = tightest < len(self.latency_limits_s)
        np.minimum.at(self.energy_floor_j, tightest[met], energy_j[met])
        self.energy_floor_j = np.minimum.accumulate(self.energy_floor_j)

    def improves(self, makespan_s: float, energy_j: float) -> bool:
        """Whether a plan with these figures would improve an answer."""
        faster = makespan_s < self.best_latency_s
        met = makespan_s <= self.latency_limits_s * (1 + ROUNDING)
        thriftier = met & (energy_j < self.best_energy_j)
        return bool(self._within_energy(np.array(energy_j))) and (faster or bool(thriftier.any()))

    def offer(self, makespan_s: float, energy_j: float, plan: Plan) -> None:
        """Take a plan with its exact figures where it improves an answer."""
        if not self._within_energy(np.array(energy_j)):
            return
        if makespan_s < self.best_latency_s:
            self.best_latency_s, self.latency_plan = makespan_s, plan
        for question, limit in enumerate(self.latency_limits_s):
            if makespan_s <= limit * (1 + ROUNDING) and energy_j < self.best_energy_j[question]:
                self.best_energy_j[question], self.energy_plans[question] = energy_j, plan

    @property
    def latency_bound_s(self) -> float:
        """No plan within the energy limit is faster."""
        return min(self.latency_floor_s, self.best_latency_s)

    @property
    def energy_bounds_j(self) -> Floats:
        """No plan within each latency limit, and the energy limit, takes less."""
        return np.minimum(self.energy_floor_j, self.best_energy_j)
