"""Seconds that a plan's devices compute, by class of operation."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from dora_nb.costs.buckets import bucket_layers, summed_parameters
from dora_nb.costs.operations import OperationClass
from dora_nb.costs.shards import held_share
from dora_nb.costs.table import CostTable, Floats
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan, Replica, Stage
from dora_nb.domain.transfer import HOSTED
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError


def compute_seconds(
    plan: Plan, workload: Workload, cluster: Cluster, table: CostTable
) -> Iterable[tuple[OperationClass, dict[str, float]]]:
    """Seconds of every computing class on each device that takes part; the slowest decides how long it takes.

    The parts of a backward pass are given as shares of the slowest replica's: each replica takes as much less time for
    a part as for the whole pass (our own choice; when a bucket is full only the slowest decides).

    Parameters
    ----------
    plan, workload, cluster
        What is computed where.
    table
        Seconds of every layer on every device.
    """
    for index, stage in enumerate(plan.stages):
        own = {each: _replica_times(stage, place, workload, table, cluster) for place, each in enumerate(stage.devices)}
        yield OperationClass("forward", index), {name: times.forward_s for name, times in own.items()}
        if workload.trains:
            whole_s = {name: times.backward_s for name, times in own.items()}
            slowest_s = max(whole_s.values())
            yield OperationClass("backward", index), whole_s
            for part, seconds in enumerate(parts_of_backward(stage, workload, cluster, table), start=1):
                shares = {name: each / slowest_s if slowest_s else 1.0 for name, each in whole_s.items()}
                yield OperationClass("backward", index, part), {name: seconds * share for name, share in shares.items()}
            steps = {
                name: _step_s(plan, index, place, workload, cluster, table) for place, name in enumerate(stage.devices)
            }
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

    Parameters
    ----------
    stage
        Of a plan.
    workload, cluster, table
        What it computes, where, and how long layers take there.
    """
    if not workload.trains or stage.buckets < 2:
        return []
    filled_s = [0.0]
    for cut in bucket_layers(stage, summed_parameters(workload))[1:]:
        passed = stage.replace(first_layer=cut)
        times = (_replica_times(passed, place, workload, table, cluster) for place in range(len(stage.replicas)))
        filled_s.append(max(each.backward_s for each in times))
    return [until - since for since, until in itertools.pairwise(filled_s)]


def pass_seconds(
    stage: Stage, device: int, samples: int, table: CostTable, share: Floats | float = 1.0
) -> tuple[float, float]:
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
    share
        Of each of the stage's layers that the device computes; see :func:`~dora_nb.costs.shards.held_share`.
    """
    table = table.with_weights(stage.weights)
    layers, again = slice(stage.first_layer, stage.stop_layer), stage.layers_again(len(table.forward_s))
    forward_s = float((share * table.forward_s[layers, device, samples]).sum())
    again_s = float(table.forward_s[again.start : again.stop, device, samples].sum())
    return forward_s, float((share * table.backward_s[layers, device, samples]).sum()) + again_s


def step_seconds(
    table: CostTable,
    workload: Workload,
    device: int,
    first: int,
    stop: int,
    *,
    hosts_first_layer: bool,
    share: Floats | float = 1.0,
) -> float:
    """Optimizer seconds of (a share of) layers [first, stop) on a device; what is held twice is counted once.

    Parameters
    ----------
    table, workload
        Seconds of every layer, and what the layers are.
    device
        Its place in the table.
    first, stop
        The layers.
    hosts_first_layer
        Whether the device also holds the network's first layer.
    share
        Part of every layer's parameters that the device holds, for all layers or for each.
    """
    seconds = float((share * table.step_s[first:stop, device]).sum())
    embedding = workload.layers[0]
    if not workload.tied_parameters:
        return seconds
    tied_s = float(table.step_s[0, device]) * workload.tied_parameters / embedding.parameters
    if hosts_first_layer:
        return seconds + float(table.step_s[0, device]) - tied_s
    return seconds - tied_s if first == 0 and stop == len(workload.layers) else seconds


def group_samples(plan: Plan, replica: Replica) -> int:
    """Samples of a replica, or of a device that holds shards, whose tokens are generated together."""
    return plan.micro_batches // plan.token_groups * replica.samples


def replica_busy_s(plan: Plan, workload: Workload, cluster: Cluster, table: CostTable, index: int, place: int) -> float:
    """Seconds that one replica of a stage, by their indices, computes in an iteration.

    Parameters
    ----------
    plan, workload, cluster, table
        What is computed where, and how long layers take there.
    index, place
        Of the stage in the plan, and of the replica in the stage.
    """
    stage = plan.stages[index]
    replica = stage.replicas[place]
    own = _replica_times(stage, place, workload, table, cluster)
    per_micro_batch_s = own.forward_s + own.backward_s
    if plan.hosts_first_layer(index):
        hosted = _hosted_times(replica.device, replica.samples, table, cluster)
        per_micro_batch_s += hosted.forward_s + hosted.backward_s
    busy_s = plan.micro_batches * per_micro_batch_s
    if workload.trains:
        busy_s += _step_s(plan, index, place, workload, cluster, table)
    if workload.decode_steps:
        busy_s += plan.token_groups * _decode_s(plan, index, place, workload, cluster, table)
    return busy_s


@dataclass(frozen=True)
class _PassTimes:
    forward_s: float
    backward_s: float


def _replica_times(stage: Stage, place: int, workload: Workload, table: CostTable, cluster: Cluster) -> _PassTimes:
    replica = stage.replicas[place]
    device = cluster.device_ids.index(replica.device)
    return _PassTimes(*pass_seconds(stage, device, replica.samples, table, held_share(stage, place, workload)))


def _hosted_times(device_id: str, samples: int, table: CostTable, cluster: Cluster) -> _PassTimes:
    device = cluster.device_ids.index(device_id)
    return _PassTimes(float(table.forward_s[0, device, samples]), float(table.backward_s[0, device, samples]))


def _decode_s(plan: Plan, index: int, place: int, workload: Workload, cluster: Cluster, table: CostTable) -> float:
    """Seconds of all steps after the first token on one device, which takes its share of one group."""
    stage = plan.stages[index]
    replica, table = stage.replicas[place], table.with_weights(stage.weights)
    if table.token_s is None:
        raise InputError("table.token_s", None, "seconds of one further token, for a workload that generates")
    device, samples = cluster.device_ids.index(replica.device), group_samples(plan, replica)
    whole_s = table.token_s[stage.first_layer : stage.stop_layer, device, samples]
    return workload.decode_steps * float((held_share(stage, place, workload) * whole_s).sum())


def _step_s(plan: Plan, index: int, place: int, workload: Workload, cluster: Cluster, table: CostTable) -> float:
    stage = plan.stages[index]
    return step_seconds(
        table,
        workload,
        cluster.device_ids.index(stage.devices[place]),
        stage.first_layer,
        stage.stop_layer,
        hosts_first_layer=plan.hosts_first_layer(index),
        share=held_share(stage, place, workload),
    )
