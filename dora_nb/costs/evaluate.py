"""The one place that predicts: every figure of a plan, computed from the plan alone.

Nothing here knows how a plan was found. The makespan is an exact event recurrence over the plan's own transfer order,
so it can be held against any solver's claim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

from dora_nb.costs.compute_times import compute_seconds, replica_busy_s
from dora_nb.costs.details import TimelineDetails, details_of
from dora_nb.costs.memory import MemoryModel
from dora_nb.costs.operations import Kind, OperationClass, Operations, Shape, Timing
from dora_nb.costs.precedence import generation, operations_of
from dora_nb.costs.schedule import scheduled_transfers
from dora_nb.costs.start_times import start_times, stream_start_times, waits_of
from dora_nb.costs.table import CostTable, cost_table
from dora_nb.costs.timeline import TimelineEntry, timeline_of
from dora_nb.costs.timing import late_in_rounds, timing_of
from dora_nb.costs.transfers import carried, held_seconds
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.fits import check_fits
from dora_nb.domain.plan import Plan
from dora_nb.domain.prediction import DevicePrediction, IdlePrediction, Prediction
from dora_nb.domain.transfer import HOSTED
from dora_nb.domain.workload import Workload
from dora_nb.units import counted, format_joules, format_seconds

#: Stands in for a makespan of nothing, so that throughput stays finite.
_INSTANT_S = 1e-15


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
            f"{format_joules(figures.energy_participating_j)}, {counted(len(self.timeline), 'operation')}"
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
            late_in_rounds(plan, workload, timing) if plan.token_groups > 1 and workload.decode_steps else {},
        ),
    )


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
            busy_s = replica_busy_s(plan, workload, cluster, table, index, place)
            devices.append(
                DevicePrediction(
                    device=device.id,
                    busy_s=busy_s,
                    memory_bytes=memory_of(memory, plan, index, place),
                    usable_memory_bytes=device.usable_memory_bytes,
                    energy_j=device.idle_w * horizon_s + (device.active_w - device.idle_w) * busy_s,
                )
            )
    transfers = carried(plan, operations, timing.holds)
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
        airtime_s=max(held_seconds(transfers).values(), default=0.0),
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


def memory_of(memory: MemoryModel, plan: Plan, index: int, place: int) -> float:
    """Bytes that a device of a plan's stage, by its place in the stage, needs.

    Parameters
    ----------
    memory
        Of the plan's workload.
    plan
        The plan.
    index, place
        Of the stage in the plan, and of the device in the stage.
    """
    stage = plan.stages[index]
    return float(
        memory.replica_bytes(
            stage.first_layer,
            stage.stop_layer,
            samples=float(stage.replicas[place].samples),
            in_flight=stage.in_flight,
            micro_batches=plan.micro_batches,
            replicated=len(stage.replicas) > 1 and not stage.shards,
            hosts_first_layer=plan.hosts_first_layer(index),
            recomputes=stage.recomputes,
            weights=stage.weights,
            share=stage.shards[place] / sum(stage.shards) if stage.shards else 1.0,
        )
    )


def period_s(plan: Plan, workload: Workload, timing: Timing, operations: Operations) -> float:
    """Steady-state seconds between micro-batches, or in a stream between requests.

    The largest load that a micro-batch puts on a stage or a medium, and in training the round trip from a stage to
    the last one and back, over the stage's in-flight count. What happens once an iteration does not count.

    Parameters
    ----------
    plan, workload
        Whose period.
    timing, operations
        What is done in an iteration, and how long each takes.
    """
    last = len(plan.stages) - 1
    seconds = timing.duration_s

    def both_ways_s(stage: int) -> float:
        kinds: tuple[Kind, ...] = ("forward", "shard-sum", "backward", "shard-gradient-sum")
        return sum(seconds.get(OperationClass(kind, stage), 0.0) for kind in kinds)

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
    load_s.extend(held_seconds(timing.holds[move.cls] for move in each_time).values())
    if workload.trains:
        trip_s = 0.0
        for index in range(last, -1, -1):
            trip_s += both_ways_s(index)
            if index < last:
                trip_s += whole_s("activation", index) + whole_s("gradient", index)
            load_s.append(trip_s / min(plan.stages[index].in_flight, plan.micro_batches))
    return max(load_s) * (1 if workload.arrival_s is None else plan.micro_batches)


#: Transfers of one iteration rather than of every micro-batch.
ONCE = {"all-reduce", "tied-reduce", "tied-exchange", "tied-broadcast", "token", "shard-token-sum"}
