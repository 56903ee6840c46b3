"""Traces drawn from a seed: media that grow busy and calm again, devices that come and go."""

from __future__ import annotations

import math

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.domain.conditions import Condition, Conditions
from dora_nb.domain.dynamics import MarkovChain
from dora_nb.errors import InputError, UnknownNameError
from dora_nb.simulation.traces import Trace


def wander(chain: MarkovChain, horizon_s: float, seed: int, *, start: str | None = None) -> Trace:
    """A trace of a chain's levels.

    Parameters
    ----------
    chain
        See :func:`dora_nb.load_dynamics`.
    horizon_s
        How long it is.
    seed
        The same seed gives the same trace.
    start
        Name of the first state; None: one drawn by how often the chain is in each in the long run.

    Returns
    -------
    Trace
        Of origin ``generated``.

    Raises
    ------
    InputError
        If there is no such state, or the horizon is not a positive time.
    """
    _check_horizon(horizon_s)
    names = [state.name for state in chain.states]
    if start is not None and start not in names:
        raise UnknownNameError("start", start, names)
    dice = np.random.default_rng(seed)
    until = np.cumsum(chain.probabilities, axis=1)
    count = int(np.ceil(horizon_s / chain.step_s))
    draws = dice.random(count)
    first = _pick(np.cumsum(long_run(chain)), draws[0]) if start is None else names.index(start)
    path = [first]
    for draw in draws[1:]:
        path.append(_pick(until[path[-1]], draw))
    levels = np.array([state.level for state in chain.states])[path]
    jumps = np.flatnonzero(np.diff(levels, prepend=np.nan) != 0)
    source = f"{chain.name}, seed {seed}"
    return Trace(
        np.asarray(jumps * chain.step_s, dtype=np.float64),
        levels[jumps],
        max(horizon_s, count * chain.step_s),
        "generated",
        source,
    )


def absences(horizon_s: float, seed: int, *, there_s: float, away_s: float) -> Trace:
    """When a device is there (1) and away (0): times of both are exponential, and it is there at first.

    Parameters
    ----------
    horizon_s
        How long the trace is.
    seed
        The same seed gives the same trace.
    there_s, away_s
        Mean seconds of each.

    Returns
    -------
    Trace
    """
    _check_horizon(horizon_s)
    for name, mean_s in (("there_s", there_s), ("away_s", away_s)):
        if not mean_s > 0:
            raise InputError(name, mean_s, "more than 0 seconds")
    dice, steps, now_s, there = np.random.default_rng(seed), [(0.0, 1.0)], 0.0, True
    while True:
        now_s += float(dice.exponential(there_s if there else away_s))
        if now_s >= horizon_s:
            return Trace.steps(steps, end_s=horizon_s, origin="generated", source=f"absences, seed {seed}")
        there = not there
        steps.append((now_s, float(there)))


def visits(conditions: Conditions, horizon_s: float, seed: int, *, window_s: float) -> list[tuple[float, Condition]]:
    """Which condition is met from when on, for :meth:`~dora_nb.simulation.world.World.of_conditions`.

    After every window it is drawn anew with probability ``1 / windows_per_change``, by the conditions' probabilities
    and whatever it was: the model that :func:`dora_nb.compose` counts changes with.

    Parameters
    ----------
    conditions
        Which there are, and how likely.
    horizon_s
        For how long.
    seed
        The same seed gives the same visits.
    window_s
        How long a window is.

    Returns
    -------
    list of (float, Condition)
        Seconds from the start, and the condition met from then on.
    """
    _check_horizon(horizon_s)
    if not window_s > 0:
        raise InputError("window_s", window_s, "more than 0 seconds")
    dice, until = np.random.default_rng(seed), np.cumsum(conditions.probabilities)
    found: list[tuple[float, Condition]] = []
    for window in range(math.ceil(horizon_s / window_s)):
        if not found or dice.random() < 1 / conditions.windows_per_change:
            found.append((window * window_s, conditions.conditions[_pick(until, dice.random())]))
    return found


def long_run(chain: MarkovChain) -> Floats:
    """Share of the time that a chain spends in each state in the long run, whatever it started in."""
    matrix = np.array(chain.probabilities)
    count = len(matrix)
    rows = np.vstack([matrix.T - np.eye(count), np.ones(count)])
    shares, *_ = np.linalg.lstsq(rows, np.append(np.zeros(count), 1.0), rcond=None)
    return np.asarray(np.clip(shares, 0.0, 1.0))


def _pick(until: Floats, draw: float) -> int:
    return min(int(np.searchsorted(until, draw, side="right")), len(until) - 1)


def _check_horizon(horizon_s: float) -> None:
    if not 0 < horizon_s < np.inf:
        raise InputError("horizon_s", horizon_s, "more than 0 seconds, and finite")
