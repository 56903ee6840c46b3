"""The best lower bound on makespans that boxes of stage seconds prove, for fleets that fill a few stages.

Pipelines are told apart by in-flight depth and number of stages; all of more than R stages are one kind. Of each kind,
the seconds that its stages may take are cut into boxes, halved again and again. A box is refuted if its lower ends do
not keep the makespan asked about (:mod:`~dora_nb.formulation.fleets.pipeline_rows`), or if the lightest chain within
its upper ends weighs more than all devices (:mod:`~dora_nb.formulation.fleets.boxed_chains`). Between these, upper ends
shrink to what the rows leave. Weights that refute a box are sought by mixing the lightest chains met in it. In a small
box that no weights refute, all chains on disjoint devices are listed: one that is faster than the makespan is a plan;
without any, the box is refuted as well. So the bound can reach the best plan, up to waits for the network.

Our own design: a branch and bound over seconds, with Lagrangian weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from dora_nb.domain.qoe import ROUNDING
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.fleets.boxed_chains import LEVELS, TOO_HEAVY, Levels, Weighed
from dora_nb.formulation.fleets.group_times import GroupTimes
from dora_nb.formulation.fleets.pipeline_rows import Kind, PipelineRows
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.fleets.box_pricing import refuting
from dora_nb.planning.fleets.chain_listing import listed_chains
from dora_nb.planning.fleets.period_bound import scaled, speeds

#: Part of the makespan in hand that is refuted first: if time is up, this holds.
FIRST = 0.9

#: A step half-way to what is asked took about so many times as long as that one (measured on six fleets of 16 unlike
#: devices). That time is kept for it, should the last step not end, where it is at most such a share of what is left.
HALF_WAY, MOST_KEPT = 5.0, 0.2

#: Stages told apart beyond those that all devices fill.
MORE_TOLD = 3

#: Boxes looked at together, boxes left between two searches for weights, and weights asked.
BATCH, PATIENCE, ASKED = 512, 200, 4

#: Boxes of at most so many levels a side have their chains listed.
SMALL = 6

Stages = list[tuple[int, int, int]]


@dataclass
class BoxBound:
    """Makespans that no plan of one micro-batch size has.

    Attributes
    ----------
    times
        Seconds of groups on ranges.
    depths
        In-flight depths.
    trains
        Whether there are backward passes.
    deadline
        After it nothing more is proven.
    on_chain
        Told each chain of stages on disjoint devices that may be faster than what is asked, with its depth; says how
        long its longest path is.
    boxes
        How many were looked at.
    """

    times: GroupTimes
    depths: tuple[int, ...]
    trains: bool
    deadline: Deadline
    on_chain: Callable[[Stages, int], float]
    boxes: int = field(default=0, init=False)
    _weighed: list[Weighed] = field(default_factory=list, init=False)

    def begin(self, most_s: float) -> None:
        """Before anything is asked, and whenever more than this will be asked."""
        self._weighed = [Weighed(Levels(self.times, most_s), scaled(self.times, speeds(self.times)))]

    def proven_s(self, asked: Callable[[], float]) -> float:
        """No plan is faster than this; not more than is asked at the end, which may only have shrunk."""
        return min((self._of_kind_s(kind, rows, asked) for kind, rows in self._rows.items()), default=asked())

    @cached_property
    def _rows(self) -> dict[Kind, PipelineRows]:
        """Few stages first, in-flight depths that are alike once."""
        batches, layers = self.times.micro_batches, len(self.times.hop_s) - 1
        longest, told = min(layers, int(self.times.available.sum())), filled_stages(self.times) + MORE_TOLD
        kinds = [Kind(depth, stages, False) for stages in range(1, min(told, longest) + 1) for depth in self.depths]
        if told < longest:
            kinds += [Kind(depth, told, True) for depth in self.depths]
        unlike = {(each.in_flight(batches), each.more): each for each in kinds}.values()
        return {kind: PipelineRows.of(self.times, kind, self.trains) for kind in unlike}

    def _of_kind_s(self, kind: Kind, rows: PipelineRows, asked: Callable[[], float]) -> float:
        """What is asked if all of a kind is refuted, else what the boxes and chains left cannot be below."""
        if self.deadline.passed:
            return 0.0
        unit_s = self._weighed[-1].levels.unit_s
        top = np.full((1, rows.weights.shape[1]), LEVELS)
        if kind.more:
            top[0, 0] *= self.times.micro_batches
        stack, open_s, patience = [(np.zeros_like(top), top)], [math.inf], PATIENCE
        while stack and not self.deadline.passed:
            asked_s = asked()
            low, high = _taken(stack)
            self.boxes += len(low)
            low, high = self._left(kind, rows, low, high, asked_s)
            halved = np.ones(len(low), dtype=bool)
            if len(low) and not kind.more:
                narrowest = int((high - low).max(axis=1).argmin())
                small = (high - low)[narrowest].max() <= SMALL
                patience -= len(low)
                if small or patience <= 0:
                    patience = PATIENCE
                    found = refuting(self._weighed[-1], kind, high[narrowest])
                    if found is not None:
                        self._weighed.append(found)
                        stack.append((low, high))
                        continue
                    if small:
                        least_s = self._listed_s(kind, rows, high[narrowest], asked_s)
                        open_s.append(math.inf if least_s is None else least_s)
                        halved[narrowest] = least_s is None
            for box in np.flatnonzero(halved & ((high - low).max(axis=1, initial=0) <= 1)):
                least_s = None if kind.more else self._listed_s(kind, rows, high[box], asked_s)
                open_s.append(float(rows.least_s(low[box] * unit_s)) if least_s is None else least_s)
                halved[box] = False
            if halved.any():
                stack.append(_halves(rows, low[halved], high[halved]))
        open_s += [float(rows.least_s(low * unit_s).min()) for low, _ in stack]
        return min(asked(), *open_s)

    def _left(self, kind: Kind, rows: PipelineRows, low: Ints, high: Ints, asked_s: float) -> tuple[Ints, Ints]:
        """Boxes that neither rows nor the newest weights refute, tightened."""
        unit_s = self._weighed[-1].levels.unit_s
        low, high = _tightened(rows, kind, low, high, asked_s, unit_s)
        low = self._raised(kind, low, high)
        low, high = _tightened(rows, kind, low, high, asked_s, unit_s)
        for weighed in self._weighed[: -ASKED - 1 : -1]:
            if not len(low):
                break
            kept = weighed.least(kind, high) <= TOO_HEAVY
            low, high = low[kept], high[kept]
        return low, high

    def _raised(self, kind: Kind, low: Ints, high: Ints) -> Ints:
        """Lower ends at the middle where all that is below is too heavy."""
        if not len(low):
            return low
        middle = (low + high) // 2
        weight = self._weighed[-1].lower(kind, middle, high)
        return np.where((weight > TOO_HEAVY) & (middle > low), middle, low)

    def _listed_s(self, kind: Kind, rows: PipelineRows, high: Ints, asked_s: float) -> float | None:
        """The least that a chain within levels takes, of those below what is asked; None if they are too many."""
        chains = listed_chains(self._weighed[-1], high)
        if not chains:
            return None if chains is None else math.inf
        seconds = [
            [self.times.seconds[group, self.times.range_of[first, stop]] for first, stop, group in each]
            for each in chains
        ]
        paths_s = rows.least_s(np.array(seconds))
        faster = np.flatnonzero(paths_s < asked_s)
        return min(
            (max(paths_s[place], self.on_chain(chains[place], kind.depth)) for place in faster), default=math.inf
        )


def filled_stages(times: GroupTimes) -> int:
    """Stages that all devices fill, as many on each as there may be."""
    return math.ceil(int(times.available.sum()) / max(len(group.devices) for group in times.groups))


def boxes_proven_s(
    bounds: Sequence[BoxBound], gap: float, best_s: Callable[[], float], on_bound: Callable[[float], None]
) -> float:
    """No plan of any micro-batch size is faster than this.

    Parameters
    ----------
    bounds
        Of all micro-batch sizes.
    gap
        Relative gap to the best makespan that is good enough.
    best_s
        Best makespan in hand, which may shrink on the way.
    on_bound
        Told each better bound.
    """
    found_s, last, deadline = 0.0, 1 - gap, bounds[0].deadline
    for each in bounds:
        each.begin(last * best_s())

    def refute(part: float, until: Deadline) -> None:
        nonlocal found_s
        for each in bounds:
            each.deadline = until
        found_s = max(found_s, min(each.proven_s(lambda: part * best_s()) for each in bounds))
        on_bound(found_s)

    began_s, until = time.monotonic(), deadline
    if last > FIRST:
        refute(FIRST, deadline)
        kept_s, left_s = HALF_WAY * (time.monotonic() - began_s), deadline.remaining_s
        if left_s is not None and kept_s <= MOST_KEPT * left_s:
            until = replace(deadline, at_s=deadline.at_s - kept_s)
    if not deadline.passed:
        refute(last, until)
    if until.passed and found_s < last * best_s() * (1 - ROUNDING) and not deadline.passed:
        refute((FIRST + last) / 2, deadline)
    return found_s


def _taken(stack: list[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    """The last boxes of a stack, at most a batch."""
    low, high = stack.pop()
    while stack and len(low) < BATCH:
        more_low, more_high = stack.pop()
        low, high = np.concatenate([more_low, low]), np.concatenate([more_high, high])
    if len(low) > BATCH:
        stack.append((low[:-BATCH], high[:-BATCH]))
    return low[-BATCH:], high[-BATCH:]


def _tightened(
    rows: PipelineRows, kind: Kind, low: Ints, high: Ints, asked_s: float, unit_s: float
) -> tuple[Ints, Ints]:
    """Boxes that may keep the makespan asked about, upper ends as low as rows let them be."""
    if kind.more:  # all stages in front together take no less than the slowest of them
        low[:, 0] = np.maximum(low[:, 0], low[:, 1])
    slack_s = asked_s * (1 + 1e-9) - low * unit_s @ rows.weights.T - rows.hops_s
    kept = (slack_s >= 0).all(axis=1)
    low, high, slack_s = low[kept], high[kept], slack_s[kept]
    with np.errstate(divide="ignore"):
        room = (slack_s[:, :, None] / np.where(rows.weights > 0, rows.weights * unit_s, 0.0)).min(axis=1)
    high = np.minimum(high, np.ceil(np.minimum(low + room, high)).astype(np.int64))
    kept = (high > low).all(axis=1)
    return low[kept], high[kept]


def _halves(rows: PipelineRows, low: Ints, high: Ints) -> tuple[Ints, Ints]:
    """Both halves of boxes, across the side that is widest for what the rows say."""
    boxes = np.arange(len(low))
    side = np.where(high - low > 1, (high - low) * rows.weights.max(axis=0), -1.0).argmax(axis=1)
    middle = (low[boxes, side] + high[boxes, side]) // 2
    below, above = high.copy(), low.copy()
    below[boxes, side], above[boxes, side] = middle, middle
    return np.concatenate([low, above]), np.concatenate([below, high])
