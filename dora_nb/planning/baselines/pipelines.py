"""From what a baseline decides - cuts, devices, shares - to plans.

Ours to say: what a baseline's source leaves open is tried in every way that our own plans may choose among as well:
all in-flight counts of the space, and a first layer hosted by the last stage where parameters are tied. Replicas sum
their gradients in buckets like ours, by the algorithm that takes less time on an idle network.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from dora_nb.costs.buckets import bucket_count
from dora_nb.costs.memory import MemoryModel
from dora_nb.costs.table import Floats
from dora_nb.domain.fits import tied_placements
from dora_nb.domain.plan import AllReduce, Plan, Replica, Stage
from dora_nb.domain.workload import Workload
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.problem import Problem


def first_cuts(workload: Workload, most_stages: int) -> tuple[int, ...]:
    """Where a pipeline of up to so many stages may start: at layer 1 if its last stage hosts a tied first layer."""
    return (0, 1) if "hosted" in tied_placements(workload, most_stages) else (0,)


def pipelines(problem: Problem, label: str, cuts: Sequence[int], shares: Sequence[Mapping[str, int]]) -> Iterator[Plan]:
    """A pipeline with every in-flight count of the space, not finished yet.

    Parameters
    ----------
    problem
        What is planned.
    label
        Of all the plans.
    cuts
        Where the stages begin and end; from 1 on if the last stage hosts the first layer.
    shares
        Samples of every micro-batch by device, stage by stage.
    """
    workload, last = problem.workload, len(shares) - 1
    hosts = cuts[0] == 1
    micro_batch = sum(shares[0].values())
    micro_batches = workload.batch // micro_batch
    ranges = list(itertools.pairwise(cuts))
    sums = [
        _all_reduce(problem, first, stop, tuple(devices), hosts and stage == last)
        for stage, ((first, stop), devices) in enumerate(zip(ranges, shares, strict=True))
    ]
    for held in problem.space.in_flight_counts(len(shares), micro_batches):
        yield Plan(
            label=label,
            micro_batch=micro_batch,
            micro_batches=micro_batches,
            stages=tuple(
                Stage(
                    first_layer=first,
                    stop_layer=stop,
                    replicas=tuple(Replica(device=device, samples=samples) for device, samples in by_device.items()),
                    in_flight=in_flight,
                    all_reduce=all_reduce,
                )
                for (first, stop), by_device, in_flight, all_reduce in zip(ranges, shares, held, sums, strict=True)
            ),
            tied="hosted" if hosts else tied_placements(workload, len(shares))[0],
        )


def even_shares(samples: int, devices: int) -> list[int]:
    """Samples shared out evenly; what is left over goes to the first devices."""
    return [samples // devices + (place < samples % devices) for place in range(devices)]


def proportional_shares(speed: Floats, most: Ints, samples: int) -> Ints:
    """Samples shared out in proportion to speed: whole ones, at least one each, and no more than a device can hold.

    Parameters
    ----------
    speed
        Of each device in each of several cases, shape (devices, cases), above 0.
    most
        Samples that fit in its memory, same shape.
    samples
        How many there are in each case.

    Returns
    -------
    array of shape (devices, cases)
        0 throughout in cases in which they cannot be shared out.
    """
    ideal = samples * speed / speed.sum(axis=0)
    possible = (most >= 1).all(axis=0) & (most.sum(axis=0) >= samples) & (len(speed) <= samples)
    shares = np.where(possible, np.clip(np.floor(ideal), 1, np.maximum(most, 1)), 0).astype(np.int64)
    while True:
        left = np.where(possible, samples - shares.sum(axis=0), 0)
        if not left.any():
            return shares
        more, fewer = np.flatnonzero(left > 0), np.flatnonzero(left < 0)
        lacking = np.where(shares < most, ideal - shares, -np.inf)[:, more]
        shares[lacking.argmax(axis=0), more] += 1
        spare = np.where(shares > 1, shares - ideal, -np.inf)[:, fewer]
        shares[spare.argmax(axis=0), fewer] -= 1


def _all_reduce(problem: Problem, first: int, stop: int, devices: tuple[str, ...], hosts: bool) -> AllReduce | None:
    workload, network = problem.workload, problem.network
    if not workload.trains or len(devices) == 1:
        return None
    buckets = bucket_count(first, stop, hosts_first_layer=hosts, overlap=problem.overlap)
    parameters = float(MemoryModel(workload).gradient_parameters(first, stop, hosts))
    bucket_bytes = parameters * workload.bytes_per_element / buckets
    leader = network.best_leader(devices)
    choices = [
        AllReduce(algorithm=algorithm, leader=leader, buckets=buckets) for algorithm in network.all_reduce_algorithms
    ]
    return min(choices, key=lambda choice: network.all_reduce(devices, bucket_bytes, choice).duration_s)
