"""Baseline: the whole network on the one device that does it best.

Source: what people do without a planner. Nothing is simplified: every device and every micro-batch size is tried on
the same cost model, and what does not fit a device's memory is left out.
"""

from __future__ import annotations

from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.formulation.problem import Problem
from dora_nb.planning.baselines.choice import best_of, fitting
from dora_nb.planning.baselines.pipelines import pipelines


def single_device(problem: Problem, qoe: QoE) -> Plan | None:
    """The best single-device plan for the objective, or None if the network fits no device."""
    return best_of(single_devices(problem), qoe)


def single_devices(problem: Problem) -> list[Plan]:
    """Every single-device plan that fits in memory."""
    cuts = 0, len(problem.workload.layers)
    plans: list[Plan] = []
    for device in problem.cluster.device_ids:
        for size in problem.space.micro_batch_sizes:
            plans.extend(pipelines(problem, "best single device", cuts, [{device: size}]))
    return fitting(plans, problem)
