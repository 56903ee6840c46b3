"""Any ``torch.nn.Sequential``, written down as JSON and a safetensors file, and read layer by layer."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import JsonValue
from safetensors import safe_open
from torch import Tensor, nn

from dora_nb.errors import InputError
from dora_nb.executor.networks.description import describe, rebuild
from dora_nb.executor.networks.shards import Shard, narrow, slices_of
from dora_nb.executor.networks.tensor_file import write_tensors
from dora_nb.executor.tasks.task import Source

WEIGHTS_FILE = "network.safetensors"


class StoredSequential:
    """A sequence of modules that was written down; see :class:`~dora_nb.executor.tasks.task.Network`.

    Parameters
    ----------
    layers
        Descriptions; see :mod:`~dora_nb.executor.networks.description`.
    file
        With the tensors of layer i under ``i.name``. A layer reads its own only.
    tied
        Names of the parameter that the first and the last layer share; None: nothing is shared.
    """

    reads_shards = True

    def __init__(self, layers: Sequence[Mapping[str, Any]], file: str, tied: Sequence[str] | None = None) -> None:
        self._layers, self._file = layers, file
        self.tied = None if tied is None else (tied[0], tied[1])

    def __len__(self) -> int:
        return len(self._layers)

    def skeleton(self, index: int) -> nn.Module:
        """A layer without values."""
        return rebuild(self._layers[index])

    def layer(self, index: int, shard: Shard | None = None) -> nn.Module:
        """One layer with its weights, or a shard of it, of which nothing else is read."""
        layer = self.skeleton(index)
        slices = {} if shard is None else slices_of(layer)
        names = {name: f"{index}.{name}" for name in tensors_of(layer)}
        if self.tied is not None and index == len(self) - 1:
            names[f"parameter/{self.tied[1]}"] = f"0.parameter/{self.tied[0]}"
        with safe_open(self._file, framework="pt") as file, torch.no_grad():
            if shard is not None:
                narrow(
                    layer, shard, lambda name, how: how.read(file.get_slice(names[f"parameter/{name}"]), shard).clone()
                )
            for name, tensor in tensors_of(layer).items():
                if name.removeprefix("parameter/") not in slices:
                    tensor.copy_(file.get_tensor(names[name]))
        return layer


def store(model: nn.Sequential, directory: pathlib.Path) -> Source:
    """Write a sequence of modules down.

    Parameters
    ----------
    model
        Modules whose classes can be imported. Parameters may be shared inside a layer, and one between the first and
        the last layer.
    directory
        Where the file with the weights goes.

    Returns
    -------
    Source
        Of a :class:`StoredSequential`.

    Raises
    ------
    InputError
        If a class or an attribute cannot be described, or layers share parameters in another way.
    """
    layers = list(model)
    if not layers:
        raise InputError("model", "nn.Sequential()", "at least one layer")
    tied = _tied(layers)
    file = directory / WEIGHTS_FILE
    tensors = {
        f"{index}.{name}": each for index, layer in enumerate(layers) for name, each in tensors_of(layer).items()
    }
    if tied is not None:
        del tensors[f"{len(layers) - 1}.parameter/{tied[1]}"]
    descriptions: list[JsonValue] = [describe(layer, f"model.{index}") for index, layer in enumerate(layers)]
    write_tensors(tensors, file)
    return Source(
        factory=f"{StoredSequential.__module__}:{StoredSequential.__qualname__}",
        arguments={"layers": descriptions, "file": str(file), "tied": None if tied is None else list(tied)},
    )


def tensors_of(layer: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a layer, each once."""
    parameters = {f"parameter/{name}": each for name, each in layer.named_parameters()}
    return parameters | {f"buffer/{name}": each for name, each in layer.named_buffers()}


def _tied(layers: Sequence[nn.Module]) -> tuple[str, str] | None:
    """The parameter that the first and the last layer share."""
    owners: dict[int, tuple[int, str]] = {}
    tied = None
    for index, layer in enumerate(layers):
        for name, parameter in layer.named_parameters():
            owner, first_name = owners.setdefault(id(parameter), (index, name))
            if owner == index:
                continue
            if owner > 0 or index < len(layers) - 1 or tied is not None:
                raise InputError(
                    f"model.{index}.{name}",
                    f"shared with model.{owner}.{first_name}",
                    "at most one parameter shared, between the first and the last layer",
                )
            tied = (first_name, name)
    return tied
