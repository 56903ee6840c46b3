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
        If the loss is not a single number.
    """
    mean = loss(outputs, labels)
    if mean.dim():
        raise InputError("loss", tuple(mean.shape), "a function that gives a single number, the mean over its samples")
    return mean * (len(outputs) / batch)
