"""The small linear program that weights resident plans again: which share of the next steps each one takes.

Minimise the mean of one figure, such that the mean of each limited one keeps its limit and shares add up to 1. With m
limits some optimal solution uses at most m + 1 plans (a basic solution), so for at most two limits and a handful of
plans all candidates are looked at, which takes about a millisecond; where no mix keeps the limits, the one that exceeds
them least, relatively, is taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.domain.qoe import ROUNDING


def cheapest_mix(cost: Floats, figures: Sequence[Floats], limits: Sequence[float]) -> Floats:
    """Shares of the plans, shape (plans,).

    Parameters
    ----------
    cost
        What each plan costs, shape (plans,).
    figures
        The limited figures of each plan, shape (limits, plans).
    limits
        What the mean of each may be at most; infinity: anything. More than 0.

    Returns
    -------
    array
        Not negative, with sum 1.
    """
    used = np.array([figure / limit for figure, limit in zip(figures, limits, strict=True) if np.isfinite(limit)])
    used = used.reshape(-1, len(cost))
    candidates = np.array(_basic_solutions(used))
    over = np.maximum((candidates @ used.T).max(axis=1, initial=0.0) - 1, 0.0)
    over[over <= ROUNDING] = 0.0
    return np.asarray(candidates[np.lexsort((candidates @ cost, over))[0]])


def _basic_solutions(used: Floats) -> list[Floats]:
    """Every plan alone, mixes of two that meet a limit (or exceed two of them alike), mixes of three that meet two."""
    limits, plans = used.shape
    found = list(np.eye(plans))
    for pair in itertools.combinations(range(plans), 2):
        for row in used:
            found.extend(_mix(plans, pair, [row], [1.0]))
        for one, other in itertools.combinations(used, 2):
            found.extend(_mix(plans, pair, [one - other], [0.0]))
    if limits > 1:
        for three in itertools.combinations(range(plans), 3):
            for rows in itertools.combinations(used, 2):
                found.extend(_mix(plans, three, rows, [1.0, 1.0]))
    return found


def _mix(plans: int, chosen: Sequence[int], rows: Sequence[Floats], right: Sequence[float]) -> list[Floats]:
    """The mix of a few plans with sum 1 that solves some equations, if there is exactly one and nothing is negative."""
    matrix = np.vstack([*(row[list(chosen)] for row in rows), np.ones(len(chosen))])
    try:
        solved = np.linalg.solve(matrix, np.append(right, 1.0))
    except np.linalg.LinAlgError:
        return []
    if (solved < 0).any():
        return []
    shares = np.zeros(plans)
    shares[list(chosen)] = solved
    return [shares]
