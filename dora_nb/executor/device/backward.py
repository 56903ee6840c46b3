"""Backward passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def run_backward(leaving: Tensor, gradient: Tensor | None) -> None:
    """Add to the gradients of everything that a tensor was computed from.

    ``torch.autograd.backward`` loads sympy the first time that a gradient is given to it, to look at shapes that may be
    symbols: 0.6 s of a core in every process. So it is given a number that passes the gradient on.

    Parameters
    ----------
    leaving
        What was computed.
    gradient
        Of the loss with respect to it, as large as it is; None: it is the loss.
    """
    torch.autograd.backward(leaving if gradient is None else _Passed.apply(leaving, gradient))  # type: ignore[no-untyped-call]


class _Passed(torch.autograd.Function):
    """A number whose gradient with respect to a tensor is the one given."""

    @staticmethod
    def forward(ctx: Any, leaving: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient
        return leaving.new_zeros(())

    @staticmethod
    def backward(ctx: Any, one: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return ctx.gradient, None
