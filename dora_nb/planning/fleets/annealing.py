"""Good partitions of large fleets by simulated annealing over cuts and device groups.

A state is a pipeline of a given number of stages with disjoint groups. A step moves a cut by a layer or two, swaps two
devices of unlike types, or moves a device to another stage, to the idle ones or from them. The figure is the longest
path of the pipeline's operations without waits for the network, computed from the seconds of
:class:`~dora_nb.formulation.fleets.group_times.GroupTimes`; plans are finished and predicted exactly afterwards.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dora_nb.costs.operations import Shape
from dora_nb.costs.precedence import operations_of
from dora_nb.formulation.fleets.group_times import GroupTimes
from dora_nb.planning.deadline import Deadline

#: Temperatures at the start, as parts of the figure: of states that are far from good, and of those that are good.
HOT, COLD = 0.01, 0.002


@dataclass(frozen=True)
class Partition:
    """A pipeline: where stages end, and each stage's devices, by type.

    Attributes
    ----------
    cuts
        0, the ends of all stages, the number of layers last.
    kinds
        Types of each stage's devices.
    figure_s
        Estimated makespan or load.
    """

    cuts: tuple[int, ...]
    kinds: tuple[tuple[int, ...], ...]
    figure_s: float


Figure = Callable[[Sequence[float], Sequence[float], float], float]


def longest_path(times: GroupTimes, in_flight: Sequence[int], trains: bool) -> Figure:
    """Makespan without waits for the network from the seconds of stages, and of hand-overs behind each.

    What is certain to be above a third figure is not computed, but infinite.
    """
    stages = len(in_flight)
    shape = Shape(tuple(in_flight), times.micro_batches, trains, None, (0,) * stages)
    operations = operations_of(shape)
    forward = times.forward_share[1] if trains else 1.0
    steps: list[tuple[int, int, int, int]] = []  # length, operation before on the stage, and over which hand-over
    place: dict[int, int] = {}
    over: dict[int, tuple[int, int]] = {}
    for index, (kind, before) in enumerate(zip(operations.classes, operations.predecessors, strict=True)):
        if kind.kind in ("activation", "gradient"):
            over[index] = place[before[0]], kind.stage
        elif kind.kind in ("forward", "backward"):
            own = next((place[each] for each in before if each in place), -1)
            far, hop = next((over[each] for each in before if each in over), (-1, 0))
            place[index] = len(steps)
            steps.append((2 * kind.stage + (kind.kind == "backward"), own, far, hop))

    batches, ways = times.micro_batches, times.directions
    later = forward if trains else 0.0  # of a stage's seconds, what need not follow the first round trip

    def above(seconds: Sequence[float], hop_s: Sequence[float], most: float) -> bool:
        """Whether one of two simple paths a stage is (:mod:`~dora_nb.formulation.fleets.priced_chains` says which)."""
        trip = sum(seconds) + ways * sum(hop_s)
        ahead = slowest = 0.0
        for stage, second in enumerate(seconds):
            held = in_flight[stage] if trains else 1
            slowest = max(slowest, second)
            if trip + (batches - 1 - (held - 1) * later) * second > most:
                return True
            if trains and ahead + (held - 1) * slowest + (batches - held + 1) * second > most:
                return True
            ahead += second + ways * hop_s[stage]
        return False

    def figure(seconds: Sequence[float], hop_s: Sequence[float], most: float) -> float:
        if above(seconds, hop_s, most):
            return math.inf
        durations = [part * each for each in seconds for part in (forward, 1 - forward)]
        done: list[float] = []
        for which, own, far, hop in steps:
            start = done[own] if own >= 0 else 0.0
            if far >= 0:
                arrived = done[far] + hop_s[hop]
                if arrived > start:
                    start = arrived
            done.append(start + durations[which])
        return max(done)

    return figure


@dataclass
class Annealing:
    """One run with a fixed number of stages.

    Attributes
    ----------
    times, figure
        Seconds of groups on ranges, and what is minimised.
    stages
        How many.
    seed
        Of the random moves.
    start
        Stages to begin with, which may use devices more than once: (first layer, stop layer, group) each. None:
        equally many layers a stage, the fastest devices spread evenly.
    hot
        Temperature at the start, as a part of the figure.
    best
        The best partition met so far.
    """

    times: GroupTimes
    figure: Figure
    stages: int
    seed: int
    start: Sequence[tuple[int, int, int]] | None = None
    hot: float = HOT
    best: Partition = field(init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.available = [int(count) for count in self.times.available]
        self.most = max(len(group.devices) for group in self.times.groups)
        self.layers = len(self.times.hop_s) - 1
        self._ranges = self.times.range_of.tolist()
        self._hop_s = self.times.hop_s.tolist()
        self._group_of = {
            tuple(kind for kind, count in enumerate(group.counts) for _ in range(count)): index
            for index, group in enumerate(self.times.groups)
        }
        self._start()

    def _start(self) -> None:
        alone = [
            float(self.times.seconds[self._group_of[kind,], self._ranges[0][1]]) for kind in range(len(self.available))
        ]
        devices = sorted(
            (kind for kind, count in enumerate(self.available) for _ in range(count)), key=lambda kind: alone[kind]
        )
        if self.start is None:
            placed = devices[: self.stages * self.most]
            self.kinds = [tuple(sorted(placed[stage :: self.stages])) for stage in range(self.stages)]
            self.idle = devices[self.stages * self.most :]
            self.cuts = [round(self.layers * stage / self.stages) for stage in range(self.stages + 1)]
        else:
            self._repair(self.start, devices)
        self.best = Partition(tuple(self.cuts), tuple(self.kinds), self._value(self.cuts, self.kinds, math.inf))

    def _repair(self, start: Sequence[tuple[int, int, int]], idle: list[int]) -> None:
        """Stages keep the devices that are still there; those without any get the fastest idle one."""
        self.kinds, self.idle = [], idle
        for _, _, group in start:
            kept = []
            for kind, count in enumerate(self.times.groups[group].counts):
                for _ in range(min(count, idle.count(kind))):
                    idle.remove(kind)
                    kept.append(kind)
            self.kinds.append(tuple(kept))
        for stage, kept_kinds in enumerate(self.kinds):
            missing = len(self.times.groups[start[stage][2]].devices) - len(kept_kinds)
            self.kinds[stage] = tuple(sorted((*kept_kinds, *(idle.pop(0) for _ in range(min(missing, len(idle)))))))
        used = [stage for stage, kinds in enumerate(self.kinds) if kinds]
        self.cuts = [0, *(start[stage][1] for stage in used[:-1]), self.layers]
        self.kinds = [self.kinds[stage] for stage in used]
        self.stages = len(used)

    def _value(self, cuts: Sequence[int], kinds: Sequence[tuple[int, ...]], most: float) -> float:
        seconds = [
            float(self.times.seconds[self._group_of[own], self._ranges[cuts[stage]][cuts[stage + 1]]])
            for stage, own in enumerate(kinds)
        ]
        return self.figure(seconds, [self._hop_s[cut] for cut in cuts[1:]], most)

    def run(self, steps: int, deadline: Deadline) -> Partition:
        """The best state of so many steps, or until time is up; cools down to nothing."""
        now = self._value(self.cuts, self.kinds, math.inf)
        self.best = Partition(tuple(self.cuts), tuple(self.kinds), now)
        hot = self.hot * now if math.isfinite(now) else 1.0
        for step in range(steps):
            if step % 64 == 0 and deadline.passed:
                break
            moved = self._moved()
            if moved is None:
                continue
            cuts, kinds, idle = moved
            # The figure that is just accepted, drawn first: most moves are seen to be worse at a glance.
            most = now - hot * (1 - step / steps) ** 2 * math.log(1 - self.random.random())
            value = self._value(cuts, kinds, most)
            if value <= most:
                now, self.cuts, self.kinds, self.idle = value, cuts, kinds, idle
                if value < self.best.figure_s:
                    self.best = Partition(tuple(cuts), tuple(kinds), value)
        return self.best

    def _moved(self) -> tuple[list[int], list[tuple[int, ...]], list[int]] | None:
        """A neighbour; None where the move drawn is not possible."""
        dice, cuts, kinds, idle = self.random.random(), list(self.cuts), list(self.kinds), list(self.idle)
        done = False
        if dice < 0.5 and self.stages > 1:
            done = self._move_cut(cuts)
        if 0.35 < dice < 0.85 and self.stages > 1:
            done = self._swap(kinds) or done
        elif dice >= 0.85:
            done = self._move_device(kinds, idle)
        return (cuts, kinds, idle) if done else None

    def _move_cut(self, cuts: list[int]) -> bool:
        place = self.random.randrange(1, self.stages)
        moved = cuts[place] + self.random.choice((-2, -1, -1, 1, 1, 2))
        if not cuts[place - 1] < moved < cuts[place + 1]:
            return False
        cuts[place] = moved
        return True

    def _swap(self, kinds: list[tuple[int, ...]]) -> bool:
        one, other = self.random.sample(range(self.stages), 2)
        mine, theirs = list(kinds[one]), list(kinds[other])
        at, there = self.random.randrange(len(mine)), self.random.randrange(len(theirs))
        if mine[at] == theirs[there]:
            return False
        mine[at], theirs[there] = theirs[there], mine[at]
        kinds[one], kinds[other] = tuple(sorted(mine)), tuple(sorted(theirs))
        return True

    def _move_device(self, kinds: list[tuple[int, ...]], idle: list[int]) -> bool:
        """From one place to another; the idle ones are a place as well."""
        source, target = (self.random.randrange(-1, self.stages) for _ in range(2))
        giving = idle if source < 0 else list(kinds[source])
        if source == target or len(giving) <= (source >= 0):
            return False
        kind = giving.pop(self.random.randrange(len(giving)))
        if source >= 0:
            kinds[source] = tuple(giving)
        if target < 0:
            idle.append(kind)
        elif len(kinds[target]) < self.most:
            kinds[target] = tuple(sorted((*kinds[target], kind)))
        else:  # the place is full: one of its devices makes room and is idle
            staying = list(kinds[target])
            idle.append(staying.pop(self.random.randrange(len(staying))))
            kinds[target] = tuple(sorted((*staying, kind)))
        return True
