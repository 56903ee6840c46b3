"""Matrices held and read in 8 bits, and multiplied in the precision of what they are multiplied with."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Largest magnitude of an element; symmetric, so that zero stays zero.
_LARGEST = 127


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
