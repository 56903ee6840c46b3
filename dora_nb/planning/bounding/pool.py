"""Stage columns kept from search to search: made once, and screened again for every question.

Which columns a search needs depends on its limits and incumbents. All that may matter to it lies in a *region* of the
figures (makespan, energy, value): some boxes that begin at zero. Columns made for one region serve every question whose
own region lies inside: what was left out then matters to none of its plans, and bounds them from below.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple, get_args

import numpy as np

from dora_nb.domain.qoe import ROUNDING
from dora_nb.formulation.columns import Columns, build_columns
from dora_nb.formulation.problem import Problem
from dora_nb.planning.bounding.nearby import Near
from dora_nb.planning.bounding.screening import Within, screen, screened
from dora_nb.planning.bounding.targets import Figure, Ladder, Targets
from dora_nb.planning.deadline import Deadline

#: Columns of one group size that are kept, and how many such sets of a size.
MOST_KEPT, MOST_SETS = 400_000, 2

#: By how much a region is made larger, so that questions that break ties lie inside as well.
_MARGIN = 1e-3


class Box(NamedTuple):
    """Figures up to these may matter to one question."""

    makespan_s: float
    energy_j: float
    value: float

    def holds(self, other: Box, but: str = "") -> bool:
        """Whether another box is inside, one figure perhaps not looked at."""
        names = [name for name in Box._fields if name != but]
        return all(getattr(self, name) >= getattr(other, name) for name in names)


def box(targets: Targets, ladder: Ladder, place: int) -> Box:
    """The figures that may matter to one of the questions."""
    most = {name: targets.limit(name) * (1 + ROUNDING) for name in get_args(Figure)}
    most[ladder.within] = min(most[ladder.within], float(ladder.limits[place]) * (1 + ROUNDING))
    most[ladder.least] = min(most[ladder.least], float(ladder.best[place]) * (1 - targets.tolerance))
    return Box(**most)


@dataclass(frozen=True)
class Made:
    """Columns of groups of one size.

    Attributes
    ----------
    columns
        Those that may matter in a region.
    targets
        The questions of the region; their floors are those of the columns left out.
    boxes
        The region; none where time was up before all its columns were made.
    """

    columns: Columns
    targets: Targets
    boxes: tuple[Box, ...]

    def covers(self, targets: Targets) -> bool:
        """Whether all that may matter to some questions is in the region.

        What is known of how long plans take, by which columns were left out, is known of theirs as well.
        """
        if targets.floor_s < self.targets.floor_s:
            return False
        asked = (box(targets, ladder, place) for ladder in targets.asked for place in range(len(ladder.limits)))
        return all(any(own.holds(each) for own in self.boxes) for each in asked)

    def serve(self, problem: Problem, targets: Targets) -> Columns:
        """The columns that may matter to questions inside the region, which are told of all that is left out.

        Whatever is left out of the region is outside all of its boxes: if a box is at least as large as a question's
        in all figures but the one that is asked for, what keeps the question's limits is beyond the box in that one.
        Also, where the region allows as much, no bound that was left out and keeps a limit was below the floor of that
        limit, or of a looser one. What is beyond the largest makespan or energy allowed is no plan of the question.
        """
        for ladder in targets.asked:
            floors = [self._floor(targets, ladder, place) for place in range(len(ladder.limits))]
            np.minimum(ladder.floor, floors, out=ladder.floor)
        return screened(self.columns, problem, targets)

    def _floor(self, targets: Targets, ladder: Ladder, place: int) -> float:
        own = box(targets, ladder, place)
        beyond: list[float] = [getattr(each, ladder.least) for each in self.boxes if each.holds(own, but=ladder.least)]
        allowed = all(self.targets.limit(name) >= targets.limit(name) for name in get_args(Figure))
        for other in self.targets.asked if allowed else ():
            looser = np.flatnonzero(other.limits >= ladder.limits[place])
            if (other.least, other.within) == (ladder.least, ladder.within) and len(looser):
                beyond.append(float(other.floor[looser[0]]))
        least = max(beyond)
        return np.inf if least >= targets.limit(ladder.least) * (1 + ROUNDING) else least


@dataclass
class Pool:
    """The columns of one problem, by size of the groups that run a stage."""

    _made: dict[int, list[Made]] = field(default_factory=dict)

    def columns(self, problem: Problem, most_devices: int, targets: Targets, deadline: Deadline | None) -> Columns:
        """The columns that may matter to some questions; what is left out is in the questions' bounds.

        Parameters
        ----------
        problem
            With the limits of single devices for which the pool is.
        most_devices
            Devices of a stage.
        targets
            The questions.
        deadline
            After it nothing more is made; None: all is.
        """
        sizes = _sizes(problem, most_devices)
        within = Within.of(problem, _region(targets))
        return Columns.beside([self._of_size(problem, size, targets, deadline, within) for size in sizes])

    def columns_near(self, problem: Problem, near: Near, targets: Targets, deadline: Deadline | None) -> Columns:
        """Columns that are close to known places: made for themselves where the others are not there yet."""
        parts, within = [], Within.of(problem, targets)
        devices = problem.fleet.used.sum(axis=1)
        for size in _sizes(problem, problem.space.most_devices):
            made = self._covering(size, targets)
            codes = near.codes[devices[near.codes] == size].tolist()
            if made is not None:
                parts.append(screened(near.columns(made.columns), problem, targets))
            elif codes or not (parts or near.codes.size):
                few = near.screen(screen(problem, targets, deadline, within))
                parts.append(build_columns(problem, size, few, least_devices=size, codes=codes or None))
        return Columns.beside(parts)

    def _covering(self, size: int, targets: Targets) -> Made | None:
        kept = self._made.setdefault(size, [])
        for place, made in enumerate(kept):
            if made.covers(targets):
                kept.insert(0, kept.pop(place))
                return made
        return None

    def _of_size(
        self, problem: Problem, size: int, targets: Targets, deadline: Deadline | None, within: Within
    ) -> Columns:
        known = self._covering(size, targets)
        if known is not None:
            return known.serve(problem, targets)
        region = _region(targets)
        columns = build_columns(problem, size, screen(problem, region, deadline, within), least_devices=size)
        boxes = (box(region, ladder, place) for ladder in region.asked for place in range(len(ladder.limits)))
        late = deadline is not None and deadline.passed
        made = Made(columns, region, () if late else tuple(boxes))
        if not late and len(columns) <= MOST_KEPT:
            self._made[size] = [made, *self._made[size]][:MOST_SETS]
        return made.serve(problem, targets)


def _sizes(problem: Problem, most_devices: int) -> range:
    """Of groups that may run a stage."""
    shared_out = max(max(problem.space.micro_batch_sizes), problem.space.shards)
    return range(1, min(most_devices, len(problem.cluster.devices), shared_out) + 1)


def _region(targets: Targets) -> Targets:
    """Questions with room for those that usually follow: ties, and limits between the limits.

    Within a limit between two others the best plan takes at most what the best within the tighter of them does.
    """
    region = replace(
        targets, tolerance=0.0, further=tuple(Ladder(each.least, each.within, each.limits) for each in targets.further)
    )
    for ladder, own in zip(region.asked, targets.asked, strict=True):
        ladder.best[:] = own.best * (1 + _MARGIN)
        if len(own.limits) > 1:
            ladder.best[1:], ladder.best[0] = ladder.best[:-1].copy(), np.inf
    return region
