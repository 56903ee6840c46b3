"""The one place that predicts: every figure of a plan, computed from the plan alone.

Nothing here knows how a plan was found. The makespan is an exact event recurrence over the plan's own transfer order,
so it can be held against any solver's claim.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np

from dora_nb.costs.buckets import bucket_cuts, bucket_parameters
from dora_nb.costs.details import TimelineDetails, details_of
from dora_nb.costs.memory import MemoryModel
from dora_nb.costs.network import Flow, Hold, Network
from dora_nb.costs.operations import (
    Kind,
    Operation,
    OperationClass,
    Operations,
    Shape,
    Timing,
    generation,
    operations_of,
)
from dora_nb.costs.schedule import scheduled_transfers
from dora_nb.costs.stream import Wait, steady_start_times, steady_waits
from dora_nb.costs.table import CostTable, cost_table
from dora_nb.costs.token_rounds import Leg, every_leg, rounds_s, slack_s
from dora_nb.domain.architecture import INTEGER_BYTES
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.fits import check_fits
from dora_nb.domain.plan import HOSTED, DevicePrediction, IdlePrediction, Plan, Prediction, Replica, Stage, Transfer
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.units import format_joules, format_seconds

#: Stands in for a makespan of nothing, so that throughput stays finite.
_INSTANT_S = 1e-15


@dataclass(frozen=True)
class TimelineEntry:
    """One operation with its times.

    Attributes
    ----------
    kind, stage, micro_batch, part
        Which operation.
    start_s, end_s
        From when to when, from the iteration's start.
    places
        The devices that compute, or the media (ports) that are held.
    """

    kind: Kind
    stage: int
    micro_batch: int
    part: int
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
    """

    plan: Plan
    prediction: Prediction
    _workload: Workload = field(repr=False, compare=False)
    _entries: Callable[[], tuple[TimelineEntry, ...]] = field(repr=False, compare=False)
    _details: Callable[[Iterable[TimelineEntry]], TimelineDetails] = field(repr=False, compare=False)

    @cached_property
    def timeline(self) -> tuple[TimelineEntry, ...]:
        """Every operation, by start time; made when it is asked for, since thousands of tokens are as many entries."""
        return self._entries()

    @cached_property
    def details(self) -> TimelineDetails:
        """For how long every operation of the timeline keeps its places busy, and which ones are critical."""
        return self._details(self.timeline)

    @property
    def scheduled(self) -> Plan:
        """The plan with its prediction, the times of all transfers included."""
        schedule = scheduled_transfers(self.plan, self._workload, self.timeline)
        return self.plan.replace(prediction=self.prediction.replace(schedule=schedule))

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

    Returns
    -------
    Evaluation

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
    if workload.arrival_s is None:
        start_s = start_times(operations, timing, plan.transfer_order)
    else:
        start_s = stream_start_times(operations, timing, plan.transfer_order, workload.arrival_s)
    makespan_s = max(start + timing.duration_s[kind] for start, kind in zip(start_s, operations.classes, strict=True))
    return Evaluation(
        plan=plan,
        prediction=_prediction(plan, workload, cluster, table, timing, operations, makespan_s),
        _workload=workload,
        _entries=lambda: timeline_of(plan, workload, operations, timing, start_s),
        _details=lambda timeline: details_of(
            timeline,
            operations,
            timing,
            start_s,
            waits_of(operations, timing, plan.transfer_order, workload.arrival_s),
            dict(compute_seconds(plan, workload, cluster, table)),
            workload.decode_steps,
            _late_in_rounds(plan, workload, timing) if plan.token_groups > 1 and workload.decode_steps else {},
        ),
    )


def timing_of(plan: Plan, workload: Workload, cluster: Cluster, table: CostTable) -> Timing:
    """Seconds of every class of the plan's operations."""
    network = Network.of(cluster)
    alone = Timing(
        compute_s=dict(_compute_times(plan, workload, cluster, table)),
        holds=dict(transfer_holds(plan, workload, network)),
    )
    if plan.token_groups == 1 or not workload.decode_steps:
        return alone
    own_s = sum(alone.duration_s[operation.cls] for operation in _token_chain(plan, workload))
    all_s = rounds_s(_legs(plan, workload, alone), plan.token_groups, workload.decode_steps)
    follow_s = max(all_s - own_s, 0.0)  # rounding apart, all groups are not quicker than one
    return replace(alone, compute_s={**alone.compute_s, OperationClass("follow", len(plan.stages) - 1): follow_s})


def _legs(plan: Plan, workload: Workload, timing: Timing) -> list[Leg]:
    """A round of one group, a step of average length."""
    steps, legs = workload.decode_steps, []
    for kind in (operation.cls for operation in _token_chain(plan, workload)):
        duration_s = timing.duration_s[kind] / steps
        held_s = {f"stage {kind.stage}": duration_s}
        if kind in timing.holds:
            held_s = {name: seconds / steps for name, seconds in timing.holds[kind].seconds.items()}
        legs.append(Leg(duration_s, held_s))
    return legs


def _late_in_rounds(plan: Plan, workload: Workload, timing: Timing) -> dict[Operation, float]:
    """By how much each operation of a round, named as in the timeline, could start later."""
    legs, groups, chain = _legs(plan, workload, timing), plan.token_groups, _token_chain(plan, workload)
    late_s = slack_s(legs, list(every_leg(legs, groups, workload.decode_steps)))
    return {chain[each.leg]._replace(micro_batch=each.step * groups + each.group): s for each, s in late_s.items()}


def _token_chain(plan: Plan, workload: Workload) -> list[Operation]:
    """What a group does in a round."""
    return [each for each in generation(Shape.of(plan, workload)) if each.kind in ("decode", "token")]


def _compute_times(
    plan: Plan, workload: Workload, cluster: Cluster, table: CostTable
) -> Iterable[tuple[OperationClass, float]]:
    for kind, by_device in compute_seconds(plan, workload, cluster, table):
        yield kind, max(by_device.values())


def compute_seconds(
    plan: Plan, workload: Workload, cluster: Cluster, table: CostTable
) -> Iterable[tuple[OperationClass, dict[str, float]]]:
    """Seconds of every computing class on each device that takes part; the slowest decides how long it takes.

    The parts of a backward pass are given as shares of the slowest replica's: each replica takes as much less time for
    a part as for the whole pass (our own choice; when a bucket is full only the slowest decides).
    """
    for index, stage in enumerate(plan.stages):
        own = {each: _replica_times(stage, place, table, cluster) for place, each in enumerate(stage.devices)}
        yield OperationClass("forward", index), {name: times.forward_s for name, times in own.items()}
        if workload.trains:
            whole_s = {name: times.backward_s for name, times in own.items()}
            slowest_s = max(whole_s.values())
            yield OperationClass("backward", index), whole_s
            for part, seconds in enumerate(parts_of_backward(stage, workload, cluster, table), start=1):
                shares = {name: each / slowest_s if slowest_s else 1.0 for name, each in whole_s.items()}
                yield OperationClass("backward", index, part), {name: seconds * share for name, share in shares.items()}
            steps = {name: _step_s(plan, index, name, workload, cluster, table) for name in stage.devices}
            yield OperationClass("step", index), steps
        if workload.decode_steps:
            steps = {
                name: _decode_s(plan, index, place, workload, cluster, table)
                for place, name in enumerate(stage.devices)
            }
            yield OperationClass("decode", index), steps
    if plan.tied == "hosted":
        hosts = {
            each.device: _hosted_times(each.device, each.samples, table, cluster) for each in plan.stages[-1].replicas
        }
        yield OperationClass("forward", HOSTED), {name: times.forward_s for name, times in hosts.items()}
        if workload.trains:
            yield OperationClass("backward", HOSTED), {name: times.backward_s for name, times in hosts.items()}


def parts_of_backward(stage: Stage, workload: Workload, cluster: Cluster, table: CostTable) -> list[float]:
    """Seconds of the parts of a stage's last backward pass, each of which fills a bucket; empty if it stays whole.

    A bucket is full when the slowest replica has filled it.
    """
    if not workload.trains or stage.all_reduce is None or stage.all_reduce.buckets < 2:
        return []
    filled_s = [0.0]
    for cut in _cuts(stage, workload)[1:]:
        passed = stage.replace(first_layer=cut)
        times = (_replica_times(passed, place, table, cluster) for place in range(len(stage.replicas)))
        filled_s.append(max(each.backward_s for each in times))
    return [until - since for since, until in itertools.pairwise(filled_s)]


def _cuts(stage: Stage, workload: Workload) -> list[int]:
    """Where the buckets of a stage begin and end."""
    assert stage.all_reduce is not None, "replicas that train sum their gradients"
    first, stop, buckets = (
        np.array([each]) for each in (stage.first_layer, stage.stop_layer, stage.all_reduce.buckets)
    )
    return [int(cut) for cut in bucket_cuts(workload, first, stop, buckets)[0]]


@dataclass(frozen=True)
class _PassTimes:
    forward_s: float
    backward_s: float


def _replica_times(stage: Stage, place: int, table: CostTable, cluster: Cluster) -> _PassTimes:
    replica = stage.replicas[place]
    device = cluster.device_ids.index(replica.device)
    return _PassTimes(*pass_seconds(stage, device, replica.samples, table))


def pass_seconds(stage: Stage, device: int, samples: int, table: CostTable) -> tuple[float, float]:
    """Seconds of a forward and of a backward pass; what is run forward again is part of the backward pass.

    Parameters
    ----------
    stage
        Its layers, whether they are run again, and in what their weights are held.
    device
        Index in the table.
    samples
        Of a micro-batch that the device takes.
    table
        Compute times.
    """
    table = table.with_weights(stage.weights)
    layers, again = slice(stage.first_layer, stage.stop_layer), stage.layers_again(len(table.forward_s))
    forward_s = float(table.forward_s[layers, device, samples].sum())
    again_s = float(table.forward_s[again.start : again.stop, device, samples].sum())
    return forward_s, float(table.backward_s[layers, device, samples].sum()) + again_s


def _decode_s(plan: Plan, index: int, place: int, workload: Workload, cluster: Cluster, table: CostTable) -> float:
    """Seconds of all steps after the first token on one replica, which takes its share of one group."""
    stage = plan.stages[index]
    replica, table = stage.replicas[place], table.with_weights(stage.weights)
    if table.token_s is None:
        raise InputError("table.token_s", None, "seconds of one further token, for a workload that generates")
    device, samples = cluster.device_ids.index(replica.device), group_samples(plan, replica)
    step_s = table.token_s[stage.first_layer : stage.stop_layer, device, samples].sum()
    return workload.decode_steps * float(step_s)


def group_samples(plan: Plan, replica: Replica) -> int:
    """Samples of a replica whose tokens are generated together."""
    return plan.micro_batches // plan.token_groups * replica.samples


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
        hosts_first_layer=plan.hosts_first_layer(index),
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


def transfer_holds(plan: Plan, workload: Workload, network: Network) -> Iterable[tuple[OperationClass, Hold]]:
    """What every class of a plan's transfers does to a network."""
    last = len(plan.stages) - 1
    pipeline = list(enumerate(plan.stages))
    if plan.tied == "hosted":
        pipeline.insert(0, (HOSTED, plan.stages[last]))
    first_index, first_stage = pipeline[0]
    for (index, stage), (_, following) in itertools.pairwise(pipeline):
        size = workload.cut_bytes(1 if index == HOSTED else stage.stop_layer)
        size /= plan.chunks
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
        # What is generated leaves together at the end.
        pieces = plan.micro_batches * workload.new_tokens if workload.generates else 1
        out = network.fan_in(_shares(plan.stages[last], pieces * workload.output_bytes), workload.sink)
        yield OperationClass("output", last), out
    if workload.decode_steps:
        yield from _token_holds(plan, workload, network)
    if workload.trains:
        yield from _gradient_sums(plan, workload, network)


def _token_holds(plan: Plan, workload: Workload, network: Network) -> Iterable[tuple[OperationClass, Hold]]:
    """Hand-overs of all steps after the first token of one group, which moves at once."""
    batches, steps, last = plan.micro_batches // plan.token_groups, workload.decode_steps, len(plan.stages) - 1
    for index, (stage, following) in enumerate(itertools.pairwise(plan.stages)):
        size = batches * workload.token_bytes(stage.stop_layer)
        yield (
            OperationClass("token", index),
            network.hand_over(_shares(stage, size), _shares(following, size)).times(steps),
        )
    if last:
        size = float(batches * INTEGER_BYTES)
        back = network.hand_over(_shares(plan.stages[last], size), _shares(plan.stages[0], size))
        yield OperationClass("token", last), back.times(steps)


def _shares(stage: Stage, bytes_per_sample: float) -> dict[str, float]:
    return {replica.device: replica.samples * bytes_per_sample for replica in stage.replicas}


def bucket_holds(stage: Stage, hosts_first_layer: bool, workload: Workload, network: Network) -> list[Hold]:
    """What summing each bucket of a stage's gradients does to the network; empty for a single replica."""
    if stage.all_reduce is None:
        return []
    summed = MemoryModel(workload).gradient_parameters(stage.first_layer, stage.stop_layer, hosts_first_layer)
    buckets = [float(summed)]
    if stage.all_reduce.buckets > 1:
        buckets = bucket_parameters(workload, np.array([_cuts(stage, workload)]))[0].tolist()
    element = workload.bytes_per_element
    return [network.all_reduce(stage.devices, each * element, stage.all_reduce) for each in buckets]


def _gradient_sums(plan: Plan, workload: Workload, network: Network) -> Iterable[tuple[OperationClass, Hold]]:
    last = len(plan.stages) - 1
    tied_bytes = float(workload.tied_parameters * workload.bytes_per_element)
    for index, stage in enumerate(plan.stages):
        if stage.all_reduce is None:
            continue
        holds = bucket_holds(stage, plan.hosts_first_layer(index), workload, network)
        for number, hold in enumerate(holds, start=1):
            yield OperationClass("all-reduce", index, number if len(holds) > 1 else 0), hold
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


def start_times(
    operations: Operations,
    timing: Timing,
    order: Iterable[Transfer],
    not_before_s: Mapping[int, float] = MappingProxyType({}),
) -> list[float]:
    """Earliest start of every operation when transfers enter each medium in the order given.

    An operation starts when its predecessors are done; a transfer also when, on every medium it holds, the transfer
    before it in the order has let go; and those of ``not_before_s``, by index, not before these moments. The exact
    event recurrence: no event could be earlier.

    Returns
    -------
    list of seconds, in the order of ``operations.operations``

    Raises
    ------
    InputError
        If the order misses a transfer, names one twice or one that is not there, or contradicts the precedence.
    """
    waits_for = _waits_for(operations, timing, order)
    followers: list[list[int]] = [[] for _ in waits_for]
    for index, earlier in enumerate(waits_for):
        for each, _ in earlier:
            followers[each].append(index)
    open_waits = [len(earlier) for earlier in waits_for]
    able = [index for index, count in enumerate(open_waits) if count == 0]
    start_s = [0.0] * len(waits_for)
    for index in able:  # grows while it is walked
        ends_s = (start_s[each] + lag for each, lag in waits_for[index])
        start_s[index] = max((not_before_s.get(index, 0.0), *ends_s))
        for follower in followers[index]:
            open_waits[follower] -= 1
            if open_waits[follower] == 0:
                able.append(follower)
    if len(able) < len(start_s):
        stuck = next(operations.operations[i] for i in operations.transfers if open_waits[i] > 0)
        raise InputError("transfer_order", tuple(stuck), "an order in which no transfer waits for one behind it")
    return start_s


def _waits_for(operations: Operations, timing: Timing, order: Iterable[Transfer]) -> list[list[tuple[int, float]]]:
    """For each operation, those it waits for, and from whose start on how long."""
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
    return waits_for


def waits_of(
    operations: Operations, timing: Timing, order: Iterable[Transfer], period_s: float | None = None
) -> list[Wait]:
    """What waits for what, by precedence and on the media; with a period those of a stream."""
    if period_s is not None:
        return steady_waits(operations, timing, _turns(operations, tuple(order)), period_s)
    waits_for = _waits_for(operations, timing, order)
    return [(earlier, later, seconds) for later, before in enumerate(waits_for) for earlier, seconds in before]


def stream_start_times(
    operations: Operations, timing: Timing, order: Iterable[Transfer], period_s: float
) -> list[float]:
    """The same for requests that arrive every period and overlap; see :mod:`dora_nb.costs.stream`.

    Raises
    ------
    InputError
        If the order misses a transfer, names one twice or one that is not there, or cannot repeat every period.
    """
    order = tuple(order)
    start_s = steady_start_times(operations, timing, _turns(operations, order), period_s)
    if start_s is None:
        allowed = f"an order and lags that can repeat every {format_seconds(period_s)}"
        raise InputError("transfer_order", [transfer.lag for transfer in order], allowed)
    return start_s


def _turns(operations: Operations, order: tuple[Transfer, ...]) -> list[tuple[int, int]]:
    """Transfers as (position, lag)."""
    return [(index, transfer.lag) for index, transfer in zip(_sequence(operations, order), order, strict=True)]


def _sequence(operations: Operations, order: Iterable[Transfer]) -> list[int]:
    sequence: list[int] = []
    expected = set(operations.transfers)
    for transfer in order:
        key = Operation(transfer.kind, transfer.stage, transfer.micro_batch, transfer.part)
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
    # In a stream devices idle from one arrival to the next, and requests may overlap.
    horizon_s = makespan_s if workload.arrival_s is None else workload.arrival_s
    first_token_s, token_s = _token_times(plan, workload, timing, operations, makespan_s)
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
                    energy_j=device.idle_w * horizon_s + (device.active_w - device.idle_w) * busy_s,
                )
            )
    kinds = [operations.classes[index] for index in operations.transfers]
    transfers = [timing.holds[kind].times(plan.token_groups if kind.kind == "token" else 1) for kind in kinds]
    network_bytes = sum(hold.size_bytes for hold in transfers)
    participating_j = sum(device.energy_j for device in devices) + sum(hold.energy_j for hold in transfers)
    idle = tuple(
        IdlePrediction(device=device.id, energy_j=device.idle_w * horizon_s)
        for device in cluster.devices
        if device.id not in plan.devices
    )
    return Prediction(
        makespan_s=makespan_s,
        period_s=period_s(plan, workload, timing, operations),
        samples_per_s=workload.batch / max(horizon_s, _INSTANT_S),
        energy_participating_j=participating_j,
        energy_all_on_j=participating_j + sum(device.energy_j for device in idle),
        network_bytes=network_bytes,
        airtime_s=max(_held_s(transfers).values(), default=0.0),
        devices=tuple(devices),
        idle=idle,
        first_token_s=first_token_s,
        token_s=token_s,
    )


def _token_times(
    plan: Plan, workload: Workload, timing: Timing, operations: Operations, makespan_s: float
) -> tuple[float | None, float | None]:
    """When the first token of every sample is there, and seconds from one to the next."""
    if not workload.generates:
        return None, None
    after = [operation for operation in generation(Shape.of(plan, workload)) if operation.kind != "output"]
    output_s = timing.duration_s.get(OperationClass("output", len(plan.stages) - 1), 0.0)
    steps_s = sum(timing.duration_s[operations.classes[operations.index[operation]]] for operation in after)
    first_token_s = makespan_s - output_s - steps_s
    if not after:
        return first_token_s, None
    return first_token_s, steps_s / workload.decode_steps


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
            hosts_first_layer=plan.hosts_first_layer(index),
            recomputes=stage.recomputes,
            weights=stage.weights,
        )
    )


def _busy_s(plan: Plan, workload: Workload, cluster: Cluster, table: CostTable, index: int, place: int) -> float:
    stage = plan.stages[index]
    replica = stage.replicas[place]
    own = _replica_times(stage, place, table, cluster)
    per_micro_batch_s = own.forward_s + own.backward_s
    if plan.hosts_first_layer(index):
        hosted = _hosted_times(replica.device, replica.samples, table, cluster)
        per_micro_batch_s += hosted.forward_s + hosted.backward_s
    busy_s = plan.micro_batches * per_micro_batch_s
    if workload.trains:
        busy_s += _step_s(plan, index, replica.device, workload, cluster, table)
    if workload.decode_steps:
        busy_s += plan.token_groups * _decode_s(plan, index, place, workload, cluster, table)
    return busy_s


def _held_s(holds: Iterable[Hold]) -> dict[str, float]:
    held: dict[str, float] = {}
    for hold in holds:
        for resource, seconds in hold.seconds.items():
            held[resource] = held.get(resource, 0.0) + seconds
    return held


def period_s(plan: Plan, workload: Workload, timing: Timing, operations: Operations) -> float:
    """Steady-state seconds between micro-batches, or in a stream between requests.

    The largest load that a micro-batch puts on a stage or a medium, and in training the round trip from a stage to
    the last one and back, over the stage's in-flight count. What happens once an iteration does not count.
    """
    last = len(plan.stages) - 1
    seconds = timing.duration_s

    def both_ways_s(stage: int) -> float:
        return seconds[OperationClass("forward", stage)] + seconds.get(OperationClass("backward", stage), 0.0)

    def whole_s(kind: Kind, stage: int) -> float:
        """A transfer's chunks one after the other, and the latency of the last."""
        chunk = timing.holds[OperationClass(kind, stage)]
        return chunk.duration_s + (plan.chunks - 1) * max(chunk.seconds.values(), default=0.0)

    load_s = [both_ways_s(stage) for stage in range(last + 1)]
    if plan.tied == "hosted":
        load_s[last] += both_ways_s(HOSTED)
    once = {*ONCE, "output"} if workload.generates else ONCE
    moves = [operations.operations[index] for index in operations.transfers]
    each_time = (move for move in moves if move.micro_batch == 0 and move.kind not in once)
    load_s.extend(_held_s(timing.holds[move.cls] for move in each_time).values())
    if workload.trains:
        trip_s = 0.0
        for index in range(last, -1, -1):
            trip_s += both_ways_s(index)
            if index < last:
                trip_s += whole_s("activation", index) + whole_s("gradient", index)
            load_s.append(trip_s / min(plan.stages[index].in_flight, plan.micro_batches))
    return max(load_s) * (1 if workload.arrival_s is None else plan.micro_batches)


#: Transfers of one iteration rather than of every micro-batch.
ONCE = {"all-reduce", "tied-reduce", "tied-exchange", "tied-broadcast", "token"}


def _steps(
    plan: Plan, workload: Workload, operations: Operations, timing: Timing, start_s: list[float]
) -> Iterable[TimelineEntry]:
    """The rounds after the first token one by one, numbered like micro-batches; the operations hold them in sums."""
    chain = _token_chain(plan, workload)
    if not chain:
        return
    begin_s, legs = start_s[operations.index[chain[0]]], _legs(plan, workload, timing)
    for going in every_leg(legs, plan.token_groups, workload.decode_steps):
        operation = chain[going.leg]._replace(micro_batch=going.step * plan.token_groups + going.group)
        stage, from_s = plan.stages[operation.stage], begin_s + going.start_s
        places = tuple(timing.holds[operation.cls].seconds) if operation.kind == "token" else stage.devices
        yield TimelineEntry(*operation, from_s, from_s + legs[going.leg].duration_s, places)


def timeline_of(
    plan: Plan, workload: Workload, operations: Operations, timing: Timing, start_s: list[float]
) -> tuple[TimelineEntry, ...]:
    """Every operation with its times, by start; tokens step by step."""
    entries = []
    for operation, kind, start in zip(operations.operations, operations.classes, start_s, strict=True):
        if operation.kind in ("decode", "token", "follow"):
            continue
        stage = plan.stages[operation.stage]  # HOSTED is -1: the last stage's devices run it
        places = tuple(timing.holds[kind].seconds) if kind in timing.holds else stage.devices
        entries.append(TimelineEntry(*operation, start, start + timing.duration_s[kind], places))
    entries.extend(_steps(plan, workload, operations, timing, start_s))
    return tuple(sorted(entries, key=lambda entry: (entry.start_s, entry.end_s, entry.kind, entry.stage)))
