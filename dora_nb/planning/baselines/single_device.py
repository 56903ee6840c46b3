"""Baseline: the whole network on the one device that does it best.

Source: what people do without a planner. Nothing is simplified: every device and every micro-batch size is tried on
the same cost model, and what does not fit a device's memory is left out.
"""

from __future__ import annotations

from dora_nb.domain.plan import Plan, Replica, Stage
from dora_nb.domain.qoe import QoE
from dora_nb.formulation.problem import Problem
from dora_nb.planning.baselines.choice import best_of, fitting


def single_device(problem: Problem, qoe: QoE) -> Plan | None:
    """The best single-device plan for the objective, or None if the network fits no device."""
    return best_of(single_devices(problem), qoe)


def single_devices(problem: Problem) -> list[Plan]:
    """Every single-device plan that fits in memory."""
    layers = len(problem.workload.layers)
    tied = problem.workload.trains and problem.workload.tied_parameters > 0
    plans = [
        Plan(
            label="best single device",
            micro_batch=size,
            micro_batches=problem.workload.batch // size,
            stages=(
                Stage(first_layer=0, stop_layer=layers, replicas=(Replica(device=device, samples=size),), in_flight=1),
            ),
            tied="one-stage" if tied else "none",
        )
        for device in problem.cluster.device_ids
        for size in problem.space.micro_batch_sizes
    ]
    return fitting(plans, problem)
