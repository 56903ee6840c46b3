"""From chosen columns to a plan."""

from __future__ import annotations

from collections.abc import Sequence

from dora_nb.costs.memory import MemoryModel
from dora_nb.costs.network import Network
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan, Replica, Stage
from dora_nb.domain.workload import Workload
from dora_nb.formulation.columns import Columns


def decode(
    columns: Columns, chosen: Sequence[int], in_flight: Sequence[int], workload: Workload, cluster: Cluster
) -> Plan:
    """The plan that columns stand for, first stage to last, without a transfer order.

    Of a type's devices, which are interchangeable, the first ones not yet used are taken.
    """
    network, memory = Network.of(cluster), MemoryModel(workload)
    free = [list(members) for members in columns.fleet.types]
    stages = []
    for column, held in zip(chosen, in_flight, strict=True):
        group, shares = columns.choices[columns.choice[column]]
        devices = [free[kind].pop(0) for kind, count in enumerate(group.counts) for _ in range(count)]
        replicas = tuple(
            Replica(device=cluster.devices[device].id, samples=share)
            for device, share in zip(devices, shares, strict=True)
        )
        first, stop = int(columns.first[column]), int(columns.stop[column])
        all_reduce = None
        if workload.trains and len(replicas) > 1:
            summed = memory.gradient_parameters(first, stop, bool(columns.hosts[column]))
            names = [replica.device for replica in replicas]
            all_reduce = network.best_all_reduce(names, float(summed) * workload.bytes_per_element)
        stages.append(
            Stage(first_layer=first, stop_layer=stop, replicas=replicas, in_flight=held, all_reduce=all_reduce)
        )
    micro_batch = int(columns.micro_batch[chosen[0]])
    hosted = bool(columns.hosts[chosen[-1]])
    tied = "none"
    if workload.trains and workload.tied_parameters:
        tied = "hosted" if hosted else "one-stage" if len(stages) == 1 else "synchronised"
    return Plan(
        micro_batch=micro_batch,
        micro_batches=workload.batch // micro_batch,
        stages=tuple(stages),
        tied=tied,
    )
