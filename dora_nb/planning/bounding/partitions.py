"""Complete partitions: bounded by their longest path, and scheduled where they may still matter."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.operations import OperationClass, Shape
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.table import Floats
from dora_nb.costs.timing import timing_of
from dora_nb.costs.token_rounds import least_rounds_s
from dora_nb.domain.plan import Plan
from dora_nb.domain.transfer import HOSTED
from dora_nb.formulation.columns import Columns
from dora_nb.formulation.decode import decode
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.hand_overs import beyond_columns_j
from dora_nb.formulation.problem import Problem
from dora_nb.planning.bounding.bounds import Bounds
from dora_nb.planning.bounding.family import Family
from dora_nb.planning.bounding.labels import Labels
from dora_nb.planning.bounding.targets import Figures, Targets
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.scheduling import quick_schedule


@dataclass(frozen=True)
class Candidates:
    """Complete partitions that the rows did not rule out.

    Attributes
    ----------
    columns
        The columns of one micro-batch size, and one number of groups.
    chosen
        Column of each stage, first to last, shape (partitions, stages).
    makespan_s, energy_j, value
        Lower bounds by the rows alone; ``value`` is the objective with what soft limits add.
    """

    columns: Columns
    chosen: Ints
    makespan_s: Floats
    energy_j: Floats
    value: Floats

    def within(self, targets: Targets) -> Candidates:
        """The candidates that may keep the limits in every question."""
        kept = targets.allowed(self.makespan_s, self.energy_j)
        figures = (self.makespan_s[kept], self.energy_j[kept], self.value[kept])
        return Candidates(self.columns, self.chosen[kept], *figures)


@dataclass(frozen=True)
class Open:
    """A plan whose best transfer schedule is not known yet: somewhere between a bound and a list schedule.

    Attributes
    ----------
    plan
        Without a transfer order.
    bound_s, makespan_s
        No schedule is shorter than the one; the list schedule takes the other (infinity: none keeps up with a stream).
    dynamic_j, idle_w
        Joules above idling, and what the plan's devices draw when they idle.
    cap_s
        Longest makespan that batteries last.
    code, battery_j, over_bytes
        What soft limits are counted from, see :meth:`Problem.value <dora_nb.formulation.problem.Problem.value>`.
    """

    plan: Plan
    bound_s: float
    makespan_s: float
    dynamic_j: Floats
    idle_w: Floats
    cap_s: float
    code: Ints
    battery_j: Floats
    over_bytes: Floats

    def figures(self, problem: Problem, makespan_s: float) -> Figures:
        """The plan's figures with a makespan; infinite beyond its batteries."""
        if makespan_s > self.cap_s:
            return Figures(*(np.full(1, np.inf) for _ in Figures._fields))
        seconds = np.array([makespan_s])
        energy_j = problem.energy_j(self.dynamic_j, self.idle_w, seconds)
        return Figures(seconds, energy_j, problem.value(seconds, energy_j, self.code, self.battery_j, self.over_bytes))


@dataclass
class Partitions:
    """What becomes of complete partitions.

    Attributes
    ----------
    problem, targets, deadline
        What is planned, what is sought, and until when.
    schedules_left
        How many partitions may still be scheduled.
    insists
        Whether to go on after that, and after the deadline, until some plan is found.
    candidates, open
        What is left of them, see there.
    count, schedules
        How many there were, and how many were scheduled.
    """

    problem: Problem
    targets: Targets
    deadline: Deadline
    schedules_left: int
    insists: bool
    candidates: list[Candidates] = field(default_factory=list)
    open: list[Open] = field(default_factory=list)
    count: int = 0
    schedules: int = 0

    def take(self, bounds: Bounds, complete: NDArray[np.bool_], history: list[Labels]) -> None:
        """Bound complete partitions by their longest path, and schedule those that may still matter.

        Parameters
        ----------
        bounds
            Of the family they are made of.
        complete
            Which labels of the last level are complete.
        history
            Labels by number of stages.
        """
        labels, family = history[-1], bounds.family
        ids = np.flatnonzero(complete)
        if not len(ids):
            return
        rows = bounds.of(labels).take(ids)
        chosen = np.empty((len(ids), len(history)), dtype=np.int64)
        at = ids
        for stage, level in enumerate(reversed(history)):
            chosen[:, stage] = level.column[at]
            at = level.parent[at]
        self.count += len(ids)
        self.candidates.append(Candidates(family.columns, chosen, *rows))
        labels = replace(labels, energy_j=bounds.dynamic_j(labels)).take(ids)
        hosted = family.columns.hosts[labels.last]
        for hosts in (False, True):
            which = np.flatnonzero(hosted == hosts)
            if len(which):
                self._schedule(bounds, chosen[which], hosts, rows.makespan_s[which], labels.take(which))

    def _schedule(self, bounds: Bounds, chosen: Ints, hosts: bool, rows_s: Floats, labels: Labels) -> None:
        stages, family, columns = chosen.shape[1], bounds.family, bounds.family.columns
        cases = []  # (in-flight counts, partitions, lower bounds)
        for in_flight in self.problem.space.in_flight_counts(stages, family.micro_batches):
            enough = columns.holds(chosen, np.array(in_flight) if family.trains else 1)
            which = np.flatnonzero(enough.all(axis=1))
            if len(which):
                path_s = longest_paths(family, chosen[which], in_flight, hosts)
                cases.append((in_flight, which, np.maximum(path_s, rows_s[which])))
        for in_flight, which, bound_s in cases:
            possible = bound_s <= labels.cap_s[which]
            which, bound_s = which[possible], bound_s[possible]
            if not len(which):
                continue
            own = labels.take(which)
            over_bytes = _over_bytes(columns, chosen[which], in_flight)
            bound_j = self.problem.energy_j(own.energy_j, own.idle_w, bound_s)
            figures = Figures(bound_s, bound_j, bounds.value(bound_s, bound_j, own, over_bytes))
            covered = np.ones(len(which), dtype=bool)
            orders = [np.argsort(figure) for figure in self.targets.sought(figures)]
            for at in dict.fromkeys(np.stack(orders, axis=1).ravel().tolist()):
                if not self.targets.relevant(*figures.take(np.array([at])))[0]:
                    continue
                late = self.schedules_left <= 0 or self.deadline.passed
                if late and (self.targets.plans or not self.insists):  # some plan is better than none
                    break
                single = np.array([at])
                tried = self._try(
                    family, chosen[which[at]], in_flight, float(bound_s[at]), own.take(single), over_bytes[single]
                )
                if tried.makespan_s > tried.bound_s * (1 + self.targets.tolerance):
                    self.open.append(tried)
                    covered[at] = False
            self.targets.set_aside(*figures.take(covered))

    def _try(
        self,
        family: Family,
        chosen: Ints,
        in_flight: tuple[int, ...],
        bound_s: float,
        label: Labels,
        over_bytes: Floats,
    ) -> Open:
        """Schedule one partition by list, and offer it."""
        problem, columns = self.problem, family.columns
        self.schedules_left -= 1
        self.schedules += 1
        plan = decode(columns, chosen.tolist(), in_flight, problem)
        makespan_s, order = quick_schedule(plan, problem)
        dynamic_j = label.energy_j
        if family.hand_overs is not None:
            timing = timing_of(plan, problem.workload, problem.cluster, problem.table)
            dynamic_j = np.array([float(columns.energy_j[chosen].sum()) + beyond_columns_j(plan, timing, problem)])
        tried = Open(
            plan=plan,
            bound_s=bound_s,
            makespan_s=makespan_s,
            dynamic_j=dynamic_j,
            idle_w=label.idle_w,
            cap_s=float(label.cap_s[0]),
            code=label.code,
            battery_j=label.battery_j,
            over_bytes=over_bytes,
        )
        if not np.isfinite(makespan_s):  # none was found that keeps up with a stream
            return tried
        figures = tried.figures(problem, makespan_s)
        if self.targets.improves(*figures.numbers):
            makespan_s, energy_j, value = figures.numbers
            self.targets.offer(makespan_s, energy_j, plan.replace(transfer_order=order), value)
        return tried


def _over_bytes(columns: Columns, chosen: Ints, in_flight: tuple[int, ...]) -> Floats:
    """Bytes beyond a priced memory headroom, all stages together."""
    parts = [columns.over_bytes_at(chosen[:, stage], held) for stage, held in enumerate(in_flight)]
    return np.asarray(np.sum(parts, axis=0))


def _followed_s(family: Family, chosen: Ints) -> Floats:
    """By how much the rounds of all groups take longer than those of one at least; see :func:`least_rounds_s`."""
    c, stages, groups = family.columns, chosen.shape[1], family.token_groups
    steps = family.problem.workload.decode_steps
    chain_s, busiest_s, air_s = (np.zeros(len(chosen)) for _ in range(3))
    for stage in range(stages):
        ids, behind = chosen[:, stage], chosen[:, (stage + 1) % stages]
        chain_s += c.steps_s[ids] / groups
        busiest_s = np.maximum(busiest_s, c.steps_s[ids])
        if stages > 1:
            chain_s += family.token_s(ids, behind)
            air_s += family.token_air_s(ids, behind)
    last_s = c.steps_s[chosen[:, -1]]
    return np.asarray(least_rounds_s(chain_s, busiest_s, air_s, last_s, groups, steps) - chain_s)


def longest_paths(family: Family, chosen: Ints, in_flight: tuple[int, ...], hosts: bool) -> Floats:
    """Seconds of the longest path through the operations of many partitions.

    Parameters
    ----------
    family
        The columns.
    chosen
        Column of each stage, first to last. Shape (partitions, stages).
    in_flight
        Micro-batches that each stage holds.
    hosts
        Whether the last stage of all of them also runs the first layer.
    """
    c, stages, problem = family.columns, chosen.shape[1], family.problem
    workload, message_s = problem.workload, problem.message_s
    apart = workload.trains_tied and stages > 1
    tied: Literal["hosted", "synchronised"] | None = "hosted" if hosts else "synchronised" if apart else None
    shape = Shape(
        in_flight=in_flight if family.trains else (family.micro_batches,) * stages,
        micro_batches=family.micro_batches,
        trains=family.trains,
        tied=tied,
        # What sums take after the last backward pass, as one operation; none for a single replica.
        buckets=(int(family.trains),) * stages,
        overlap=problem.overlap,
        inputs=bool(c.input_s.any()),
        labels=bool(c.label_s.any()),
        outputs=bool(c.output_s.any()),
        generates=workload.generates,
        decodes=workload.generates,
        token_groups=family.token_groups,
    )
    duration_s: dict[OperationClass, Floats] = {}

    def with_latency(hold_s: Floats) -> Floats:
        return np.where(hold_s > 0, hold_s + message_s, 0.0)

    for stage in range(stages):
        ids = chosen[:, stage]
        duration_s[OperationClass("forward", stage)] = c.forward_s[ids]
        duration_s[OperationClass("backward", stage)] = c.backward_s[ids]
        duration_s[OperationClass("step", stage)] = c.step_s[ids]
        duration_s[OperationClass("all-reduce", stage)] = c.sum_tail_s[ids]
        duration_s[OperationClass("decode", stage)] = c.decode_s[ids]
        duration_s[OperationClass("token", stage)] = family.token_s(ids, chosen[:, (stage + 1) % stages])
        duration_s[OperationClass("tied-reduce", stage)] = with_latency(c.tied_gather_s[ids])
        duration_s[OperationClass("tied-broadcast", stage)] = with_latency(c.tied_spread_s[ids])
        if stage + 1 < stages:
            move = family.move(ids, chosen[:, stage + 1])
            duration_s[OperationClass("activation", stage)] = move.there_s
            duration_s[OperationClass("gradient", stage)] = move.back_s
    head, tail = chosen[:, 0], chosen[:, -1]
    exchange_s = family.hold_s(c.tied_part_s[head], c.tied_part_s[tail])
    duration_s[OperationClass("tied-exchange", stages - 1)] = with_latency(exchange_s)
    if hosts:
        move = family.move(tail, head, hosted=True)
        duration_s[OperationClass("forward", HOSTED)] = c.host_forward_s[tail]
        duration_s[OperationClass("backward", HOSTED)] = c.host_backward_s[tail]
        duration_s[OperationClass("activation", HOSTED)] = move.there_s
        duration_s[OperationClass("gradient", HOSTED)] = move.back_s
    first = HOSTED if hosts else 0
    duration_s[OperationClass("input", first)] = c.input_trip_s[tail if hosts else head]
    duration_s[OperationClass("label", stages - 1)] = c.label_trip_s[tail]
    duration_s[OperationClass("output", stages - 1)] = c.output_trip_s[tail]
    if family.token_groups > 1 and workload.decode_steps:
        duration_s[OperationClass("follow", stages - 1)] = _followed_s(family, chosen)
    return operations_of(shape).longest_path(duration_s)
