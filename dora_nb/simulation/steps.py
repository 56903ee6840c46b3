"""One iteration, batch or request of a plan, split into parts that progress at the speeds of devices and media.

A computation has a part on every device that shares in it, a transfer one on every resource it holds; what is left of
a part melts at the speed of its channel (a device or a contention domain), so speeds may change at any moment. The
seconds of the parts come from :mod:`dora_nb.costs`; when and in which order they are worked off does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from dora_nb.costs.compute_times import compute_seconds
from dora_nb.costs.conditions import under
from dora_nb.costs.network import Network
from dora_nb.costs.operations import Operation, OperationClass, Operations, Shape, Timing
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.table import CostTable
from dora_nb.costs.timing import timing_of
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.conditions import Condition
from dora_nb.domain.fits import check_fits
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.simulation.rounds import ROUNDS, play_rounds


@dataclass(frozen=True)
class Parts:
    """The parts of a plan's operations, with the seconds they take at full speed.

    Attributes
    ----------
    of
        Parts of each operation.
    operation, channel, work_s
        Of each part: what it belongs to, whose speed it progresses at, and its seconds.
    resource
        The resource that a part holds; -1 for a computation.
    latency_s
        Of each operation: what passes after its last part, holding nothing.
    """

    of: tuple[tuple[int, ...], ...]
    operation: tuple[int, ...]
    channel: tuple[int, ...]
    resource: tuple[int, ...]
    work_s: tuple[float, ...]
    latency_s: tuple[float, ...]


class Steps(Protocol):
    """What the engine works off: operations in parts, and whose turn it is on what they hold."""

    @property
    def cluster(self) -> Cluster:
        """Its devices, then its domains, are the channels."""

    @property
    def operations(self) -> Operations:
        """What has to be done, and what before what."""

    @property
    def resources(self) -> tuple[str, ...]:
        """Names of everything that transfers hold."""

    @property
    def turns(self) -> tuple[tuple[int, ...], ...]:
        """Operations in the order in which they enter each resource."""

    @property
    def network_j(self) -> tuple[float, ...]:
        """Joules of carrying each operation's bytes; 0 for computations."""

    @property
    def devices(self) -> tuple[int, ...]:
        """Places in the cluster of the devices without which nothing can end."""

    def devices_of(self, stage: int) -> tuple[str, ...]:
        """Who computes a stage."""

    def parts(self, device_rates: Sequence[float]) -> Parts:
        """The parts when devices reach their media at rates multiplied by these factors."""


def at_rates(cluster: Cluster, table: CostTable, device_rates: Sequence[float]) -> Cluster:
    """The cluster whose devices reach their media at rates multiplied by these factors; itself where all are 1."""
    slowed = {name: factor for name, factor in zip(cluster.device_ids, device_rates, strict=True) if factor != 1.0}
    if not slowed:
        return cluster
    return under(cluster, table, Condition(name="rates", probability=1.0, device_rate_factors=slowed)).cluster


def channels_of(cluster: Cluster) -> tuple[dict[str, int], dict[str, int]]:
    """The channel of every device, and the one behind the devices' of every medium, port or link."""
    device = {name: place for place, name in enumerate(cluster.device_ids)}
    domain = {each.id: len(device) + place for place, each in enumerate(cluster.domains)}
    return device, {name: domain[home] for name, home in Network.of(cluster).domain_of.items()}


@dataclass(frozen=True)
class StepModel:
    """What one step of a plan consists of.

    Channels are the cluster's devices, then its contention domains.

    Attributes
    ----------
    plan, workload, cluster, table
        What is simulated; without any influence.
    """

    plan: Plan
    workload: Workload
    cluster: Cluster
    table: CostTable
    _parts: dict[tuple[float, ...], Parts] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fits(self.plan, self.workload, self.cluster)

    @cached_property
    def operations(self) -> Operations:
        """What has to be done, and what before what."""
        if self.in_rounds:
            return play_rounds(self.plan, self.workload, self._timing)
        return operations_of(Shape.of(self.plan, self.workload))

    @property
    def in_rounds(self) -> bool:
        """Whether groups follow each other while tokens are generated; every leg of theirs is an operation then."""
        return self.plan.token_groups > 1 and self.workload.decode_steps > 0

    @cached_property
    def resources(self) -> tuple[str, ...]:
        """Names of everything that transfers hold."""
        return tuple(self._network.domain_of)

    @cached_property
    def turns(self) -> tuple[tuple[int, ...], ...]:
        """Operations in the order in which they enter each resource, by the plan's own order of transfers."""
        parts = self.parts((1.0,) * len(self.cluster.devices))
        turns: list[list[int]] = [[] for _ in self.resources]
        missing = set(self.operations.transfers)
        for transfer in self.plan.transfer_order:
            key = Operation(transfer.kind, transfer.stage, transfer.micro_batch, transfer.part)
            moves: Iterable[int | None] = [self.operations.index.get(key)]
            if self.in_rounds and key.kind == "token":  # stands for all rounds, which are in their own order
                moves = sorted(move for move in missing if self.operations.operations[move].kind == "token")
            for index in moves:
                if index is None or index not in missing:
                    raise InputError("transfer_order", tuple(key), "each transfer of the plan once, and no other")
                missing.remove(index)
                for part in parts.of[index]:
                    turns[parts.resource[part]].append(index)
        if missing:
            absent = tuple(self.operations.operations[min(missing)])
            raise InputError("transfer_order", None, f"each transfer of the plan once; {absent} is missing")
        return tuple(tuple(each) for each in turns)

    @cached_property
    def network_j(self) -> tuple[float, ...]:
        """Joules of carrying each operation's bytes; 0 for computations."""
        holds = self._timing.holds
        kinds = self.operations.classes
        return tuple(holds[kind].energy_j / self._times(kind) if kind in holds else 0.0 for kind in kinds)

    def _times(self, kind: OperationClass) -> int:
        """How many operations the seconds of a class are for: a leg is one of many steps, all equally long."""
        return self.workload.decode_steps if self.in_rounds and kind.kind in ROUNDS else 1

    @cached_property
    def devices(self) -> tuple[int, ...]:
        """Places in the cluster of the devices without which no step can end: the plan's, the source and the sink."""
        ends = (self.workload.source, self.workload.sink)
        needed = {*self.plan.devices, *(each for each in ends if each is not None)}
        return tuple(place for place, name in enumerate(self.cluster.device_ids) if name in needed)

    def devices_of(self, stage: int) -> tuple[str, ...]:
        """Who computes a stage."""
        return self.plan.stages[stage].devices

    @cached_property
    def _timing(self) -> Timing:
        return timing_of(self.plan, self.workload, self.cluster, self.table)

    @cached_property
    def _network(self) -> Network:
        return Network.of(self.cluster)

    def parts(self, device_rates: Sequence[float]) -> Parts:
        """The parts when devices reach their media at rates multiplied by these factors."""
        key = tuple(device_rates)
        if key not in self._parts:
            self._parts[key] = self._split(at_rates(self.cluster, self.table, key))
        return self._parts[key]

    def _split(self, cluster: Cluster) -> Parts:
        timing = self._timing
        if cluster is not self.cluster:
            timing = timing_of(self.plan, self.workload, cluster, self.table)
        computing = dict(compute_seconds(self.plan, self.workload, cluster, self.table))
        device, channel_of = channels_of(cluster)
        resource = {name: place for place, name in enumerate(self.resources)}
        of: list[tuple[int, ...]] = []
        parts: list[tuple[int, int, int, float]] = []
        latency_s = []
        for index, kind in enumerate(self.operations.classes):
            first, latency, times = len(parts), 0.0, self._times(kind)
            if kind in timing.holds:
                hold = timing.holds[kind]
                held = ((name, seconds / times) for name, seconds in hold.seconds.items())
                parts.extend((index, channel_of[name], resource[name], seconds) for name, seconds in held)
                latency = (hold.duration_s - max(hold.seconds.values(), default=0.0)) / times
            else:
                parts.extend((index, device[name], -1, seconds / times) for name, seconds in computing[kind].items())
            of.append(tuple(range(first, len(parts))))
            latency_s.append(latency)
        operation, channel, held_by, work_s = zip(*parts, strict=True)
        return Parts(tuple(of), operation, channel, held_by, work_s, tuple(latency_s))
