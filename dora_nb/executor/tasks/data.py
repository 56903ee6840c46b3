"""Micro-batches as a task takes them, and random ones: the same in every process that asks for the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from dora_nb.executor.tasks.task import Data, MicroBatch, torch_dtype

#: Share of a masked language model's tokens that are hidden, behind this id.
HIDDEN_SHARE, HIDDEN_ID = 0.15, 0


def micro_batch(data: Data, step: int, index: int, samples: int, dtype: torch.dtype) -> MicroBatch:
    """A micro-batch with its floating-point tensors in the dtype of the network.

    Parameters
    ----------
    data
        Where it comes from.
    step, index, samples
        As for :class:`~dora_nb.executor.tasks.task.Data`.
    dtype
        Of parameters and activations.
    """

    def converted(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    inputs, labels = data.micro_batch(step, index, samples)
    return MicroBatch(converted(inputs), converted(labels))


class RandomTokens:
    """Token ids, and as labels the tokens that follow, or those that are hidden.

    Parameters
    ----------
    vocabulary, sequence
        Number of token ids, and tokens per sample.
    objective
        ``next``: predict the next token. ``masked``: predict all tokens, of which some are hidden behind id 0.
    seed
        Of the data.
    """

    def __init__(self, vocabulary: int, sequence: int, objective: Literal["next", "masked"], seed: int) -> None:
        self._vocabulary, self._sequence, self._objective, self._seed = vocabulary, sequence, objective, seed

    def micro_batch(self, step: int, index: int, samples: int) -> MicroBatch:
        """See :class:`~dora_nb.executor.tasks.task.Data`."""
        drawn = []
        for generator in _generators(self._seed, step, index, samples):
            tokens = torch.randint(self._vocabulary, (self._sequence + 1,), generator=generator)
            drawn.append((tokens, torch.rand(self._sequence, generator=generator) < HIDDEN_SHARE))
        tokens, hidden = (torch.stack(each) for each in zip(*drawn, strict=True))
        if self._objective == "next":
            return MicroBatch(tokens[:, :-1], tokens[:, 1:])
        original = tokens[:, :-1]
        return MicroBatch(original.masked_fill(hidden, HIDDEN_ID), original)


class RandomImages:
    """Images of normally distributed pixels, and a class for each.

    Parameters
    ----------
    px, classes
        Side of the square image, and number of classes.
    dtype
        Of the pixels.
    seed
        Of the data.
    """

    def __init__(self, px: int, classes: int, dtype: str, seed: int) -> None:
        self._px, self._classes, self._dtype, self._seed = px, classes, torch_dtype(dtype), seed

    def micro_batch(self, step: int, index: int, samples: int) -> MicroBatch:
        """See :class:`~dora_nb.executor.tasks.task.Data`."""
        drawn = [
            (
                torch.randn(3, self._px, self._px, generator=generator, dtype=torch.float64),
                torch.randint(self._classes, (), generator=generator),
            )
            for generator in _generators(self._seed, step, index, samples)
        ]
        images, classes = (torch.stack(each) for each in zip(*drawn, strict=True))
        return MicroBatch(images.to(self._dtype), classes)


def _generators(seed: int, step: int, index: int, samples: int) -> Iterator[torch.Generator]:
    """One for each sample, so that a batch is the same however it is cut into micro-batches."""
    for sample in range(index * samples, (index + 1) * samples):
        yield torch.Generator().manual_seed(((seed * 1009 + step + 1) * 10_007 + sample) * 2 + 1)
