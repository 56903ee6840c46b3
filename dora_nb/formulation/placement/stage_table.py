"""What every stage takes: the units between two downsets, priced on every kind of device at once.

Computing, memory and parameters are differences of sums over downsets; what enters and leaves a stage is in
:mod:`dora_nb.formulation.placement.crossings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.table import Floats
from dora_nb.domain.problem import MeasuredProblem
from dora_nb.formulation.placement.crossings import Crossings
from dora_nb.formulation.placement.downsets import Downsets, Units
from dora_nb.formulation.placement.kinds import Kind, kinds_of, ways_on

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Option:
    """A kind of device for a stage, and how many take turns.

    Attributes
    ----------
    kind
        Position in :attr:`StageTable.kinds`.
    device
        Position of the type.
    replicas, used
        Replicas, and devices in all.
    """

    kind: int
    device: int
    replicas: int
    used: int


@dataclass(frozen=True)
class Rows:
    """Stages that begin behind one downset and end at some others.

    Attributes
    ----------
    time_s
        Least computing seconds on one replica by kind, infinite where a layer cannot run, shape (kinds, ends).
    parameter_bytes, fixed_bytes, in_flight_bytes
        The least of any ways of each, shape (kinds, ends); ``fixed_bytes`` with buffers.
    receive, send
        Seconds, and bytes by kind, of what enters and leaves, shape (1 + kinds, ends).
    airtime_bytes
        Bytes that enter and leave, shape (ends,).
    """

    time_s: Floats
    parameter_bytes: Floats
    fixed_bytes: Floats
    in_flight_bytes: Floats
    receive: Floats
    send: Floats
    airtime_bytes: Floats


class StageTable:
    """Prices stages of a problem between the downsets of a family."""

    def __init__(self, problem: MeasuredProblem, units: Units, downsets: Downsets) -> None:
        self.problem, self.units, self.downsets = problem, units, downsets
        self.rules = problem.execution
        self.kinds = kinds_of(problem)
        self.options = options_of(problem, self.kinds)
        self.members = downsets.members.astype(np.float64)
        best = [unit_sums(problem, units, kind) for kind in self.kinds]
        self._time = np.stack([self.members @ each.time_s for each in best])
        self._unable = np.stack([self.members @ each.unable for each in best])
        self._fixed = np.stack([self.members @ each.memory_bytes for each in best])
        self._in_flight = np.stack([self.members @ each.in_flight_bytes for each in best])
        self._parameters = np.stack([self.members @ each.parameter_bytes for each in best])
        self._tensors = Crossings(problem, units, downsets, self.kinds)

    @cached_property
    def link_bytes(self) -> Floats:
        """Bytes that cross every downset's border, from what is inside to what is outside."""
        return self._tensors.crossing_bytes()

    def layer_bytes(self, kind: int) -> Floats:
        """Least bytes that the layers up to every downset hold once, without buffers."""
        return np.asarray(self._fixed[kind])

    def rows(self, inner: int, outer: Ints) -> Rows:
        """Price the stages between one downset and some that hold it."""
        receive, send, plain, inputs = self._tensors.ends(inner, outer)
        rules = self.rules
        buffers = (rules.input_copies + rules.receive_copies) * plain[0] + rules.input_copies * inputs
        buffers = buffers + rules.output_copies * (plain[1] + self._tensors.outputs(inner, outer))
        time_s = self._time[:, outer] - self._time[:, [inner]]
        time_s[self._unable[:, outer] > self._unable[:, [inner]]] = np.inf
        return Rows(
            time_s,
            self._parameters[:, outer] - self._parameters[:, [inner]],
            self._fixed[:, outer] - self._fixed[:, [inner]] + buffers,
            self._in_flight[:, outer] - self._in_flight[:, [inner]],
            receive,
            send,
            plain[0] + plain[1],
        )

    def parts(self, option: Option, rows: Rows, inner: int, outer: Ints) -> tuple[Floats, Floats]:
        """What adds to a stage's computing, and what runs beside it, in seconds; shape (ends,) each.

        The stage takes ``max(time / replicas + first, second)``.
        """
        rules, device = self.rules, self.problem.devices[option.device]
        if device.bytes_per_s is None:
            nothing = np.zeros(len(outer))
            return nothing, nothing
        receive_s, send_s = (
            (ends[0] + ends[1 + option.kind] / device.bytes_per_s) * rules.crossings / option.replicas
            for ends in (rows.receive, rows.send)
        )
        if rules.transfers in ("sender", "link"):
            receive_s = np.zeros(len(outer))
        if rules.transfers in ("receiver", "link") or (inner == 0 and not rules.first_stage_sends):
            send_s = np.zeros(len(outer))
        share = rules.all_reduce_passes * (option.replicas - 1) / option.replicas
        sums_s = share * rows.parameter_bytes[option.kind] / device.bytes_per_s
        sums_s = sums_s / (rules.micro_batches or option.replicas)
        if rules.overlap == "none" or rules.objective == "latency":
            return sums_s + receive_s + send_s, np.zeros(len(outer))
        beside_s = receive_s + send_s if rules.overlap == "half-duplex" else np.maximum(receive_s, send_s)
        return sums_s, beside_s

    def media_s(self, option: Option, rows: Rows) -> Floats:
        """Seconds that the stages' hand-overs hold each medium, shape (media, ends)."""
        device = self.problem.devices[option.device].type
        rates = [medium.bytes_per_s.get(device, np.inf) for medium in self.problem.media]
        return np.asarray(self.rules.crossings * rows.airtime_bytes / np.array(rates).reshape(-1, 1))


@dataclass(frozen=True)
class UnitSums:
    """Figures of every unit on one kind of device: the least of any ways of its layers, summed.

    Attributes
    ----------
    time_s, memory_bytes, in_flight_bytes, parameter_bytes
        Shape (units,). Zero where a layer cannot run.
    unable
        How many layers of the unit cannot run.
    """

    time_s: Floats
    memory_bytes: Floats
    in_flight_bytes: Floats
    parameter_bytes: Floats
    unable: Floats


def unit_sums(problem: MeasuredProblem, units: Units, kind: Kind) -> UnitSums:
    """Figures of every unit on one kind of device."""
    table = np.zeros((5, len(units.layers)))
    for unit, layers in enumerate(units.layers):
        for index in layers:
            ways = ways_on(problem, index, kind)
            if not ways:
                table[4, unit] += 1
                continue
            table[0, unit] += min(way.time_s[problem.devices[kind.device].type] for way in ways)
            table[1, unit] += min(way.memory_bytes for way in ways)
            table[2, unit] += min(way.in_flight_bytes for way in ways)
            table[3, unit] += min(way.parameter_bytes for way in ways)
    return UnitSums(*table)


def options_of(problem: MeasuredProblem, kinds: tuple[Kind, ...]) -> tuple[Option, ...]:
    """Every kind with every number of replicas there may be."""
    rules = problem.execution
    options: list[Option] = []
    for index, kind in enumerate(kinds):
        most = problem.devices[kind.device].count // kind.shards
        if rules.most_replicas is not None:
            most = min(most, rules.most_replicas)
        batches = rules.micro_batches
        options.extend(
            Option(index, kind.device, replicas, replicas * kind.shards)
            for replicas in range(1, most + 1)
            if batches is None or batches % replicas == 0
        )
    return tuple(options)
