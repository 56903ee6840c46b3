"""What the cost model expects of a run on this machine, from the profile and the probe. Computed before the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs import CostTable
from dora_nb.costs.evaluate import start_times, step_seconds, timing_of
from dora_nb.costs.operations import Operations, Shape, Timing, operations_of
from dora_nb.domain.cluster import Cluster, ContentionDomain
from dora_nb.domain.plan import HOSTED, Plan, Transfer
from dora_nb.domain.run_record import Link
from dora_nb.domain.workload import Workload
from dora_nb.executor.messages import Target
from dora_nb.executor.profile import LayerTimes

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
    """
    factors = np.array([slow_down[device] for device in cluster.device_ids])
    samples = np.arange(plan.micro_batch + 1)

    def passes(by_samples: Sequence[Mapping[int, float]]) -> Floats:
        rows = [
            np.interp(samples, [0, *sorted(each)], [0.0, *(each[count] for count in sorted(each))])
            for each in by_samples
        ]
        seconds: Floats = np.array(rows)[:, None, :] * factors[None, :, None]
        return seconds

    return CostTable(
        forward_s=passes([each.forward_s for each in times]),
        backward_s=passes([each.backward_s for each in times]),
        step_s=np.array([each.step_s for each in times])[:, None] * factors[None, :],
        status="measured",
    )


def targets_of(
    device_id: str, plan: Plan, workload: Workload, cluster: Cluster, table: CostTable
) -> tuple[Target, ...]:
    """How long each computation of an emulated device lasts: what the table says."""
    device = cluster.device_ids.index(device_id)
    last = len(plan.stages) - 1
    index = next(index for index, stage in enumerate(plan.stages) if device_id in stage.devices)
    stage = plan.stages[index]
    samples = stage.replicas[stage.devices.index(device_id)].samples
    hosts = plan.tied == "hosted" and index == last
    layers_of = {index: slice(stage.first_layer, stage.stop_layer)} | ({HOSTED: slice(0, 1)} if hosts else {})
    targets = []
    for each, layers in layers_of.items():
        forward_s = float(table.forward_s[layers, device, samples].sum())
        targets.append(Target(phase="forward", stage=each, seconds=forward_s))
        if workload.trains:
            backward_s = float(table.backward_s[layers, device, samples].sum())
            targets.append(Target(phase="backward", stage=each, seconds=backward_s))
    if workload.trains:
        seconds = step_seconds(table, workload, device, stage.first_layer, stage.stop_layer, hosts_first_layer=hosts)
        targets.append(Target(phase="step", stage=index, seconds=seconds))
    return tuple(targets)


def predict(plan: Plan, workload: Workload, cluster: Cluster, table: CostTable) -> float:
    """Predicted makespan of an iteration or batch.

    The recurrence of :func:`dora_nb.costs.evaluate`, without its check that a plan fits: an inference batch may run
    with a hosted first layer here. A plan without a transfer order gets the order in which transfers become ready.

    Returns
    -------
    seconds
    """
    operations = operations_of(Shape.of(plan, workload))
    timing = timing_of(plan, workload, cluster, table)
    order = plan.transfer_order or _as_ready(operations, timing)
    starts_s = start_times(operations, timing, order)
    return max(start_s + timing.duration_s[kind] for start_s, kind in zip(starts_s, operations.classes, strict=True))


def busy_bound_s(plan: Plan, workload: Workload, cluster: Cluster, table: CostTable) -> float:
    """Seconds if all stages computed one after the other: no run should take much longer."""
    timing = timing_of(plan, workload, cluster, table)
    operations = operations_of(Shape.of(plan, workload))
    return sum(timing.duration_s[kind] for kind in operations.classes)


def _as_ready(operations: Operations, timing: Timing) -> tuple[Transfer, ...]:
    """Transfers by when they could start if none had to wait for the network."""
    ready_s: list[float] = []
    for before in operations.predecessors:
        ends_s = (ready_s[each] + timing.duration_s[operations.classes[each]] for each in before)
        ready_s.append(max(ends_s, default=0.0))
    first_to_last = sorted(operations.transfers, key=lambda each: (ready_s[each], each))
    return tuple(
        Transfer(kind=kind, stage=stage, micro_batch=micro_batch)
        for kind, stage, micro_batch, _ in (operations.operations[each] for each in first_to_last)
    )
