"""Where the layers of one stream may run: stages on a device each, with their seconds, joules and hand-overs.

A *path* is what one camera's requests pass through: contiguous stages, each on a device of its own; requests travel
whole. Its figures are sums over its stages and hand-overs, so the cheapest path over given devices follows from a
dynamic programme over cuts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from dora_nb.costs.memory import MemoryModel
from dora_nb.costs.network import Hold, Network
from dora_nb.costs.table import CostTable, Floats
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan, Replica, Stage
from dora_nb.domain.workload import Workload

#: Device sets of a path are looked at one by one up to this many stages.
MOST_STAGES = 4


class Step(NamedTuple):
    """One stage: layers [first, stop) on a device, by its place in the cluster."""

    first: int
    stop: int
    device: int


Path = tuple[Step, ...]


class Link(NamedTuple):
    """One task of a request: what is done, how long it takes, and how long it holds what."""

    kind: str
    stage: int
    duration_s: float
    held: Mapping[str, float]


@dataclass(frozen=True)
class Paths:
    """The stages and hand-overs of one stream.

    Attributes
    ----------
    workload, cluster, table
        What they follow from.
    """

    workload: Workload
    cluster: Cluster
    table: CostTable

    @cached_property
    def layers(self) -> int:
        """Layers of the network."""
        return len(self.workload.layers)

    @cached_property
    def stage_s(self) -> Floats:
        """Seconds of a request in layers [i, j) on device d, infinite where j <= i; shape (cuts, cuts, devices)."""
        own = self.table.forward_s[:, :, self.workload.batch]
        until = np.concatenate([np.zeros((1, own.shape[1])), np.cumsum(own, axis=0)])
        seconds = until[None, :, :] - until[:, None, :]
        cuts = np.arange(self.layers + 1)
        return np.where((cuts[None, :] > cuts[:, None])[:, :, None], seconds, np.inf)

    @cached_property
    def extra_w(self) -> Floats:
        """Watts above idling of every device that computes."""
        return np.array([device.active_w - device.idle_w for device in self.cluster.devices])

    @cached_property
    def _network(self) -> Network:
        return Network.of(self.cluster)

    @cached_property
    def enters(self) -> tuple[Hold | None, ...]:
        """The input's way to every device; None without one."""
        work = self.workload
        if work.source is None or not work.input_bytes:
            return (None,) * len(self.cluster.devices)
        size = work.batch * work.input_bytes
        return tuple(self._network.fan_out(work.source, {name: size}) for name in self.cluster.device_ids)

    @cached_property
    def leaves(self) -> tuple[Hold | None, ...]:
        """The output's way from every device; None without one."""
        work = self.workload
        if work.sink is None or not work.output_bytes:
            return (None,) * len(self.cluster.devices)
        size = work.batch * work.output_bytes
        return tuple(self._network.fan_in({name: size}, work.sink) for name in self.cluster.device_ids)

    @cached_property
    def moves(self) -> dict[tuple[int, int, int], Hold]:
        """Hand-overs by (cut, from device, to device)."""
        names, work = self.cluster.device_ids, self.workload
        pairs = list(itertools.permutations(range(len(names)), 2))
        found: dict[tuple[int, int, int], Hold] = {}
        for cut in range(1, self.layers):
            size = work.batch * work.cut_bytes(cut)
            found |= {(cut, a, b): self._network.hand_over({names[a]: size}, {names[b]: size}) for a, b in pairs}
        return found

    @cached_property
    def buffer_bytes(self) -> Floats:
        """What a stage needs besides its parameters, shape (cuts, cuts)."""
        memory, work = MemoryModel(self.workload), self.workload
        first, stop = np.triu_indices(self.layers + 1, 1)
        whole = memory.replica_bytes(
            first, stop, samples=float(work.batch), in_flight=1, micro_batches=1, replicated=False
        )
        found = np.zeros((self.layers + 1, self.layers + 1))
        found[first, stop] = whole - memory.parameters(first, stop) * work.bytes_per_element
        return found

    def links(self, path: Path) -> Iterator[Link]:
        """The tasks of a request on a path, one after the other."""
        last = len(path) - 1
        enters, leaves = self.enters[path[0].device], self.leaves[path[-1].device]
        if enters is not None:
            yield Link("input", 0, enters.duration_s, enters.seconds)
        for place, step in enumerate(path):
            seconds = float(self.stage_s[step.first, step.stop, step.device])
            yield Link("forward", place, seconds, {self.cluster.device_ids[step.device]: seconds})
            if place < last:
                move = self.moves[step.stop, step.device, path[place + 1].device]
                yield Link("activation", place, move.duration_s, move.seconds)
        if leaves is not None:
            yield Link("output", last, leaves.duration_s, leaves.seconds)

    def alone_s(self, path: Path) -> float:
        """Seconds of a request that never waits."""
        return sum(link.duration_s for link in self.links(path))

    def joules(self, path: Path) -> float:
        """Joules of a request above idling."""
        computing = sum(self.extra_w[step.device] * self.stage_s[step] for step in path)
        carried = [self.enters[path[0].device], self.leaves[path[-1].device]]
        carried += [self.moves[a.stop, a.device, b.device] for a, b in itertools.pairwise(path)]
        return float(computing) + sum(hold.energy_j for hold in carried if hold is not None)

    def plan(self, path: Path) -> Plan:
        """The path as a plan."""
        batch = self.workload.batch
        return Plan(
            micro_batch=batch,
            micro_batches=1,
            stages=tuple(
                Stage(
                    first_layer=step.first,
                    stop_layer=step.stop,
                    replicas=(Replica(device=self.cluster.device_ids[step.device], samples=batch),),
                    in_flight=1,
                )
                for step in path
            ),
        )

    # ------------------------------------------------------------------ least figures

    @cached_property
    def around_s(self) -> Floats:
        """Least seconds of a request that passes through a stage, shape as :attr:`stage_s`; devices may come again."""
        devices, cuts = len(self.cluster.devices), self.layers + 1
        move_s = np.zeros((cuts, devices, devices))
        for (cut, a, b), hold in self.moves.items():
            move_s[cut, a, b] = hold.duration_s
        before_s = np.full((cuts, devices), np.inf)  # until a stage from this cut may begin on this device
        before_s[0] = [0.0 if hold is None else hold.duration_s for hold in self.enters]
        for cut in range(1, self.layers):
            done_s = (before_s[:cut] + self.stage_s[:cut, cut]).min(axis=0)
            before_s[cut] = (done_s[:, None] + move_s[cut]).min(axis=0)
        after_s = np.full((cuts, devices), np.inf)  # from the end of a stage at this cut on this device
        after_s[-1] = [0.0 if hold is None else hold.duration_s for hold in self.leaves]
        for cut in range(self.layers - 1, 0, -1):
            left_s = (self.stage_s[cut] + after_s).min(axis=0)
            after_s[cut] = (move_s[cut] + left_s[None, :]).min(axis=1)
        return np.asarray(before_s[:, None] + self.stage_s + after_s[None])

    def cheapest(self, per_s: float, per_j: float, room: Mapping[str, float]) -> list[tuple[float, Path]]:
        """The cheapest path over every set of devices, cheapest first.

        Parameters
        ----------
        per_s, per_j
            What a second from arrival to last output, and a joule above idling cost.
        room
            Seconds that a stage, or a hand-over by itself, may hold each device and medium; those not named: any time.
        """
        return _Cheapest(self, per_s, per_j, room).cheapest_first()


class _Cheapest:
    """The dynamic programme: (devices used, last device) -> least cost up to every cut."""

    def __init__(self, paths: Paths, per_s: float, per_j: float, room: Mapping[str, float]) -> None:
        self.paths, self.per_s, self.per_j, self.room = paths, per_s, per_j, room
        self.devices = len(paths.cluster.devices)
        names = paths.cluster.device_ids
        most_s = np.array([room.get(name, np.inf) for name in names])
        possible = np.isfinite(paths.stage_s) & (paths.stage_s <= most_s)
        cost = np.where(possible, paths.stage_s, 0.0) * (per_s + per_j * paths.extra_w)
        self.stage = np.where(possible, cost, np.inf)
        self.move = {
            (a, b): np.array([np.inf, *(self._of(paths.moves[cut, a, b]) for cut in range(1, paths.layers)), np.inf])
            for a, b in itertools.permutations(range(self.devices), 2)
        }

    def _of(self, hold: Hold | None) -> float:
        if hold is None:
            return 0.0
        if any(seconds > self.room.get(place, np.inf) for place, seconds in hold.seconds.items()):
            return np.inf
        return self.per_s * hold.duration_s + self.per_j * hold.energy_j

    def cheapest_first(self) -> list[tuple[float, Path]]:
        """Costs and paths, cheapest first."""
        last = self.paths.layers
        level: dict[tuple[int, int], Floats] = {}
        came: dict[tuple[int, int, int], tuple[int, int]] = {}  # (devices, last, cut) -> (cut before, device before)
        ends: list[tuple[float, Path]] = []
        for device in range(self.devices):
            cost = self._of(self.paths.enters[device]) + self.stage[0, :, device]
            level[1 << device, device] = cost
            came |= {(1 << device, device, cut): (0, -1) for cut in range(1, last + 1)}
        for _ in range(min(MOST_STAGES, self.devices, last)):
            for (mask, device), cost in level.items():
                whole = float(cost[last]) + self._of(self.paths.leaves[device])
                if np.isfinite(whole):
                    ends.append((whole, self._path(came, mask, device)))
            level = self._longer(level, came)
        return sorted(ends)

    def _longer(
        self, level: Mapping[tuple[int, int], Floats], came: dict[tuple[int, int, int], tuple[int, int]]
    ) -> dict[tuple[int, int], Floats]:
        """One more stage on a device that was not used yet."""
        found: dict[tuple[int, int], Floats] = {}
        for (mask, device), cost in level.items():
            for following in range(self.devices):
                if mask >> following & 1:
                    continue
                through = (cost + self.move[device, following])[:, None] + self.stage[:, :, following]
                before, key = np.argmin(through, axis=0), (mask | 1 << following, following)
                least = through.min(axis=0)
                known = found.setdefault(key, np.full(len(cost), np.inf))
                for cut in np.flatnonzero(least < known).tolist():
                    known[cut] = least[cut]
                    came[*key, cut] = (int(before[cut]), device)
        return found

    def _path(self, came: Mapping[tuple[int, int, int], tuple[int, int]], mask: int, device: int) -> Path:
        steps: list[Step] = []
        cut = self.paths.layers
        while device >= 0:
            before, earlier = came[mask, device, cut]
            steps.append(Step(before, cut, device))
            mask, device, cut = mask & ~(1 << device), earlier, before
        return tuple(reversed(steps))
