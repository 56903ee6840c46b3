"""Baseline: a pipeline over all devices with the same number of layers each.

Source: the default of frameworks that know nothing of the devices (equal chunks of layers, in the order the devices
are listed). It may choose among all micro-batch sizes, in-flight depths and placements of tied parameters that our
own plans may, and its transfers are list-scheduled like ours.
"""

from __future__ import annotations

import numpy as np

from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.formulation.problem import Problem
from dora_nb.planning.baselines.choice import best_of, fitting
from dora_nb.planning.baselines.pipelines import first_cuts, pipelines


def even_split(problem: Problem, qoe: QoE) -> Plan | None:
    """The best even split for the objective, or None if none fits the devices' memory."""
    return best_of(even_splits(problem), qoe)


def even_splits(problem: Problem) -> list[Plan]:
    """Every even split that fits in memory."""
    layers = len(problem.workload.layers)
    devices = problem.cluster.device_ids[:layers]
    plans: list[Plan] = []
    for first in first_cuts(problem.workload, len(devices)):
        if layers - first < len(devices):
            continue
        cuts = np.linspace(first, layers, len(devices) + 1).round().astype(int).tolist()
        for size in problem.space.micro_batch_sizes:
            plans.extend(pipelines(problem, "even split", cuts, [{device: size} for device in devices]))
    return fitting(plans, problem)
