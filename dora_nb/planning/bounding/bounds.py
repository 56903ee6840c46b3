"""Lower bounds on every plan that continues a pipeline under construction.

Rows that bound the makespan from below (the textbook ``fill + (M - 1) x max`` is not one of them):

* every stage: what one micro-batch needs upstream, there and back, plus all its own micro-batches;
* every stage: the same forward only, plus its own work, plus its own sums and step;
* every contended resource (the medium, a gateway): all airtime, and what must come before the first and after the
  last transfer;
* a resource of the stage's own (a switch port): everything it carries.

What follows a prompt's passes, token by token, does not overlap with them and is added to every row: the rounds of one
group, or where several follow each other all that a stage or the medium has to do for them, if that is more.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.table import Floats
from dora_nb.formulation.fleet import Ints
from dora_nb.planning.bounding.family import Family
from dora_nb.planning.bounding.labels import Labels
from dora_nb.planning.bounding.targets import Figures, Targets

#: Relative slack that keeps a limit apart from what is just beyond it, rounding included.
_MARGIN = 1e-6


class Bounds:
    """Bounds for one family of columns, the tighter the better the incumbents are.

    Parameters
    ----------
    family
        The columns.
    targets
        What is sought, and the incumbents.
    """

    def __init__(self, family: Family, targets: Targets) -> None:
        self.family, self.targets = family, targets
        self.problem, self.c = family.problem, family.columns
        self.micro_batch, self.micro_batches = family.micro_batch, family.micro_batches
        self.layers, self.trains = family.layers, family.trains
        self.cut_bytes, self.tail_s = family.cut_bytes, family.tail_s
        self.both_s = self.c.forward_s + self.c.backward_s
        self._table = self.problem.ground.missing
        self.within_s = np.nan  # no bounds on missing stages yet
        self.within_j: Floats | None = None
        self.tighten()

    def tighten(self) -> None:
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
            work = left.work_until(hosted)
            part = slice(hosted * len(path_s) // 2, (hosted + 1) * len(path_s) // 2)
            with np.errstate(invalid="ignore"):
                load_s[part] = np.fmax(load_s[part], (least_s * work).ravel())
            if np.isfinite(longest_s):
                within_s = left.path_within_s(work, b, self.micro_batches, longest_s)
                path_s[part] = np.maximum(path_s[part], within_s.ravel())
        self.path_s, self.load_s, self.within_s = path_s, load_s, longest_s
        if np.isfinite(longest_s) and self.asks_energy:
            idle_s = self.problem.idle_s(self.targets.floor_s)
            parts = []
            for hosted in (0, 1) if self.c.hosts.any() else (0,):
                work = left.work_until(hosted)
                parts.append(self.problem.energy_left.least_j(work, b, self.micro_batches, idle_s, longest_s).ravel())
            self.within_j = np.concatenate(parts)

    @property
    def asks_energy(self) -> bool:
        """Whether the energy of a plan matters to any question."""
        if not self.problem.terms.is_plain or np.isfinite(self.targets.energy_limit_j):
            return True
        return any(
            ladder.least == "energy_j" or (ladder.within == "energy_j" and not ladder.unlimited)
            for ladder in self.targets.asked
        )

    def leaves_room(self, hosted: Ints, code: Ints, cut: Ints) -> NDArray[np.bool_]:
        """Whether the devices still unused can do the layers still missing within the longest makespan of interest."""
        return np.asarray(self.load_s.take(self._index(hosted, code, cut)) <= self.within_s)

    def promising(self, labels: Labels, behind: Ints, front: Ints) -> NDArray[np.bool_]:
        """Which pairs of a label and a column in front of it are worth a label, by their largest row without transfers.

        Most are not, and making a label of each takes many times as long as this.
        """
        c, rest, place = self.c, self.problem.completion, self.layers + 1
        hosted = c.hosts[labels.last].astype(np.int64)
        index = ((hosted * c.fleet.codes + labels.code) * place)[behind] + (c.code * place + c.first)[front]
        both_s = self.both_s[front]
        own_s = self.micro_batches * both_s
        if not self.trains:
            own_s += labels.path_s[behind]
        return_s = np.maximum(labels.return_s[behind] + both_s, own_s)
        within_s = np.minimum(return_s + self.path_s.take(index), self.within_s)
        makespan_s = np.maximum(within_s, self.load_s.take(index))
        energy_j = makespan_s
        if self.asks_energy:
            placed_j = labels.energy_j[behind] + c.energy_j[front]
            dynamic_j = placed_j + c.batch * self._table(rest.energy_j).take(index)
            idle_w = labels.idle_w[behind] + c.idle_w[front]
            longest_s = np.maximum(makespan_s, self.targets.floor_s)
            with np.errstate(invalid="ignore"):
                if self.within_j is not None:
                    dynamic_j = np.fmax(dynamic_j, placed_j + self.within_j.take(index))
                energy_j = self.problem.energy_j(dynamic_j, idle_w, longest_s)
            energy_j = np.where(np.isnan(energy_j), np.inf, energy_j)
        bounds = Figures(makespan_s, energy_j, self._least_value(makespan_s, energy_j))
        return self.targets.sift(np.isfinite(makespan_s), bounds)

    def _least_value(self, makespan_s: Floats, energy_j: Floats) -> Floats:
        """The objective without what soft limits add."""
        return makespan_s if self.problem.terms.is_plain else self.problem.terms.qoe.base(makespan_s, energy_j)

    def complete(self, labels: Labels) -> NDArray[np.bool_]:
        """Which pipelines have all their layers."""
        return np.asarray(labels.cut == np.where(self.c.hosts[labels.last], 1, 0))

    def of(self, labels: Labels) -> Figures:
        """Lower bounds on the figures of every plan that continues a label; inf where none can."""
        complete = self.complete(labels)
        makespan_s = self._open_rows(labels)
        makespan_s[complete] = self._complete_rows(labels.take(np.flatnonzero(complete)))
        if self.problem.workload.generates:
            makespan_s = makespan_s + self._tokens_s(labels, complete)
        makespan_s[self._overloaded(labels, complete)] = np.inf
        makespan_s = np.where(makespan_s <= labels.cap_s, makespan_s, np.inf)  # a battery would be empty before
        rest = self.problem.completion
        missing_j = np.where(complete, 0.0, self._rest(rest.energy_j, labels)) * self.c.batch
        missing_w = np.where(complete, 0.0, rest.idle_w[labels.code])
        longest_s = np.maximum(makespan_s, self.targets.floor_s)
        with np.errstate(invalid="ignore"):
            placed_j = self.dynamic_j(labels)
            energy_j = self.problem.energy_j(placed_j + missing_j, labels.idle_w + missing_w, longest_s)
            if self.within_j is not None:
                place = self._index(self.c.hosts[labels.last].astype(int), labels.code, labels.cut)
                within_j = np.where(complete, 0.0, self.within_j.take(place))
                energy_j = np.fmax(energy_j, self.problem.energy_j(placed_j + within_j, labels.idle_w, longest_s))
        energy_j = np.where(np.isnan(energy_j), np.inf, energy_j)
        return Figures(makespan_s, energy_j, self.value(makespan_s, energy_j, labels, labels.over_bytes))

    def value(self, makespan_s: Floats, energy_j: Floats, labels: Labels, over_bytes: Floats) -> Floats:
        """The objective with what soft limits add, of plans with the labels' devices."""
        if self.problem.terms.is_plain:
            return makespan_s
        return self.problem.value(makespan_s, energy_j, labels.code, labels.battery_j, over_bytes)

    def dynamic_j(self, labels: Labels) -> Floats:
        """Joules above idling, with those of a hosted first layer's hand-overs where a pipeline is complete."""
        if self.family.hand_overs is None:
            return labels.energy_j
        met = np.flatnonzero(self.complete(labels) & self.c.hosts[labels.last])
        energy_j = labels.energy_j.copy()
        move = self.family.move(labels.last[met], labels.column[met], hosted=True)
        energy_j[met] += self.micro_batches * move.extra_j
        return energy_j

    def _rest(self, by_cut: Floats, labels: Labels) -> Floats:
        """Completion figure of the layers not placed yet (a hosted first layer is placed)."""
        return self._table(by_cut).take(self._index(self.c.hosts[labels.last].astype(int), labels.code, labels.cut))

    def _index(self, hosted: Ints, code: Ints, cut: Ints) -> Ints:
        """Places in a table of :meth:`~dora_nb.formulation.ground.Ground.missing`."""
        return (hosted * self.c.fleet.codes + code) * (self.layers + 1) + cut

    def _overloaded(self, labels: Labels, complete: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which pipelines cannot keep up with a stream: a stage, a port or the medium needs more than a period."""
        if self.problem.workload.arrival_s is None:
            return np.zeros(len(labels), dtype=bool)
        to_come_s = self.c.batch * self._rest(self.problem.completion.load_s, labels)
        loads_s = np.maximum(labels.floor_s, np.where(complete, 0.0, to_come_s))
        inputs_s = self.micro_batches * self.c.input_air_s[labels.column] * complete[:, None]
        loads_s = np.maximum(loads_s, _busiest(labels.air_s + labels.sums_s + inputs_s))
        return self.problem.overloaded(loads_s)

    def _tokens_s(self, labels: Labels, complete: NDArray[np.bool_]) -> Floats:
        """What follows the prompt's passes: a group's rounds, or all groups' on the busiest stage or the medium."""
        round_s = labels.decode_s + self._steps_left_s(labels, complete)
        if self.family.token_groups == 1:
            return round_s
        back_s = np.where(complete, self.family.token_air_s(labels.last, labels.column), 0.0)
        back_s = np.where(labels.column != labels.last, back_s, 0.0)
        return np.asarray(np.maximum.reduce([round_s, labels.steps_s, labels.token_air_s + back_s]))

    def _steps_left_s(self, labels: Labels, complete: NDArray[np.bool_]) -> Floats:
        """What a pipeline's steps after the first token take on top of its label: stages to come, and the way back."""
        steps, message_s = self.problem.workload.decode_steps, self.problem.message_s
        back_s = np.where(labels.column != labels.last, self.family.token_s(labels.last, labels.column), 0.0)
        own_s = self.problem.completion.decode_s[self.family.token_groups]
        to_come_s = self._rest(own_s, labels) + 2 * steps * message_s
        return np.where(complete, back_s, to_come_s)

    def _open_rows(self, labels: Labels) -> Floats:
        rest, b = self.problem.completion, self.micro_batch
        next_byte_s = rest.next_byte_s[labels.code]
        sending = b * self.cut_bytes[labels.cut % self.layers]
        with np.errstate(invalid="ignore"):
            hold_s = self.family.hold_s(
                np.nan_to_num(sending * next_byte_s, posinf=0.0), self.c.receive_s[labels.column]
            )
        transfer_s = hold_s + self.problem.message_s
        directions = 2 if self.trains else 1
        place = self._index(self.c.hosts[labels.last].astype(int), labels.code, labels.cut)
        path_s = labels.return_s + directions * transfer_s + self.path_s.take(place)
        rows = [np.minimum(path_s, self.within_s), labels.floor_s, self.load_s.take(place)]
        if self.trains:
            forward_s = self._table(self.problem.stages_left.forward_s).take(place)
            rows.append(labels.forward_s + transfer_s + b * forward_s)
        next_s = self.family.one_medium_s(hold_s)
        if self.family.hand_overs is not None:
            next_s = self.family.hand_overs.entering_s(self.c.choice[labels.column], self.cut_bytes[labels.cut])
        rows.append(_busiest(labels.air_s + labels.sums_s + self.micro_batches * next_s))
        return np.asarray(np.maximum.reduce(rows))

    def _complete_rows(self, labels: Labels) -> Floats:
        c, batches = self.c, self.micro_batches
        hosted = c.hosts[labels.last]
        host = np.where(hosted, labels.last, 0)
        move = self.family.move(host, labels.column, hosted=True)
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


def _busiest(air_s: Floats) -> Floats:
    """Airtime of the resource that is held longest, 0 where there is none."""
    if air_s.shape[1] == 1:  # the usual case, and not worth a reduction
        return air_s[:, 0]
    return np.asarray(air_s.max(axis=1, initial=0.0))
