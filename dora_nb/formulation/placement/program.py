"""Any sets of layers on devices as a mixed-integer program: which unit runs where, and what its tensors take.

A binary says that a unit is on a device. A device takes the computing of its units and, at its end of every tensor that
has its producer here and a consumer elsewhere or the other way round, that tensor once. Equal devices are told apart by
the first unit each has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.domain.problem import MeasuredProblem
from dora_nb.formulation.placement.downsets import Units
from dora_nb.formulation.placement.kinds import kinds_of
from dora_nb.formulation.placement.stage_table import unit_sums
from dora_nb.formulation.rows import LinearProgram, Rows, over, total


@dataclass(frozen=True)
class Travelling:
    """A tensor between units.

    Attributes
    ----------
    producer, consumers
        Units.
    enter_s, leave_s
        Seconds it takes each device that receives or sends it; all crossings.
    """

    producer: int
    consumers: tuple[int, ...]
    enter_s: tuple[float, ...]
    leave_s: tuple[float, ...]


@dataclass(frozen=True)
class Assignment:
    """A problem as units, devices one by one, and tensors between units.

    Attributes
    ----------
    units
        The units.
    kind
        Type of every device.
    time_s
        Seconds of every unit on every device, infinite where it cannot run, shape (units, devices).
    bytes
        What every unit holds.
    memory
        What every device can hold; infinite: no limit.
    tensors
        Those that can cross.
    overlap
        How computing, receiving and sending go together.
    """

    units: Units
    kind: tuple[int, ...]
    time_s: Floats
    bytes: Floats
    memory: tuple[float, ...]
    tensors: tuple[Travelling, ...]
    overlap: str

    @classmethod
    def of(cls, problem: MeasuredProblem, units: Units) -> Assignment:
        """The parts of a problem."""
        kind = tuple(index for index, device in enumerate(problem.devices) for _ in range(device.count))
        sums = [unit_sums(problem, units, each) for each in kinds_of(problem)]
        by_type = np.stack([np.where(each.unable > 0, np.inf, each.time_s) for each in sums], axis=1)
        held = np.stack([each.memory_bytes for each in sums]).max(axis=0)
        limits = [np.inf if device.memory_bytes is None else device.memory_bytes for device in problem.devices]
        home, where = units.home(), problem.layer_index
        rules, tensors = problem.execution, []
        for tensor in problem.tensors:
            if tensor.producer is None:
                continue
            source = home[where[tensor.producer]]
            users = sorted({home[where[name]] for name in tensor.consumers} - {source})
            seconds = tuple(
                0.0 if rate is None else rules.crossings * (tensor.transfer_s + tensor.bytes / rate)
                for rate in (problem.devices[each].bytes_per_s for each in kind)
            )
            if users and any(seconds):
                nothing = (0.0,) * len(kind)
                enter = nothing if rules.transfers == "sender" else seconds
                leave = nothing if rules.transfers == "receiver" else seconds
                tensors.append(Travelling(source, tuple(users), enter, leave))
        memory = tuple(float(limits[each]) for each in kind)
        return cls(units, kind, by_type[:, list(kind)], held, memory, tuple(tensors), rules.overlap)

    @property
    def variables(self) -> int:
        """Variables of the program, about."""
        return len(self.kind) * (len(self.units.layers) + 2 * len(self.tensors))

    def decode(self, on: Floats) -> list[int]:
        """The device of every unit in a solution."""
        return [int(device) for device in np.argmax(on, axis=1)]


def assignment_model(assignment: Assignment, below_s: float) -> LinearProgram:
    """The program that looks for a period of at most ``below_s``; its binaries are ``on``, shape (units, devices).

    Rows: every unit on one device; memory; per device the seconds put together as they overlap, at most the period; per
    tensor and device whether it enters (a consumer here, the producer not) or leaves (the producer here, a consumer
    not).
    """
    a, rows = assignment, Rows()
    units, devices = len(a.units.layers), len(a.kind)
    possible = np.isfinite(a.time_s) & (a.time_s <= below_s)
    on = rows.variables("on", (units, devices), kind="binary")
    period = rows.variables("period", upper=below_s if np.isfinite(below_s) else np.inf)
    for unit in range(units):
        rows.add("one device", over(on[unit]), "=", 1.0)
    if not possible.all():
        rows.add("cannot", over(on[~possible]), "=", 0.0)
    for device in range(devices):
        if np.isfinite(a.memory[device]):
            scale = max(a.memory[device], 1.0)
            rows.add("memory", over(on[:, device], a.bytes / scale), "<=", a.memory[device] / scale)
    enter = rows.variables("enter", (len(a.tensors), devices), upper=1.0)
    leave = rows.variables("leave", (len(a.tensors), devices), upper=1.0)
    for index, tensor in enumerate(a.tensors):
        for device in range(devices):
            if tensor.enter_s[device] or tensor.leave_s[device]:
                for user in tensor.consumers:
                    here, there = over(on[user, device]), over(on[tensor.producer, device])
                    rows.add("enters", here - there - over(enter[index, device]), "<=")
                    rows.add("leaves", there - here - over(leave[index, device]), "<=")
    for device in range(devices):
        seconds = np.where(possible[:, device], a.time_s[:, device], 0.0)
        busy = over(on[:, device], seconds)
        received = total(
            [tensor.enter_s[device] * over(enter[index, device]) for index, tensor in enumerate(a.tensors)]
        )
        sent = total([tensor.leave_s[device] * over(leave[index, device]) for index, tensor in enumerate(a.tensors)])
        together = {
            "none": [busy + received + sent],
            "half-duplex": [busy, received + sent],
            "duplex": [busy, received, sent],
        }[a.overlap]
        for part in together:
            rows.add("period", part - over(period), "<=")
    for device in range(1, devices):
        if a.kind[device] == a.kind[device - 1]:
            for unit in range(units):
                rows.add("equal devices", over(on[unit, device]) - over(on[:unit, device - 1]), "<=")
    return rows.build(over(period))
