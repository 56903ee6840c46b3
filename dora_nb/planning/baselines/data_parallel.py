"""Baseline: the whole network on every device of a group, each with its share of the samples.

Source: data-parallel training as frameworks do it (Li et al., "PyTorch Distributed: Experiences on Accelerating Data
Parallel Training", VLDB 2020, arXiv 2006.15704): even shares, gradients summed in buckets while the backward pass goes
on. Several micro-batches are gradient accumulation.

Nothing is simplified. Ours to say: besides even shares, shares in proportion to speed that respect each device's memory
(the stronger variant); groups of the fastest devices of every size besides all of them; the sums go by ring or star.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dora_nb.domain.plan import Plan
from dora_nb.formulation.problem import Problem
from dora_nb.planning.baselines.choice import fitting
from dora_nb.planning.baselines.pipelines import even_shares, pipelines, proportional_shares
from dora_nb.planning.baselines.ranges import Ranges, fastest_first


def data_parallels(problem: Problem) -> list[Plan]:
    """Every data-parallel plan that fits in memory."""
    ids, layers = problem.cluster.device_ids, len(problem.workload.layers)
    plans: list[Plan] = []
    for size in problem.space.micro_batch_sizes:
        for group, shares in _sharings(Ranges(problem), size):
            by_device = {ids[device]: share for device, share in zip(group, shares, strict=True)}
            plans.extend(pipelines(problem, "data parallel", (0, layers), [by_device]))
    return fitting(plans, problem)


def _sharings(ranges: Ranges, size: int) -> Iterator[tuple[list[int], list[int]]]:
    """Groups of the fastest devices that can hold the network, and ways to share a micro-batch out among them."""
    whole = ranges.place(0, ranges.layers)
    fastest = fastest_first(ranges.problem, size)
    speed = np.array([ranges.speed(device, size)[whole] for device in fastest])
    for count in range(1, min(len(fastest), size) + 1):
        most = np.array([ranges.most_samples(each, size, 1, replicated=count > 1)[whole] for each in fastest])
        group = np.flatnonzero(most)[:count]
        if len(group) < count:
            return
        devices = [fastest[place] for place in group]
        yield devices, even_shares(size, count)
        shares = proportional_shares(speed[group, None], most[group, None], size)[:, 0].tolist()
        if sum(shares):
            yield devices, shares
