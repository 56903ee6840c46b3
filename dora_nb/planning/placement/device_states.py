"""Devices in use, counted by type: what equal devices have in common is looked at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dora_nb.domain.problem import MeasuredProblem
from dora_nb.formulation.placement.crossings import Ints
from dora_nb.formulation.placement.stage_table import Option

#: Numbers of a table of states beyond which a problem is not solved this way.
MOST_STATES = 60_000_000


@dataclass(frozen=True)
class States:
    """Devices in use by type, as one number in mixed radix, with the replicas in use where they are counted apart.

    Attributes
    ----------
    counts
        Devices of each type.
    replica_states
        Numbers of replicas told apart; 1: they follow from the devices.
    used
        Devices of each type in use, shape (states, types).
    replicas
        Replicas in use, shape (states,).
    """

    counts: tuple[int, ...]
    replica_states: int
    used: Ints
    replicas: Ints

    @classmethod
    def of(cls, problem: MeasuredProblem) -> States:
        """The states of a problem's devices."""
        counts = tuple(device.count for device in problem.devices)
        rules = problem.execution
        sharded = any(way.shards > 1 for layer in problem.layers for way in layer.ways)
        apart = sharded and (rules.in_flight == "pipeline" or rules.micro_batches is not None)
        most = sum(counts) if rules.micro_batches is None else min(sum(counts), rules.micro_batches)
        replica_states = most + 1 if apart else 1
        total = int(np.prod([count + 1 for count in counts], dtype=int))
        code, used = np.arange(total), []
        for count in counts:
            used.append(code % (count + 1))
            code = code // (count + 1)
        by_code = np.stack(used, axis=1)
        table = np.repeat(by_code, replica_states, axis=0)
        replicas = np.tile(np.arange(replica_states), total) if apart else table.sum(axis=1)
        return cls(counts, replica_states, table, replicas)

    def __len__(self) -> int:
        return len(self.replicas)

    @staticmethod
    def number(problem: MeasuredProblem) -> int:
        """How many there would be for every downset, without making them; links tell rates apart as well."""
        rules, devices = problem.execution, sum(device.count for device in problem.devices)
        sharded = any(way.shards > 1 for layer in problem.layers for way in layer.ways)
        apart = sharded and (rules.in_flight == "pipeline" or rules.micro_batches is not None)
        number = len({device.bytes_per_s for device in problem.devices}) if rules.transfers == "link" else 1
        for device in problem.devices:
            number *= device.count + 1
        return number * (min(devices, rules.micro_batches or devices) + 1 if apart else 1)

    def shape(self, device: int) -> tuple[int, int, int, int]:
        """States as an array (slower types, this type, faster types, replicas)."""
        faster = int(np.prod([count + 1 for count in self.counts[:device]], dtype=int))
        return -1, self.counts[device] + 1, faster, self.replica_states

    def shift(self, option: Option) -> int:
        """How far a state moves when a stage's devices join."""
        faster = int(np.prod([count + 1 for count in self.counts[: option.device]], dtype=int))
        shift = option.used * faster * self.replica_states
        return shift + (option.replicas if self.replica_states > 1 else 0)
