"""Writing tensors to safetensors files that are there whole or not at all."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping

from safetensors.torch import save_file
from torch import Tensor


def write_tensors(tensors: Mapping[str, Tensor], path: pathlib.Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors under a temporary name and rename the file.

    Parameters
    ----------
    tensors
        On any device; those that share memory are written one by one.
    path
        Where to; what is there is replaced.
    metadata
        What else the file says.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        seen: set[int] = set()
        alone = {name: _alone(each, seen) for name, each in tensors.items()}
        save_file(alone, partial, metadata=None if metadata is None else dict(metadata))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _alone(tensor: Tensor, seen: set[int]) -> Tensor:
    """A contiguous tensor with storage of its own, which none of those seen before has."""
    tensor = tensor.detach()
    storage = tensor.untyped_storage()
    alone = tensor.is_contiguous() and storage.nbytes() == tensor.numel() * tensor.element_size()
    if not alone or storage.data_ptr() in seen:
        return tensor.contiguous().clone()
    seen.add(storage.data_ptr())
    return tensor
