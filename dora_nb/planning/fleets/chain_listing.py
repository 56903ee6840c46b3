"""All chains of stages on disjoint devices within a box of seconds, if there are few enough."""

from __future__ import annotations

import numpy as np

from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.fleets.boxed_chains import SINGLE, TOO_HEAVY, Weighed

#: Beginnings and their next stages looked at together, above which the list is given up.
MOST = 20_000


def listed_chains(weighed: Weighed, most: Ints) -> list[list[tuple[int, int, int]]] | None:
    """Chains of stages (first layer, stop layer, group) within levels, one for each stage; None if too many.

    What is too heavy with the lightest stages behind it is no part of such a chain: its devices would not be there.
    """
    levels, times = weighed.levels, weighed.levels.times
    weight, behind = times.used @ weighed.weights, weighed.behind(most)
    layers = len(times.hop_s) - 1
    used, carried = np.zeros((1, times.used.shape[1]), dtype=np.int64), np.zeros(1)
    at, came = np.zeros(1, dtype=np.int64), np.zeros((1, 0, 3), dtype=np.int64)
    for stage, level in enumerate(most):
        parts, lightest = [], weighed.of_ranges(int(level))
        for first in np.unique(at):
            labels = np.flatnonzero(at == first)
            stops = np.flatnonzero(np.isfinite(behind[stage + 1]) & (np.arange(layers + 1) > first))
            most_left, ranges = TOO_HEAVY - carried[labels].min(), times.range_of[first, stops]
            stops = stops[lightest[ranges] + behind[stage + 1, stops] <= most_left + SINGLE]
            if not len(stops):
                continue
            rest = weight + behind[stage + 1, stops][:, None]
            able = levels.by_range[times.range_of[first, stops]] <= level
            stop, group = np.nonzero(able & (rest <= most_left))
            if len(labels) * len(group) > MOST:
                return None
            label, way = np.nonzero(carried[labels][:, None] + rest[stop, group][None] <= TOO_HEAVY)
            label = labels[label]
            total = used[label] + times.used[group[way]]
            there = np.flatnonzero((total <= times.available).all(axis=1))
            label, way = label[there], way[there]
            added = np.stack([np.full(len(way), first), stops[stop[way]], group[way]], axis=1)
            parts.append((total[there], carried[label] + weight[group[way]], added, label))
        if not parts:
            return []
        used, carried, added, label = (np.concatenate(each) for each in zip(*parts, strict=True))
        came, at = np.concatenate([came[label], added[:, None]], axis=1), added[:, 1]
        if len(at) > MOST:
            return None
    return [[(int(first), int(stop), int(group)) for first, stop, group in each] for each in came[at == layers]]
