"""From chosen columns to a plan."""

from __future__ import annotations

from collections.abc import Sequence

from dora_nb.costs.buckets import bucket_count
from dora_nb.costs.network import Network
from dora_nb.domain.plan import AllReduce, Plan, Replica, Stage
from dora_nb.formulation.columns import Columns, leader_first
from dora_nb.formulation.problem import Problem


def decode(columns: Columns, chosen: Sequence[int], in_flight: Sequence[int], problem: Problem) -> Plan:
    """The plan that columns stand for, first stage to last, without a transfer order.

    Of a type's devices, which are interchangeable, the first ones not yet used are taken.

    Parameters
    ----------
    columns, chosen
        Columns, and which of them are the stages, first to last.
    in_flight
        Micro-batches that each stage holds.
    problem
        What is planned.
    """
    workload = problem.workload
    free = [list(members) for members in columns.fleet.types]
    stages = []
    for column, held in zip(chosen, in_flight, strict=True):
        counts = columns.choices[columns.choice[column]].group.counts
        devices = [free[kind].pop(0) for kind, count in enumerate(counts) for _ in range(count)]
        stages.append(_stage(columns, column, devices, held, problem))
    tied = "none"
    if workload.trains_tied:
        tied = "hosted" if columns.hosts[chosen[-1]] else "one-stage" if len(stages) == 1 else "synchronised"
    micro_batch = int(columns.micro_batch[chosen[0]])
    return Plan(
        micro_batch=micro_batch,
        micro_batches=workload.batch // micro_batch,
        stages=tuple(stages),
        tied=tied,
        token_groups=int(columns.token_groups[chosen[0]]),
        overlap=problem.overlap,
    )


def stage_of(columns: Columns, column: int, problem: Problem) -> Stage:
    """The stage that a column stands for, on the first devices of each type."""
    return _stage(columns, column, columns.choices[columns.choice[column]].group.devices, 1, problem)


def _stage(columns: Columns, column: int, devices: Sequence[int], in_flight: int, problem: Problem) -> Stage:
    _, shares, algorithm, recomputes, weights, sliced = columns.choices[columns.choice[column]]
    names = [problem.cluster.devices[device].id for device in devices]
    first, stop = int(columns.first[column]), int(columns.stop[column])
    if sliced:
        order = leader_first(problem.network, names)
        return Stage(
            first_layer=first,
            stop_layer=stop,
            replicas=tuple(Replica(device=names[place], samples=sliced) for place in order),
            in_flight=in_flight,
            weights=weights,
            shards=tuple(shares[place] for place in order),
            shard_sum=algorithm,
        )
    all_reduce = None
    if problem.workload.trains and len(names) > 1:
        hosts = bool(columns.hosts[column])
        all_reduce = AllReduce(
            algorithm=algorithm,
            leader=Network.of(problem.cluster).best_leader(names),
            buckets=bucket_count(first, stop, hosts_first_layer=hosts, overlap=problem.overlap),
        )
    return Stage(
        first_layer=first,
        stop_layer=stop,
        replicas=tuple(Replica(device=name, samples=share) for name, share in zip(names, shares, strict=True)),
        in_flight=in_flight,
        all_reduce=all_reduce,
        recomputes=recomputes,
        weights=weights,
    )
