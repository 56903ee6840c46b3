"""Losses: the mean over the samples at hand."""

from __future__ import annotations

import torch.nn.functional as functional
from torch import Tensor

from dora_nb.errors import InputError
from dora_nb.executor.tasks.task import Loss


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the last dimension, of every token or sample alike.

    Parameters
    ----------
    outputs
        Logits (samples, ..., classes).
    labels
        Ids (samples, ...).
    """
    return functional.cross_entropy(outputs.flatten(0, -2), labels.flatten())


def part_of_loss(loss: Loss, outputs: Tensor, labels: Tensor, batch: int) -> Tensor:
    """What some samples add to the mean over a batch.

    Summing this over micro-batches and replicas gives the batch's mean, however the samples are shared out.

    Parameters
    ----------
    loss
        Mean loss of some outputs.
    outputs, labels
        Of some samples.
    batch
        Samples of the whole batch.

    Raises
    ------
    InputError
        If the loss cannot be computed of these outputs and labels, or is not a single number.
    """
    try:
        mean = loss(outputs, labels)
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        shapes = f"outputs {tuple(outputs.shape)}, labels {tuple(labels.shape)} ({labels.dtype})"
        allowed = f"a loss of what the network gives: {' '.join(str(error).split())}. Cross-entropy takes classes last"
        raise InputError("loss", shapes, allowed) from error
    if mean.dim():
        raise InputError("loss", tuple(mean.shape), "a function that gives a single number, the mean over its samples")
    return mean * (len(outputs) / batch)
