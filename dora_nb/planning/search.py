"""The bounding search: partitions built stage by stage, dropped as soon as a valid bound says they cannot matter.

Pipelines grow from the last stage to the first, so a stage's position from the end, and with it its in-flight count,
is known when it is placed. Labels of one cut are extended by all columns that end there at once, as arrays.

Only bounds against incumbents discard anything, and the bounds of everything discarded are remembered: whatever stops
the search early (a time limit, a cap on labels), the bounds it returns are true.

Rows that bound the makespan from below (the textbook ``fill + (M - 1) x max`` is not one of them):

* every stage: what one micro-batch needs upstream, there and back, plus all its own micro-batches;
* every stage: the same forward only, plus its own work, plus its own sums and step;
* every contended resource (the medium, a gateway): all airtime, and what must come before the first and after the
  last transfer;
* a resource of the stage's own (a switch port): everything it carries;
* after a partition is complete: the longest path through its operations.

What follows a prompt's passes, token by token, overlaps with nothing and is added to every row.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.evaluate import timing_of
from dora_nb.costs.operations import OperationClass, Shape, operations_of
from dora_nb.costs.table import Floats
from dora_nb.domain.architecture import INTEGER_BYTES
from dora_nb.domain.plan import HOSTED, Plan
from dora_nb.formulation.columns import Columns, Screen
from dora_nb.formulation.decode import decode
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.hand_overs import HandOver, HandOvers, beyond_columns_j
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.scheduling import quick_schedule
from dora_nb.planning.targets import Figures, Targets

#: Relative slack that keeps a limit apart from what is just beyond it, rounding included.
_MARGIN = 1e-6

#: Pairs of a label and a column that are looked at together: few enough for a processor's cache.
_BLOCK = 100_000


def screen(problem: Problem, targets: Targets, deadline: Deadline | None = None) -> Screen:
    """Leaves out stages that no plan worth having can contain, given the incumbents; and all once time is up.

    A stage's bound holds for every plan with that stage; the bounds of stages left out are remembered like any other.
    """
    rest, batch, terms = problem.completion, problem.workload.batch, problem.terms
    layers = len(problem.workload.layers)
    # A hosted first layer runs on the last stage's devices, so it may not be counted as work for the others.
    maybe_hosted = 1 if problem.workload.trains and problem.workload.tied_parameters else 0
    own_idle_w = problem.fleet.used @ np.array(
        [problem.cluster.devices[same[0]].idle_w for same in problem.fleet.types]
    )

    def may_matter(
        micro_batch: int, code: int, first: Ints, stop: Ints, both_s: Floats, decode_s: Floats, energy_j: Floats
    ) -> NDArray[np.bool_]:
        def around(by_code: Floats) -> tuple[Floats, Floats]:
            return _around(by_code[code], first, stop, layers, maybe_hosted)

        before_s, after_s = around(rest.path_s)
        load_s, others_j = batch * sum(around(rest.load_s)), batch * sum(around(rest.energy_j))
        makespan_s = np.maximum(both_s + micro_batch * after_s, batch // micro_batch * both_s) + micro_batch * before_s
        makespan_s = np.maximum(makespan_s, load_s) + decode_s + sum(around(rest.decode_s))
        total_j = problem.energy_j(energy_j + others_j, own_idle_w[code], makespan_s)
        loads_s = np.maximum(load_s, batch // micro_batch * both_s)
        possible = np.isfinite(makespan_s) & ~problem.overloaded(loads_s)
        value = makespan_s if terms.is_plain else problem.value(makespan_s, total_j)
        relevant = possible & (deadline is None or not deadline.passed)
        relevant[relevant] = targets.relevant(makespan_s[relevant], total_j[relevant], value[relevant])
        dropped = possible & ~relevant
        targets.set_aside(makespan_s[dropped], total_j[dropped], value[dropped])
        return relevant

    return may_matter


def larger_groups(space: SearchSpace) -> list[int]:
    """Group sizes above one for which good plans are looked for: each finds what keeps the next from many columns."""
    return [most for most in range(2, space.most_replicas + 1) if most & (most - 1) == 0 or most == space.most_replicas]


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
    makespan_s, energy_j, value
        Lower bounds by the rows alone; ``value`` is the objective with what soft limits add.
    """

    columns: Columns
    chosen: Ints
    makespan_s: Floats
    energy_j: Floats
    value: Floats


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


@dataclass(frozen=True)
class _Labels:
    """Pipelines under construction, all with the same number of stages and the same micro-batch size."""

    cut: Ints
    code: Ints
    return_s: Floats  # rows that include the way back (training), or the largest stage row (inference)
    forward_s: Floats  # rows that end with a stage's own sums and step
    path_s: Floats  # one micro-batch through all stages so far, forward
    floor_s: Floats  # rows to which nothing is added: loads of stages and ports
    air_s: Floats  # airtime of activations and gradients by contended resource, shape (labels, resources)
    sums_s: Floats  # airtime of everything else, likewise
    decode_s: Floats  # what follows the prompt's passes, one after another
    energy_j: Floats
    idle_w: Floats
    cap_s: Floats  # longest makespan that batteries last
    battery_j: Floats  # joules above idling of devices with a priced battery limit, shape (labels, such devices)
    over_bytes: Floats  # beyond a priced memory headroom, with the least in-flight counts
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
    insists
        Whether to go on after that, and after the deadline, until some plan is found.
    every_cut
        Whether the labels kept under the cap are the best ones of every cut, which finds good plans, instead of those
        with the lowest bounds, which are mostly short beginnings and leave the best bounds behind.
    open
        Plans whose best schedule may still improve an answer; the bounds in ``targets`` do not cover them.
    """

    problem: Problem
    columns: Columns
    targets: Targets
    most_labels: int
    deadline: Deadline
    schedules_left: int
    insists: bool = True
    every_cut: bool = False
    report: SearchReport = field(default_factory=SearchReport)
    candidates: list[Candidates] = field(default_factory=list)
    open: list[Open] = field(default_factory=list)
    _tables: dict[int, Floats] = field(default_factory=dict, init=False, repr=False)

    def run(self) -> SearchReport:
        """Search every micro-batch size; the answers and bounds are in ``targets``."""
        # On one medium or switch what a hand-over takes is a part of each column's own.
        by_pair = self.problem.network.single is None and len(self.problem.cluster.devices) > 1
        self.hand_overs = HandOvers(self.problem, self.columns.choices) if by_pair and len(self.columns) else None
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
        self.tail_s = columns.tail_s(self.problem.shared)
        self.within_s = np.nan  # no bounds on missing stages yet
        inner = (self.problem.workload.cut_bytes(cut) for cut in range(1, self.layers))
        self.cut_bytes = np.array([0.0, *inner])
        if self.problem.workload.decode_steps:
            tokens = (self.problem.workload.token_bytes(cut) for cut in range(1, self.layers))
            self.token_bytes = np.array([0.0, *tokens, float(INTEGER_BYTES)])  # the tokens chosen go back
        self.by_stop = [np.flatnonzero((columns.stop == cut) & ~columns.hosts) for cut in range(self.layers + 1)]
        self._bound_stages_left()
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
            self._bound_stages_left()
            labels = self._extend(open_, open_parents, len(history))

    def _last_stages(self) -> _Labels:
        c, batches = self.c, self.micro_batches
        ids = np.flatnonzero((c.stop == self.layers) & (c.most_in_flight >= 1) & (c.least_in_flight <= 1))
        own_s = batches * (c.forward_s + c.backward_s)[ids]
        out_s = c.output_trip_s[ids]
        host_back_s = batches * c.host_backward_s[ids]  # hosted forward passes may overlap with filling the pipeline
        host_load_s = host_back_s + batches * c.host_forward_s[ids]
        labels = _Labels(
            cut=c.first[ids],
            code=c.code[ids],
            return_s=own_s + out_s,
            forward_s=own_s + host_back_s + self.tail_s[ids] if self.trains else np.zeros(len(ids)),
            path_s=c.forward_s[ids] + out_s,
            floor_s=np.maximum(c.port_s[ids], own_s + host_load_s + self.tail_s[ids]),
            air_s=np.zeros_like(c.sum_air_s[ids]),
            sums_s=(c.sum_air_s + batches * c.output_air_s)[ids],
            decode_s=c.decode_s[ids],
            energy_j=c.energy_j[ids],
            idle_w=c.idle_w[ids],
            cap_s=c.cap_s[ids],
            battery_j=c.battery_j[ids],
            over_bytes=c.over_bytes_at(ids, 1),
            last=ids,
            column=ids,
            parent=np.full(len(ids), -1),
        )
        return self._keep(labels)

    def _extend(self, labels: _Labels, parents: Ints, position: int) -> _Labels:
        """All pipelines with one more stage in front; ``position`` stages are behind it."""
        depths = self.problem.space.in_flight_depths
        needed, most = (
            min(self.micro_batches, 1 + depth(depths) * position) if self.trains else 1 for depth in (min, max)
        )
        parts = []
        for cut in np.unique(labels.cut):
            behind = np.flatnonzero(labels.cut == cut)
            front = self.by_stop[cut]
            front = front[(self.c.most_in_flight[front] >= needed) & (self.c.least_in_flight[front] <= most)]
            if not len(front):
                continue
            rows = max(1, _BLOCK // len(front))
            for start in range(0, len(behind), rows):
                some = behind[start : start + rows]
                fits = self.c.fleet.fit_together(labels.code[some][:, None], self.c.code[front][None])
                # A hosted first layer ends the pipeline at cut 1; nothing may run layer 0 again.
                fits &= ~(self.c.hosts[labels.last[some]][:, None] & (self.c.first[front] == 0)[None])
                row, column = np.nonzero(self._promising(labels.take(some), front, fits))
                joined = self._joined(labels.take(some[row]), front[column], parents[some[row]], needed)
                parts.append(self._keep(joined))
        return self._capped(_Labels.join(parts) if parts else labels.take(np.zeros(0, dtype=int)))

    def _promising(self, behind: _Labels, front: Ints, fits: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which pipelines are worth a label, by their largest row without transfers; shape (labels, columns).

        Most are not, and making a label of each takes many times as long as this.
        """
        c, rest, batches = self.c, self.problem.completion, self.micro_batches
        both_s = (c.forward_s + c.backward_s)[front]
        code = behind.code[:, None] + c.code[front][None]
        code[~fits] = 0
        index = self._index(c.hosts[behind.last].astype(int)[:, None], code, c.first[front][None])
        if self.trains:
            return_s = np.maximum(behind.return_s[:, None] + both_s[None], batches * both_s[None])
        else:
            own_s = batches * both_s[None] + behind.path_s[:, None]
            return_s = np.maximum(behind.return_s[:, None] + both_s[None], own_s)
        within_s = np.minimum(return_s + self.path_s.take(index), self.within_s)
        makespan_s = np.maximum(within_s, self.load_s.take(index))
        energy_j = makespan_s
        if self.asks_energy:
            dynamic_j = behind.energy_j[:, None] + c.energy_j[front][None]
            dynamic_j = dynamic_j + c.batch * self._table(rest.energy_j).take(index)
            idle_w = behind.idle_w[:, None] + c.idle_w[front][None]
            with np.errstate(invalid="ignore"):
                energy_j = self.problem.energy_j(dynamic_j, idle_w, makespan_s)
            energy_j = np.where(np.isnan(energy_j), np.inf, energy_j)
        possible = fits & np.isfinite(makespan_s)
        bounds = Figures(*(each[possible] for each in (makespan_s, energy_j, self._least_value(makespan_s, energy_j))))
        relevant = self.targets.relevant(*bounds)
        self.targets.set_aside(*bounds.take(~relevant))
        possible[possible] = relevant
        return possible

    def _least_value(self, makespan_s: Floats, energy_j: Floats) -> Floats:
        """The objective without what soft limits add."""
        return makespan_s if self.problem.terms.is_plain else self.problem.terms.qoe.base(makespan_s, energy_j)

    @property
    def asks_energy(self) -> bool:
        """Whether the energy of a plan matters to any question."""
        if not self.problem.terms.is_plain or np.isfinite(self.targets.energy_limit_j):
            return True
        return any(
            ladder.least == "energy_j" or (ladder.within == "energy_j" and not ladder.unlimited)
            for ladder in self.targets.asked
        )

    def _joined(self, behind: _Labels, front: Ints, parents: Ints, in_flight: int) -> _Labels:
        c, batches = self.c, self.micro_batches
        move = self._move(front, behind.column)
        own_s = batches * (c.forward_s + c.backward_s)[front]
        if self.trains:
            way_s = (c.forward_s + c.backward_s)[front] + (move.there_s + move.back_s)
            return_s = np.maximum(behind.return_s + way_s, own_s)
            step_rows = np.maximum(behind.forward_s + c.forward_s[front] + move.there_s, own_s + self.tail_s[front])
        else:
            return_s = np.maximum(behind.return_s + c.forward_s[front], own_s + behind.path_s) + move.there_s
            step_rows = behind.forward_s
        return _Labels(
            cut=c.first[front],
            code=behind.code + c.code[front],
            return_s=return_s,
            forward_s=step_rows,
            path_s=behind.path_s + c.forward_s[front] + move.there_s,
            floor_s=np.maximum.reduce([behind.floor_s, c.port_s[front], own_s]),
            air_s=behind.air_s + batches * move.air_s,
            sums_s=behind.sums_s + c.sum_air_s[front],
            decode_s=behind.decode_s + c.decode_s[front] + self._token_s(front, behind.column),
            energy_j=behind.energy_j + c.energy_j[front] + batches * move.extra_j,
            idle_w=behind.idle_w + c.idle_w[front],
            cap_s=np.minimum(behind.cap_s, c.cap_s[front]),
            battery_j=behind.battery_j + c.battery_j[front],
            over_bytes=behind.over_bytes + c.over_bytes_at(front, in_flight),
            last=behind.last,
            column=front,
            parent=parents,
        )

    def _token_s(self, ahead: Ints, behind: Ints) -> Floats:
        """Seconds of the hand-overs between two columns in all steps after the first token."""
        c, steps = self.c, self.problem.workload.decode_steps
        if not steps:
            return np.zeros(len(ahead))
        if self.hand_overs is not None:
            moved_bytes = self.micro_batches * self.token_bytes[c.stop[ahead]]
            return steps * self.hand_overs.between(c.choice[ahead], c.choice[behind], moved_bytes).there_s
        return self._hold(c.token_send_s[ahead], c.token_receive_s[behind]) + steps * self.problem.message_s

    def _move(self, ahead: Ints, behind: Ints, *, hosted: bool = False) -> HandOver:
        """Hand-overs of a micro-batch between columns, or from a hosted first layer to columns."""
        c = self.c
        if self.hand_overs is not None:
            entering = self.cut_bytes[c.first[behind]]
            return self.hand_overs.between(c.choice[ahead], c.choice[behind], entering)
        hold_s = self._hold((c.host_send_s if hosted else c.send_s)[ahead], c.receive_s[behind])
        transfer_s = hold_s + self.problem.message_s
        return HandOver(transfer_s, transfer_s, self._one_medium_s(hold_s), np.zeros_like(hold_s))

    def _one_medium_s(self, hold_s: Floats) -> Floats:
        """Airtime of hand-overs, both directions in training: on a shared medium only, and none of a device alone."""
        directions = 2 if self.trains else 1
        resources = len(self.problem.network.contended)
        return directions * hold_s[:, None] if self.problem.shared else np.zeros((len(hold_s), resources))

    def _hold(self, send_s: Floats, receive_s: Floats) -> Floats:
        return send_s + receive_s if self.problem.shared else np.maximum(send_s, receive_s)

    # ------------------------------------------------------------------ bounds

    def _complete(self, labels: _Labels) -> NDArray[np.bool_]:
        return np.asarray(labels.cut == np.where(self.c.hosts[labels.last], 1, 0))

    def bounds(self, labels: _Labels) -> Figures:
        """Lower bounds on the figures of every plan that continues a label; inf where none can."""
        complete = self._complete(labels)
        makespan_s = self._open_rows(labels)
        makespan_s[complete] = self._complete_rows(labels.take(np.flatnonzero(complete)))
        if self.problem.workload.generates:
            makespan_s = makespan_s + labels.decode_s + self._steps_left_s(labels, complete)
        makespan_s[self._overloaded(labels, complete)] = np.inf
        makespan_s = np.where(makespan_s <= labels.cap_s, makespan_s, np.inf)  # a battery would be empty before
        rest = self.problem.completion
        missing_j = np.where(complete, 0.0, self._rest(rest.energy_j, labels)) * self.c.batch
        missing_w = np.where(complete, 0.0, rest.idle_w[labels.code])
        with np.errstate(invalid="ignore"):
            dynamic_j = self._dynamic_j(labels) + missing_j
            energy_j = self.problem.energy_j(dynamic_j, labels.idle_w + missing_w, makespan_s)
        energy_j = np.where(np.isnan(energy_j), np.inf, energy_j)
        return Figures(makespan_s, energy_j, self._value(makespan_s, energy_j, labels, labels.over_bytes))

    def _value(self, makespan_s: Floats, energy_j: Floats, labels: _Labels, over_bytes: Floats) -> Floats:
        """The objective with what soft limits add, of plans with the labels' devices."""
        if self.problem.terms.is_plain:
            return makespan_s
        return self.problem.value(makespan_s, energy_j, labels.code, labels.battery_j, over_bytes)

    def _dynamic_j(self, labels: _Labels) -> Floats:
        """Joules above idling, with those of a hosted first layer's hand-overs where a pipeline is complete."""
        if self.hand_overs is None:
            return labels.energy_j
        met = np.flatnonzero(self._complete(labels) & self.c.hosts[labels.last])
        energy_j = labels.energy_j.copy()
        move = self._move(labels.last[met], labels.column[met], hosted=True)
        energy_j[met] += self.micro_batches * move.extra_j
        return energy_j

    def _rest(self, by_cut: Floats, labels: _Labels) -> Floats:
        """Completion figure of the layers not placed yet (a hosted first layer is placed)."""
        return self._table(by_cut).take(self._index(self.c.hosts[labels.last].astype(int), labels.code, labels.cut))

    def _index(self, hosted: Ints, code: Ints, cut: Ints) -> Ints:
        """Places in a :meth:`_table`."""
        return (hosted * self.c.fleet.codes + code) * (self.layers + 1) + cut

    def _table(self, by_cut: Floats) -> Floats:
        """A completion figure of the layers up to a cut, all and without the first; shape (2 x codes x cuts,)."""
        if id(by_cut) not in self._tables:
            parts = []
            for hosted in (0, 1):
                with np.errstate(invalid="ignore"):
                    rest = by_cut - by_cut[:, hosted : hosted + 1]
                # inf - inf: no device is left for what is missing
                missing = np.where(np.arange(by_cut.shape[1]) > hosted, np.inf, 0.0)[None]
                parts.append(np.where(np.isnan(rest), missing, rest))
            self._tables[id(by_cut)] = np.stack(parts).ravel()
        return self._tables[id(by_cut)]

    def _bound_stages_left(self) -> None:
        """Bounds on the stages still missing of plans worth having; the better the incumbents, the tighter they are.

        What needs more than the longest makespan of such plans is known to need more than that, but not how much.
        """
        longest_s = self.targets.longest_s * (1 + _MARGIN)
        if longest_s >= self.within_s * (1 - _MARGIN):
            return
        rest, left, b = self.problem.completion, self.problem.stages_left, self.micro_batch
        least_s = left.least_makespan_s(b, self.micro_batches)[:, None]
        path_s = b * self._table(left.path_s)
        load_s = self.c.batch * self._table(rest.load_s)
        for hosted in (0, 1):
            work = np.maximum(left.work - left.work[hosted], 0.0)
            part = slice(hosted * len(path_s) // 2, (hosted + 1) * len(path_s) // 2)
            with np.errstate(invalid="ignore"):
                load_s[part] = np.fmax(load_s[part], (least_s * work).ravel())
            if np.isfinite(longest_s):
                within_s = left.path_within_s(work, b, self.micro_batches, longest_s)
                path_s[part] = np.maximum(path_s[part], within_s.ravel())
        self.path_s, self.load_s, self.within_s = path_s, load_s, longest_s

    def _overloaded(self, labels: _Labels, complete: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which pipelines cannot keep up with a stream: a stage, a port or the medium needs more than a period."""
        if self.problem.workload.arrival_s is None:
            return np.zeros(len(labels), dtype=bool)
        to_come_s = self.c.batch * self._rest(self.problem.completion.load_s, labels)
        loads_s = np.maximum(labels.floor_s, np.where(complete, 0.0, to_come_s))
        inputs_s = self.micro_batches * self.c.input_air_s[labels.column] * complete[:, None]
        loads_s = np.maximum(loads_s, _busiest(labels.air_s + labels.sums_s + inputs_s))
        return self.problem.overloaded(loads_s)

    def _steps_left_s(self, labels: _Labels, complete: NDArray[np.bool_]) -> Floats:
        """What a pipeline's steps after the first token take on top of its label: stages to come, and the way back."""
        steps, message_s = self.problem.workload.decode_steps, self.problem.message_s
        back_s = np.where(labels.column != labels.last, self._token_s(labels.last, labels.column), 0.0)
        to_come_s = self._rest(self.problem.completion.decode_s, labels) + 2 * steps * message_s
        return np.where(complete, back_s, to_come_s)

    def _open_rows(self, labels: _Labels) -> Floats:
        rest, b = self.problem.completion, self.micro_batch
        next_byte_s = rest.next_byte_s[labels.code]
        sending = b * self.cut_bytes[labels.cut % self.layers]
        with np.errstate(invalid="ignore"):
            hold_s = self._hold(np.nan_to_num(sending * next_byte_s, posinf=0.0), self.c.receive_s[labels.column])
        transfer_s = hold_s + self.problem.message_s
        directions = 2 if self.trains else 1
        place = self._index(self.c.hosts[labels.last].astype(int), labels.code, labels.cut)
        path_s = labels.return_s + directions * transfer_s + self.path_s.take(place)
        rows = [np.minimum(path_s, self.within_s), labels.floor_s, self.load_s.take(place)]
        if self.trains:
            forward_s = self._table(self.problem.stages_left.forward_s).take(place)
            rows.append(labels.forward_s + transfer_s + b * forward_s)
        next_s = self._one_medium_s(hold_s)
        if self.hand_overs is not None:
            next_s = self.hand_overs.entering_s(self.c.choice[labels.column], self.cut_bytes[labels.cut])
        rows.append(_busiest(labels.air_s + labels.sums_s + self.micro_batches * next_s))
        return np.asarray(np.maximum.reduce(rows))

    def _complete_rows(self, labels: _Labels) -> Floats:
        c, batches = self.c, self.micro_batches
        hosted = c.hosts[labels.last]
        host = np.where(hosted, labels.last, 0)
        move = self._move(host, labels.column, hosted=True)
        there_s, back_s = np.where(hosted, move.there_s, 0.0), np.where(hosted, move.back_s, 0.0)
        first = np.where(hosted, labels.last, labels.column)  # stage whose devices run the first layer
        first_forward_s = np.where(hosted, c.host_forward_s[host], c.forward_s[labels.column])
        input_s = c.input_trip_s[first]
        before_s = np.where(hosted, first_forward_s, 0.0) + there_s + input_s
        if not self.trains:
            medium_s = _busiest(labels.air_s + labels.sums_s + batches * c.input_air_s[first])
            return np.asarray(np.maximum.reduce([labels.return_s + input_s, labels.floor_s, medium_s]))
        # After the last gradient has come back: backward pass of the first layer, sums, step. The exchange of tied
        # gradients needs the other end's part as well.
        first_backward_s = np.where(hosted, c.host_backward_s[host], c.backward_s[labels.column])
        other_part_s = np.where(labels.column != labels.last, c.tied_part_s[labels.last], 0.0) * ~hosted
        tail_s = self.tail_s[first] + (other_part_s if self.problem.shared else 0.0)
        rows = [
            labels.return_s + before_s + np.where(hosted, back_s + first_backward_s, 0.0) + tail_s,
            labels.forward_s + np.where(labels.column != labels.last, before_s, input_s),
            labels.floor_s,
        ]
        air_s = labels.air_s + np.where(hosted[:, None], batches * move.air_s, 0.0)
        rows.append(_busiest(air_s + labels.sums_s + batches * c.input_air_s[first]))
        busiest_s = _busiest(air_s)
        around_s = input_s + first_forward_s + busiest_s + first_backward_s + tail_s
        rows.append(np.where(busiest_s > 0, around_s, 0.0))
        return np.asarray(np.maximum.reduce(rows))

    def _keep(self, labels: _Labels) -> _Labels:
        bounds = self.bounds(labels)
        possible = np.isfinite(bounds.makespan_s)
        relevant = possible & self.targets.relevant(*bounds)
        self.targets.set_aside(*bounds.take(possible & ~relevant))
        return labels.take(relevant)

    def _capped(self, labels: _Labels) -> _Labels:
        if len(labels) <= self.most_labels:
            return labels
        bounds = self.bounds(labels)
        # An equal part of the places for the best at every figure that is asked for.
        rank = np.full(len(labels), len(labels))
        sought = self._sought(bounds)
        if np.isfinite(self.targets.energy_limit_j):  # the fastest beginnings may all end beyond the limit
            sought.append(bounds.makespan_s * bounds.energy_j)
        for figure in sought:
            order = np.argsort(figure)
            places = _among_equals(labels.cut[order]) if self.every_cut else np.arange(len(labels))
            rank[order] = np.minimum(rank[order], places)
        order = np.argsort(rank, kind="stable")
        self.targets.set_aside(*bounds.take(order[self.most_labels :]))
        return labels.take(order[: self.most_labels])

    def _sought(self, figures: Figures) -> list[Floats]:
        return [getattr(figures, name) for name in dict.fromkeys(ladder.least for ladder in self.targets.asked)]

    def _give_up(self, labels: _Labels) -> None:
        if len(labels):
            self.targets.set_aside(*self.bounds(labels))

    # ------------------------------------------------------------------ complete partitions

    def _settle(self, labels: _Labels, complete: NDArray[np.bool_], history: list[_Labels]) -> None:
        """Bound complete partitions by their longest path, and schedule those that may still matter."""
        ids = np.flatnonzero(complete)
        if not len(ids):
            return
        bounds = self.bounds(labels).take(ids)
        chosen = np.empty((len(ids), len(history)), dtype=np.int64)
        at = ids
        for stage, level in enumerate(reversed(history)):
            chosen[:, stage] = level.column[at]
            at = level.parent[at]
        self.report.partitions += len(ids)
        self.candidates.append(Candidates(self.c, chosen, *bounds))
        labels = replace(labels, energy_j=self._dynamic_j(labels)).take(ids)
        hosted = self.c.hosts[labels.last]
        for hosts in (False, True):
            some = np.flatnonzero(hosted == hosts)
            if len(some):
                self._schedule(chosen[some], hosts, bounds.makespan_s[some], labels.take(some))

    def _schedule(self, chosen: Ints, hosts: bool, rows_s: Floats, labels: _Labels) -> None:
        stages = chosen.shape[1]
        cases = []  # (in-flight counts, partitions, lower bounds)
        for in_flight in self.problem.space.in_flight_counts(stages, self.micro_batches):
            enough = self.c.holds(chosen, np.array(in_flight) if self.trains else 1)
            which = np.flatnonzero(enough.all(axis=1))
            if len(which):
                path_s = self._longest_paths(chosen[which], in_flight, hosts)
                cases.append((in_flight, which, np.maximum(path_s, rows_s[which])))
        for in_flight, which, bound_s in cases:
            possible = bound_s <= labels.cap_s[which]
            which, bound_s = which[possible], bound_s[possible]
            if not len(which):
                continue
            some = labels.take(which)
            over_bytes = self._over_bytes(chosen[which], in_flight)
            bound_j = self.problem.energy_j(some.energy_j, some.idle_w, bound_s)
            bounds = Figures(bound_s, bound_j, self._value(bound_s, bound_j, some, over_bytes))
            covered = np.ones(len(which), dtype=bool)
            orders = [np.argsort(figure) for figure in self._sought(bounds)]
            for at in dict.fromkeys(np.stack(orders, axis=1).ravel().tolist()):
                if not self.targets.relevant(*bounds.take(np.array([at])))[0]:
                    continue
                late = self.schedules_left <= 0 or self.deadline.passed
                if late and (self.targets.plans or not self.insists):  # some plan is better than none
                    break
                tried = self._try(
                    chosen[which[at]], in_flight, float(bound_s[at]), some.take(np.array([at])), over_bytes[at : at + 1]
                )
                if tried.makespan_s > tried.bound_s * (1 + self.targets.tolerance):
                    self.open.append(tried)
                    covered[at] = False
            self.targets.set_aside(*bounds.take(covered))

    def _over_bytes(self, chosen: Ints, in_flight: tuple[int, ...]) -> Floats:
        """Bytes beyond a priced memory headroom, all stages together."""
        parts = [self.c.over_bytes_at(chosen[:, stage], held) for stage, held in enumerate(in_flight)]
        return np.asarray(np.sum(parts, axis=0))

    def _longest_paths(self, chosen: Ints, in_flight: tuple[int, ...], hosts: bool) -> Floats:
        c, stages, message_s = self.c, chosen.shape[1], self.problem.message_s
        workload = self.problem.workload
        tied = "hosted" if hosts else "synchronised" if workload.tied_parameters and stages > 1 else None
        shape = Shape(
            in_flight=in_flight if self.trains else (self.micro_batches,) * stages,
            micro_batches=self.micro_batches,
            trains=self.trains,
            tied=tied if self.trains else None,  # type: ignore[arg-type]
            # What sums take after the last backward pass, as one operation; none for a single replica.
            buckets=(int(self.trains),) * stages,
            overlap=self.problem.overlap,
            inputs=bool(c.input_s.any()),
            labels=bool(c.label_s.any()),
            outputs=bool(c.output_s.any()),
            generates=workload.generates,
            decodes=workload.generates,
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
            duration_s[OperationClass("token", stage)] = self._token_s(ids, chosen[:, (stage + 1) % stages])
            duration_s[OperationClass("tied-reduce", stage)] = with_latency(c.tied_gather_s[ids])
            duration_s[OperationClass("tied-broadcast", stage)] = with_latency(c.tied_spread_s[ids])
            if stage + 1 < stages:
                move = self._move(ids, chosen[:, stage + 1])
                duration_s[OperationClass("activation", stage)] = move.there_s
                duration_s[OperationClass("gradient", stage)] = move.back_s
        head, tail = chosen[:, 0], chosen[:, -1]
        exchange_s = self._hold(c.tied_part_s[head], c.tied_part_s[tail])
        duration_s[OperationClass("tied-exchange", stages - 1)] = with_latency(exchange_s)
        if hosts:
            move = self._move(tail, head, hosted=True)
            duration_s[OperationClass("forward", HOSTED)] = c.host_forward_s[tail]
            duration_s[OperationClass("backward", HOSTED)] = c.host_backward_s[tail]
            duration_s[OperationClass("activation", HOSTED)] = move.there_s
            duration_s[OperationClass("gradient", HOSTED)] = move.back_s
        first = HOSTED if hosts else 0
        duration_s[OperationClass("input", first)] = c.input_trip_s[tail if hosts else head]
        duration_s[OperationClass("label", stages - 1)] = c.label_trip_s[tail]
        duration_s[OperationClass("output", stages - 1)] = c.output_trip_s[tail]
        return operations_of(shape).longest_path(duration_s)

    def _try(
        self, chosen: Ints, in_flight: tuple[int, ...], bound_s: float, label: _Labels, over_bytes: Floats
    ) -> Open:
        problem = self.problem
        self.schedules_left -= 1
        self.report.schedules += 1
        plan = decode(self.c, chosen.tolist(), in_flight, problem)
        makespan_s, order = quick_schedule(plan, problem)
        dynamic_j = label.energy_j
        if self.hand_overs is not None:
            timing = timing_of(plan, problem.workload, problem.cluster, problem.table)
            dynamic_j = np.array([float(self.c.energy_j[chosen].sum()) + beyond_columns_j(plan, timing, problem)])
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


def _among_equals(keys: Ints) -> Ints:
    """For each key, how many equal ones come before it."""
    order = np.argsort(keys, kind="stable")
    grouped = keys[order]
    first = np.flatnonzero(np.append(True, grouped[1:] != grouped[:-1]))
    places = np.empty(len(keys), dtype=np.int64)
    places[order] = np.arange(len(keys)) - np.repeat(first, np.diff(np.append(first, len(keys))))
    return places


def _busiest(air_s: Floats) -> Floats:
    """Airtime of the resource that is held longest, 0 where there is none."""
    if air_s.shape[1] == 1:  # the usual case, and not worth a reduction
        return air_s[:, 0]
    return np.asarray(air_s.max(axis=1, initial=0.0))
