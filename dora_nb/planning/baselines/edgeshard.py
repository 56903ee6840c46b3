"""Baseline: EdgeShard, a model in shards on some of the devices, for latency or for throughput.

Source: Zhang et al., "EdgeShard: Efficient LLM Inference via Collaborative Edge Computing", 2024, arXiv 2405.14371.
Two dynamic programmes choose devices and cuts together: one for the least latency of a single pass, in which layers
and transfers follow one another, and one for the least bottleneck of a full pipeline, in which the slowest device or
transfer counts. Every device runs at most one shard and no shard is replicated; devices may stay idle; transfers
travel at the rate between the two devices as if nobody else sent anything. Only the abstract was at hand when this was
written: the programmes are the method as we know it, not checked against the text.

Simplified: the paper keeps the first layer on the device that has the input, for privacy. Here inputs and outputs have
their transfers where the workload names a source and a sink, and the first layer may be anywhere.

Ours to say: for training a pass is forward and backward and every cut is crossed both ways; what a hosted tied layer
sends to the first stage is not looked at before the plan is finished.
"""

from __future__ import annotations

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.domain.plan import Plan
from dora_nb.formulation.problem import Problem
from dora_nb.planning.baselines.chain import chains, least_bottleneck, least_pass
from dora_nb.planning.baselines.choice import fitting
from dora_nb.planning.baselines.pipelines import first_cuts, pipelines
from dora_nb.planning.baselines.ranges import Links, Ranges


def edgeshards(problem: Problem) -> list[Plan]:
    """Pipelines of least latency and of least bottleneck that fit in memory."""
    links = Links.of(problem)
    plans: list[Plan] = []
    for start in first_cuts(problem.workload, len(problem.cluster.devices)):
        ranges = Ranges(problem, start)
        for size in problem.space.micro_batch_sizes:
            for rule in (least_pass, least_bottleneck):
                for cuts, shares in chains(ranges, size, *_transfers(ranges, links, size), rule):
                    plans.extend(pipelines(problem, "EdgeShard", cuts, shares))
    return fitting(plans, problem)


def _transfers(ranges: Ranges, links: Links, size: int) -> tuple[Floats, Floats, Floats]:
    """Seconds of a micro-batch across every cut, into the first shard, and into or out of the last."""
    problem, workload = ranges.problem, ranges.problem.workload
    ids = problem.cluster.device_ids
    devices, partners = ([members[end] for members in problem.fleet.types] for end in (0, -1))
    across_bytes = size * ranges.cut_bytes[:, None, None]
    transfer_s = ranges.directions * links.seconds(across_bytes, np.ix_(devices, partners))
    enter_s = leave_s = np.zeros(len(devices))
    if workload.source is not None:
        pairs = ids.index(workload.source), devices
        enter_s = links.seconds(size * workload.input_bytes, pairs)
        leave_s = links.seconds(size * workload.label_bytes if workload.trains else 0.0, pairs)
    if workload.sink is not None and not workload.trains:
        leave_s = links.seconds(size * workload.output_bytes, (devices, ids.index(workload.sink)))
    return transfer_s, enter_s, leave_s
