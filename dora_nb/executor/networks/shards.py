"""Layers sliced over the devices of a stage (tensor parallelism), and the sums that make them whole.

A block has two branches, attention and feed-forward. Of each the first products are sliced by columns (whole attention
heads, the same part of the feed-forward width) and the last one by rows, so that what every device gives is a summand
of the branch's output. It is summed over the devices behind the last product, and in a backward pass the gradient of
the branch's input is, so every device has all of what is outside the branches (Shoeybi et al., "Megatron-LM", 2019,
section 3). The bias of the last product is held by every device and added once, behind the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dora_nb.errors import InputError

#: Sums a tensor over the devices that hold the other shards; gives the sum, the same to the bit on each.
SumOf = Callable[[Tensor], Tensor]


class Shard(NamedTuple):
    """Parts [start, stop) of the equal parts of a layer."""

    start: int
    stop: int
    parts: int


class Slice(NamedTuple):
    """How a parameter is sliced: along which dimension, and as how many equal blocks, each of which is."""

    dim: int
    blocks: int = 1

    def ranges(self, length: int, shard: Shard) -> list[tuple[int, int]]:
        """Which indices [start, stop) of a dimension of some length a shard holds."""
        block = length // self.blocks
        size = block // shard.parts
        return [(each + size * shard.start, each + size * shard.stop) for each in range(0, length, block)]

    def of(self, whole: Tensor, shard: Shard) -> Tensor:
        """A shard's elements of a whole tensor."""
        ranges = self.ranges(whole.shape[self.dim], shard)
        return torch.cat([whole.narrow(self.dim, start, stop - start) for start, stop in ranges], dim=self.dim)

    def read(self, stored: Any, shard: Shard) -> Tensor:
        """A shard's elements of a tensor in a safetensors file, of which nothing else is read."""
        ranges = self.ranges(stored.get_shape()[self.dim], shard)
        before = (slice(None),) * self.dim
        return torch.cat([stored[(*before, slice(start, stop))] for start, stop in ranges], dim=self.dim)

    def whole(self, slices: Sequence[Tensor]) -> Tensor:
        """The reverse of :meth:`of`, from the elements of all shards in their order."""
        by_shard = [each.tensor_split(self.blocks, dim=self.dim) for each in slices]
        return torch.cat([blocks[index] for index in range(self.blocks) for blocks in by_shard], dim=self.dim)


class Branch(NamedTuple):
    """One half of a block, by names of its modules.

    Attributes
    ----------
    columns
        Linear layers that are sliced by columns.
    rows
        The one behind them, sliced by rows.
    norm, entrance
        Where the branch begins: behind a norm that feeds nothing else, or in front of a module that is given what the
        branch gets. One of the two.
    blocks
        Matrices that lie one below the other in each of ``columns``: 3 for queries, keys and values in one.
    """

    columns: tuple[str, ...]
    rows: str
    norm: str | None = None
    entrance: str | None = None
    blocks: int = 1


class Slicing(NamedTuple):
    """How layers of a class can be sliced; such a class has it as ``slicing``, and a property ``parts``.

    Attributes
    ----------
    branches
        Of the block, in the order in which they compute.
    shared_by_heads
        Parameters that are whole on every device but used with its own heads only, such as norms of queries and keys:
        what they get as gradients are summands.
    """

    branches: tuple[Branch, ...]
    shared_by_heads: tuple[str, ...] = ()


def parts_of(layer: nn.Module) -> int:
    """Into how many equal parts a layer can be sliced; 1: it cannot be."""
    return int(getattr(layer, "parts", 1)) if hasattr(layer, "slicing") else 1


def slices_of(layer: nn.Module) -> dict[str, Slice]:
    """How each parameter that is sliced is, by name; none of a layer that cannot be sliced."""
    found = {}
    for branch in _branches(layer):
        for name in branch.columns:
            for parameter, _ in layer.get_submodule(name).named_parameters():
                found[f"{name}.{parameter}"] = Slice(0, branch.blocks)
        found[f"{branch.rows}.weight"] = Slice(1)
    return found


def shared_by_heads(layer: nn.Module) -> list[nn.Parameter]:
    """Parameters whose gradients are summands; see :class:`Slicing`."""
    slicing: Slicing | None = getattr(layer, "slicing", None)
    own = dict(layer.named_parameters())
    return [] if slicing is None else [own[name] for name in slicing.shared_by_heads if name in own]


def narrow(layer: nn.Module, shard: Shard, read: Callable[[str, Slice], Tensor] | None = None) -> nn.Module:
    """Make a layer hold a shard only.

    Parameters
    ----------
    layer
        Whole; it is changed. One that cannot be sliced stays as it is.
    shard
        Which parts.
    read
        Gives the shard's elements of a parameter, by its name and how it is sliced; None: the layer's own values.

    Returns
    -------
    the layer

    Raises
    ------
    InputError
        If the layer can be sliced, but not into so many parts.
    """
    if parts_of(layer) not in (1, shard.parts):
        raise InputError("stages.shards", f"{shard.parts} parts in all", f"{parts_of(layer)}, those of the layer")
    if parts_of(layer) == 1:
        return layer
    for name, how in slices_of(layer).items():
        path, _, own = name.rpartition(".")
        module: Any = layer.get_submodule(path)
        whole = layer.get_parameter(name)
        values = how.of(whole.detach(), shard) if read is None else read(name, how)
        setattr(module, own, nn.Parameter(values, requires_grad=whole.requires_grad))
        if own == "weight":
            module.out_features, module.in_features = values.shape
    return layer


def sum_branches(layer: nn.Module, sums: Sequence[SumOf]) -> None:
    """Make what a shard computes whole, forward and backward.

    Parameters
    ----------
    layer
        A shard; see :func:`narrow`.
    sums
        For each branch what sums over the devices, its output in a forward pass, its input's gradient in a backward
        pass.
    """
    for branch, sum_of in zip(_branches(layer), sums, strict=True):
        path, _, own = branch.rows.rpartition(".")
        rows: Any = layer.get_submodule(branch.rows)
        setattr(layer.get_submodule(path), own, _SummedLinear(rows, sum_of))
        if branch.norm is not None:
            layer.get_submodule(branch.norm).register_forward_hook(_behind(sum_of))
        if branch.entrance is not None:
            layer.get_submodule(branch.entrance).register_forward_pre_hook(_in_front(sum_of))


def products_of(layer: nn.Module) -> list[int]:
    """Elements of the matrices that each branch multiplies with: how the work of a block is spread over them."""
    return [
        sum(layer.get_parameter(f"{name}.weight").numel() for name in (*branch.columns, branch.rows))
        for branch in _branches(layer)
    ]


def _branches(layer: nn.Module) -> Iterator[Branch]:
    slicing: Slicing | None = getattr(layer, "slicing", None)
    if slicing is not None and parts_of(layer) > 1:
        yield from slicing.branches


class _SummedLinear(nn.Module):
    """A linear layer sliced by rows: the products are summed over the devices, then the bias is added."""

    def __init__(self, linear: nn.Linear, sum_of: SumOf) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self._sum_of = sum_of

    def forward(self, x: Tensor) -> Tensor:
        summed: Tensor = _SumForward.apply(functional.linear(x, self.weight), self._sum_of)  # type: ignore[no-untyped-call]
        return summed if self.bias is None else summed + self.bias


def _behind(sum_of: SumOf) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def hook(module: nn.Module, given: Any, left: Tensor) -> Tensor:
        del module, given
        entered: Tensor = _SumBackward.apply(left, sum_of)  # type: ignore[no-untyped-call]
        return entered

    return hook


def _in_front(sum_of: SumOf) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def hook(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        del module
        return _SumBackward.apply(given[0], sum_of), *given[1:]  # type: ignore[no-untyped-call]

    return hook


class _SumForward(torch.autograd.Function):
    """The sum forward; its gradient belongs to every summand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sum_of: SumOf) -> Tensor:
        del ctx
        return sum_of(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        del ctx
        return gradients[0], None


class _SumBackward(torch.autograd.Function):
    """What every device uses; its gradient is the sum of those that come back from each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sum_of: SumOf) -> Tensor:
        ctx.sum_of = sum_of
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.sum_of(gradients[0]), None
