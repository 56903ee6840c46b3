"""The bounding search: partitions built stage by stage, dropped as soon as a valid bound says they cannot matter.

Pipelines grow from the last stage to the first, so a stage's position from the end, and with it its in-flight count,
is known when it is placed. Labels of one cut are extended by all columns that end there at once, as arrays.

Only bounds against incumbents discard anything, and the bounds of everything discarded are remembered: whatever stops
the search early (a time limit, a cap on labels), the bounds it returns are true. The rows that bound a part of a
pipeline are in :mod:`~dora_nb.planning.bounding.bounds`; after a partition is complete, the longest path through its
operations bounds it as well, see :mod:`~dora_nb.planning.bounding.partitions`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from dora_nb.formulation.columns import Columns
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.hand_overs import HandOvers
from dora_nb.formulation.problem import Problem
from dora_nb.planning.bounding.bounds import Bounds
from dora_nb.planning.bounding.family import Family
from dora_nb.planning.bounding.labels import Labels
from dora_nb.planning.bounding.partitions import Candidates, Open, Partitions
from dora_nb.planning.bounding.targets import Targets
from dora_nb.planning.deadline import Deadline

#: Pairs of a label and a column that are looked at together: enough to be worth the calls, few enough for the cache.
_BLOCK = 100_000


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


@dataclass
class Search:
    """One search over given columns.

    Attributes
    ----------
    problem, columns
        What is planned, from which columns.
    targets
        What is sought; answers and bounds are kept there.
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
    partitions
        What became of complete ones; the bounds in ``targets`` do not cover its open plans.
    report
        What was done so far.
    """

    problem: Problem
    columns: Columns
    targets: Targets
    most_labels: int
    deadline: Deadline
    schedules_left: int
    insists: bool = True
    every_cut: bool = False
    report: SearchReport = field(default_factory=SearchReport, init=False)
    partitions: Partitions = field(init=False)

    def __post_init__(self) -> None:
        self.partitions = Partitions(self.problem, self.targets, self.deadline, self.schedules_left, self.insists)

    @property
    def open(self) -> list[Open]:
        """Plans whose best schedule may still improve an answer."""
        return self.partitions.open

    @property
    def candidates(self) -> list[Candidates]:
        """Complete partitions that the rows did not rule out."""
        return self.partitions.candidates

    def run(self) -> SearchReport:
        """Search every micro-batch size; the answers and bounds are in ``targets``."""
        # On one medium or switch what a hand-over takes is a part of each column's own.
        by_pair = self.problem.network.single is None and len(self.problem.cluster.devices) > 1
        hand_overs = HandOvers(self.problem, self.columns.choices) if by_pair and len(self.columns) else None
        c = self.columns
        for micro_batch, groups in sorted(set(zip(c.micro_batch.tolist(), c.token_groups.tolist(), strict=True))):
            columns = c.take((c.micro_batch == micro_batch) & (c.token_groups == groups))
            self._grow(Family(self.problem, columns, micro_batch, groups, hand_overs))
        self.report.partitions, self.report.schedules = self.partitions.count, self.partitions.schedules
        return self.report

    def _grow(self, family: Family) -> None:
        """All pipelines of one micro-batch size."""
        self.family, self.c, self.bounds = family, family.columns, Bounds(family, self.targets)
        labels = self._capped(self._last_stages())
        history: list[Labels] = []
        while len(labels):
            history.append(labels)
            self.report.labels += len(labels)
            complete = self.bounds.complete(labels)
            self.partitions.take(self.bounds, complete, history)
            open_parents = np.flatnonzero(~complete)
            open_ = labels.take(open_parents)
            if not len(open_) or self.deadline.passed:
                self._give_up(open_)
                return
            self.bounds.tighten()
            labels = self._extend(open_, open_parents, len(history))

    def _last_stages(self) -> Labels:
        c, batches = self.c, self.family.micro_batches
        ids = np.flatnonzero((c.stop == self.family.layers) & (c.most_in_flight >= 1) & (c.least_in_flight <= 1))
        own_s = batches * (c.forward_s + c.backward_s)[ids]
        out_s = c.output_trip_s[ids]
        host_back_s = batches * c.host_backward_s[ids]  # hosted forward passes may overlap with filling the pipeline
        host_load_s = host_back_s + batches * c.host_forward_s[ids]
        labels = Labels(
            cut=c.first[ids],
            code=c.code[ids],
            return_s=own_s + out_s,
            forward_s=own_s + host_back_s + self.family.tail_s[ids] if self.family.trains else np.zeros(len(ids)),
            path_s=c.forward_s[ids] + out_s,
            floor_s=np.maximum(c.port_s[ids], own_s + host_load_s + self.family.tail_s[ids]),
            air_s=np.zeros_like(c.sum_air_s[ids]),
            sums_s=(c.sum_air_s + batches * c.output_air_s)[ids],
            decode_s=c.decode_s[ids],
            steps_s=c.steps_s[ids],
            token_air_s=np.zeros(len(ids)),
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

    def _extend(self, labels: Labels, parents: Ints, position: int) -> Labels:
        """All pipelines with one more stage in front; ``position`` stages are behind it."""
        depths, batches = self.problem.space.in_flight_depths, self.family.micro_batches
        needed, most = (min(batches, 1 + depth(depths) * position) if self.family.trains else 1 for depth in (min, max))
        parts = []
        for behind, front in self._pairs(labels, needed, most):
            worth_it = self.bounds.promising(labels, behind, front)
            behind, front = behind[worth_it], front[worth_it]
            parts.append(self._keep(self._joined(labels.take(behind), front, parents[behind], needed)))
        return self._capped(Labels.join(parts) if parts else labels.take(np.zeros(0, dtype=int)))

    def _pairs(self, labels: Labels, needed: int, most: int) -> Iterator[tuple[Ints, Ints]]:
        """Labels and columns that end where they begin, without a device in common; many at once, as two arrays.

        Columns that need fewer micro-batches in flight than ``needed``, or hold more than ``most``, are left out. So is
        what the layers and devices used up alone leave no room for: labels of one such kind, and columns of one, are
        looked at together.
        """
        c, codes, place = self.c, self.c.fleet.codes, self.family.layers + 1
        of_use = np.flatnonzero((c.most_in_flight >= needed) & (c.least_in_flight <= most) & ~c.hosts)
        behind = _Alike.of((labels.cut * 2 + c.hosts[labels.last]) * codes + labels.code)
        front = _Alike.of(((c.stop * codes + c.code) * place + c.first)[of_use])
        cut_of, (stop_of, first_of) = behind.key // (2 * codes), (front.key // (codes * place), front.key % place)
        hosted_of, code_of, front_code_of = behind.key // codes % 2, behind.key % codes, front.key // place % codes
        met = []
        for cut in np.unique(cut_of).tolist():
            ahead = np.arange(*np.searchsorted(stop_of, (cut, cut + 1)))
            own = np.flatnonzero(cut_of == cut)[:, None]
            fits = c.fleet.fit_together(code_of[own], front_code_of[ahead])
            # A hosted first layer ends the pipeline at cut 1; nothing may run layer 0 again.
            fits &= ~((hosted_of[own] == 1) & (first_of[ahead] == 0))
            row, column = np.nonzero(fits)
            met.append((own[row, 0], ahead[column]))
        rows, columns = (np.concatenate(each) for each in zip(*met, strict=True))
        room = self.bounds.leaves_room(hosted_of[rows], code_of[rows] + front_code_of[columns], first_of[columns])
        for label, column in _members(behind, front, rows[room], columns[room]):
            yield label, of_use[column]

    def _joined(self, behind: Labels, front: Ints, parents: Ints, in_flight: int) -> Labels:
        c, batches = self.c, self.family.micro_batches
        move = self.family.move(front, behind.column)
        own_s = batches * (c.forward_s + c.backward_s)[front]
        if self.family.trains:
            way_s = (c.forward_s + c.backward_s)[front] + (move.there_s + move.back_s)
            return_s = np.maximum(behind.return_s + way_s, own_s)
            step_rows = np.maximum(
                behind.forward_s + c.forward_s[front] + move.there_s, own_s + self.family.tail_s[front]
            )
        else:
            return_s = np.maximum(behind.return_s + c.forward_s[front], own_s + behind.path_s) + move.there_s
            step_rows = behind.forward_s
        return Labels(
            cut=c.first[front],
            code=behind.code + c.code[front],
            return_s=return_s,
            forward_s=step_rows,
            path_s=behind.path_s + c.forward_s[front] + move.there_s,
            floor_s=np.maximum.reduce([behind.floor_s, c.port_s[front], own_s]),
            air_s=behind.air_s + batches * move.air_s,
            sums_s=behind.sums_s + c.sum_air_s[front],
            decode_s=behind.decode_s + c.decode_s[front] + self.family.token_s(front, behind.column),
            steps_s=np.maximum(behind.steps_s, c.steps_s[front]),
            token_air_s=behind.token_air_s + self.family.token_air_s(front, behind.column),
            energy_j=behind.energy_j + c.energy_j[front] + batches * move.extra_j,
            idle_w=behind.idle_w + c.idle_w[front],
            cap_s=np.minimum(behind.cap_s, c.cap_s[front]),
            battery_j=behind.battery_j + c.battery_j[front],
            over_bytes=behind.over_bytes + c.over_bytes_at(front, in_flight),
            last=behind.last,
            column=front,
            parent=parents,
        )

    def _keep(self, labels: Labels) -> Labels:
        bounds = self.bounds.of(labels)
        return labels.take(self.targets.sift(np.isfinite(bounds.makespan_s), bounds))

    def _capped(self, labels: Labels) -> Labels:
        if len(labels) <= self.most_labels:
            return labels
        bounds = self.bounds.of(labels)
        # An equal part of the places for the best at every figure that is asked for.
        rank = np.full(len(labels), len(labels))
        sought = self.targets.sought(bounds)
        if np.isfinite(self.targets.energy_limit_j):  # the fastest beginnings may all end beyond the limit
            sought.append(bounds.makespan_s * bounds.energy_j)
        for figure in sought:
            order = np.argsort(figure)
            places = _among_equals(labels.cut[order]) if self.every_cut else np.arange(len(labels))
            rank[order] = np.minimum(rank[order], places)
        order = np.argsort(rank, kind="stable")
        self.targets.set_aside(*bounds.take(order[self.most_labels :]))
        return labels.take(order[: self.most_labels])

    def _give_up(self, labels: Labels) -> None:
        if len(labels):
            self.targets.set_aside(*self.bounds.of(labels))


@dataclass(frozen=True)
class _Alike:
    """Places of equal keys, key by key: those of the i-th are ``count[i]`` of ``places`` from ``begin[i]`` on."""

    key: Ints
    places: Ints
    begin: Ints
    count: Ints

    @classmethod
    def of(cls, keys: Ints) -> _Alike:
        places = np.argsort(keys, kind="stable")
        key, begin, count = np.unique(keys[places], return_index=True, return_counts=True)
        return cls(key, places, begin, count)


def _members(left: _Alike, right: _Alike, i: Ints, j: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Every place of the i-th key of some with every one of the j-th of others, about a block at a time."""
    ends = np.cumsum(left.count[i] * right.count[j])
    for start in range(0, int(ends[-1]) if len(ends) else 0, _BLOCK):
        stop = min(start + _BLOCK, int(ends[-1]))
        first, last = np.searchsorted(ends, (start, stop - 1), side="right")
        inside = np.clip(ends[first : last + 1], start, stop)
        pair = np.repeat(np.arange(first, last + 1), np.diff(inside, prepend=start))
        across = right.count[j[pair]]
        along = np.arange(start, stop) - (ends[pair] - left.count[i[pair]] * across)
        yield left.places[left.begin[i[pair]] + along // across], right.places[right.begin[j[pair]] + along % across]


def _among_equals(keys: Ints) -> Ints:
    """For each key, how many equal ones come before it."""
    order = np.argsort(keys, kind="stable")
    grouped = keys[order]
    first = np.flatnonzero(np.append(True, grouped[1:] != grouped[:-1]))
    places = np.empty(len(keys), dtype=np.int64)
    places[order] = np.arange(len(keys)) - np.repeat(first, np.diff(np.append(first, len(keys))))
    return places
