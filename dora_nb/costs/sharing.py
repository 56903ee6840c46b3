"""What several streams on one cluster are predicted to do: computed from their plans and their timetable alone.

All streams together repeat after a *round*. A task is one computation or transfer of one request in a round; it holds
its device or its media, one task at a time, in the order of the timetable. Order and lags fix the timetable: its times
are the earliest that they allow, as for a single stream (:mod:`dora_nb.costs.stream`), but no request's tasks start
before it arrives. In which order a device takes requests of different cameras is our own choice of freedom: any.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from dora_nb.costs.compute_times import compute_seconds
from dora_nb.costs.memory import MemoryModel
from dora_nb.costs.operations import COMPUTE_KINDS, Operation, Shape
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.stream import Wait, earliest, waits_in_turn
from dora_nb.costs.table import CostTable
from dora_nb.costs.timing import timing_of
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.sharing import DeviceShare, MediumShare, SharingFigures
from dora_nb.domain.workload import Workload


@dataclass(frozen=True)
class Camera:
    """One camera with the plan of its requests.

    Attributes
    ----------
    workload, table
        What is computed for every request, and in which times.
    plan
        Where; its transfer order is not looked at.
    requests
        In a round.
    """

    workload: Workload
    table: CostTable
    plan: Plan
    requests: int


class Tasks:
    """The tasks of a round.

    Parameters
    ----------
    cameras
        In order.
    cluster
        What they share.
    round_s
        After which everything repeats.

    Attributes
    ----------
    names
        (camera, request, operation) of every task, in an order that respects precedence.
    arrival_s
        When its request arrives after its camera's first one.
    duration_s, held
        From start to end, and how long it holds what it holds.
    predecessors
        Tasks of the same request that must be over before.
    joules
        Above idling: of computing, or of carrying bytes.
    """

    def __init__(self, cameras: Sequence[Camera], cluster: Cluster, round_s: float) -> None:
        self.cameras, self.cluster, self.round_s = tuple(cameras), cluster, round_s
        self.names: list[tuple[int, int, Operation]] = []
        self.arrival_s: list[float] = []
        self.duration_s: list[float] = []
        self.held: list[dict[str, float]] = []
        self.predecessors: list[tuple[int, ...]] = []
        self.joules: list[float] = []
        for number, camera in enumerate(self.cameras):
            self._add(number, camera)

    def _add(self, number: int, camera: Camera) -> None:
        operations = operations_of(Shape.of(camera.plan, camera.workload))
        timing = timing_of(camera.plan, camera.workload, self.cluster, camera.table)
        computing = dict(compute_seconds(camera.plan, camera.workload, self.cluster, camera.table))
        for request in range(camera.requests):
            first = len(self.names)
            for operation, kind, before in zip(
                operations.operations, operations.classes, operations.predecessors, strict=True
            ):
                self.names.append((number, request, operation))
                self.arrival_s.append(request * self.round_s / camera.requests)
                self.duration_s.append(timing.duration_s[kind])
                self.predecessors.append(tuple(first + each for each in before))
                if kind in timing.holds:
                    self.held.append(dict(timing.holds[kind].seconds))
                    self.joules.append(timing.holds[kind].energy_j)
                else:
                    self.held.append(computing[kind])
                    devices = {name: self.cluster.device(name) for name in computing[kind]}
                    extra_w = {name: each.active_w - each.idle_w for name, each in devices.items()}
                    self.joules.append(sum(extra_w[name] * seconds for name, seconds in computing[kind].items()))

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def index(self) -> dict[tuple[int, int, str, int], int]:
        """Position of each task by camera, request, kind and stage."""
        return {(c, r, each.kind, each.stage): place for place, (c, r, each) in enumerate(self.names)}

    def waits(self, order: Sequence[tuple[int, int]]) -> list[Wait]:
        """All waits between tasks, for an order of (task, lag) by start within the round."""
        within = [
            (each, later, self.duration_s[each]) for later, before in enumerate(self.predecessors) for each in before
        ]
        held = dict(enumerate(self.held))
        return [*within, *waits_in_turn(held, order, self.round_s)]

    def start_times(self, order: Sequence[tuple[int, int]], phases_s: Sequence[float]) -> list[float] | None:
        """The earliest start of every task, from the start of its request's round; None if it cannot repeat.

        Parameters
        ----------
        order
            Tasks (position, lag) by start within the round.
        phases_s
            When each camera's first request arrives.
        """
        origin = len(self.names)  # stands for the start of the round
        arrivals = [
            (origin, task, phases_s[camera] + self.arrival_s[task]) for task, (camera, _, _) in enumerate(self.names)
        ]
        start_s = earliest(origin + 1, [*self.waits(order), *arrivals], self.round_s)
        return None if start_s is None else start_s[:-1]

    def latencies_s(self, start_s: Sequence[float], phases_s: Sequence[float]) -> list[tuple[float, ...]]:
        """From arrival to last output of every request, camera by camera."""
        found = [[0.0] * camera.requests for camera in self.cameras]
        for task, (camera, request, _) in enumerate(self.names):
            took_s = start_s[task] + self.duration_s[task] - self.arrival_s[task] - phases_s[camera]
            found[camera][request] = max(found[camera][request], took_s)
        return [tuple(each) for each in found]

    def figures(self, latencies_s: Iterable[Sequence[float]]) -> SharingFigures:
        """What all streams together are predicted to do."""
        every_s = [seconds for own in latencies_s for seconds in own]
        busy_s: dict[str, float] = {}
        for held in self.held:
            for place, seconds in held.items():
                busy_s[place] = busy_s.get(place, 0.0) + seconds
        used = {name for camera in self.cameras for name in camera.plan.devices}
        memory = memory_bytes([(camera.workload, camera.plan) for camera in self.cameras])
        network_w = (
            sum(
                joules
                for joules, (_, _, operation) in zip(self.joules, self.names, strict=True)
                if operation.kind not in COMPUTE_KINDS
            )
            / self.round_s
        )
        devices = []
        for device in self.cluster.devices:
            load = busy_s.pop(device.id, 0.0) / self.round_s
            power_w = device.idle_w + (device.active_w - device.idle_w) * load if device.id in used else 0.0
            devices.append(
                DeviceShare(
                    device=device.id,
                    load=load,
                    memory_bytes=memory.get(device.id, 0.0),
                    usable_memory_bytes=device.usable_memory_bytes,
                    power_w=power_w,
                )
            )
        participating_w = network_w + sum(each.power_w for each in devices)
        unused_w = sum(device.idle_w for device in self.cluster.devices if device.id not in used)
        return SharingFigures(
            latency_s=sum(every_s) / len(every_s),
            worst_latency_s=max(every_s),
            power_participating_w=participating_w,
            power_all_on_w=participating_w + unused_w,
            devices=tuple(devices),
            media=tuple(
                MediumShare(medium=name, load=seconds / self.round_s) for name, seconds in sorted(busy_s.items())
            ),
        )


def memory_bytes(plans: Iterable[tuple[Workload, Plan]]) -> dict[str, float]:
    """Bytes that every device needs for all plans together.

    Equal layers of one model are held once, whoever uses them; buffers and working sets are kept apart for every
    camera's stage (our own, conservative choice), as :class:`~dora_nb.costs.memory.MemoryModel` counts them.
    """
    needed: dict[str, float] = {}
    held: dict[tuple[str, object], tuple[Workload, set[int]]] = {}
    for workload, plan in plans:
        memory = MemoryModel(workload)
        for stage in plan.stages:
            parameters = float(memory.parameters(stage.first_layer, stage.stop_layer)) * workload.bytes_per_element
            for replica in stage.replicas:
                whole = memory.replica_bytes(
                    stage.first_layer,
                    stage.stop_layer,
                    samples=float(replica.samples),
                    in_flight=stage.in_flight,
                    micro_batches=plan.micro_batches,
                    replicated=len(stage.replicas) > 1,
                )
                needed[replica.device] = needed.get(replica.device, 0.0) + float(whole) - parameters
                own = held.setdefault((replica.device, model_of(workload)), (workload, set()))
                own[1].update(range(stage.first_layer, stage.stop_layer))
    for (device, _), (workload, layers) in held.items():
        parameters = sum(workload.layers[each].parameters for each in layers)
        if {0, len(workload.layers) - 1} <= layers:
            parameters -= workload.tied_parameters
        needed[device] += parameters * workload.bytes_per_element
    return needed


def model_of(workload: Workload) -> object:
    """What workloads of one model have in common: layers whose parameters can be held once for all."""
    return workload.layers, workload.precision
