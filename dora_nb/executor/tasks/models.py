"""Random networks of the domain's architectures, layer by layer as the domain counts them.

Every layer draws its weights from a seed of its own, so a worker that builds only its layers gets the same ones as a
process that builds them all. Parameter counts equal those of :meth:`chain` of the architecture.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import nn

from dora_nb.domain.architecture import Architecture, DecoderArchitecture, EncoderArchitecture
from dora_nb.executor.networks.convolution import ConvolutionalArchitecture, convolutional_layer, parts_of
from dora_nb.executor.networks.transformer import transformer_layer
from dora_nb.executor.tasks.task import torch_dtype

#: Spread of random matrices and biases, and of norms around 1: wide enough that no part hides in rounding.
MATRIX_STD, BIAS_STD, NORM_STD = 0.06, 0.02, 0.1

_ARCHITECTURES: TypeAdapter[Architecture] = TypeAdapter(Architecture)


class RandomNetwork:
    """A network of an architecture, with random weights; see :class:`~dora_nb.executor.tasks.task.Network`.

    Parameters
    ----------
    architecture
        As the domain describes it, or the same as JSON.
    dtype
        Name of the parameters' dtype.
    seed
        Of the weights.
    image_px
        Side of the image of a vision model; None: the architecture's own.
    """

    def __init__(
        self, architecture: Architecture | Mapping[str, Any], dtype: str, seed: int, image_px: int | None = None
    ) -> None:
        self._architecture: Architecture = _ARCHITECTURES.validate_python(architecture)
        self._dtype, self._seed, self._image_px = torch_dtype(dtype), seed, image_px
        self._count = layer_count(self._architecture)
        self.tied = tied_names(self._architecture)
        self.caches = isinstance(self._architecture, DecoderArchitecture)

    def __len__(self) -> int:
        return self._count

    def layer(self, index: int) -> nn.Module:
        """One layer with the weights it has in the whole network."""
        return build_layer(self._architecture, index, self._dtype, self._seed, self._image_px)

    def kind(self, index: int) -> Hashable:
        """The blocks of a transformer are alike, and convolutional ones of equal shapes."""
        if isinstance(self._architecture, ConvolutionalArchitecture):
            return parts_of(self._architecture, self._image_px)[index]
        return {0: "embedding", self._count - 1: "head"}.get(index, "block")


def build_layer(
    architecture: Architecture, index: int, dtype: torch.dtype, seed: int, image_px: int | None = None
) -> nn.Module:
    """One layer with the weights it has in the whole network.

    Parameters
    ----------
    architecture
        Of any family.
    index
        Position in the chain: 0 is the embedding or the stem, the last the head.
    dtype
        Of the parameters.
    seed
        Of the network's weights.
    image_px
        Side of the image of a vision model; None: the architecture's own.
    """
    layer = _drawn_layer(architecture, index, dtype, seed, image_px)
    names = tied_names(architecture)
    if names is not None and index == layer_count(architecture) - 1:  # the head's copy starts as the embedding's
        embedding = _drawn_layer(architecture, 0, dtype, seed, image_px)
        with torch.no_grad():
            layer.get_parameter(names[1]).copy_(embedding.get_parameter(names[0]))
    return layer


def layer_count(architecture: Architecture) -> int:
    """Layers of the architecture's chain."""
    if isinstance(architecture, ConvolutionalArchitecture):
        return len(parts_of(architecture, None))
    return architecture.blocks + 2


def tied_names(architecture: Architecture) -> tuple[str, str] | None:
    """Names of the parameter that the first and the last layer share, if any."""
    if isinstance(architecture, DecoderArchitecture | EncoderArchitecture) and architecture.tied_embeddings:
        return ("tokens.weight", "projection.weight")
    return None


def _drawn_layer(
    architecture: Architecture, index: int, dtype: torch.dtype, seed: int, image_px: int | None
) -> nn.Module:
    # Building draws from torch's global generator, which belongs to the person: left as it was.
    with torch.random.fork_rng(devices=()):
        if isinstance(architecture, ConvolutionalArchitecture):
            layer = convolutional_layer(architecture, parts_of(architecture, image_px)[index])
        else:
            layer = transformer_layer(architecture, index, image_px)
        layer.to(dtype)
    fill_randomly(layer, torch.Generator().manual_seed(seed * 1_000_003 + index))
    return layer


def fill_randomly(layer: nn.Module, generator: torch.Generator) -> None:
    """Random values: matrices and biases around 0, scales of norms around 1."""
    norms = {
        id(module.weight) for module in layer.modules() if isinstance(module, nn.RMSNorm | nn.LayerNorm | nn.GroupNorm)
    }
    with torch.no_grad():
        for parameter in layer.parameters():
            spread = NORM_STD if id(parameter) in norms else BIAS_STD if parameter.ndim == 1 else MATRIX_STD
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * spread
            parameter.copy_(drawn + (id(parameter) in norms))
