"""Backward passes against torch's own way to begin them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dora_nb.executor.device.backward import run_backward


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_given_gradient_is_passed_on_to_the_bit(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    entering, gradient = (torch.randn(4, 3, generator=generator).to(dtype) for _ in range(2))
    weight = nn.Parameter(torch.randn(3, 3, generator=generator).to(dtype))
    found = []
    for begin in (run_backward, torch.autograd.backward):
        x = entering.clone().requires_grad_()
        weight.grad = None
        for _ in range(2):  # the second one adds to the first
            begin((x @ weight).sin(), gradient)
        found.append((x.grad, weight.grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_leaf_gets_the_gradient_itself_and_another_shape_is_refused() -> None:
    leaf, gradient = torch.zeros(2, 3, requires_grad=True), torch.arange(6.0).reshape(2, 3)
    run_backward(leaf, gradient)
    assert torch.equal(leaf.grad, gradient)
    with pytest.raises(RuntimeError, match="shape"):
        run_backward(leaf * 2, torch.zeros(3, 2))
