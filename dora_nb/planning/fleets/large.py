"""Planning for fleets and depths of layers too large for the label search, which lists sets of devices.

Only what is asked for there is sought: the shortest makespan, on a network of one medium or switch (the largest rate of
a stream: :mod:`~dora_nb.planning.fleets.stream`). Good plans come from annealing, and from descents where all devices
fill a few stages; proofs from chains of stages with priced devices: of boxes of stage seconds there, of classes of
plans where they fill more. What is left of a class that is not refuted leads to better plans. All look at devices by
type and at groups of a few of them, so that none grows with the number of sets of devices.
The answer is a plan like any other, scheduled by list and predicted exactly; its certificate says how it was proven.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from dora_nb.domain.plan import Plan
from dora_nb.errors import InputError
from dora_nb.formulation.columns import Columns, stage_columns
from dora_nb.formulation.decode import decode
from dora_nb.formulation.fleets.group_times import GroupTimes
from dora_nb.formulation.fleets.pipeline_rows import Kind, PipelineRows
from dora_nb.formulation.problem import Problem
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.fleets.annealing import COLD, HOT, Annealing, Figure, Partition, longest_path
from dora_nb.planning.fleets.answer import LatencyHunt, refuse_other_questions
from dora_nb.planning.fleets.box_bound import BoxBound, boxes_proven_s, filled_stages
from dora_nb.planning.fleets.chain_packing import packed_chains
from dora_nb.planning.fleets.class_bound import ClassBound, class_bounds, proven_s
from dora_nb.planning.fleets.descent import Descent
from dora_nb.units import format_seconds

#: Sets of devices, and pairs of a group and a range of layers, up to which the label search is asked.
MOST_CODES, MOST_PAIRS = 50_000, 500_000

#: Steps of annealing: to compare numbers of stages; after chains are packed.
SHORT_STEPS, PACKED_STEPS = 1_500, 2_500

#: Numbers of stages, and of these with depths, that descents begin from.
PROMISING = 3

#: Random changes on the way of a descent: to compare depths, then for the best of them, from so many seeds.
FEW_KICKS, MANY_KICKS, BEGINNINGS = 2, 20, 2

#: Part of the time that may be spent on good plans; the rest is for the proof.
LOOKING = 0.3

#: Chains packed for a class of plans that could not be refuted, and how many unlike ones are annealed how often.
PACKED, UNLIKE, SEEDS = 30, 6, 3

#: Partitions up to this many times the best makespan are scheduled; their figures are estimates.
NEAR = 1.02

#: Fleets that fill at most so many stages are bounded by boxes of seconds, others by classes of plans.
FEW_STAGES = 6

#: Forward shares that differ by less are the same, so that a figure of one share is exact.
SAME_SHARE = 1e-9

METHOD = "annealing, descents and chains of stages with priced device types"


def is_large(problem: Problem) -> bool:
    """Whether the label search is not worth trying: its arrays or its columns would be too many."""
    fleet, layers = problem.fleet, len(problem.workload.layers)
    groups = sum(fleet.groups_by_size[1 : problem.space.most_devices + 1])
    return fleet.codes > MOST_CODES or groups * layers * (layers + 1) / 2 > MOST_PAIRS


def check_no_shards(problem: Problem) -> None:
    """Refuse shards where the exact search is not tried.

    Raises
    ------
    InputError
        If stages may have shards.
    """
    if problem.space.shards > 1:
        allowed = f"1 on {len(problem.cluster.devices)} devices, too many for the exact search; or fewer devices"
        raise InputError("shards", problem.space.shards, allowed)


def check_large(problem: Problem, modes: tuple[str, ...] = ("training", "inference")) -> None:
    """Refuse what cannot be asked of a large fleet.

    Raises
    ------
    InputError
        That says which questions can.
    """
    single = problem.network.single
    others = {
        "tied_parameters": (problem.workload.tied_parameters, not problem.workload.tied_parameters),
        "weights": (problem.space.weights, not problem.space.weights),
        "mode": (problem.workload.mode, problem.workload.mode in modes),
        "cluster": (problem.cluster.name, single is not None and single.kind in ("shared", "switch")),
    }
    refuse_other_questions(
        problem,
        others,
        f"of {len(problem.fleet.types)} types, too many for the exact search: the lowest latency, without limits on "
        "energy, batteries or prices, of training or inference without tied parameters on one medium or switch; or "
        "fewer devices, fewer replicas a stage",
    )


@dataclass
class LargeHunt(LatencyHunt):
    """The steps of an answer, in the order they are taken."""

    _kept_s: float = field(default=math.inf, init=False)

    def __post_init__(self) -> None:
        check_large(self.problem)

    def run(self) -> None:
        """Find plans, then prove how good they are."""
        sizes = self.problem.space.micro_batch_sizes
        self.say(f"pricing {sum(self.problem.fleet.groups_by_size[1 : self.problem.space.most_devices + 1]):,} groups")
        times = self._times = {size: GroupTimes.of(self.problem, size) for size in sizes}
        self._look(times)
        if self.best is None:
            return
        self.on_bound(self.best_s, 0.0)
        self.say(f"proving how good {format_seconds(self.best_s)} is")
        self.bound_s = min(self._proven_s(list(times.values())), self.best_s)
        self.on_bound(self.best_s, self.bound_s)

    def _proven_s(self, times: Sequence[GroupTimes]) -> float:
        """No plan is faster than this; plans met on the way are kept."""
        depths, trains = self._depths, self.problem.workload.trains

        def on_bound(bound_s: float) -> None:
            self.on_bound(self.best_s, bound_s)

        if self._many_stages:
            classes = [bound for each in times for bound in class_bounds(each, depths, trains, self.deadline)]
            return proven_s(classes, self.gap, lambda: self.best_s, self._pack, on_bound)
        boxes = [BoxBound(each, depths, trains, self.deadline, partial(self._keep, each)) for each in times]
        return boxes_proven_s(boxes, self.gap, lambda: self.best_s, on_bound)

    def _keep(self, times: GroupTimes, stages: Sequence[tuple[int, int, int]], depth: int) -> float:
        """How long the longest path of a chain on disjoint devices is at least; the fastest so far is finished."""
        seconds = [float(times.seconds[group, times.range_of[first, stop]]) for first, stop, group in stages]
        hops_s = [float(times.hop_s[stop]) for _, stop, _ in stages]
        figure_s = self._figure(times, len(stages), depth)(seconds, hops_s, math.inf)
        if figure_s < self._kept_s:
            self._kept_s = figure_s
            kinds = [np.repeat(np.arange(len(times.available)), times.used[group]).tolist() for *_, group in stages]
            cuts = (0, *(stop for _, stop, _ in stages))
            self._finish(Partition(cuts, tuple(map(tuple, kinds)), figure_s), times.micro_batch, depth)
        least, largest = times.forward_share
        return figure_s if largest - least < SAME_SHARE else 0.0

    def _pack(self, bound: ClassBound) -> None:
        """Plans of a class that could not be refuted; the fastest are annealed a little."""
        if bound.left is None:
            return
        pipelines = bound.pipelines
        starts: dict[Partition, Callable[[int], Annealing]] = {}
        for stages in packed_chains(bound.left, PACKED):
            figure = self._figure(pipelines.times, len(stages), pipelines.depth)
            begun = partial(Annealing, pipelines.times, figure, len(stages), start=stages, hot=COLD)
            starts.setdefault(begun(0).best, begun)
        promising = sorted(starts, key=lambda part: part.figure_s)[:UNLIKE]
        found = [starts[part](seed).run(PACKED_STEPS, self.deadline) for part in promising for seed in range(SEEDS)]
        best = min((*promising, *found), key=lambda part: part.figure_s, default=None)
        if best is not None:
            self._finish(best, pipelines.times.micro_batch, pipelines.depth)

    # ------------------------------------------------------------------ good plans

    def _look(self, times: dict[int, GroupTimes]) -> None:
        """Anneal every number of stages a little, and the best of them for longer."""
        now = time.monotonic()
        until_s = self.deadline.at_s if math.isinf(self.deadline.at_s) else now + LOOKING * (self.deadline.at_s - now)
        deadline = Deadline(until_s, self.deadline.cancel)
        kinds = [(size, stages) for size, each in times.items() for stages in self._numbers_of_stages(each)]
        middle = sorted(self.problem.space.in_flight_depths)[len(self.problem.space.in_flight_depths) // 2]
        found = []
        for size, stages in kinds:
            part = self._annealed(times[size], stages, middle, SHORT_STEPS, deadline)
            found.append((part.figure_s, size, stages, part))
            if deadline.passed:
                break
        for _, size, _, part in sorted(found, key=lambda each: each[:3]):
            if self.best is None:  # memory may lack for the fastest
                self._finish(part, size, middle)
        told = "none fits" if self.best is None else f"the best takes {format_seconds(self.best_s)}"
        self.say(f"{len(found)} kinds of pipelines looked at, {told}")
        if self._many_stages:
            return  # what classes of plans lead to is better than what more annealing finds
        promising = [each[1:] for each in sorted(found, key=lambda each: each[:3])[:PROMISING]]
        runs = []
        for size, _, part in promising:
            for depth in self._depths:
                runs.append((self._descended(size, part, depth, FEW_KICKS, 0, deadline), size, depth))
                self.on_bound(self.best_s, 0.0)
        for part, size, depth in sorted(runs, key=lambda run: run[0].figure_s)[:PROMISING]:
            for seed in range(1, 1 + BEGINNINGS):
                self._descended(size, part, depth, MANY_KICKS, seed, deadline)
                self.on_bound(self.best_s, 0.0)

    def _descended(
        self, size: int, start: Partition, depth: int, kicks: int, seed: int, deadline: Deadline
    ) -> Partition:
        """The best pipeline that descents find from one on, which is finished."""
        times, stages = self._times[size], len(start.kinds)
        rows = PipelineRows.of(times, Kind(depth, stages, False), self.problem.workload.trains)
        part = Descent(times, rows, start, seed).run(kicks, deadline)
        self._finish(part, size, depth)
        return part

    @property
    def _many_stages(self) -> bool:
        """Whether classes of plans prove more than boxes of seconds."""
        return max(filled_stages(each) for each in self._times.values()) > FEW_STAGES

    @property
    def _depths(self) -> tuple[int, ...]:
        """In-flight depths that make a difference."""
        depths = self.problem.space.in_flight_depths
        return depths if self.problem.workload.trains else depths[:1]

    def _annealed(self, times: GroupTimes, stages: int, depth: int, steps: int, deadline: Deadline) -> Partition:
        hot = COLD if self._many_stages else HOT
        return Annealing(times, self._figure(times, stages, depth), stages, steps, hot=hot).run(steps, deadline)

    def _numbers_of_stages(self, times: GroupTimes) -> list[int]:
        """From one stage to some more than all devices fill; beyond eight in growing steps."""
        devices, most = int(times.available.sum()), max(len(group.devices) for group in times.groups)
        largest = min(len(times.hop_s) - 1, devices, max(8, 2 + 5 * devices // (4 * most)))
        return sorted({min(largest, round(1.15**step)) for step in range(40)} | {*range(1, min(largest, 8) + 1)})

    def _figure(self, times: GroupTimes, stages: int, depth: int) -> Figure:
        trains, batches = self.problem.workload.trains, times.micro_batches
        held = self.problem.space.in_flight(depth, stages, batches) if trains else (batches,) * stages
        return longest_path(times, held, trains)

    def _finish(self, part: Partition, micro_batch: int, depth: int) -> None:
        """Decide the shares of a partition, schedule its transfers, and keep it if it is the best so far."""
        if not part.figure_s < self.best_s * NEAR:
            return
        problem, times = self.problem, self._times[micro_batch]
        groups = [times.group_of[_counts(kinds, len(times.available))] for kinds in part.kinds]
        plan = as_plan(problem, times, list(zip(part.cuts, part.cuts[1:], groups, strict=False)), depth)
        if plan is None:
            return
        self.keep(plan)

    # ------------------------------------------------------------------ the answer

    def answer(self) -> Plan:
        """The best plan with its certificate."""
        return self.certified(
            scope=self.problem.space.describe(), solver=METHOD, reason="not checked by the partition program"
        )


def as_plan(problem: Problem, times: GroupTimes, stages: Sequence[tuple[int, int, int]], depth: int = 1) -> Plan | None:
    """The plan of some stages (first layer, stop layer, group), without a transfer order; None where memory lacks.

    Samples are shared out so that a stage is as fast as it can be, of equals the first to sum its gradients.

    Parameters
    ----------
    problem, times
        What is planned, and seconds of groups at one micro-batch size.
    stages
        First layer, stop layer and group of each, first to last.
    depth
        In-flight depth (training).
    """
    batches = times.micro_batches
    held = problem.space.in_flight(depth, len(stages), batches) if problem.workload.trains else (1,) * len(stages)
    chosen = []
    for (first, stop, group), count in zip(stages, held, strict=True):
        options = stage_columns(problem, times.micro_batch, times.groups[group], first, stop)
        fitting = np.flatnonzero((options.least_in_flight <= count) & (options.most_in_flight >= count))
        if not len(fitting):
            return None
        both_s = options.forward_s + options.backward_s
        order = np.lexsort((options.receive_s[fitting], options.sum_tail_s[fitting], both_s[fitting]))
        chosen.append(options.take(fitting[order[:1]]))
    columns = Columns.join(chosen)
    places = [int(np.flatnonzero(columns.first == first)[0]) for first, _, _ in stages]
    return decode(columns, places, held, problem)


def _counts(kinds: Sequence[int], types: int) -> tuple[int, ...]:
    return tuple(kinds.count(kind) for kind in range(types))
