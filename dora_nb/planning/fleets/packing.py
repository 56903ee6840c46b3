"""Stages that keep a load with disjoint devices: a beam over cuts, guided by what devices weigh.

With weights under which the lightest chain of stages just weighs as much as the fleet, a plan may only take stages
whose own weight, with the lightest stages in front and behind, stays within the fleet's: few of the thousands of groups
do. The lightest beginnings are kept at every cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.fleets.group_times import GroupTimes
from dora_nb.formulation.fleets.load_chains import ROUNDING

#: Beginnings kept a cut, how many times as many are looked at, and groups looked at for a range of layers.
BEAM, LOOKED_AT, MOST_STAGES = 200, 30, 60


def packed(times: GroupTimes, weights: Floats, load_s: float) -> tuple[tuple[int, int, int], ...] | None:
    """Stages (first layer, stop layer, group) that work at most so long, on devices that are there; None if not found.

    Parameters
    ----------
    times
        Seconds of groups on ranges.
    weights
        Of one device of each type.
    load_s
        Most seconds of a stage for all micro-batches.
    """
    layers = len(times.hop_s) - 1
    able = times.seconds * times.micro_batches <= load_s
    weight = np.where(able, (times.used @ weights)[:, None], np.inf)
    lightest = weight.min(axis=0)
    behind = np.full(layers + 1, np.inf)
    behind[layers] = 0.0
    for first in range(layers - 1, -1, -1):
        behind[first] = (lightest[times.range_of[first, first + 1 :]] + behind[first + 1 :]).min()
    beginnings = [_Beginnings.nothing(len(weights))]
    for stop in range(1, layers + 1):
        parts = [
            _ahead(beginnings[first], weight[:, times.range_of[first, stop]], 1.0 - behind[stop], first)
            for first in range(stop)
        ]
        beginnings.append(_best(np.concatenate(parts), beginnings, times, weights))
    stages: list[tuple[int, int, int]] = []
    stop, place = layers, 0
    if not len(beginnings[layers].used):
        return None
    while stop:
        first, begin, group = (int(each) for each in beginnings[stop].came[place])
        stages.append((first, stop, group))
        stop, place = first, begin
    return tuple(reversed(stages))


@dataclass(frozen=True)
class _Beginnings:
    """Stages up to one cut.

    Attributes
    ----------
    used
        Devices of each type, shape (beginnings, types).
    weight
        Of these devices.
    came
        First layer of the last stage, which beginning is in front of it, and its group. Shape (beginnings, 3).
    """

    used: Ints
    weight: Floats
    came: Ints

    @classmethod
    def nothing(cls, types: int) -> _Beginnings:
        return cls(np.zeros((1, types), dtype=np.int64), np.zeros(1), np.zeros((1, 3), dtype=np.int64))


def _ahead(before: _Beginnings, weight: Floats, most: float, first: int) -> Floats:
    """Rows (weight, first layer, beginning, group) of one more stage, those that leave enough for the rest."""
    groups = np.argsort(weight, kind="stable")[:MOST_STAGES]
    total = before.weight[:, None] + weight[groups][None]
    begin, at = np.nonzero(total <= most + ROUNDING)
    return np.stack([total[begin, at], np.full(len(begin), float(first)), begin, groups[at]], axis=1)


def _best(rows: Floats, beginnings: list[_Beginnings], times: GroupTimes, weights: Floats) -> _Beginnings:
    """The lightest beginnings whose devices are there, each set of devices once."""
    rows = rows[np.argsort(rows[:, 0], kind="stable")[: LOOKED_AT * BEAM]]
    came = rows[:, 1:].astype(np.int64)
    used = np.zeros((len(rows), len(weights)), dtype=np.int64)
    for first in np.unique(came[:, 0]).tolist():
        own = came[:, 0] == first
        used[own] = beginnings[first].used[came[own, 1]] + times.used[came[own, 2]]
    there = np.flatnonzero((used <= times.available).all(axis=1))
    _, unlike = np.unique(used[there], axis=0, return_index=True)
    kept = there[np.sort(unlike)[:BEAM]]
    return _Beginnings(used[kept], rows[kept, 0], came[kept])
