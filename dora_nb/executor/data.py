"""Random inputs and labels: the same in every process that asks for the same micro-batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as functional
from torch import Tensor

from dora_nb.domain.architecture import DecoderArchitecture, EncoderArchitecture, VisionTransformerArchitecture
from dora_nb.domain.workload import Workload


class MicroBatch(NamedTuple):
    """Samples of one micro-batch.

    Attributes
    ----------
    inputs
        Token ids (samples, tokens), or images (samples, 3, px, px).
    labels
        A token id per token, or a class per sample.
    """

    inputs: Tensor
    labels: Tensor


def micro_batch(workload: Workload, seed: int, step: int, index: int, samples: int, dtype: torch.dtype) -> MicroBatch:
    """All samples of one micro-batch of one step.

    Parameters
    ----------
    workload
        Scaled down: a decoder, an encoder or a vision transformer.
    seed
        Of the data.
    step, index
        Which micro-batch of which step.
    samples
        How many there are in it.
    dtype
        Of images.
    """
    generator = torch.Generator().manual_seed(((seed * 1009 + step + 1) * 10_007 + index) * 2 + 1)
    spec = workload.architecture
    if isinstance(spec, VisionTransformerArchitecture):
        px = workload.image_px or spec.image_px
        images = torch.randn(samples, 3, px, px, generator=generator, dtype=torch.float64)
        return MicroBatch(images.to(dtype), torch.randint(spec.classes, (samples,), generator=generator))
    assert isinstance(spec, DecoderArchitecture | EncoderArchitecture), "transformers only"
    assert workload.sequence is not None, "language models read tokens"
    tokens = torch.randint(spec.vocabulary, (samples, workload.sequence + 1), generator=generator)
    if isinstance(spec, DecoderArchitecture):  # predict the next token
        return MicroBatch(tokens[:, :-1], tokens[:, 1:])
    original = tokens[:, :-1]  # predict the tokens of which some are hidden behind id 0
    hidden = torch.rand(original.shape, generator=generator) < 0.15
    return MicroBatch(original.masked_fill(hidden, 0), original)


def label_count(workload: Workload) -> int:
    """Labels in the whole batch: what the summed loss is divided by."""
    return workload.batch * (workload.sequence or 1)


def loss_of(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """Cross-entropy summed over the labels at hand, over the batch's number of labels.

    Summing this over micro-batches and replicas gives the batch's mean, however the samples are shared out.
    """
    return functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="sum") / count
