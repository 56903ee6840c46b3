"""Which tensors enter and leave a stage, for many stages at once.

A tensor concerns the stage between two downsets only if it is open at the first (made inside and needed outside, or the
other way round for one that travels backwards) or at the second. What is open at the second is a sum per downset, so
only the few that are open at the first are looked at one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.table import Floats
from dora_nb.domain.problem import MeasuredProblem
from dora_nb.formulation.placement.downsets import Downsets, Units, bits
from dora_nb.formulation.placement.kinds import Kind, ways_on

Ints = NDArray[np.int64]


@dataclass
class _Row:
    """What may enter and leave stages: a tensor, or what ways of its layers add to it at one end.

    ``enter`` and ``leave``: seconds, bytes by kind, and bytes without what ways add.
    """

    producer: int
    consumers: list[int]
    enter: list[float]
    leave: list[float]


class Crossings:
    """Which tensors enter and leave the stage between two downsets."""

    def __init__(self, problem: MeasuredProblem, units: Units, downsets: Downsets, kinds: tuple[Kind, ...]) -> None:
        members, count = downsets.members, len(units.layers)
        rows = _rows(problem, units, kinds)
        use = _use(count, [row.consumers for row in rows])
        self.inside = np.rint(members.astype(np.float32) @ use).astype(np.int16)  # consumers inside each downset
        self.users = np.rint(use.sum(axis=0)).astype(np.int16)
        self.made_in = members[:, np.array([row.producer for row in rows], dtype=np.int64)]
        width = len(kinds) + 2
        self.enter = np.array([row.enter for row in rows], dtype=float).reshape(-1, width)
        self.leave = np.array([row.leave for row in rows], dtype=float).reshape(-1, width)
        earlier = _ancestors(units)
        forward = [all(earlier[user] >> row.producer & 1 for user in row.consumers) for row in rows]
        back = [all(earlier[row.producer] >> user & 1 for user in row.consumers) for row in rows]
        self.forward = np.array(forward, dtype=bool)
        self.back = np.array(back, dtype=bool) & ~self.forward
        self.mixed = np.flatnonzero(~self.forward & ~self.back)
        self.open_forward = self.made_in & (self.inside < self.users) & self.forward
        self.open_back = ~self.made_in & (self.inside > 0) & self.back
        self.leaving_behind = self.open_forward @ self.leave
        self.entering_behind = self.open_back @ self.enter
        where, home = problem.layer_index, units.home()
        made = np.zeros(count)
        for tensor in problem.tensors:
            if tensor.producer is not None and not tensor.consumers:
                made[home[where[tensor.producer]]] += tensor.bytes
        self._outputs = members @ made
        inputs = [tensor for tensor in problem.tensors if tensor.producer is None]
        users = [sorted({home[where[name]] for name in tensor.consumers}) for tensor in inputs]
        self._inputs_inside = members.astype(np.float32) @ _use(count, users)
        self._input_bytes = np.array([tensor.bytes for tensor in inputs], dtype=float)

    def ends(self, inner: int, outer: Ints) -> tuple[Floats, Floats, tuple[Floats, Floats], Floats]:
        """Entering and leaving (seconds, bytes by kind; ends), plain bytes of both, and inputs of the network."""
        enter, leave = self.entering_behind[outer].T.copy(), self.leaving_behind[outer].T.copy()
        opened = np.flatnonzero(self.open_forward[inner])
        if len(opened):
            inside = self.inside[np.ix_(outer, opened)]
            enter += (inside > self.inside[inner, opened]).astype(float).dot(self.enter[opened]).T
            leave -= (inside < self.users[opened]).astype(float).dot(self.leave[opened]).T
        opened = np.flatnonzero(self.open_back[inner])
        if len(opened):
            inside, made = self.inside[np.ix_(outer, opened)], self.made_in[np.ix_(outer, opened)]
            enter -= (~made & (inside == self.inside[inner, opened])).astype(float).dot(self.enter[opened]).T
            leave += made.astype(float).dot(self.leave[opened]).T
        if len(self.mixed):
            each = self.mixed
            made = self.made_in[np.ix_(outer, each)] & ~self.made_in[inner, each]
            used = self.inside[np.ix_(outer, each)] - self.inside[inner, each]
            enter += (~made & (used > 0)).astype(float).dot(self.enter[each]).T
            leave += (made & (used < self.users[each])).astype(float).dot(self.leave[each]).T
        # What is open behind was taken off again where it was open before: rounding must not leave less than nothing.
        np.maximum(enter, 0.0, out=enter)
        np.maximum(leave, 0.0, out=leave)
        inputs = np.zeros(len(outer))
        if len(self._input_bytes):
            inputs = (self._inputs_inside[outer] > self._inputs_inside[inner]).astype(float).dot(self._input_bytes)
        return enter[:-1], leave[:-1], (enter[-1], leave[-1]), inputs

    def outputs(self, inner: int, outer: Ints) -> Floats:
        """Bytes of outputs of the network that the stages make."""
        return np.asarray(self._outputs[outer] - self._outputs[inner])

    def crossing_bytes(self) -> Floats:
        """Bytes that are made inside each downset and needed outside."""
        return np.asarray((self.made_in & (self.inside < self.users)).astype(float).dot(self.leave[:, -1]))


def _use(units: int, consumers: list[list[int]]) -> NDArray[np.float32]:
    """One where a unit is among the consumers, shape (units, rows)."""
    use = np.zeros((units, len(consumers)), dtype=np.float32)
    for index, users in enumerate(consumers):
        use[users, index] = 1.0
    return use


def _rows(problem: MeasuredProblem, units: Units, kinds: tuple[Kind, ...]) -> list[_Row]:
    """Everything that may cross a border between units."""
    home, where = units.home(), problem.layer_index
    rows = []
    for tensor in problem.tensors:
        if tensor.producer is None:
            continue
        source = home[where[tensor.producer]]
        others = sorted({home[where[name]] for name in tensor.consumers} - {source})
        if others:
            weights = [tensor.transfer_s, *([tensor.bytes] * len(kinds)), tensor.bytes]
            rows.append(_Row(source, others, weights, weights))
        for name in tensor.consumers:
            user = home[where[name]]
            more_in = [_least_more(problem, where[name], kind, tensor.producer) for kind in kinds]
            more_out = [_least_more(problem, where[tensor.producer], kind, name) for kind in kinds]
            if user != source and any(more_in + more_out):
                rows.append(_Row(source, [user], [0.0, *more_in, 0.0], [0.0, *more_out, 0.0]))
    return rows


def _least_more(problem: MeasuredProblem, layer: int, kind: Kind, other: str) -> float:
    """The least that any way of a layer adds to a hand-over with another."""
    return min((way.more_bytes.get(other, 0.0) for way in ways_on(problem, layer, kind)), default=0.0)


def _ancestors(units: Units) -> list[int]:
    """Everything each unit depends on, directly or not; units are in topological order."""
    earlier: list[int] = []
    for before in units.before:
        mask = before
        for source in bits(before):
            mask |= earlier[source]
        earlier.append(mask)
    return earlier
