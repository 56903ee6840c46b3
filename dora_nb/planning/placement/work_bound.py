"""Lower bounds on the period that need no search: shared work, the heaviest unit, and pigeonholes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.domain.problem import MeasuredProblem
from dora_nb.formulation.placement.downsets import Units
from dora_nb.formulation.placement.kinds import kinds_of
from dora_nb.formulation.placement.stage_table import options_of, unit_sums

#: Steps of the search for the best weights; any weights give a valid bound.
_ROUNDS = 60


@dataclass(frozen=True)
class WorkBound:
    """Every device is busy for at most the period, so weighted work is at most the period times the weighted devices.

    Attributes
    ----------
    period_s
        The bound.
    weights
        Weight of a device of each type.
    work_s
        Weighted device-seconds that each unit takes at least, shape (units,).
    """

    period_s: float
    weights: Floats
    work_s: Floats


def device_seconds(problem: MeasuredProblem, units: Units) -> Floats:
    """Least device-seconds of every unit on every type, infinite where it cannot run, shape (types, units)."""
    least = np.full((len(problem.devices), len(units.layers)), np.inf)
    for kind in kinds_of(problem):
        sums = unit_sums(problem, units, kind)
        seconds = np.where(sums.unable > 0, np.inf, kind.shards * sums.time_s)
        least[kind.device] = np.minimum(least[kind.device], seconds)
    return least


def work_bound(problem: MeasuredProblem, units: Units) -> WorkBound:
    """The best bound of this form that a few dozen steps find.

    For weights w of the types, ``sum over units of min over types of w x seconds`` is at most the period times
    ``sum over types of w x count``; the best weights solve the dual of the fractional assignment.
    """
    least = device_seconds(problem, units)
    counts = np.array([device.count for device in problem.devices], dtype=float)

    def bound(weights: Floats) -> tuple[float, Floats]:
        with np.errstate(invalid="ignore"):
            weighted = np.where(np.isinf(least), np.inf, weights[:, None] * least)
        work = weighted.min(axis=0)
        return float(work.sum() / (weights @ counts)), work

    # Start from a weight that makes types equally fast, then move one weight at a time, in ever smaller steps.
    speeds = np.array([_speed(least[index], least.min(axis=0)) for index in range(len(counts))])
    best = speeds
    value, work = bound(best)
    step = 2.0
    for _ in range(_ROUNDS if len(counts) > 1 else 0):
        moved = False
        for index in range(len(counts)):
            for factor in (step, 1 / step):
                weights = best.copy()
                weights[index] *= factor
                new, new_work = bound(weights)
                if new > value:
                    best, value, work, moved = weights, new, new_work, True
        if not moved:
            step = step**0.5
            if step < 1 + 1e-6:
                break
    return WorkBound(value, best, work)


def _speed(seconds: Floats, least: Floats) -> float:
    able = np.isfinite(seconds) & (seconds > 0)
    return float(least[able].sum() / seconds[able].sum()) if able.any() and least[able].sum() > 0 else 1e-9


def period_bound(problem: MeasuredProblem, units: Units, below_s: float = np.inf) -> float:
    """The best of the bounds on the period, for placements below a value in hand.

    Parameters
    ----------
    problem, units
        What is placed.
    below_s
        Only placements below it matter: a type on which a unit takes longer alone is none for it.
    """
    least = device_seconds(problem, units)
    kinds = kinds_of(problem)
    most = [1.0] * len(problem.devices)  # how much a stage may shorten a unit on each type
    for option in options_of(problem, kinds):
        most[option.device] = max(most[option.device], float(option.replicas * kinds[option.kind].shards))
    alone = least / np.array(most)[:, None]
    heaviest = float(alone.min(axis=0).max(initial=0.0))
    best = max(work_bound(problem, units).period_s, heaviest)
    if problem.execution.most_replicas == 1 and max(kind.shards for kind in kinds) == 1:
        for device in range(len(problem.devices)):
            others = np.delete(least, device, axis=0)
            only = np.all(others >= below_s, axis=0) if len(others) else np.ones(least.shape[1], dtype=bool)
            best = max(
                best, _pigeonhole(least[device][only & np.isfinite(least[device])], problem.devices[device].count)
            )
    return best


def _pigeonhole(seconds: Floats, devices: int) -> float:
    """Of the ``k m + 1`` longest units, ``m + 1`` are on one of k devices: at least the shortest ``m + 1`` of them."""
    longest: Sequence[float] = sorted(seconds.tolist(), reverse=True)
    best = 0.0
    for each in range((len(longest) - 1) // devices + 1):
        of_these = longest[: each * devices + 1]
        best = max(best, sum(of_these[-(each + 1) :]))
    return best
