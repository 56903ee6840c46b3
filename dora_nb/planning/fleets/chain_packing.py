"""Chains of stages on disjoint devices, cheap under the prices of a class of plans: a beam from the last stage on.

A chain that keeps the makespan asked about costs at most what devices and limits are worth, so beginnings are ranked by
their own cost and that of the cheapest stages in front, see :mod:`~dora_nb.formulation.fleets.priced_chains`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.fleets.priced_chains import Cheapest

#: Beginnings kept for each cut and number of stages behind, and how many are looked at from each cut.
BEAM, LOOKED_AT = 100, 4_000

Stages = tuple[tuple[int, int, int], ...]


class _Beginnings(NamedTuple):
    """Stages from the last on: what they use and cost, and where from (cut, stages behind, place, group)."""

    used: Ints
    cost: Floats
    came: Ints


def packed_chains(cheapest: Cheapest, count: int) -> list[Stages]:
    """At most so many chains of stages (first layer, stop layer, group) on devices that are there, cheapest first."""
    times, deepest = cheapest.pipelines.times, cheapest.pipelines.deepest
    types, layers = times.used.shape[1], cheapest.to_front.shape[1] - 1
    start = _Beginnings(np.zeros((1, types), dtype=np.int64), np.zeros(1), np.full((1, 4), -1))
    found: dict[tuple[int, int], list[_Beginnings]] = {(layers, 0): [start]}
    kept: dict[tuple[int, int], _Beginnings] = {}
    for stop in range(layers, -1, -1):
        for behind in range(deepest + 1):
            if (stop, behind) in found:
                here = _best(found.pop((stop, behind)))
                kept[stop, behind] = here
                for first, further in _ahead(cheapest, here, stop, behind) if stop else ():
                    found.setdefault((first, min(behind + 1, deepest)), []).append(further)
    ends = [
        (float(cost), behind, place)
        for behind in range(deepest + 1)
        if (0, behind) in kept and np.isfinite(cheapest.to_front[behind, 0])
        for place, cost in enumerate(kept[0, behind].cost)
    ]
    return [_walk(kept, behind, place) for _, behind, place in sorted(ends)[:count]]


def _ahead(cheapest: Cheapest, beginnings: _Beginnings, stop: int, behind: int) -> list[tuple[int, _Beginnings]]:
    """One more stage in front of each beginning, by its first layer."""
    times, ways = cheapest.pipelines.times, cheapest.ways[behind]
    begin, end = cheapest.ends[behind][stop], cheapest.ends[behind][stop + 1]
    if begin == end:
        return []
    low, high = ways.begin[begin], ways.begin[end] if end < len(ways.begin) else len(ways.group)
    first, group = times.first[ways.range_[low:high]], ways.group[low:high]
    hop = cheapest.hop_price[behind] * times.directions * times.hop_s[first]
    cost = cheapest.costs[behind][low:high] + hop
    ahead = cheapest.to_front[min(behind + 1, cheapest.pipelines.deepest), first]
    total = (beginnings.cost[:, None] + (cost + ahead)[None]).ravel()
    lightest = np.argpartition(total, LOOKED_AT)[:LOOKED_AT] if len(total) > LOOKED_AT else np.arange(len(total))
    label, way = np.divmod(lightest[np.isfinite(total[lightest])], len(cost))
    used = beginnings.used[label] + times.used[group[way]]
    there = (used <= times.available).all(axis=1)
    label, way, used = label[there], way[there], used[there]
    came = np.stack([np.full(len(way), stop), np.full(len(way), behind), label, group[way]], axis=1)
    every = _Beginnings(used, beginnings.cost[label] + cost[way], came)
    return [
        (int(cut), _Beginnings(*(each[first[way] == cut] for each in every))) for cut in np.unique(first[way]).tolist()
    ]


def _best(parts: list[_Beginnings]) -> _Beginnings:
    """The cheapest, each set of devices once."""
    used, cost, came = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = np.argsort(cost, kind="stable")[: 10 * BEAM]
    _, unlike = np.unique(used[order], axis=0, return_index=True)
    chosen = order[np.sort(unlike)[:BEAM]]
    return _Beginnings(used[chosen], cost[chosen], came[chosen])


def _walk(kept: dict[tuple[int, int], _Beginnings], behind: int, place: int) -> Stages:
    """Back from the first layer to the last."""
    stages: list[tuple[int, int, int]] = []
    first = 0
    while True:
        stop, behind_, place_, group = kept[first, behind].came[place].tolist()
        if stop < 0:
            return tuple(stages)
        stages.append((first, stop, group))
        first, behind, place = stop, behind_, place_
