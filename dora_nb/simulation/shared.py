"""Plays a sharing: all requests of several streams over some rounds, event by event, in a world that may change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from dora_nb.costs.network import Network
from dora_nb.costs.operations import COMPUTE_KINDS, Operation, Operations
from dora_nb.costs.sharing import Camera, Tasks
from dora_nb.costs.table import CostTable, cost_table
from dora_nb.costs.timeline import TimelineEntry
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.qoe import ROUNDING
from dora_nb.domain.sharing import Sharing
from dora_nb.domain.stream import Stream
from dora_nb.errors import InputError
from dora_nb.simulation.engine import run_step
from dora_nb.simulation.steps import Parts, at_rates, channels_of
from dora_nb.simulation.world import World
from dora_nb.units import counted


@dataclass(frozen=True)
class SharedRun:
    """What happened.

    Attributes
    ----------
    latencies_s
        From arrival to last output: of every camera, its requests round by round.
    late
        Requests beyond their deadline.
    completed
        Whether all requests came to their end.
    """

    latencies_s: tuple[tuple[float, ...], ...]
    late: int
    completed: bool

    def __repr__(self) -> str:
        requests = counted(sum(map(len, self.latencies_s)), "request")
        return f"SharedRun of {requests} over {counted(len(self.latencies_s), 'camera')}, {self.late} late"


def play(
    sharing: Sharing,
    streams: Sequence[Stream],
    cluster: Cluster,
    *,
    rounds: int = 5,
    world: World | None = None,
    tables: Mapping[str, CostTable] | None = None,
) -> SharedRun:
    """Simulate all requests of a sharing over some rounds, from an empty cluster on.

    Devices and media take their tasks in the order of the timetable, each as soon as it may begin. Where nothing
    changes, requests take what was predicted once the first few rounds are over, and before no longer.

    Parameters
    ----------
    sharing
        Cameras and timetable.
    streams, cluster
        What it was made for.
    rounds
        How many.
    world
        Of the cluster; None: nothing changes.
    tables
        As for :func:`dora_nb.share`.

    Raises
    ------
    InputError
        If the streams are not those of the sharing, or there are no rounds.
    """
    if rounds < 1:
        raise InputError("rounds", rounds, "1 or more")
    # More rounds follow, so that the last ones meet as many others as those before.
    following = 1 + max((turn.lag for turn in sharing.turns), default=0)
    model = _Rounds(sharing, tuple(streams), cluster, rounds + following, dict(tables or {}))
    result = run_step(model, world or World(cluster), timeline=True)
    return model.run_of(result.entries, rounds)


@dataclass(frozen=True)
class _Rounds:
    """All tasks of some rounds, and an arrival before each request's first."""

    sharing: Sharing
    streams: tuple[Stream, ...]
    cluster: Cluster
    rounds: int
    tables: dict[str, CostTable]
    _parts: dict[tuple[float, ...], Parts] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        known = {(stream.name, number) for stream in self.streams for number in range(stream.count)}
        own = [(camera.stream, camera.number) for camera in self.sharing.cameras]
        if known != set(own) or len(known) != len(own):
            raise InputError("streams", sorted(known), f"the cameras of the sharing: {sorted(own)}")

    @cached_property
    def tasks(self) -> Tasks:
        """Of one round."""
        return self._tasks(self.cluster)

    def _tasks(self, cluster: Cluster) -> Tasks:
        by_name = {stream.name: stream for stream in self.streams}
        cameras = []
        for camera in self.sharing.cameras:
            work = by_name[camera.stream].workload
            table = self.tables.get(camera.stream) or cost_table(work, self.cluster)
            cameras.append(Camera(work, table, camera.plan, len(camera.latencies_s)))
        return Tasks(cameras, cluster, self.sharing.round_s)

    @cached_property
    def _slots(self) -> list[int]:
        """All tasks of all rounds in the order of the timetable; task t of round g is number g x tasks + t."""
        count = len(self.tasks)
        slots: list[tuple[int, int, int]] = []
        for place, turn in enumerate(self.sharing.turns):
            task = self.tasks.index[turn.camera, turn.request, turn.kind, turn.stage]
            slots.extend((number + turn.lag, place, number * count + task) for number in range(self.rounds))
        return [each for _, _, each in sorted(slots)]

    @cached_property
    def _requests(self) -> list[tuple[int, int, int]]:
        """(round, camera, request) of every arrival, which come behind all tasks."""
        cameras = self.tasks.cameras
        return [(g, c, r) for g in range(self.rounds) for c, each in enumerate(cameras) for r in range(each.requests)]

    @cached_property
    def operations(self) -> Operations:
        """Arrivals, precedence within a request, and the order on every device."""
        tasks, count = self.tasks, len(self.tasks)
        first = self.rounds * count
        arrival = {key: first + place for place, key in enumerate(self._requests)}
        before: list[set[int]] = []
        names: list[Operation] = []
        for number in range(self.rounds):
            for task, (camera, request, operation) in enumerate(tasks.names):
                own = {number * count + each for each in tasks.predecessors[task]}
                before.append(own or {arrival[number, camera, request]})
                names.append(operation._replace(stage=self._stage(camera, operation.stage), micro_batch=len(names)))
        last_on: dict[str, int] = {}
        for slot in self._slots:
            if names[slot].kind in COMPUTE_KINDS:
                for device in tasks.held[slot % count]:
                    if device in last_on:
                        before[slot].add(last_on[device])
                    last_on[device] = slot
        for _ in self._requests:
            names.append(Operation("input", 0, len(names)))
            before.append(set())
        return Operations(tuple(names), tuple(tuple(sorted(each)) for each in before))

    def _stage(self, camera: int, stage: int) -> int:
        return sum(len(each.plan.stages) for each in self.sharing.cameras[:camera]) + stage

    def devices_of(self, stage: int) -> tuple[str, ...]:
        """Who computes a stage, counted over all cameras."""
        return [each for camera in self.sharing.cameras for each in camera.plan.stages][stage].devices

    @cached_property
    def resources(self) -> tuple[str, ...]:
        """Names of everything that transfers hold."""
        return tuple(Network.of(self.cluster).domain_of)

    @cached_property
    def turns(self) -> tuple[tuple[int, ...], ...]:
        """Transfers in the order in which they enter each resource."""
        count, place = len(self.tasks), {name: at for at, name in enumerate(self.resources)}
        turns: list[list[int]] = [[] for _ in self.resources]
        for slot in self._slots:
            if self.operations.operations[slot].kind not in COMPUTE_KINDS:
                for name in self.tasks.held[slot % count]:
                    turns[place[name]].append(slot)
        return tuple(tuple(each) for each in turns)

    @cached_property
    def network_j(self) -> tuple[float, ...]:
        """Joules of carrying each operation's bytes."""
        joules = [
            own if operation.kind not in COMPUTE_KINDS else 0.0
            for own, (_, _, operation) in zip(self.tasks.joules, self.tasks.names, strict=True)
        ]
        return (*joules * self.rounds, *(0.0 for _ in self._requests))

    @cached_property
    def devices(self) -> tuple[int, ...]:
        """Places of the devices without which no request can end."""
        needed = {name for camera in self.sharing.cameras for name in camera.plan.devices}
        for stream in self.streams:
            needed |= {each for each in (stream.workload.source, stream.workload.sink) if each is not None}
        return tuple(place for place, name in enumerate(self.cluster.device_ids) if name in needed)

    def parts(self, device_rates: Sequence[float]) -> Parts:
        """The parts when devices reach their media at rates multiplied by these factors."""
        key = tuple(device_rates)
        if key not in self._parts:
            self._parts[key] = self._split(at_rates(self.cluster, self.tasks.cameras[0].table, key))
        return self._parts[key]

    def _split(self, cluster: Cluster) -> Parts:
        tasks = self.tasks if cluster is self.cluster else self._tasks(cluster)
        device, channel_of = channels_of(self.cluster)
        resource = {name: place for place, name in enumerate(self.resources)}
        of: list[tuple[int, ...]] = []
        rows: list[tuple[int, int, int, float]] = []
        latency_s: list[float] = []
        for index in range(self.rounds * len(tasks)):
            task, first = index % len(tasks), len(rows)
            computes = tasks.names[task][2].kind in COMPUTE_KINDS
            for name, seconds in tasks.held[task].items():
                rows.append(
                    (index, device[name], -1, seconds)
                    if computes
                    else (index, channel_of[name], resource[name], seconds)
                )
            of.append(tuple(range(first, len(rows))))
            held_s = max(tasks.held[task].values(), default=0.0)
            latency_s.append(0.0 if computes else tasks.duration_s[task] - held_s)
        for number, camera, request in self._requests:
            of.append(())
            requests = tasks.cameras[camera].requests
            latency_s.append(self.sharing.cameras[camera].phase_s + (number + request / requests) * tasks.round_s)
        operation, channel, held_by, work_s = zip(*rows, strict=True)
        return Parts(tuple(of), operation, channel, held_by, work_s, tuple(latency_s))

    @cached_property
    def _tasks_of(self) -> list[int]:
        """Tasks of a request of every camera."""
        counted = [0] * len(self.tasks.cameras)
        for camera, request, _ in self.tasks.names:
            counted[camera] += request == 0
        return counted

    def run_of(self, entries: Sequence[TimelineEntry], rounds: int) -> SharedRun:
        """Latencies of what came to its end of the first rounds."""
        count, ends_s = len(self.tasks), dict[tuple[int, int, int], float]()
        left: dict[tuple[int, int, int], int] = {}  # tasks that are not over
        for entry in entries:
            if entry.micro_batch < rounds * count:
                number, task = divmod(entry.micro_batch, count)
                camera, request, _ = self.tasks.names[task]
                key = number, camera, request
                ends_s[key] = max(ends_s.get(key, 0.0), entry.end_s)
                left[key] = left.get(key, self._tasks_of[camera]) - 1
        latencies_s: list[list[float]] = [[] for _ in self.sharing.cameras]
        late = 0
        over = {key: end_s for key, end_s in ends_s.items() if left[key] == 0}
        for (number, camera, request), end_s in sorted(over.items()):
            own = self.sharing.cameras[camera]
            requests = self.tasks.cameras[camera].requests
            latency_s = end_s - own.phase_s - (number + request / requests) * self.tasks.round_s
            latencies_s[camera].append(latency_s)
            late += own.deadline_s is not None and latency_s > own.deadline_s * (1 + ROUNDING)
        asked = rounds * sum(camera.requests for camera in self.tasks.cameras)
        return SharedRun(tuple(map(tuple, latencies_s)), late, len(over) == asked)
