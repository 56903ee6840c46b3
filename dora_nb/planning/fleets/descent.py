"""Good partitions of a few stages by steepest descent from many beginnings.

All neighbours of a state are looked at together: two devices of unlike types change places, or a device moves to
another stage, to the idle ones or from them, and a cut moves by a layer or two, with either or alone. Their makespans
are those of the rows that every pipeline meets (:mod:`~dora_nb.formulation.fleets.pipeline_rows`), one product of
matrices for all of them. Where none is better, a few devices change places at random, and the descent begins again.

Our own design; an iterated local search (Lourenço, Martin and Stützle 2003).
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.fleets.group_times import GroupTimes
from dora_nb.formulation.fleets.pipeline_rows import PipelineRows
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.fleets.annealing import Partition

#: Layers that a cut moves at most.
FAR = 2

#: Pairs of devices that change places at random, and how much worse a state may become by it and the descent after it.
KICKED, WORSE = 2, 1.002

Places = tuple[tuple[int, ...], ...]


class _State(NamedTuple):
    """Where stages end, the types of each stage's devices and of the idle ones last, and the rows' makespan."""

    cuts: tuple[int, ...]
    places: Places
    figure_s: float


class Descent:
    """One run with a fixed number of stages.

    Parameters
    ----------
    times
        Seconds of groups on ranges.
    rows
        Of pipelines of the depth and number of stages sought.
    start
        State to begin with.
    seed
        Of the random changes.
    """

    def __init__(self, times: GroupTimes, rows: PipelineRows, start: Partition, seed: int) -> None:
        self.times, self.rows, self.stages = times, rows, len(start.kinds)
        self._random = random.Random(seed)
        self._most = max(len(group.devices) for group in times.groups)
        self._group_of = {
            tuple(kind for kind, count in enumerate(group.counts) for _ in range(count)): index
            for index, group in enumerate(times.groups)
        }
        self._moves = _moves(self.stages - 1)
        idle = Counter(dict(enumerate(times.available.tolist())))
        idle.subtract(itertools.chain(*start.kinds))
        self._begin = _State(start.cuts, (*start.kinds, tuple(idle.elements())), math.inf)

    def run(self, kicks: int, deadline: Deadline) -> Partition:
        """The best state after so many random changes, or when time is up; its figure is what the rows say."""
        now = best = self._down(self._begin)
        for _ in range(kicks):
            if deadline.passed:
                break
            found = self._down(_State(now.cuts, self._kicked(now.places), math.inf))
            now = found if found.figure_s <= WORSE * now.figure_s else now
            best = min(best, found, key=lambda state: state.figure_s)
        return Partition(best.cuts, best.places[:-1], best.figure_s)

    def _down(self, state: _State) -> _State:
        """The best neighbour of the best neighbour and so on, until none is better."""
        while True:
            found = self._best(list(self._exchanged(state.places)), state.cuts)
            if not found.figure_s < state.figure_s:
                return state if math.isfinite(state.figure_s) else found
            state = found

    def _best(self, places: Sequence[Places], cuts: Sequence[int]) -> _State:
        """The best of some distributions of devices with the cuts moved in every way."""
        groups = np.array([[self._group_of[each] for each in own[:-1]] for own in places])
        moved = np.array([cuts]).repeat(len(self._moves), axis=0)
        moved[:, 1:-1] += self._moves
        moved = moved[(np.diff(moved, axis=1) > 0).all(axis=1)]
        ranges = self.times.range_of[moved[:, :-1], moved[:, 1:]]
        seconds = self.times.seconds[groups[:, None], ranges[None]].reshape(-1, self.stages)
        able = np.isfinite(seconds).all(axis=1)
        figures_s = np.where(able, self.rows.least_s(np.where(able[:, None], seconds, 0.0)), np.inf)
        least = int(figures_s.argmin())
        which, how = divmod(least, len(moved))
        return _State(tuple(moved[how].tolist()), places[which], float(figures_s[least]))

    def _exchanged(self, places: Places) -> Iterator[Places]:
        """The places as they are, and with two devices exchanged or one moved."""
        yield places
        for one, other in itertools.combinations(range(len(places)), 2):
            for mine, theirs in itertools.product(set(places[one]), set(places[other])):
                if mine != theirs:
                    yield _with(places, {one: ((mine,), (theirs,)), other: ((theirs,), (mine,))})
            for source, target in ((one, other), (other, one)):
                gives = source == self.stages or len(places[source]) > 1
                if gives and (target == self.stages or len(places[target]) < self._most):
                    for kind in set(places[source]):
                        yield _with(places, {source: ((kind,), ()), target: ((), (kind,))})

    def _kicked(self, places: Places) -> Places:
        """With a few devices in each other's place."""
        for _ in range(KICKED):
            held = [place for place, own in enumerate(places) if own]
            if len(held) > 1:
                one, other = self._random.sample(held, 2)
                mine, theirs = self._random.choice(places[one]), self._random.choice(places[other])
                places = _with(places, {one: ((mine,), (theirs,)), other: ((theirs,), (mine,))})
        return places


def _moves(cuts: int) -> Ints:
    """By how many layers each cut moves, a row a way, none first."""
    each = np.eye(cuts, dtype=np.int64)
    far = [layers for layers in range(-FAR, FAR + 1) if layers]
    return np.concatenate([np.zeros((1, cuts), dtype=np.int64), *(layers * each for layers in far)])


def _with(places: Places, changes: dict[int, tuple[tuple[int, ...], tuple[int, ...]]]) -> Places:
    """Places that lose some devices and get others."""
    changed = list(places)
    for place, (lost, got) in changes.items():
        left = list(places[place])
        for kind in lost:
            left.remove(kind)
        changed[place] = tuple(sorted((*left, *got)))
    return tuple(changed)
