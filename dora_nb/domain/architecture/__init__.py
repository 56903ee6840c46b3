"""Network architectures, and the chain of layers each one is.

Everything a planner needs of a layer (operations, parameters, activation elements) follows from a handful of
architecture numbers. The counting rules are our own; parameter totals and operations are tested against published
ones.

Counting rules, all per sample:

- Operations are the 2 FLOPs per multiply-add of matrix products and convolutions, attention scores and weighted
  values included (causal attention counted in full). Element-wise work counts as memory traffic only.
- The stash holds what a plain reverse-mode differentiation keeps: the input of every product and normalisation, the
  tensors that enter attention and its output, and what the activation functions need. Attention is fused: its
  sequence x sequence matrix is never stored. Left out, all below one percent: statistics of normalisations and of the
  fused attention. Dropout is off. The output of a layer is counted once, as the input of the next.
- Traffic counts every operator apart, reading its inputs and writing its outputs, as eager execution does; the fused
  attention reads queries, keys and values once.
- In training the last layer also holds the loss: logits and probabilities are both stashed.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dora_nb.domain.architecture.chain import INTEGER_BYTES, Chain
from dora_nb.domain.architecture.convolution import MobileNetArchitecture, ResNetArchitecture
from dora_nb.domain.architecture.decoder import DecoderArchitecture
from dora_nb.domain.architecture.encoder import EncoderArchitecture, VisionTransformerArchitecture

Architecture = Annotated[
    DecoderArchitecture
    | EncoderArchitecture
    | VisionTransformerArchitecture
    | ResNetArchitecture
    | MobileNetArchitecture,
    Field(discriminator="family"),
]

__all__ = [
    "INTEGER_BYTES",
    "Architecture",
    "Chain",
    "DecoderArchitecture",
    "EncoderArchitecture",
    "MobileNetArchitecture",
    "ResNetArchitecture",
    "VisionTransformerArchitecture",
]
