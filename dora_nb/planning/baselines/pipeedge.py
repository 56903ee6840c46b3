"""Baseline: PipeEdge, the pipeline with the least bottleneck over unlike devices.

Source: Hu et al., "PipeEdge: Pipeline Parallelism for Large-Scale Model Inference on Heterogeneous Edge Devices", 2022,
arXiv 2110.14895. A dynamic programme over (layers done, devices in use by type, last device) minimises the largest of
every stage's seconds and every transfer's, which takes its bytes over the smaller rate of the two devices; order is
free, devices may stay idle, and no stage is replicated. It is exact for that value; on the public program's inputs it
finds the same values as that program.

Simplified: the paper's memory (weights and buffers of an interval) is replaced by our own, which also knows training.

Ours to say: PipeEdge is for inference; for training a stage's seconds are forward and backward, and a cut is crossed
both ways. Of several pipelines with the least bottleneck it takes the one through which a micro-batch passes soonest.
What a hosted tied layer sends to the first stage is not looked at before the plan is finished.
"""

from __future__ import annotations

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.domain.plan import Plan
from dora_nb.formulation.problem import Problem
from dora_nb.planning.baselines.chain import chains, least_bottleneck
from dora_nb.planning.baselines.choice import fitting
from dora_nb.planning.baselines.pipelines import first_cuts, pipelines
from dora_nb.planning.baselines.ranges import Ranges


def pipeedges(problem: Problem) -> list[Plan]:
    """Pipelines of the least bottleneck that fit in memory."""
    plans: list[Plan] = []
    nothing_s = np.zeros(len(problem.fleet.types))  # the paper's inputs are where they are needed
    for start in first_cuts(problem.workload, len(problem.cluster.devices)):
        ranges = Ranges(problem, start)
        transfer_s = _sample_s(ranges)
        for size in problem.space.micro_batch_sizes:
            for cuts, shares in chains(ranges, size, size * transfer_s, nothing_s, nothing_s, least_bottleneck):
                plans.extend(pipelines(problem, "PipeEdge", cuts, shares))
    return fitting(plans, problem)


def _sample_s(ranges: Ranges) -> Floats:
    """Seconds of one sample across every cut at the smaller rate of two devices, or at the narrowest between them."""
    problem = ranges.problem
    ids = problem.cluster.device_ids
    byte_s = np.zeros((len(problem.fleet.types), len(problem.fleet.types)))
    for place, senders in enumerate(problem.fleet.types):
        for other, receivers in enumerate(problem.fleet.types):
            sender, receiver = ids[senders[0]], ids[receivers[-1]]
            if sender != receiver:
                route = problem.network.route(sender, receiver)
                byte_s[place, other] = 1 / min(hop.bytes_per_s for hop in route.hops)
    return np.asarray(ranges.directions * ranges.cut_bytes[:, None, None] * byte_s)
