"""Buckets of gradients: layers whose gradients are summed together, while the backward pass goes on.

A backward pass runs from a stage's last layer to its first. Bucket 1 holds the layers that it passes first; every
bucket holds about the same number of parameters (our own rule, after the gradient buckets of data-parallel training:
Li et al., "PyTorch Distributed", VLDB 2020, section 3.2.3).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.table import Floats
from dora_nb.domain.plan import Stage
from dora_nb.domain.workload import Workload

Ints = NDArray[np.int64]

#: A stage's gradients are summed in so many buckets at most: more would only add messages.
MOST_BUCKETS = 4


def bucket_count(first: int, stop: int, *, hosts_first_layer: bool, overlap: bool) -> int:
    """In how many buckets the replicas of a stage sum: up to four, since more buckets never end later.

    One where sums may not overlap with computing, and where the stage still has the backward passes of a hosted first
    layer to run, whose parameters are summed with its own.
    """
    return 1 if hosts_first_layer or not overlap else min(MOST_BUCKETS, stop - first)


def bucket_cuts(workload: Workload, first: Ints, stop: Ints, buckets: Ints) -> Ints:
    """Where the buckets of stages begin and end.

    Parameters
    ----------
    workload
        Whose layers.
    first, stop
        Layers [first, stop) of the stages, shape (stages,).
    buckets
        How many of each stage.

    Returns
    -------
    array of shape (stages, most buckets + 1)
        Bucket k holds layers [cuts[k], cuts[k - 1]); buckets beyond a stage's own are empty.
    """
    return _cuts(summed_parameters(workload), first, stop, buckets)


def bucket_layers(stage: Stage, until: Floats) -> list[int]:
    """Where the buckets of one stage begin and end, as :func:`bucket_cuts` has it.

    Parameters
    ----------
    stage
        Whose replicas sum their gradients.
    until
        See :func:`summed_parameters`.
    """
    first, stop, buckets = (np.array([each]) for each in (stage.first_layer, stage.stop_layer, stage.buckets))
    return [int(cut) for cut in _cuts(until, first, stop, buckets)[0]]


def _cuts(until: Floats, first: Ints, stop: Ints, buckets: Ints) -> Ints:
    total = until[stop] - until[first]
    cuts = np.empty((len(first), int(buckets.max(initial=1)) + 1), dtype=np.int64)
    cuts[:, 0] = stop
    for bucket in range(1, cuts.shape[1]):
        share = np.minimum(bucket / buckets, 1.0)
        reached = np.searchsorted(until, until[stop] - share * total * (1 - 1e-12), side="right") - 1
        cuts[:, bucket] = np.where(bucket < buckets, np.clip(reached, first, stop - 1), first)
    return cuts


def bucket_parameters(workload: Workload, cuts: Ints) -> Floats:
    """Parameters of each bucket, shape (stages, buckets).

    Parameters tied to another stage's are left out: both stages sum them together, apart from the buckets. A stage
    that is the whole network holds them once and fills them last, with layer 0.
    """
    until = summed_parameters(workload)
    parameters = until[cuts[:, :-1]] - until[cuts[:, 1:]]
    with_layer_0 = (cuts[:, 1:] == 0) & (cuts[:, :-1] > 0)
    whole = (cuts[:, -1] == 0) & (cuts[:, 0] == len(workload.layers))
    return np.asarray(parameters - workload.tied_parameters * (with_layer_0 & ~whole[:, None]), dtype=float)


def summed_parameters(workload: Workload) -> Floats:
    """Running sum of parameters over layers; tied ones count with layer 0 only. Shape (layers + 1,)."""
    parameters = [float(layer.parameters) for layer in workload.layers]
    parameters[-1] -= workload.tied_parameters
    return np.concatenate([[0.0], np.cumsum(parameters)])
