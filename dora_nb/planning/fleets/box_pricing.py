"""Weights of device types under which every chain of stages in a box is too heavy.

The lightest chains met so far are mixed so that the mix overuses the devices least; the dual values of that are the
next weights (column generation). Only groups on ranges that some light chain contains are looked at on the way; what
comes out is checked against all of them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.fleets.boxed_chains import SINGLE, TOO_HEAVY, Weighed
from dora_nb.formulation.fleets.pipeline_rows import Kind
from dora_nb.planning.fleets.period_bound import scaled
from dora_nb.solvers.mixing import Mixing

#: How much heavier than the lightest chain those are whose groups are looked at, more only where these are few; and
#: how many of them for a stage.
SLACKS, MOST_WAYS = (0.08, 0.3), 4_000

#: Searches for such groups, and chains mixed after each.
SEARCHES, MIXED = 3, 30


class _Ways(NamedTuple):
    """Groups on ranges that one stage may be, sorted by their stop."""

    stop: Ints
    first: Ints
    group: Ints


def refuting(start: Weighed, kind: Kind, most: Ints) -> Weighed | None:
    """Weights that refute a box of a known number of stages by its upper ends; None if there are none, or not found."""
    levels = start.levels
    mixing = Mixing(levels.times.available.astype(float), np.zeros(0))
    ways: list[_Ways] | None = None
    best = start
    for _ in range(SEARCHES):
        found = _near(best, most)
        if found is None:
            return best
        ways = found if ways is None else [_joined(*each) for each in zip(ways, found, strict=True)]
        weights, refuted = _mixed(best, ways, mixing)
        if weights is None:
            return None
        best = Weighed(levels, weights)
        if float(best.least(kind, most[None])[0]) > TOO_HEAVY:
            return best
        if not refuted:
            return None
    return None


def _mixed(start: Weighed, ways: list[_Ways], mixing: Mixing) -> tuple[Floats | None, bool]:
    """The best weights found and whether they refute the chains of some ways; None if a mix of these uses no more."""
    times = start.levels.times
    best, most, asked = start.weights, -math.inf, start.weights
    for _ in range(MIXED):
        weight, groups = _lightest(times.used @ asked, ways, len(times.hop_s))
        if weight > most:
            best, most = asked, weight
        if most > TOO_HEAVY:
            return best, True
        mixing.add(times.used[groups].sum(axis=0), np.zeros(0))
        least, dual, _ = mixing.solve()
        if least <= TOO_HEAVY:
            return None, False
        asked = scaled(times, (best + dual) / 2)
    return best, False


def _near(weighed: Weighed, most: Ints) -> list[_Ways] | None:
    """Of each stage what chains contain that are not much heavier than the lightest; None if all are too heavy."""
    levels, times = weighed.levels, weighed.levels.times
    weight = times.used @ weighed.weights
    ahead, behind = weighed.ahead(most), weighed.behind(most)
    least = float(behind[0, 0])
    if least > TOO_HEAVY:
        return None
    found = []
    for stage, level in enumerate(most):
        rest = ahead[stage, times.first] + behind[stage + 1, times.stop]
        whole = rest + weighed.of_ranges(int(level))
        for slack in SLACKS:
            ranges = np.flatnonzero(whole <= least + slack + SINGLE)
            near = weight + rest[ranges][:, None] <= least + slack
            at, group = np.nonzero((levels.by_range[ranges] <= level) & near)
            if len(at) > MOST_WAYS:
                break
        if len(at) > MOST_WAYS:
            total = weight[group] + rest[ranges[at]]
            lightest = np.argpartition(total, MOST_WAYS)[:MOST_WAYS]
            group, at = group[lightest], at[lightest]
        order = np.argsort(times.stop[ranges[at]], kind="stable")
        range_ = ranges[at[order]]
        found.append(_Ways(times.stop[range_], times.first[range_], group[order]))
    return found


def _joined(one: _Ways, other: _Ways) -> _Ways:
    rows = np.unique(np.stack([np.concatenate(each) for each in zip(one, other, strict=True)]), axis=1)  # by stop first
    return _Ways(*rows)


def _lightest(weight: Floats, ways: list[_Ways], cuts: int) -> tuple[float, list[int]]:
    """The lightest chain of one way a stage, and its groups."""
    ahead, came = np.where(np.arange(cuts) == 0, 0.0, np.inf), []
    for stage_ways in ways:
        total = ahead[stage_ways.first] + weight[stage_ways.group]
        begin = np.flatnonzero(np.diff(stage_ways.stop, prepend=-1))
        least = np.minimum.reduceat(total, begin)
        place = np.flatnonzero(total == np.repeat(least, np.diff(begin, append=len(total))))
        ahead, from_ = np.full(cuts, np.inf), np.full(cuts, -1)
        ahead[stage_ways.stop[begin]], from_[stage_ways.stop[place[::-1]]] = least, place[::-1]
        came.append(from_)
    groups, stop = [], cuts - 1
    for stage_ways, from_ in zip(reversed(ways), reversed(came), strict=True):
        way = from_[stop]
        groups.append(int(stage_ways.group[way]))
        stop = int(stage_ways.first[way])
    return float(ahead[-1]), groups
