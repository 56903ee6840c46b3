"""Baseline: a pipeline over all devices with layers in proportion to their memory.

Source: exo (github.com/exo-explore/exo, 2024), its ring memory-weighted partitioning: devices by descending memory,
each with the layers between the two shares of all memory at which it begins and ends, rounded down. A device whose
share holds no layer is left out, as there.

Simplified: exo rounds shares to five digits first, which moves a layer where three devices are equal.

Ours to say: memory is what a model may fill of it, layers count as one each whatever they weigh, as in exo, and all
micro-batch sizes, in-flight depths and placements of tied parameters are tried.
"""

from __future__ import annotations

import numpy as np

from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import ROUNDING
from dora_nb.formulation.problem import Problem
from dora_nb.planning.baselines.choice import fitting
from dora_nb.planning.baselines.pipelines import first_cuts, pipelines


def memory_proportionals(problem: Problem) -> list[Plan]:
    """Every memory-proportional pipeline that fits in memory."""
    layers = len(problem.workload.layers)
    devices = sorted(problem.cluster.devices, key=lambda device: -device.usable_memory_bytes)
    until_bytes = np.cumsum([device.usable_memory_bytes for device in devices])
    plans: list[Plan] = []
    for first in first_cuts(problem.workload, len(devices)):
        stops = np.floor(first + (layers - first) * until_bytes / until_bytes[-1] + ROUNDING).astype(int).tolist()
        starts = [first, *stops[:-1]]
        used = [device.id for device, start, stop in zip(devices, starts, stops, strict=True) if start < stop]
        cuts = list(dict.fromkeys([first, *stops]))
        if first and len(used) < 2:
            continue
        for size in problem.space.micro_batch_sizes:
            plans.extend(pipelines(problem, "memory-proportional", cuts, [{device: size} for device in used]))
    return fitting(plans, problem)
