"""Baseline: a pipeline over all devices with the same number of layers each.

Source: the default of frameworks that know nothing of the devices (equal chunks of layers, in the order the devices
are listed). It may choose among all micro-batch sizes, in-flight depths and placements of tied parameters that our
own plans may, and its transfers are list-scheduled like ours.
"""

from __future__ import annotations

import numpy as np

from dora_nb.domain.fits import tied_placements
from dora_nb.domain.plan import Plan, Replica, Stage
from dora_nb.domain.qoe import QoE
from dora_nb.formulation.problem import Problem
from dora_nb.planning.baselines.choice import best_of, fitting


def even_split(problem: Problem, qoe: QoE) -> Plan | None:
    """The best even split for the objective, or None if none fits the devices' memory."""
    return best_of(even_splits(problem), qoe)


def even_splits(problem: Problem) -> list[Plan]:
    """Every even split that fits in memory."""
    workload, space = problem.workload, problem.space
    devices = problem.cluster.device_ids[: len(workload.layers)]
    plans = []
    for tied in tied_placements(workload, len(devices)):
        first = 1 if tied == "hosted" else 0
        if len(workload.layers) - first < len(devices):
            continue
        cuts = np.linspace(first, len(workload.layers), len(devices) + 1).round().astype(int).tolist()
        for size in space.micro_batch_sizes:
            batches = workload.batch // size
            for held in space.in_flight_counts(len(devices), batches):
                stages = tuple(
                    Stage(
                        first_layer=start,
                        stop_layer=stop,
                        replicas=(Replica(device=device, samples=size),),
                        in_flight=in_flight,
                    )
                    for start, stop, device, in_flight in zip(cuts, cuts[1:], devices, held, strict=False)
                )
                plans.append(
                    Plan(label="even split", micro_batch=size, micro_batches=batches, stages=stages, tied=tied)
                )
    return fitting(plans, problem)
