"""Layers sliced over several devices: what each holds and computes, and the sums of their outputs.

A device that holds p of a layer's P parts takes p / P of the whole layer's time (our assumption, to the layer's
overhead), and holds p / P of its parameters and its key-value cache (norms and biases, which are whole or summed, are
less than a hundredth of a block). Layers that cannot be sliced are computed and held whole by every device.

The output of every sliced layer is summed :data:`~dora_nb.domain.layer.SHARD_SUMS` times a pass, by the algorithm of an
all-reduce. In fact sums and layers take turns; here all sums of a pass follow behind it, as one transfer, and the stage
computes nothing else until they are over (our own simplification: their seconds are the same, but on a busy medium
others could go between).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dora_nb.costs.network import Flow, Hold, Network, in_turn
from dora_nb.costs.operations import OperationClass
from dora_nb.costs.table import Floats
from dora_nb.domain.layer import SHARD_SUMS
from dora_nb.domain.plan import AllReduce, Plan, Stage
from dora_nb.domain.workload import Workload


def held_share(stage: Stage, place: int, workload: Workload) -> Floats:
    """The share of each of a stage's layers that its device at ``place`` holds and computes, shape (layers,)."""
    layers = workload.layers[stage.first_layer : stage.stop_layer]
    if not stage.shards:
        return np.ones(len(layers))
    return np.array([stage.shards[place] / layer.parts if layer.parts > 1 else 1.0 for layer in layers])


def hand_over(network: Network, stage: Stage, following: Stage, bytes_per_sample: float) -> Hold:
    """A micro-batch moves from one stage to another.

    The first device speaks for a stage with shards, each of whose devices needs all that enters.
    """
    senders, receivers = sent(stage, bytes_per_sample), shares(following, bytes_per_sample)
    if not following.shards:
        return network.hand_over(senders, receivers)
    return network.exchange(Flow(sender, to, size) for sender, size in senders.items() for to in receivers)


def shares(stage: Stage, bytes_per_sample: float) -> dict[str, float]:
    """Bytes of every device's samples of a micro-batch."""
    return {replica.device: replica.samples * bytes_per_sample for replica in stage.replicas}


def sent(stage: Stage, bytes_per_sample: float) -> dict[str, float]:
    """Bytes that the devices of a stage hand over."""
    own = shares(stage, bytes_per_sample)
    return {device: own[device] for device in stage.senders}


def shard_holds(plan: Plan, workload: Workload, network: Network) -> Iterable[tuple[OperationClass, Hold]]:
    """What the sums of every stage with shards do to the network."""
    element = workload.bytes_per_element
    for index, stage in enumerate(plan.stages):
        if stage.shard_sum is None:
            continue
        choice = AllReduce(algorithm=stage.shard_sum, leader=stage.leader)
        sliced = [layer for layer in workload.layers[stage.first_layer : stage.stop_layer] if layer.parts > 1]

        def summed(elements: Iterable[int], stage: Stage = stage, choice: AllReduce = choice) -> Hold:
            sums = [network.all_reduce(stage.devices, float(each * element), choice) for each in elements]
            return in_turn(sums).times(SHARD_SUMS)

        one_pass = summed(plan.micro_batch * layer.output_elements for layer in sliced)
        yield OperationClass("shard-sum", index), one_pass
        if workload.trains:
            yield OperationClass("shard-gradient-sum", index), one_pass
        if workload.decode_steps:
            tokens = [layer.next_token for layer in sliced]
            one_step = summed(workload.batch * token.output_elements for token in tokens if token is not None)
            yield OperationClass("shard-token-sum", index), one_step.times(workload.decode_steps)
