"""How many threads torch computes with in the person's own process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, as the workers do; the process gets its number of threads back.

    Tensors this small gain nothing from more, and several threads on busy cores are many times slower than one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
