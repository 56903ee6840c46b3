"""The one place that predicts: every figure of a plan, computed from the plan alone.

Nothing here knows how a plan was found. The makespan is an exact event recurrence over the plan's own transfer order,
so it can be held against any solver's claim.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from dora_nb.costs.memory import MemoryModel
from dora_nb.costs.network import Flow, Hold, Network
from dora_nb.costs.operations import Kind, Operation, OperationClass, Operations, Shape, Timing, operations_of
from dora_nb.costs.table import CostTable, cost_table
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.fits import check_fits
from dora_nb.domain.plan import HOSTED, DevicePrediction, Plan, Prediction, Stage, Transfer
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.units import format_joules, format_seconds


@dataclass(frozen=True)
class TimelineEntry:
    """One operation with its times.

    Attributes
    ----------
    kind, stage, micro_batch
        Which operation.
    start_s, end_s
        From when to when, from the iteration's start.
    places
        The devices that compute, or the media (ports) that are held.
    """

    kind: Kind
    stage: int
    micro_batch: int
    start_s: float
    end_s: float
    places: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """What a plan is predicted to do.

    Attributes
    ----------
    plan
        The plan evaluated.
    prediction
        The figures.
    timeline
        Every operation, by start time.
    """

    plan: Plan
    prediction: Prediction
    timeline: tuple[TimelineEntry, ...]

    def __repr__(self) -> str:
        figures = self.prediction
        return (
            f"Evaluation of {self.plan.label or 'a plan'}: {format_seconds(figures.makespan_s)}, "
            f"{format_joules(figures.energy_participating_j)}, {len(self.timeline)} operations"
        )

    def _repr_html_(self) -> str:
        from dora_nb.render.timeline import timeline_svg  # a method that looks up a room: imported when called

        return timeline_svg(self, self.plan)


def evaluate(plan: Plan, workload: Workload, cluster: Cluster, table: CostTable | None = None) -> Evaluation:
    """Predict makespan, period, energy and memory of a plan.

    Parameters
    ----------
    plan
        With a transfer order that names each of its transfers once.
    workload, cluster
        What the plan is for.
    table
        Compute times; the roofline estimate when None.

    Raises
    ------
    InputError
        If the plan does not fit the workload or the cluster, or its transfer order is incomplete or contradicts the
        precedence of its operations.
    """
    check_fits(plan, workload, cluster)
    table = cost_table(workload, cluster) if table is None else table
    timing = timing_of(plan, workload, cluster, table)
    operations = operations_of(Shape.of(plan, workload))
    start_s = start_times(operations, timing, plan.transfer_order)
    makespan_s = max(start + timing.duration_s[kind] for start, kind in zip(start_s, operations.classes, strict=True))
    return Evaluation(
        plan=plan,
        prediction=_prediction(plan, workload, cluster, table, timing, operations, makespan_s),
        timeline=_timeline(plan, operations, timing, start_s),
    )


def timing_of(plan: Plan, workload: Workload, cluster: Cluster, table: CostTable) -> Timing:
    """Seconds of every class of the plan's operations."""
    network = Network.of(cluster)
    return Timing(
        compute_s=dict(_compute_times(plan, workload, cluster, table)),
        holds=dict(_transfer_holds(plan, workload, network)),
    )


def _compute_times(
    plan: Plan, workload: Workload, cluster: Cluster, table: CostTable
) -> Iterable[tuple[OperationClass, float]]:
    for index, stage in enumerate(plan.stages):
        own = [_replica_times(stage, place, table, cluster) for place in range(len(stage.replicas))]
        yield OperationClass("forward", index), max(times.forward_s for times in own)
        if workload.trains:
            yield OperationClass("backward", index), max(times.backward_s for times in own)
            steps = (_step_s(plan, index, device, workload, cluster, table) for device in stage.devices)
            yield OperationClass("step", index), max(steps)
    if plan.tied == "hosted":
        hosts = [_hosted_times(replica.device, replica.samples, table, cluster) for replica in plan.stages[-1].replicas]
        yield OperationClass("forward", HOSTED), max(times.forward_s for times in hosts)
        if workload.trains:
            yield OperationClass("backward", HOSTED), max(times.backward_s for times in hosts)


@dataclass(frozen=True)
class _PassTimes:
    forward_s: float
    backward_s: float


def _replica_times(stage: Stage, place: int, table: CostTable, cluster: Cluster) -> _PassTimes:
    replica = stage.replicas[place]
    device = cluster.device_ids.index(replica.device)
    layers = slice(stage.first_layer, stage.stop_layer)
    return _PassTimes(
        float(table.forward_s[layers, device, replica.samples].sum()),
        float(table.backward_s[layers, device, replica.samples].sum()),
    )


def _hosted_times(device_id: str, samples: int, table: CostTable, cluster: Cluster) -> _PassTimes:
    device = cluster.device_ids.index(device_id)
    return _PassTimes(float(table.forward_s[0, device, samples]), float(table.backward_s[0, device, samples]))


def _step_s(plan: Plan, index: int, device_id: str, workload: Workload, cluster: Cluster, table: CostTable) -> float:
    stage = plan.stages[index]
    return step_seconds(
        table,
        workload,
        cluster.device_ids.index(device_id),
        stage.first_layer,
        stage.stop_layer,
        hosts_first_layer=plan.tied == "hosted" and index == len(plan.stages) - 1,
    )


def step_seconds(
    table: CostTable, workload: Workload, device: int, first: int, stop: int, *, hosts_first_layer: bool
) -> float:
    """Optimizer seconds of layers [first, stop) on a device, parameters held twice counted once."""
    seconds = float(table.step_s[first:stop, device].sum())
    embedding = workload.layers[0]
    if not workload.tied_parameters:
        return seconds
    tied_s = float(table.step_s[0, device]) * workload.tied_parameters / embedding.parameters
    if hosts_first_layer:
        return seconds + float(table.step_s[0, device]) - tied_s
    return seconds - tied_s if first == 0 and stop == len(workload.layers) else seconds


def _transfer_holds(plan: Plan, workload: Workload, network: Network) -> Iterable[tuple[OperationClass, Hold]]:
    last = len(plan.stages) - 1
    pipeline = list(enumerate(plan.stages))
    if plan.tied == "hosted":
        pipeline.insert(0, (HOSTED, plan.stages[last]))
    first_index, first_stage = pipeline[0]
    for (index, stage), (_, following) in itertools.pairwise(pipeline):
        size = workload.cut_bytes(1 if index == HOSTED else stage.stop_layer)
        out = network.hand_over(_shares(stage, size), _shares(following, size))
        yield OperationClass("activation", index), out
        if workload.trains:
            yield OperationClass("gradient", index), network.hand_over(_shares(following, size), _shares(stage, size))
    shape = Shape.of(plan, workload)
    if shape.inputs and workload.source is not None:
        into = network.fan_out(workload.source, _shares(first_stage, workload.input_bytes))
        yield OperationClass("input", first_index), into
    if shape.labels and workload.source is not None:
        yield (
            OperationClass("label", last),
            network.fan_out(workload.source, _shares(plan.stages[last], workload.label_bytes)),
        )
    if shape.outputs and workload.sink is not None:
        yield (
            OperationClass("output", last),
            network.fan_in(_shares(plan.stages[last], workload.output_bytes), workload.sink),
        )
    if workload.trains:
        yield from _gradient_sums(plan, workload, network)


def _shares(stage: Stage, bytes_per_sample: float) -> dict[str, float]:
    return {replica.device: replica.samples * bytes_per_sample for replica in stage.replicas}


def _gradient_sums(plan: Plan, workload: Workload, network: Network) -> Iterable[tuple[OperationClass, Hold]]:
    memory, element = MemoryModel(workload), workload.bytes_per_element
    last = len(plan.stages) - 1
    tied_bytes = float(workload.tied_parameters * element)
    for index, stage in enumerate(plan.stages):
        if stage.all_reduce is None:
            continue
        hosts = plan.tied == "hosted" and index == last
        size = float(memory.gradient_parameters(stage.first_layer, stage.stop_layer, hosts)) * element
        yield OperationClass("all-reduce", index), network.all_reduce(stage.devices, size, stage.all_reduce)
        if plan.tied == "synchronised" and index in (0, last):
            everyone = dict.fromkeys(stage.devices, tied_bytes)
            yield OperationClass("tied-reduce", index), network.fan_in(everyone, stage.all_reduce.leader)
            yield OperationClass("tied-broadcast", index), network.fan_out(stage.all_reduce.leader, everyone)
    if plan.tied == "synchronised":
        head, tail = plan.stages[0].leader, plan.stages[last].leader
        yield (
            OperationClass("tied-exchange", last),
            network.exchange([Flow(head, tail, tied_bytes), Flow(tail, head, tied_bytes)]),
        )


def start_times(operations: Operations, timing: Timing, order: Iterable[Transfer]) -> list[float]:
    """Earliest start of every operation when transfers enter each medium in the order given.

    An operation starts when its predecessors are done; a transfer also when, on every medium it holds, the transfer
    before it in the order has let go. The exact event recurrence: no event could be earlier.

    Returns
    -------
    list of seconds, in the order of ``operations.operations``

    Raises
    ------
    InputError
        If the order misses a transfer, names one twice or one that is not there, or contradicts the precedence.
    """
    waits_for: list[list[tuple[int, float]]] = [
        [(earlier, timing.duration_s[operations.classes[earlier]]) for earlier in before]
        for before in operations.predecessors
    ]
    last_on: dict[str, tuple[int, float]] = {}
    for transfer in _sequence(operations, order):
        for resource, seconds in timing.holds[operations.classes[transfer]].seconds.items():
            if resource in last_on:
                waits_for[transfer].append(last_on[resource])
            last_on[resource] = (transfer, seconds)
    followers: list[list[int]] = [[] for _ in waits_for]
    for index, earlier in enumerate(waits_for):
        for each, _ in earlier:
            followers[each].append(index)
    open_waits = [len(earlier) for earlier in waits_for]
    able = [index for index, count in enumerate(open_waits) if count == 0]
    start_s = [0.0] * len(waits_for)
    for index in able:  # grows while it is walked
        start_s[index] = max((start_s[each] + lag for each, lag in waits_for[index]), default=0.0)
        for follower in followers[index]:
            open_waits[follower] -= 1
            if open_waits[follower] == 0:
                able.append(follower)
    if len(able) < len(start_s):
        stuck = next(operations.operations[i] for i in operations.transfers if open_waits[i] > 0)
        raise InputError("transfer_order", tuple(stuck), "an order in which no transfer waits for one behind it")
    return start_s


def _sequence(operations: Operations, order: Iterable[Transfer]) -> list[int]:
    sequence: list[int] = []
    expected = set(operations.transfers)
    for transfer in order:
        key = Operation(transfer.kind, transfer.stage, transfer.micro_batch)
        index = operations.index.get(key)
        if index is None or index not in expected:
            raise InputError("transfer_order", tuple(key), "each transfer of the plan once, and no other")
        expected.remove(index)
        sequence.append(index)
    if expected:
        missing = operations.operations[min(expected)]
        raise InputError("transfer_order", None, f"each transfer of the plan once; {tuple(missing)} is missing")
    return sequence


def _prediction(
    plan: Plan,
    workload: Workload,
    cluster: Cluster,
    table: CostTable,
    timing: Timing,
    operations: Operations,
    makespan_s: float,
) -> Prediction:
    memory = MemoryModel(workload)
    devices = []
    for index, stage in enumerate(plan.stages):
        for place, replica in enumerate(stage.replicas):
            device = cluster.device(replica.device)
            busy_s = _busy_s(plan, workload, cluster, table, index, place)
            devices.append(
                DevicePrediction(
                    device=device.id,
                    busy_s=busy_s,
                    memory_bytes=memory_of(memory, plan, index, replica.samples),
                    usable_memory_bytes=device.usable_memory_bytes,
                    energy_j=device.idle_w * makespan_s + (device.active_w - device.idle_w) * busy_s,
                )
            )
    transfers = [timing.holds[operations.classes[index]] for index in operations.transfers]
    network_bytes = sum(hold.size_bytes for hold in transfers)
    domain = cluster.domain
    participating_j = sum(device.energy_j for device in devices)
    participating_j += network_bytes * domain.energy_j_per_byte if domain is not None else 0.0
    others = [device for device in cluster.devices if device.id not in plan.devices]
    return Prediction(
        makespan_s=makespan_s,
        period_s=period_s(plan, workload, timing),
        energy_participating_j=participating_j,
        energy_all_on_j=participating_j + sum(device.idle_w for device in others) * makespan_s,
        network_bytes=network_bytes,
        airtime_s=max(_held_s(transfers).values(), default=0.0),
        devices=tuple(devices),
    )


def memory_of(memory: MemoryModel, plan: Plan, index: int, samples: int) -> float:
    """Bytes a replica with so many samples of a plan's stage needs."""
    stage = plan.stages[index]
    return float(
        memory.replica_bytes(
            stage.first_layer,
            stage.stop_layer,
            samples=float(samples),
            in_flight=stage.in_flight,
            micro_batches=plan.micro_batches,
            replicated=len(stage.replicas) > 1,
            hosts_first_layer=plan.tied == "hosted" and index == len(plan.stages) - 1,
        )
    )


def _busy_s(plan: Plan, workload: Workload, cluster: Cluster, table: CostTable, index: int, place: int) -> float:
    stage = plan.stages[index]
    replica = stage.replicas[place]
    own = _replica_times(stage, place, table, cluster)
    per_micro_batch_s = own.forward_s + own.backward_s
    if plan.tied == "hosted" and index == len(plan.stages) - 1:
        hosted = _hosted_times(replica.device, replica.samples, table, cluster)
        per_micro_batch_s += hosted.forward_s + hosted.backward_s
    step_s = _step_s(plan, index, replica.device, workload, cluster, table) if workload.trains else 0.0
    return plan.micro_batches * per_micro_batch_s + step_s


def _held_s(holds: Iterable[Hold]) -> dict[str, float]:
    held: dict[str, float] = {}
    for hold in holds:
        for resource, seconds in hold.seconds.items():
            held[resource] = held.get(resource, 0.0) + seconds
    return held


def period_s(plan: Plan, workload: Workload, timing: Timing) -> float:
    """Steady-state seconds between micro-batches.

    The largest load that a micro-batch puts on a stage or a medium, and in training the round trip from a stage to
    the last one and back, over the stage's in-flight count. What happens once an iteration does not count.
    """
    last = len(plan.stages) - 1
    seconds = timing.duration_s

    def both_ways_s(stage: int) -> float:
        return seconds[OperationClass("forward", stage)] + seconds.get(OperationClass("backward", stage), 0.0)

    load_s = [both_ways_s(stage) for stage in range(last + 1)]
    if plan.tied == "hosted":
        load_s[last] += both_ways_s(HOSTED)
    once = ("all-reduce", "tied-reduce", "tied-exchange", "tied-broadcast")
    load_s.extend(_held_s(hold for kind, hold in timing.holds.items() if kind.kind not in once).values())
    if workload.trains:
        trip_s = 0.0
        for index in range(last, -1, -1):
            trip_s += both_ways_s(index)
            if index < last:
                trip_s += seconds[OperationClass("activation", index)] + seconds[OperationClass("gradient", index)]
            load_s.append(trip_s / min(plan.stages[index].in_flight, plan.micro_batches))
    return max(load_s)


def _timeline(plan: Plan, operations: Operations, timing: Timing, start_s: list[float]) -> tuple[TimelineEntry, ...]:
    entries = []
    for operation, kind, start in zip(operations.operations, operations.classes, start_s, strict=True):
        stage = plan.stages[operation.stage]  # HOSTED is -1: the last stage's devices run it
        places = tuple(timing.holds[kind].seconds) if kind in timing.holds else stage.devices
        entries.append(TimelineEntry(*operation, start, start + timing.duration_s[kind], places))
    return tuple(sorted(entries, key=lambda entry: (entry.start_s, entry.end_s, entry.kind, entry.stage)))
