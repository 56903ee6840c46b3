"""How much of all trade-offs a small set of plans covers, proven."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Coverage:
    """A promise about every plan considered that keeps the hard limits, shown or not.

    For each of them the set holds a plan whose makespan and whose energy are at most ``1 + delta`` times its own.

    Attributes
    ----------
    delta
        None: nothing is proven yet.
    most_plans
        How many plans the set was allowed to have.
    """

    delta: float | None
    most_plans: int

    @property
    def proven(self) -> bool:
        """Whether there is a promise at all."""
        return self.delta is not None


@dataclass(frozen=True)
class Front:
    """What is proven about all plans: none is in the dark corner below these steps.

    Attributes
    ----------
    edges_s
        Ascending; no plan is faster than the first. One more than ``floors_j``.
    floors_j
        No plan with a makespan above one edge and up to the next takes less energy; infinite where there is no plan.
    """

    edges_s: tuple[float, ...]
    floors_j: tuple[float, ...]

    def ratios(self, makespan_s: float, energy_j: float) -> list[float]:
        """How many times worse a plan is, at most, than any plan of each step; 0 where there is none."""
        return [
            0.0 if floor_j == float("inf") else max(_times(makespan_s, edge_s), _times(energy_j, floor_j))
            for edge_s, floor_j in zip(self.edges_s, self.floors_j, strict=False)
        ]

    def delta(self, figures: Sequence[tuple[float, float]]) -> float:
        """What plans with these makespans and energies cover: the worst step, each by the plan that suits it best."""
        if not figures:
            return float("inf")
        ratios = [self.ratios(*each) for each in figures]
        return max((max(1.0, min(step)) for step in zip(*ratios, strict=True)), default=1.0) - 1.0

    def choose(self, figures: Sequence[tuple[float, float]], fixed: Sequence[int], most: int) -> list[int]:
        """At most so many of some plans that cover the most, some of which are fixed.

        A plan is good enough for a run of neighbouring steps: on earlier ones it is too slow, on later ones it takes
        too much. So for a given delta a sweep from the first step finds the fewest plans; the least delta for which
        they are few enough is one of the ratios.
        """
        ratios = [self.ratios(*each) for each in figures]
        levels = sorted({max(1.0, ratio) for row in ratios for ratio in row if ratio < float("inf")})
        best = list(fixed)
        low, high = 0, len(levels) - 1
        while low <= high:
            middle = (low + high) // 2
            chosen = _cover(ratios, fixed, levels[middle])
            if chosen is not None and len(chosen) <= most:
                best, high = chosen, middle - 1
            else:
                low = middle + 1
        return best


def _times(value: float, floor: float) -> float:
    if value <= floor:
        return 1.0
    return value / floor if floor > 0 else float("inf")


def _cover(ratios: Sequence[Sequence[float]], fixed: Sequence[int], level: float) -> list[int] | None:
    """The fewest plans that reach a level on every step, the fixed ones among them; None if even all do not."""
    chosen = list(fixed)
    steps = len(ratios[0]) if ratios else 0
    step = 0
    while step < steps:
        if any(ratios[plan][step] <= level for plan in chosen):
            step += 1
            continue
        able = [plan for plan, row in enumerate(ratios) if row[step] <= level]
        if not able:
            return None
        chosen.append(max(able, key=lambda plan: _reach(ratios[plan], step, level)))
    return chosen


def _reach(row: Sequence[float], step: int, level: float) -> int:
    """The first step after this one on which a plan is not good enough."""
    return next((each for each in range(step, len(row)) if row[each] > level), len(row))
