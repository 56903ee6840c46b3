"""Which gradients are summed when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from dora_nb.executor.networks.chain import parameters_once


def gradients_of(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """The gradient of each; one that no pass used gets zeros, so that all replicas sum and step alike."""
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    return gradients


def full_in(bucket: int, cuts: Sequence[int], layers: Mapping[int, nn.Module]) -> list[nn.Parameter]:
    """The parameters whose gradients are complete when a bucket is full, and not before.

    What layers in several buckets use is in the one that is filled last.

    Parameters
    ----------
    bucket
        Which one, from 1.
    cuts
        See :func:`~dora_nb.costs.buckets.bucket_layers`.
    layers
        Those of the stage at least, by index.
    """
    later = {id(each) for each in parameters_once(layers[index] for index in range(cuts[-1], cuts[bucket]))}
    own = parameters_once(layers[index] for index in range(cuts[bucket], cuts[bucket - 1]))
    return [each for each in own if id(each) not in later]
