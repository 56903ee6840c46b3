"""Activation recomputation: a layer keeps what enters it and is run forward again before its backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run_again(module: nn.Module, x: Tensor) -> Tensor:
    """What a layer gives, with nothing kept for its backward pass but what entered it.

    Run again it draws the same random numbers (dropout) and leaves its buffers (statistics of batch normalisation) as
    they are by then, so that training does not depend on whether layers are run again.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _unchanged_buffers(module)

    given: Tensor = checkpoint(module, x, use_reentrant=False, context_fn=contexts)
    return given


@contextmanager
def _unchanged_buffers(module: nn.Module) -> Iterator[None]:
    before = [buffer.clone() for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in zip(module.buffers(), before, strict=True):
            buffer.copy_(value)
