"""The bounding search: partitions built stage by stage, dropped as soon as a valid bound says they cannot matter.

Pipelines grow from the last stage to the first, so a stage's position from the end, and with it its in-flight count,
is known when it is placed. Labels of one cut are extended by all columns that end there at once, as arrays.

Only bounds against incumbents discard anything, and the bounds of everything discarded are remembered: whatever stops
the search early (a time limit, a cap on labels), the bounds it returns are true.

Rows that bound the makespan from below (the textbook ``fill + (M - 1) x max`` is not one of them):

* every stage: what one micro-batch needs upstream, there and back, plus all its own micro-batches;
* every stage: the same forward only, plus its own work, plus its own sums and step;
* the medium: all airtime, and what must come before the first and after the last transfer;
* one switch port: everything it carries;
* after a partition is complete: the longest path through its operations.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.evaluate import timing_of
from dora_nb.costs.operations import OperationClass, Shape, operations_of
from dora_nb.costs.table import Floats
from dora_nb.domain.plan import HOSTED
from dora_nb.formulation.columns import Columns, Screen
from dora_nb.formulation.decode import decode
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.list_schedule import list_schedule
from dora_nb.formulation.problem import Problem
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.targets import Targets


def screen(problem: Problem, targets: Targets, deadline: Deadline | None = None) -> Screen:
    """Leaves out stages that no plan worth having can contain, given the incumbents; and all once time is up.

    A stage's bound holds for every plan with that stage; the bounds of stages left out are remembered like any other.
    """
    rest, batch = problem.completion, problem.workload.batch
    layers = len(problem.workload.layers)
    # A hosted first layer runs on the last stage's devices, so it may not be counted as work for the others.
    maybe_hosted = 1 if problem.workload.trains and problem.workload.tied_parameters else 0
    own_idle_w = problem.fleet.used @ np.array(
        [problem.cluster.devices[same[0]].idle_w for same in problem.fleet.types]
    )

    def may_matter(
        micro_batch: int, code: int, first: Ints, stop: Ints, both_s: Floats, energy_j: Floats
    ) -> NDArray[np.bool_]:
        def around(by_code: Floats) -> tuple[Floats, Floats]:
            return _around(by_code[code], first, stop, layers, maybe_hosted)

        before_s, after_s = around(rest.path_s)
        load_s, others_j = batch * sum(around(rest.load_s)), batch * sum(around(rest.energy_j))
        makespan_s = np.maximum(both_s + micro_batch * after_s, batch // micro_batch * both_s) + micro_batch * before_s
        makespan_s = np.maximum(makespan_s, load_s)
        total_j = problem.energy_j(energy_j + others_j, own_idle_w[code], makespan_s)
        possible = np.isfinite(makespan_s)
        relevant = possible & (deadline is None or not deadline.passed)
        relevant[relevant] = targets.relevant(makespan_s[relevant], total_j[relevant])
        dropped = possible & ~relevant
        targets.set_aside(makespan_s[dropped], total_j[dropped])
        return relevant

    return may_matter


def _around(by_cut: Floats, first: Ints, stop: Ints, layers: int, skipped: int) -> tuple[Floats, Floats]:
    """A completion figure of the layers before and after a stage; infinite where no device is left for any.

    The first ``skipped`` layers are not counted.
    """
    with np.errstate(invalid="ignore"):
        before = by_cut[first] - by_cut[np.minimum(first, skipped)]
        after = by_cut[layers] - by_cut[stop]
    before = np.where(np.isnan(before), np.where(first > skipped, np.inf, 0.0), before)
    return before, np.where(np.isnan(after), np.where(stop < layers, np.inf, 0.0), after)


@dataclass
class SearchReport:
    """What a search did.

    Attributes
    ----------
    labels, partitions, schedules
        Partial pipelines kept, complete ones, and those whose transfers were scheduled.
    """

    labels: int = 0
    partitions: int = 0
    schedules: int = 0


@dataclass(frozen=True)
class Candidates:
    """Complete partitions that the rows did not rule out.

    Attributes
    ----------
    columns
        The columns of one micro-batch size.
    chosen
        Column of each stage, first to last, shape (partitions, stages).
    makespan_s, energy_j
        Lower bounds by the rows alone.
    """

    columns: Columns
    chosen: Ints
    makespan_s: Floats
    energy_j: Floats


@dataclass(frozen=True)
class _Labels:
    """Pipelines under construction, all with the same number of stages and the same micro-batch size."""

    cut: Ints
    code: Ints
    return_s: Floats  # rows that include the way back (training), or the largest stage row (inference)
    forward_s: Floats  # rows that end with a stage's own sums and step
    path_s: Floats  # one micro-batch through all stages so far, forward
    floor_s: Floats  # rows to which nothing is added: ports
    air_s: Floats  # airtime of activations and gradients
    sums_s: Floats  # airtime of everything else
    energy_j: Floats
    idle_w: Floats
    receive_s: Floats  # part of the airtime across the cut in front
    last: Ints  # column of the last stage
    column: Ints
    parent: Ints

    def __len__(self) -> int:
        return len(self.cut)

    def take(self, chosen: NDArray[np.bool_] | Ints) -> _Labels:
        return _Labels(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    @staticmethod
    def join(parts: list[_Labels]) -> _Labels:
        return _Labels(*(np.concatenate([getattr(p, name) for p in parts]) for name in _Labels.__dataclass_fields__))


@dataclass
class Search:
    """One search over given columns.

    Attributes
    ----------
    most_labels
        Cap on labels kept per micro-batch size and number of stages.
    deadline
        After it nothing new is looked at.
    schedules_left
        How many partitions may still be scheduled.
    """

    problem: Problem
    columns: Columns
    targets: Targets
    most_labels: int
    deadline: Deadline
    schedules_left: int
    report: SearchReport = field(default_factory=SearchReport)
    candidates: list[Candidates] = field(default_factory=list)

    def run(self) -> SearchReport:
        """Search every micro-batch size; the answers and bounds are in ``targets``."""
        for micro_batch in sorted(set(self.columns.micro_batch.tolist())):
            self._family(self.columns.take(self.columns.micro_batch == micro_batch), int(micro_batch))
        return self.report

    # ------------------------------------------------------------------ one micro-batch size

    def _family(self, columns: Columns, micro_batch: int) -> None:
        self.c = columns
        self.micro_batch = micro_batch
        self.micro_batches = columns.batch // micro_batch
        self.layers = len(self.problem.workload.layers)
        self.trains = self.problem.workload.trains
        used, available = columns.fleet.used, columns.fleet.available
        self.compatible = np.asarray(((used[:, None] + used[None]) <= available).all(axis=2))
        self.tail_s, self.sums_s = columns.tail_s(self.problem.shared), columns.sums_s
        inner = (self.problem.workload.cut_bytes(cut) for cut in range(1, self.layers))
        self.cut_bytes = np.array([0.0, *inner])
        self.by_stop = [np.flatnonzero((columns.stop == cut) & ~columns.hosts) for cut in range(self.layers + 1)]
        labels = self._last_stages()
        history: list[_Labels] = []
        while len(labels):
            history.append(labels)
            self.report.labels += len(labels)
            complete = self._complete(labels)
            self._settle(labels, complete, history)
            open_ = labels.take(np.flatnonzero(~complete))
            open_parents = np.flatnonzero(~complete)
            if not len(open_) or self.deadline.passed:
                self._give_up(open_)
                return
            labels = self._extend(open_, open_parents, len(history))

    def _last_stages(self) -> _Labels:
        c, batches = self.c, self.micro_batches
        ids = np.flatnonzero((c.stop == self.layers) & (c.most_in_flight >= 1))
        own_s = batches * (c.forward_s + c.backward_s)[ids]
        out_s = np.where(c.output_s[ids] > 0, c.output_s[ids] + self.problem.message_s, 0.0)
        host_back_s = batches * c.host_backward_s[ids]  # hosted forward passes may overlap with filling the pipeline
        host_load_s = host_back_s + batches * c.host_forward_s[ids]
        labels = _Labels(
            cut=c.first[ids],
            code=c.code[ids],
            return_s=own_s + out_s,
            forward_s=own_s + host_back_s + self.tail_s[ids] if self.trains else np.zeros(len(ids)),
            path_s=c.forward_s[ids] + out_s,
            floor_s=np.maximum(c.port_s[ids], own_s + host_load_s + self.tail_s[ids]),
            air_s=np.zeros(len(ids)),
            sums_s=self.sums_s[ids] + batches * (c.label_s + c.output_s)[ids],
            energy_j=c.energy_j[ids],
            idle_w=c.idle_w[ids],
            receive_s=c.receive_s[ids],
            last=ids,
            column=ids,
            parent=np.full(len(ids), -1),
        )
        return self._keep(labels)

    def _extend(self, labels: _Labels, parents: Ints, position: int) -> _Labels:
        """All pipelines with one more stage in front; ``position`` stages are behind it."""
        depth = min(self.problem.space.in_flight_depths)
        needed = min(self.micro_batches, 1 + depth * position) if self.trains else 1
        parts = []
        for cut in np.unique(labels.cut):
            behind = np.flatnonzero(labels.cut == cut)
            front = self.by_stop[cut][self.c.most_in_flight[self.by_stop[cut]] >= needed]
            if not len(front):
                continue
            rows = max(1, 2_000_000 // len(front))
            for start in range(0, len(behind), rows):
                some = behind[start : start + rows]
                fits = self.compatible[labels.code[some][:, None], self.c.code[front][None]]
                # A hosted first layer ends the pipeline at cut 1; nothing may run layer 0 again.
                fits &= ~(self.c.hosts[labels.last[some]][:, None] & (self.c.first[front] == 0)[None])
                row, column = np.nonzero(fits)
                joined = self._joined(labels.take(some[row]), front[column], parents[some[row]])
                parts.append(self._keep(joined))
        return self._capped(_Labels.join(parts) if parts else labels.take(np.zeros(0, dtype=int)))

    def _joined(self, behind: _Labels, front: Ints, parents: Ints) -> _Labels:
        c, batches = self.c, self.micro_batches
        hold_s = self._hold(c.send_s[front], behind.receive_s)
        transfer_s = hold_s + self.problem.message_s
        own_s = batches * (c.forward_s + c.backward_s)[front]
        if self.trains:
            way_s = (c.forward_s + c.backward_s)[front] + 2 * transfer_s
            return_s = np.maximum(behind.return_s + way_s, own_s)
            step_rows = np.maximum(behind.forward_s + c.forward_s[front] + transfer_s, own_s + self.tail_s[front])
        else:
            return_s = np.maximum(behind.return_s + c.forward_s[front], own_s + behind.path_s) + transfer_s
            step_rows = behind.forward_s
        directions = 2 if self.trains else 1
        return _Labels(
            cut=c.first[front],
            code=behind.code + c.code[front],
            return_s=return_s,
            forward_s=step_rows,
            path_s=behind.path_s + c.forward_s[front] + transfer_s,
            floor_s=np.maximum(behind.floor_s, c.port_s[front]),
            air_s=behind.air_s + directions * batches * hold_s,
            sums_s=behind.sums_s + self.sums_s[front],
            energy_j=behind.energy_j + c.energy_j[front],
            idle_w=behind.idle_w + c.idle_w[front],
            receive_s=c.receive_s[front],
            last=behind.last,
            column=front,
            parent=parents,
        )

    def _hold(self, send_s: Floats, receive_s: Floats) -> Floats:
        return send_s + receive_s if self.problem.shared else np.maximum(send_s, receive_s)

    # ------------------------------------------------------------------ bounds

    def _complete(self, labels: _Labels) -> NDArray[np.bool_]:
        return np.asarray(labels.cut == np.where(self.c.hosts[labels.last], 1, 0))

    def bounds(self, labels: _Labels) -> tuple[Floats, Floats]:
        """Lower bounds on makespan and energy of every plan that continues a label; inf where none can."""
        complete = self._complete(labels)
        makespan_s = np.where(complete, self._complete_rows(labels), self._open_rows(labels))
        rest = self.problem.completion
        missing_j = np.where(complete, 0.0, self._rest(rest.energy_j, labels)) * self.c.batch
        missing_w = np.where(complete, 0.0, rest.idle_w[labels.code])
        with np.errstate(invalid="ignore"):
            energy_j = self.problem.energy_j(labels.energy_j + missing_j, labels.idle_w + missing_w, makespan_s)
        return makespan_s, np.where(np.isnan(energy_j), np.inf, energy_j)

    def _rest(self, by_cut: Floats, labels: _Labels) -> Floats:
        """Completion figure of the layers not placed yet (a hosted first layer is placed)."""
        hosted = self.c.hosts[labels.last].astype(int)
        with np.errstate(invalid="ignore"):
            rest = by_cut[labels.code, labels.cut] - by_cut[labels.code, hosted]
        # inf - inf: no device is left for what is missing
        return np.where(np.isnan(rest), np.where(labels.cut > hosted, np.inf, 0.0), rest)

    def _open_rows(self, labels: _Labels) -> Floats:
        rest, b = self.problem.completion, self.micro_batch
        next_byte_s = rest.next_byte_s[labels.code]
        sending = b * self.cut_bytes[labels.cut % self.layers]
        with np.errstate(invalid="ignore"):
            hold_s = self._hold(np.nan_to_num(sending * next_byte_s, posinf=0.0), labels.receive_s)
        transfer_s = hold_s + self.problem.message_s
        directions = 2 if self.trains else 1
        rows = [
            labels.return_s + directions * transfer_s + b * self._rest(rest.path_s, labels),
            labels.floor_s,
            self.c.batch * self._rest(rest.load_s, labels),
        ]
        if self.trains:
            rows.append(labels.forward_s + transfer_s + b * self._rest(rest.forward_s, labels))
        if self.problem.shared:
            rows.append(labels.air_s + labels.sums_s + directions * self.micro_batches * hold_s)
        return np.asarray(np.maximum.reduce(rows))

    def _complete_rows(self, labels: _Labels) -> Floats:
        c, batches = self.c, self.micro_batches
        hosted = c.hosts[labels.last]
        host = np.where(hosted, labels.last, 0)
        hold_s = np.where(hosted, self._hold(c.host_send_s[host], labels.receive_s), 0.0)
        transfer_s = np.where(hosted, hold_s + self.problem.message_s, 0.0)
        first = np.where(hosted, labels.last, labels.column)  # stage whose devices run the first layer
        first_forward_s = np.where(hosted, c.host_forward_s[host], c.forward_s[labels.column])
        input_s = np.where(c.input_s[first] > 0, c.input_s[first] + self.problem.message_s, 0.0)
        before_s = np.where(hosted, first_forward_s, 0.0) + transfer_s + input_s
        if not self.trains:
            air_s = labels.air_s + labels.sums_s + batches * c.input_s[first]
            medium_s = air_s if self.problem.shared else 0 * air_s
            return np.asarray(np.maximum.reduce([labels.return_s + input_s, labels.floor_s, medium_s]))
        # After the last gradient has come back: backward pass of the first layer, sums, step. The exchange of tied
        # gradients needs the other end's part as well.
        first_backward_s = np.where(hosted, c.host_backward_s[host], c.backward_s[labels.column])
        other_part_s = np.where(labels.column != labels.last, c.tied_part_s[labels.last], 0.0) * ~hosted
        tail_s = self.tail_s[first] + (other_part_s if self.problem.shared else 0.0)
        rows = [
            labels.return_s + before_s + np.where(hosted, transfer_s + first_backward_s, 0.0) + tail_s,
            labels.forward_s + np.where(labels.column != labels.last, before_s, input_s),
            labels.floor_s,
        ]
        if self.problem.shared:
            air_s = labels.air_s + 2 * batches * hold_s
            anything_s = air_s + labels.sums_s + batches * c.input_s[first]
            rows.append(anything_s)
            several = air_s > 0
            rows.append(np.where(several, input_s + first_forward_s + air_s + first_backward_s + tail_s, 0.0))
        return np.asarray(np.maximum.reduce(rows))

    def _keep(self, labels: _Labels) -> _Labels:
        makespan_s, energy_j = self.bounds(labels)
        possible = np.isfinite(makespan_s)
        relevant = possible & self.targets.relevant(makespan_s, energy_j)
        dropped = possible & ~relevant
        self.targets.set_aside(makespan_s[dropped], energy_j[dropped])
        return labels.take(relevant)

    def _capped(self, labels: _Labels) -> _Labels:
        if len(labels) <= self.most_labels:
            return labels
        makespan_s, energy_j = self.bounds(labels)
        # Half of the places for the fastest, half for the thriftiest, when both are asked for.
        rank = np.full(len(labels), len(labels))
        for figure in self._sought(makespan_s, energy_j):
            rank[np.argsort(figure)] = np.minimum(rank[np.argsort(figure)], np.arange(len(labels)))
        order = np.argsort(rank, kind="stable")
        self._leave(makespan_s, energy_j, order[self.most_labels :])
        return labels.take(order[: self.most_labels])

    def _sought(self, makespan_s: Floats, energy_j: Floats) -> list[Floats]:
        latency = [makespan_s] if self.targets.seek_latency else []
        return latency + ([energy_j] if len(self.targets.latency_limits_s) else [])

    def _give_up(self, labels: _Labels) -> None:
        if len(labels):
            self._leave(*self.bounds(labels), np.arange(len(labels)))

    def _leave(self, makespan_s: Floats, energy_j: Floats, which: Ints) -> None:
        self.targets.set_aside(makespan_s[which], energy_j[which])

    # ------------------------------------------------------------------ complete partitions

    def _settle(self, labels: _Labels, complete: NDArray[np.bool_], history: list[_Labels]) -> None:
        """Bound complete partitions by their longest path, and schedule those that may still matter."""
        ids = np.flatnonzero(complete)
        if not len(ids):
            return
        makespan_s, energy_j = self.bounds(labels)
        chosen = np.empty((len(ids), len(history)), dtype=np.int64)
        at = ids
        for stage, level in enumerate(reversed(history)):
            chosen[:, stage] = level.column[at]
            at = level.parent[at]
        self.report.partitions += len(ids)
        self.candidates.append(Candidates(self.c, chosen, makespan_s[ids], energy_j[ids]))
        hosted = self.c.hosts[labels.last[ids]]
        for hosts in (False, True):
            some = np.flatnonzero(hosted == hosts)
            if len(some):
                rows = ids[some]
                self._schedule(chosen[some], hosts, makespan_s[rows], labels.energy_j[rows], labels.idle_w[rows])

    def _schedule(self, chosen: Ints, hosts: bool, rows_s: Floats, dynamic_j: Floats, idle_w: Floats) -> None:
        stages = chosen.shape[1]
        cases = []  # (in-flight counts, partitions, lower bounds)
        for in_flight in self.problem.space.in_flight_counts(stages, self.micro_batches):
            enough = self.c.most_in_flight[chosen] >= (np.array(in_flight) if self.trains else 1)
            which = np.flatnonzero(enough.all(axis=1))
            if len(which):
                path_s = self._longest_paths(chosen[which], in_flight, hosts)
                cases.append((in_flight, which, np.maximum(path_s, rows_s[which])))
        for in_flight, which, bound_s in cases:
            bound_j = self.problem.energy_j(dynamic_j[which], idle_w[which], bound_s)
            self.targets.set_aside(bound_s, bound_j)
            orders = [np.argsort(figure) for figure in self._sought(bound_s, bound_j)]
            for at in dict.fromkeys(np.stack(orders, axis=1).ravel().tolist()):
                if not self.targets.relevant(bound_s[at : at + 1], bound_j[at : at + 1])[0]:
                    continue
                late = self.schedules_left <= 0 or self.deadline.passed
                if late and self.targets.latency_plan is not None:  # some plan is better than none
                    break
                row = which[at]
                self._try(chosen[row], in_flight, float(dynamic_j[row]), float(idle_w[row]))

    def _longest_paths(self, chosen: Ints, in_flight: tuple[int, ...], hosts: bool) -> Floats:
        c, stages, message_s = self.c, chosen.shape[1], self.problem.message_s
        workload = self.problem.workload
        tied = "hosted" if hosts else "synchronised" if workload.tied_parameters and stages > 1 else None
        shape = Shape(
            in_flight=in_flight if self.trains else (self.micro_batches,) * stages,
            micro_batches=self.micro_batches,
            trains=self.trains,
            tied=tied if self.trains else None,  # type: ignore[arg-type]
            replicated=(self.trains,) * stages,  # a single replica's sums take no time
            inputs=bool(c.input_s.any()),
            labels=bool(c.label_s.any()),
            outputs=bool(c.output_s.any()),
        )
        duration_s: dict[OperationClass, Floats] = {}

        def with_latency(hold_s: Floats) -> Floats:
            return np.where(hold_s > 0, hold_s + message_s, 0.0)

        for stage in range(stages):
            ids = chosen[:, stage]
            duration_s[OperationClass("forward", stage)] = c.forward_s[ids]
            duration_s[OperationClass("backward", stage)] = c.backward_s[ids]
            duration_s[OperationClass("step", stage)] = c.step_s[ids]
            duration_s[OperationClass("all-reduce", stage)] = c.sum_s[ids]
            duration_s[OperationClass("tied-reduce", stage)] = with_latency(c.tied_gather_s[ids])
            duration_s[OperationClass("tied-broadcast", stage)] = with_latency(c.tied_spread_s[ids])
            if stage + 1 < stages:
                hold_s = self._hold(c.send_s[ids], c.receive_s[chosen[:, stage + 1]])
                duration_s[OperationClass("activation", stage)] = hold_s + message_s
                duration_s[OperationClass("gradient", stage)] = hold_s + message_s
        head, tail = chosen[:, 0], chosen[:, -1]
        exchange_s = self._hold(c.tied_part_s[head], c.tied_part_s[tail])
        duration_s[OperationClass("tied-exchange", stages - 1)] = with_latency(exchange_s)
        if hosts:
            hold_s = self._hold(c.host_send_s[tail], c.receive_s[head])
            duration_s[OperationClass("forward", HOSTED)] = c.host_forward_s[tail]
            duration_s[OperationClass("backward", HOSTED)] = c.host_backward_s[tail]
            duration_s[OperationClass("activation", HOSTED)] = hold_s + message_s
            duration_s[OperationClass("gradient", HOSTED)] = hold_s + message_s
        first = HOSTED if hosts else 0
        duration_s[OperationClass("input", first)] = with_latency(c.input_s[tail if hosts else head])
        duration_s[OperationClass("label", stages - 1)] = with_latency(c.label_s[tail])
        duration_s[OperationClass("output", stages - 1)] = with_latency(c.output_s[tail])
        return operations_of(shape).longest_path(duration_s)

    def _try(self, chosen: Ints, in_flight: tuple[int, ...], dynamic_j: float, idle_w: float) -> None:
        problem = self.problem
        self.schedules_left -= 1
        self.report.schedules += 1
        plan = decode(self.c, chosen.tolist(), in_flight, problem.workload, problem.cluster)
        timing = timing_of(plan, problem.workload, problem.cluster, problem.table)
        schedule = list_schedule(operations_of(Shape.of(plan, problem.workload)), timing)
        energy_j = float(problem.energy_j(np.array(dynamic_j), np.array(idle_w), np.array(schedule.makespan_s)))
        if self.targets.improves(schedule.makespan_s, energy_j):
            self.targets.offer(schedule.makespan_s, energy_j, plan.replace(transfer_order=schedule.transfers()))
