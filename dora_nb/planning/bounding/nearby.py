"""Better plans close to known ones: the same device groups, cuts moved a little, other groups at the same places.

A bounding search over the few columns that are close to those of the best partitions known. It proves nothing, but good
incumbents are what a proof needs most: with one that is 4 % too long, it looks at five times as many pipelines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dora_nb.domain.plan import Plan
from dora_nb.formulation.columns import Columns, Considered, Screen
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.problem import Problem
from dora_nb.planning.bounding.partitions import Candidates

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
    """Where the stages of plans are, on devices of the problem's cluster."""
    ids, fleet = problem.cluster.device_ids, problem.fleet
    kind_of = {ids[member]: kind for kind, members in enumerate(fleet.types) for member in members}
    stages = [
        (sum(fleet.radix[kind_of[name]] for name in stage.devices), stage.first_layer, stage.stop_layer)
        for plan in plans
        for stage in plan.stages
    ]
    return np.array(sorted(set(stages)), dtype=np.int64).reshape(-1, 3)


class Near:
    """Stages on the same devices as some places, whose cuts are close to those of one of them.

    Parameters
    ----------
    places
        Codes of devices, first layers and stop layers. Shape (places, 3).
    """

    def __init__(self, places: Ints) -> None:
        by_code = places[np.argsort(places[:, 0], kind="stable")]
        by_group = np.split(by_code, np.flatnonzero(np.diff(by_code[:, 0])) + 1)
        self._cuts = {int(own[0, 0]): own[:, 1:] for own in by_group if len(own)}

    @property
    def codes(self) -> Ints:
        """Codes of the devices, ascending."""
        return np.array(list(self._cuts), dtype=np.int64)

    def close(self, code: Ints, first: Ints, stop: Ints) -> NDArray[np.bool_]:
        """Which layer ranges on the devices of codes are close."""
        close = np.zeros(len(first), dtype=bool)
        for own_code, cuts in self._cuts.items():
            own = np.flatnonzero(code == own_code)
            near_first = np.abs(first[own, None] - cuts[:, 0]) <= FURTHEST
            near_stop = np.abs(stop[own, None] - cuts[:, 1]) <= FURTHEST
            close[own] = (near_first & near_stop).any(axis=1)
        return close

    def columns(self, columns: Columns) -> Columns:
        """The columns that are close, of some."""
        return columns.take(self.close(columns.code, columns.first, columns.stop))

    def screen(self, screen: Screen) -> Screen:
        """Leaves out all that is not close, and what another screen does; it sets nothing aside."""

        def may_matter(stages: Considered) -> NDArray[np.bool_]:
            close = self.close(stages.code, stages.first, stages.stop)
            return close & screen(stages) if close.any() else np.zeros(stages.both_s.shape, dtype=bool)

        return may_matter
