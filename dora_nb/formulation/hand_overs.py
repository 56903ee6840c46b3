"""Exact figures of hand-overs where both ends matter.

On one medium or one switch a hand-over is a part of the sending column's own and a part of the receiving one's. In
other networks (links between pairs, several domains) it matters who sends to whom: replicas take consecutive sample
intervals, and the bytes of each flow are the overlap of two of them. The figures of a pair of choices are worked out
for one byte per sample when a search first meets the pair, for many pairs at once, and kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dora_nb.costs.operations import Timing
from dora_nb.costs.table import Floats
from dora_nb.domain.plan import Plan
from dora_nb.formulation.columns import Choice, leader_first
from dora_nb.formulation.fleet import Fleet, Ints
from dora_nb.formulation.problem import Problem


@dataclass(frozen=True)
class HandOver:
    """What hand-overs take, one entry each.

    Attributes
    ----------
    there_s, back_s
        Seconds from start to arrival of an activation, and of the gradient that comes back.
    air_s
        Seconds that each contended resource is held, both together (activations alone without training). Shape
        (hand-overs, resources).
    extra_j
        Joules above those that columns count; both directions.
    """

    there_s: Floats
    back_s: Floats
    air_s: Floats
    extra_j: Floats


class HandOvers:
    """Hand-overs between choices of columns.

    Parameters
    ----------
    problem
        What is planned.
    choices
        Which the pairs are made of.
    """

    def __init__(self, problem: Problem, choices: Sequence[Choice]) -> None:
        self._ways = _Ways.of(problem)
        most = max(len(choice.shares) for choice in choices)
        self._kinds = np.zeros((len(choices), most), dtype=np.int64)
        # Samples [from, to) that each device sends, and those that it needs.
        self._sent, self._needed = np.zeros((len(choices), most, 2)), np.zeros((len(choices), most, 2))
        for index, choice in enumerate(choices):
            kinds = [kind for kind, count in enumerate(choice.group.counts) for _ in range(count)]
            self._kinds[index, : len(kinds)] = kinds
            if choice.sliced:
                ids = [problem.cluster.devices[device].id for device in choice.group.devices]
                self._sent[index, leader_first(problem.network, ids)[0], 1] = choice.sliced
                self._needed[index, : len(kinds), 1] = choice.sliced
            else:
                intervals = itertools.pairwise([0, *itertools.accumulate(choice.shares)])
                self._sent[index, : len(kinds)] = self._needed[index, : len(kinds)] = list(intervals)
        self._known: Ints = np.zeros(0, dtype=np.int64)
        self._rows: Floats = np.zeros((0, 4 + self._ways.air.shape[2]))

    def between(self, ahead: Ints, behind: Ints, bytes_per_sample: Floats) -> HandOver:
        """Hand-overs from choices to the choices behind them.

        Parameters
        ----------
        ahead, behind
            Indices of choices, shape (hand-overs,).
        bytes_per_sample
            Bytes that cross the cut, shape (hand-overs,).
        """
        rows = self._looked_up(ahead * len(self._kinds) + behind)
        latency_s = rows[:, 2]
        return HandOver(
            there_s=rows[:, 0] * bytes_per_sample + latency_s,
            back_s=rows[:, 1] * bytes_per_sample + latency_s,
            air_s=rows[:, 4:] * bytes_per_sample[:, None],
            extra_j=rows[:, 3] * bytes_per_sample,
        )

    def entering_s(self, behind: Ints, bytes_per_sample: Floats) -> Floats:
        """Seconds that a hand-over to a choice holds each contended resource at least, whoever is ahead."""
        needed, sent = (np.diff(each[behind], axis=2)[:, :, 0] for each in (self._needed, self._sent))
        air_s = np.einsum("cd,cdr->cr", needed, self._ways.entering_air[self._kinds[behind]])
        air_s += np.einsum("cd,cdr->cr", sent, self._ways.returning_air[self._kinds[behind]])
        return np.asarray(air_s * bytes_per_sample[:, None])

    def _looked_up(self, keys: Ints) -> Floats:
        asked, place = np.unique(keys, return_inverse=True)
        new = np.setdiff1d(asked, self._known, assume_unique=True)
        if len(new):
            ahead, behind = np.divmod(new, len(self._kinds))
            known = np.concatenate([self._known, new])
            order = np.argsort(known)
            self._known = known[order]
            self._rows = np.concatenate([self._rows, self._figures(ahead, behind)])[order]
        return self._rows[np.searchsorted(self._known, asked)[place]]

    def _figures(self, ahead: Ints, behind: Ints) -> Floats:
        """Longest hold there and back, latency, extra joules, and airtime, for one byte per sample."""
        ways, most = self._ways, self._kinds.shape[1]
        resources = ways.air.shape[2]
        latency_s, extra_j = np.zeros(len(ahead)), np.zeros(len(ahead))
        there, back = (_Loads(np.zeros((len(ahead), resources)), len(ahead), most) for _ in range(2))
        for senders, receivers, loads in ((ahead, behind, there), (behind, ahead, back)):
            for i in range(most):
                for j in range(most):
                    sent, needed = self._sent[senders, i], self._needed[receivers, j]
                    overlap = np.minimum(sent[:, 1], needed[:, 1]) - np.maximum(sent[:, 0], needed[:, 0])
                    rows = np.flatnonzero(overlap > 0)
                    size, a, b = overlap[rows], self._kinds[senders[rows], i], self._kinds[receivers[rows], j]
                    loads.add(rows, size, i, j, ways, a, b)
                    latency_s[rows] = np.maximum(latency_s[rows], ways.latency_s[a, b])
                    if ways.trains or loads is there:
                        extra_j[rows] += size * ways.extra_j[a, b]
        air = there.air + back.air if ways.trains else there.air
        return np.column_stack([there.longest(), back.longest(), latency_s, extra_j, air])


def beyond_columns_j(plan: Plan, timing: Timing, problem: Problem) -> float:
    """Joules of a plan's transfers between stages above those that their columns count; 0 on one medium or switch."""
    times = {"activation": plan.micro_batches * plan.chunks, "gradient": plan.micro_batches * plan.chunks}
    times |= {"tied-exchange": 1, "token": plan.token_groups}
    return sum(
        times.get(kind.kind, 0) * (hold.energy_j - problem.byte_j * hold.size_bytes)
        for kind, hold in timing.holds.items()
    )


class _Loads:
    """Seconds that resources are held in one direction, for many pairs of choices."""

    def __init__(self, air: Floats, pairs: int, most: int) -> None:
        self.air = air
        self.sending, self.receiving = np.zeros((pairs, most)), np.zeros((pairs, most))  # ports of a device's own
        self.link = np.zeros(pairs)  # the busiest link between two devices

    def add(self, rows: Ints, size: Floats, sender: int, receiver: int, ways: _Ways, a: Ints, b: Ints) -> None:
        """Flows of so many bytes from devices of types a to devices of types b, at places among the replicas."""
        self.air[rows] += size[:, None] * ways.air[a, b]
        self.sending[rows, sender] += size * ways.sending[a, b]
        self.receiving[rows, receiver] += size * ways.receiving[a, b]
        self.link[rows] = np.maximum(self.link[rows], size * ways.link[a, b])

    def longest(self) -> Floats:
        """Seconds of the resource that is held longest."""
        ports = np.maximum(self.sending.max(axis=1), self.receiving.max(axis=1))
        return np.asarray(np.maximum.reduce([self.air.max(axis=1, initial=0.0), ports, self.link]))


@dataclass(frozen=True)
class _Ways:
    """What one byte takes from a device of one type to a device of another.

    Attributes
    ----------
    air
        Seconds that each contended resource is held, shape (types, types, resources).
    sending, receiving, link
        Seconds that the sender's and the receiver's own port and a link of theirs alone are held, (types, types).
    latency_s, extra_j
        Seconds per message; joules per byte above the least between any two devices.
    entering_air, returning_air
        Seconds that each contended resource is held by what a device of a type receives, and in training by what it
        sends back, in its own domain. Shape (types, resources).
    trains
        Whether gradients come back.
    """

    air: Floats
    sending: Floats
    receiving: Floats
    link: Floats
    latency_s: Floats
    extra_j: Floats
    entering_air: Floats
    returning_air: Floats
    trains: bool

    @classmethod
    def of(cls, problem: Problem) -> _Ways:
        network, resources = problem.network, problem.network.contended
        place = {name: index for index, name in enumerate(resources)}
        ids, fleet, trains = problem.cluster.device_ids, problem.fleet, problem.workload.trains
        types = len(fleet.types)
        air = np.zeros((types, types, len(resources)))
        entering_air, returning_air = (np.zeros((types, len(resources))) for _ in range(2))
        sending, receiving, link, latency_s, extra_j = (np.zeros((types, types)) for _ in range(5))
        for a, b, sender, receiver in _pairs(fleet, ids):
            route = network.route(sender, receiver)
            own = network.own_hops(sender)[:1], network.own_hops(receiver)[1:]
            latency_s[a, b] = route.latency_s
            extra_j[a, b] = route.energy_j_per_byte - problem.byte_j
            for hop in route.hops:
                byte_s = 1.0 / hop.bytes_per_s
                if hop.resource in place:
                    air[a, b, place[hop.resource]] += byte_s
                elif hop in own[0]:
                    sending[a, b] = byte_s
                elif hop in own[1]:
                    receiving[a, b] = byte_s
                else:
                    link[a, b] = byte_s
        for kind, members in enumerate(fleet.types):
            hops = network.own_hops(ids[members[0]])
            for hop, into in zip(hops, (returning_air, entering_air), strict=False):
                if hop.resource in place and (trains or into is entering_air):
                    into[kind, place[hop.resource]] += 1.0 / hop.bytes_per_s
        return cls(air, sending, receiving, link, latency_s, extra_j, entering_air, returning_air, trains)


def _pairs(fleet: Fleet, ids: Sequence[str]) -> Iterator[tuple[int, int, str, str]]:
    """Two devices of every two types; of one type where it has two."""
    for a, senders in enumerate(fleet.types):
        for b, receivers in enumerate(fleet.types):
            receiver = next((each for each in receivers if each != senders[0]), None)
            if receiver is not None:
                yield a, b, ids[senders[0]], ids[receiver]
