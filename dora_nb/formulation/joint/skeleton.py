"""Skeletons: what decides the operations of a plan and their precedence, and which columns fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dora_nb.formulation.columns import Columns
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.problem import Problem


class Skeleton(NamedTuple):
    """What decides the operations of a plan and their precedence.

    Attributes
    ----------
    micro_batch
        Samples.
    in_flight
        In-flight count of every stage, first to last.
    hosts
        Whether the last stage hosts the first layer.
    """

    micro_batch: int
    in_flight: tuple[int, ...]
    hosts: bool


def skeletons(problem: Problem) -> Iterator[Skeleton]:
    """Every skeleton of a problem's space, fewest stages first."""
    workload, space = problem.workload, problem.space
    most = min(len(workload.layers), len(problem.cluster.devices))
    for stages in range(1, most + 1):
        for size in space.micro_batch_sizes:
            for held in space.in_flight_counts(stages, workload.batch // size):
                yield Skeleton(size, held, False)
                if workload.trains_tied and 1 < stages < len(workload.layers):
                    yield Skeleton(size, held, True)


def eligible(problem: Problem, columns: Columns, skeleton: Skeleton, stage: int) -> Ints:
    """Columns that may stand at a stage.

    Parameters
    ----------
    problem, columns
        What is planned, from which columns.
    skeleton
        Of the plan.
    stage
        Index of the stage.
    """
    c, layers, last = columns, len(problem.workload.layers), len(skeleton.in_flight) - 1
    fits = (c.micro_batch == skeleton.micro_batch) & (
        c.holds(np.arange(len(c)), skeleton.in_flight[stage]) | (not problem.workload.trains)
    )
    fits &= (c.first == int(skeleton.hosts)) if stage == 0 else (c.first > int(skeleton.hosts))
    fits &= (c.stop == layers) if stage == last else (c.stop < layers)
    fits &= c.hosts == (skeleton.hosts and stage == last)
    return np.flatnonzero(fits)
