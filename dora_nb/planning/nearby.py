"""Better plans close to known ones: the same device groups, cuts moved a little, other groups at the same places.

A bounding search over the few columns that are close to those of the best partitions known. It proves nothing, but good
incumbents are what a proof needs most: with one that is 4 % too long, it looks at five times as many pipelines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from dora_nb.domain.plan import Plan
from dora_nb.formulation.columns import Columns
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.problem import Problem
from dora_nb.planning.partitions import Candidates

#: How many of the best partitions are looked around, by how many layers their cuts may move, and labels a search keeps.
MOST_PARTITIONS, FURTHEST, MOST_LABELS = 100, 3, 3_000


def places_of(candidates: Iterable[Candidates], figure: str) -> Ints:
    """Where the stages of the best partitions are: code of the devices, first layer and stop layer, each once.

    Parameters
    ----------
    candidates
        Complete partitions of searches.
    figure
        By which they are judged.
    """
    found = [each for each in candidates if len(each.chosen)]
    values = [getattr(each, figure).tolist() for each in found]
    ranked = sorted((value, at, row) for at, own in enumerate(values) for row, value in enumerate(own))
    stages = []
    for _, at, row in ranked[:MOST_PARTITIONS]:
        columns, chosen = found[at].columns, found[at].chosen[row]
        stages.append(np.stack([columns.code[chosen], columns.first[chosen], columns.stop[chosen]], axis=1))
    return np.unique(np.concatenate(stages), axis=0) if stages else np.zeros((0, 3), dtype=np.int64)


def places_of_plans(plans: Sequence[Plan], problem: Problem) -> Ints:
    """The same of plans on devices of the problem's cluster."""
    ids, fleet = problem.cluster.device_ids, problem.fleet
    kind_of = {ids[member]: kind for kind, same in enumerate(fleet.types) for member in same}
    stages = [
        (sum(fleet.radix[kind_of[name]] for name in stage.devices), stage.first_layer, stage.stop_layer)
        for plan in plans
        for stage in plan.stages
    ]
    return np.array(sorted(set(stages)), dtype=np.int64).reshape(-1, 3)


def near(columns: Columns, places: Ints) -> Columns:
    """The columns on the same devices whose cuts are close to those of some place."""
    by_code = np.argsort(places[:, 0], kind="stable")
    close = np.zeros(len(columns), dtype=bool)
    for some in np.split(by_code, np.flatnonzero(np.diff(places[by_code, 0])) + 1):
        if not len(some):
            continue
        own = np.flatnonzero(columns.code == places[some[0], 0])
        first = np.abs(columns.first[own][:, None] - places[some, 1]) <= FURTHEST
        stop = np.abs(columns.stop[own][:, None] - places[some, 2]) <= FURTHEST
        close[own[(first & stop).any(axis=1)]] = True
    return columns.take(close)
