"""The optimizer against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dora_nb.executor.device.adamw import MOMENTS, AdamW
from dora_nb.executor.tasks.task import Optimizer

SETTINGS = {"defaults": Optimizer(), "others": Optimizer(learning_rate=0.02, betas=(0.8, 0.95), eps=1e-5)}


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_it_is_torchs_to_the_bit(settings: Optimizer, dtype: torch.dtype, decay: float) -> None:
    """Also the memory, and where a parameter has no gradient at first."""
    settings = settings.replace(weight_decay=decay)
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5), (5,), (2, 3, 4), ()]
    values = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    own, theirs = ([nn.Parameter(each.clone()) for each in values] for _ in range(2))
    options = {"lr": settings.learning_rate, "betas": settings.betas, "eps": settings.eps, "weight_decay": decay}
    optimizer, expected = AdamW(own, settings), torch.optim.AdamW(theirs, **options, foreach=False, fused=False)
    for step in range(6):
        for index, (one, other) in enumerate(zip(own, theirs, strict=True)):
            if step or index:
                one.grad = torch.randn(one.shape, generator=generator, dtype=torch.float64).to(dtype) ** 3
                other.grad = one.grad.clone()
        optimizer.step()
        expected.step()
    for one, other in zip(own, theirs, strict=True):
        assert torch.equal(one, other)
        assert all(torch.equal(optimizer.state[one][each], expected.state[other][each]) for each in MOMENTS)
