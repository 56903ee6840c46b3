"""What the cost model expects of a run on this machine, from the profile and the probe. Computed before the run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs import CostTable
from dora_nb.costs.buckets import bucket_layers, summed_parameters
from dora_nb.costs.compute_times import compute_seconds, pass_seconds, step_seconds
from dora_nb.costs.network import Network
from dora_nb.costs.operations import COMPUTE_KINDS, TOKEN_KINDS, Operation, Operations, Shape
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.schedule import scheduled_transfers
from dora_nb.costs.shards import held_share
from dora_nb.costs.start_times import start_times
from dora_nb.costs.timeline import TimelineEntry, timeline_of
from dora_nb.costs.timing import timing_of
from dora_nb.domain.cluster import Cluster, ContentionDomain
from dora_nb.domain.plan import Plan, Stage
from dora_nb.domain.profile import LayerProfile
from dora_nb.domain.run_record import Link
from dora_nb.domain.run_timeline import PredictedComputation, PredictedTimeline
from dora_nb.domain.transfer import HOSTED
from dora_nb.domain.workload import Workload
from dora_nb.executor.control.orders import Target
from dora_nb.executor.device.turns import PassedBy, passings_of
from dora_nb.executor.transit import Cores, Turn, as_ready, in_turns

if TYPE_CHECKING:  # a prediction needs no torch
    from dora_nb.executor.measuring.profile import LayerTimes

Floats = NDArray[np.float64]


def machine_cluster(plan: Plan, cluster: Cluster, link: Link | None) -> Cluster:
    """The plan's devices on this machine's loopback: a switch with the probed rate and latency."""
    devices = tuple(device for device in cluster.devices if device.id in plan.devices)
    if link is None:
        return cluster.replace(devices=devices, domains=())
    loopback = ContentionDomain(
        id="loopback",
        kind="switch",
        rates_bytes_per_s={device.id: link.rate_bytes_per_s for device in devices},
        latency_s=link.latency_s,
    )
    return cluster.replace(devices=devices, domains=(loopback,))


def measured_table(
    times: Sequence[LayerTimes], plan: Plan, cluster: Cluster, slow_down: Mapping[str, float]
) -> CostTable:
    """The profile as a cost table: seconds of this machine times each device's slow-down.

    Numbers of samples that were not timed are interpolated; the plan uses none of them.

    Parameters
    ----------
    times
        Of every layer, measured on this machine.
    plan, cluster
        Who computes how many samples at once.
    slow_down
        How many times as long each device takes, by its id.
    """
    factors = np.array([slow_down[device] for device in cluster.device_ids])

    def passes(by_samples: Sequence[Mapping[int, float]], most: int = plan.micro_batch) -> Floats:
        samples = np.arange(most + 1)
        rows = [
            np.interp(samples, [0, *sorted(each)], [0.0, *(each[count] for count in sorted(each))])
            for each in by_samples
        ]
        seconds: Floats = np.array(rows)[:, None, :] * factors[None, :, None]
        return seconds

    tokens = [each.token_s for each in times if each.token_s]
    return CostTable(
        forward_s=passes([each.forward_s for each in times]),
        backward_s=passes([each.backward_s for each in times]),
        step_s=np.array([each.step_s for each in times])[:, None] * factors[None, :],
        status="measured",
        token_s=passes(tokens, plan.micro_batch * plan.micro_batches) if tokens else None,
    )


def targets_of(
    device_id: str, plan: Plan, workload: Workload, cluster: Cluster, table: CostTable
) -> tuple[Target, ...]:
    """How long each computation of an emulated device lasts: what the table says.

    Parameters
    ----------
    device_id
        Of the emulated device.
    plan, workload, cluster, table
        What it computes, and how long layers take there.
    """
    device = cluster.device_ids.index(device_id)
    last = len(plan.stages) - 1
    index = next(index for index, stage in enumerate(plan.stages) if device_id in stage.devices)
    stage = plan.stages[index]
    place = stage.devices.index(device_id)
    samples, share = stage.replicas[place].samples, held_share(stage, place, workload)
    hosts = plan.tied == "hosted" and index == last
    passes = {index: pass_seconds(stage, device, samples, table, share)}
    if hosts:
        passes[HOSTED] = float(table.forward_s[0, device, samples]), float(table.backward_s[0, device, samples])
    targets = []
    for stage_index, (forward_s, backward_s) in passes.items():
        targets.append(Target(phase="forward", stage=stage_index, seconds=forward_s))
        if workload.trains:
            targets.append(Target(phase="backward", stage=stage_index, seconds=backward_s))
    if workload.trains and stage.buckets > 1:
        targets += _parts_of_backward(index, stage, device, samples, workload, table)
    if workload.decode_steps:
        token_table = table.with_weights(stage.weights).token_s
        assert token_table is not None, "tokens were timed"
        own = slice(stage.first_layer, stage.stop_layer)
        together = plan.micro_batches // plan.token_groups * samples
        token_s = float((share * token_table[own, device, together]).sum())
        targets.append(Target(phase="decode", stage=index, seconds=token_s))
    if workload.trains:
        seconds = step_seconds(
            table, workload, device, stage.first_layer, stage.stop_layer, hosts_first_layer=hosts, share=share
        )
        targets.append(Target(phase="step", stage=index, seconds=seconds))
    return tuple(targets)


def _parts_of_backward(
    index: int, stage: Stage, device: int, samples: int, workload: Workload, table: CostTable
) -> Iterator[Target]:
    """How long the parts of a last backward pass last on a device, each with its own layers."""
    cuts = bucket_layers(stage, summed_parameters(workload))
    until_s = [pass_seconds(stage.replace(first_layer=cut), device, samples, table)[1] for cut in cuts[1:]]
    for part, (since_s, filled_s) in enumerate(itertools.pairwise([0.0, *until_s]), start=1):
        yield Target(phase="backward", stage=index, part=part, seconds=filled_s - since_s)


def predict(
    plan: Plan,
    workload: Workload,
    cluster: Cluster,
    table: CostTable,
    *,
    passed_by: PassedBy | None = None,
    arrivals_s: Sequence[float] = (),
    cores: int | None = None,
) -> PredictedTimeline:
    """Predict every operation of an iteration or batch.

    The recurrence of :func:`dora_nb.costs.evaluate`, without its check that a plan fits: an inference batch may run
    with a hosted first layer here. Transfers of a plan without an order leave as soon as they are ready.

    Parameters
    ----------
    plan, workload, cluster, table
        As for :func:`~dora_nb.costs.evaluate`.
    passed_by
        Who passes on the turns of the plan's order, each of which then takes the latency of its way. None: they take
        no time, as in the plan.
    arrivals_s
        When the first stage gets each micro-batch; empty: all are there from the start.
    cores
        That all devices share, where they are threads of one machine; None: each computes by itself.

    Raises
    ------
    InputError
        If the plan's order is not one of its transfers, or contradicts the precedence of its operations.
    """
    operations = operations_of(Shape.of(plan, workload))
    timing = timing_of(plan, workload, cluster, table)
    first = HOSTED if plan.tied == "hosted" else 0
    arrived_s = {
        operations.index[Operation("forward", first, micro_batch)]: moment_s
        for micro_batch, moment_s in enumerate(arrivals_s)
    }
    own_s = dict(compute_seconds(plan, workload, cluster, table))
    shared = None if cores is None else Cores(cores, {kind: tuple(each.values()) for kind, each in own_s.items()})
    if not plan.transfer_order:
        times = as_ready(operations, timing, arrived_s, shared)
    else:
        start_times(operations, timing, plan.transfer_order)  # an order that nobody could keep is refused
        turns = _turns(plan, workload, cluster, operations, passed_by)
        times = in_turns(operations, timing, turns, arrived_s, shared)
    ends_s = dict(zip(operations.operations, times.end_s, strict=True))
    entries = [  # who shares a medium or cores takes longer than alone
        entry if entry.kind in TOKEN_KINDS else replace(entry, end_s=ends_s[_operation(entry)])
        for entry in timeline_of(plan, workload, operations, timing, times.start_s)
    ]
    return PredictedTimeline(
        makespan_s=max(entry.end_s for entry in entries),
        computations=tuple(
            PredictedComputation(
                device=device,
                kind=entry.kind,
                stage=entry.stage,
                micro_batch=entry.micro_batch,
                part=entry.part,
                start_s=entry.start_s,
                end_s=entry.start_s + _own_share(own_s[_operation(entry).cls], device) * (entry.end_s - entry.start_s),
            )
            for entry in entries
            if entry.kind in COMPUTE_KINDS
            for device in entry.places
        ),
        transfers=scheduled_transfers(plan, workload, entries),
    )


def _turns(
    plan: Plan, workload: Workload, cluster: Cluster, operations: Operations, passed_by: PassedBy | None
) -> list[Turn]:
    """The turns of a plan's order, and how long each is on its way; a device needs no message to itself."""
    network, turns = Network.of(cluster), []
    for passing in passings_of(plan, workload, cluster, trains=workload.trains, passed_by=passed_by or "sender"):
        ways = [(a, b) for a in passing.givers for b in passing.takers if a != b] if passed_by else []
        turns.append(
            Turn(
                before=operations.index[Operation._make(passing.before)],
                after=operations.index[Operation._make(passing.after)],
                seconds=max((network.route(*way).latency_s for way in ways), default=0.0),
                on_arrival=passing.on_arrival and passed_by is not None,
            )
        )
    return turns


def _operation(entry: TimelineEntry) -> Operation:
    return Operation(entry.kind, entry.stage, entry.micro_batch, entry.part)


def _own_share(seconds: Mapping[str, float], device: str) -> float:
    """What a device computes of an operation, as a share of what the slowest one does."""
    slowest_s = max(seconds.values())
    return seconds[device] / slowest_s if slowest_s else 1.0


def frozen_profile(plan: Plan, cluster: Cluster, table: CostTable) -> dict[str, tuple[LayerProfile, ...]]:
    """What a table says of every layer on the plan's devices, for the numbers of samples that the plan uses.

    A run record keeps it, so that what was measured can be held against it layer by layer.
    """
    samples = samples_of(plan)
    trains = bool(table.backward_s.any())

    def of(layer: int, device: int, times: CostTable) -> LayerProfile:
        forward_s, backward_s = times.forward_s[layer, device], times.backward_s[layer, device]
        return LayerProfile(
            forward_s={count: float(forward_s[count]) for count in samples},
            backward_s={count: float(backward_s[count]) for count in samples} if trains else {},
            step_s=float(times.step_s[layer, device]),
            token_s={}
            if times.token_s is None
            else {count: float(times.token_s[layer, device, count]) for count in decoded_of(plan)},
        )

    return {
        name: tuple(
            of(layer, cluster.device_ids.index(name), table.with_weights(stage.weights))
            for layer in range(plan.layer_count)
        )
        for stage in plan.stages
        for name in stage.devices
    }


def samples_of(plan: Plan) -> list[int]:
    """Numbers of samples that the plan's devices compute with at once."""
    return sorted({replica.samples for stage in plan.stages for replica in stage.replicas})


def decoded_of(plan: Plan) -> list[int]:
    """Numbers of samples that devices compute with at once where a group gets a token at a time."""
    return [plan.micro_batches // plan.token_groups * samples for samples in samples_of(plan)]


def busy_bound_s(plan: Plan, workload: Workload, cluster: Cluster, table: CostTable) -> float:
    """Seconds if all stages computed one after the other: no run should take much longer."""
    timing = timing_of(plan, workload, cluster, table)
    operations = operations_of(Shape.of(plan, workload))
    return sum(timing.duration_s[kind] for kind in operations.classes)
