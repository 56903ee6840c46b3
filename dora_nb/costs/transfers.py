"""What every class of a plan's transfers does to the network."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from dora_nb.costs.buckets import bucket_layers, bucket_parameters, summed_parameters
from dora_nb.costs.memory import MemoryModel
from dora_nb.costs.network import Flow, Hold, Network
from dora_nb.costs.operations import OperationClass, Operations, Shape
from dora_nb.costs.shards import hand_over, sent, shard_holds, shares
from dora_nb.domain.architecture import INTEGER_BYTES
from dora_nb.domain.plan import Plan, Stage
from dora_nb.domain.transfer import HOSTED
from dora_nb.domain.workload import Workload


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
        yield OperationClass("activation", index), hand_over(network, stage, following, size)
        if workload.trains:
            yield OperationClass("gradient", index), hand_over(network, following, stage, size)
    shape = Shape.of(plan, workload)
    if shape.inputs and workload.source is not None:
        into = network.fan_out(workload.source, shares(first_stage, workload.input_bytes))
        yield OperationClass("input", first_index), into
    if shape.labels and workload.source is not None:
        yield (
            OperationClass("label", last),
            network.fan_out(workload.source, shares(plan.stages[last], workload.label_bytes)),
        )
    if shape.outputs and workload.sink is not None:
        # What is generated leaves together at the end.
        pieces = plan.micro_batches * workload.new_tokens if workload.generates else 1
        out = network.fan_in(sent(plan.stages[last], pieces * workload.output_bytes), workload.sink)
        yield OperationClass("output", last), out
    if workload.decode_steps:
        yield from _token_holds(plan, workload, network)
    yield from shard_holds(plan, workload, network)
    if workload.trains:
        yield from _gradient_sums(plan, workload, network)


def bucket_holds(stage: Stage, hosts_first_layer: bool, workload: Workload, network: Network) -> list[Hold]:
    """What summing each bucket of a stage's gradients does to the network; empty for a single replica.

    Parameters
    ----------
    stage
        Of a plan.
    hosts_first_layer
        Whether its devices also run the network's first layer for the first stage.
    workload, network
        Whose gradients, and over what they travel.
    """
    if stage.all_reduce is None:
        return []
    summed = MemoryModel(workload).gradient_parameters(stage.first_layer, stage.stop_layer, hosts_first_layer)
    buckets = [float(summed)]
    if stage.buckets > 1:
        cuts = bucket_layers(stage, summed_parameters(workload))
        buckets = bucket_parameters(workload, np.array([cuts]))[0].tolist()
    element = workload.bytes_per_element
    return [network.all_reduce(stage.devices, each * element, stage.all_reduce) for each in buckets]


def carried(
    plan: Plan,
    operations: Operations,
    holds: Mapping[OperationClass, Hold],
    kinds: Collection[str] | None = None,
) -> list[Hold]:
    """What every transfer of an iteration (of some kinds only) does to the network; tokens of all groups count.

    Parameters
    ----------
    plan, operations
        The plan and its operations.
    holds
        What each class of transfers does to the network.
    kinds
        Kinds of transfers that count; None: all.
    """
    classes = [operations.classes[index] for index in operations.transfers]
    return [
        holds[each].times(plan.token_groups if each.kind == "token" else 1)
        for each in classes
        if kinds is None or each.kind in kinds
    ]


def held_seconds(holds: Iterable[Hold]) -> dict[str, float]:
    """Seconds that some transfers hold every medium, port or link that they use, by resource name."""
    held: dict[str, float] = {}
    for hold in holds:
        for resource, seconds in hold.seconds.items():
            held[resource] = held.get(resource, 0.0) + seconds
    return held


def _token_holds(plan: Plan, workload: Workload, network: Network) -> Iterable[tuple[OperationClass, Hold]]:
    """Hand-overs of all steps after the first token of one group, which moves at once."""
    batches, steps, last = plan.micro_batches // plan.token_groups, workload.decode_steps, len(plan.stages) - 1
    for index, (stage, following) in enumerate(itertools.pairwise(plan.stages)):
        size = batches * workload.token_bytes(stage.stop_layer)
        yield (
            OperationClass("token", index),
            hand_over(network, stage, following, size).times(steps),
        )
    if last:
        size = float(batches * INTEGER_BYTES)
        back = hand_over(network, plan.stages[last], plan.stages[0], size)
        yield OperationClass("token", last), back.times(steps)


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
