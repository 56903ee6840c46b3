"""Layers that hold their weights in fewer bits than the network's, see :attr:`~dora_nb.domain.plan.Stage.weights`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dora_nb.domain.plan import Weights
from dora_nb.executor.device.cache import CachePart
from dora_nb.executor.tasks.task import DTYPES, torch_dtype

#: Largest magnitude of an element; symmetric, so that zero stays zero.
_LARGEST = 127


def held_in(layer: nn.Module, weights: Weights | None, *, tied: bool) -> nn.Module:
    """The layer with its weights held so; the one given is not to be used any more.

    Parameters
    ----------
    layer
        Of the network, in its precision.
    weights
        Of the stage.
    tied
        Whether it may share parameters with another layer: they stay one tensor, so 8 bits leave such a layer as it is.
    """
    if weights in ("fp16", "bf16"):
        return layer if isinstance(layer, HalfLayer) else HalfLayer(layer, torch_dtype(DTYPES[weights]))
    return hold_in_int8(layer) if weights == "int8" and not tied else layer


class HalfLayer(nn.Module):
    """A layer that is held and computed in 16 bits; what enters and leaves it is in the network's precision.

    Parameters
    ----------
    layer
        What it stands in for; its floating-point tensors are converted in place.
    dtype
        FP16 or BF16.
    """

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self._inside = dtype
        floats = (each.dtype for each in (*layer.parameters(), *layer.buffers()) if each.is_floating_point())
        self._outside = next(floats, None)
        self.layer = layer.to(dtype)

    def forward(self, x: Tensor, *cache: CachePart) -> Tensor:
        """What the layer gives; a layer without tensors of its own computes as before."""
        if self._outside is None:
            unchanged: Tensor = self.layer(x, *cache)
            return unchanged
        left: Tensor = self.layer(x.to(self._inside) if x.is_floating_point() else x, *cache)
        return left.to(self._outside) if left.is_floating_point() else left


class Int8Linear(nn.Module):
    """A dense product whose matrix is held in 8 bits, with one scale a row (an output channel).

    Every element is rounded to the nearest multiple of its row's largest magnitude over 127, so it is off by at most
    half of that.

    Parameters
    ----------
    linear
        What it stands in for; its bias stays as it is.
    """

    matrix: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scale = weight.abs().amax(dim=1, keepdim=True) / _LARGEST
        rounded = torch.round(weight / scale.clamp_min(torch.finfo(weight.dtype).tiny))
        self.register_buffer("matrix", rounded.to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """The product, with the matrix in the precision of ``x`` for as long as it is multiplied."""
        return functional.linear(x, self.matrix.to(x.dtype) * self.scale, self.bias)


def hold_in_int8(layer: nn.Module) -> nn.Module:
    """The layer with every ``nn.Linear`` in it, itself included, in 8 bits; other modules keep what they have."""
    if isinstance(layer, nn.Linear):
        return Int8Linear(layer)
    for name, child in layer.named_children():
        setattr(layer, name, hold_in_int8(child))
    return layer
