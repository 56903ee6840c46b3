"""What a device of a stage with shards holds of every layer, and the sums inside its passes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor, nn

from dora_nb.errors import InputError
from dora_nb.executor.device.shard_stages import ShardStage
from dora_nb.executor.networks.shards import Shard, products_of, shared_by_heads, slices_of, sum_branches

#: Sums a tensor over the devices of the stage, given what share of the pass this device has computed by then.
SumInPass = Callable[[Tensor, float], Tensor]


class HeldShard:
    """A device's shard of its stage's layers.

    Parameters
    ----------
    stage
        With shards.
    device
        One of its devices.
    """

    def __init__(self, stage: ShardStage, device: str) -> None:
        self.stage, self.shard = stage, Shard(*stage.parts_of(device), sum(stage.shards))
        self.sum_in_pass: SumInPass | None = None
        self.is_backward = False
        self._forward: dict[tuple[int, int], float] = {}
        self._backward: dict[tuple[int, int], float] = {}

    def connect(self, layers: Mapping[int, nn.Module]) -> None:
        """Sum what the layers of the stage compute, by index, from now on.

        Until :attr:`sum_in_pass` is set, nothing is added to it: what such passes give is of no use.
        """
        for index, layer in layers.items():
            count = len(products_of(layer))
            sum_branches(layer, [functools.partial(self._sum, (index, branch)) for branch in range(count)])
        self._share_out(layers)

    def narrowed(self, layer: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A layer's state with this device's part of every tensor; one that is this device's already stays.

        Parameters
        ----------
        layer
            Its shard.
        state
            See :func:`~dora_nb.executor.device.layer_state.state_of`; of the whole layer or of this shard.
        """
        slices, shapes = slices_of(layer), {name: each.shape for name, each in layer.named_parameters()}

        def own(name: str, tensor: Tensor) -> Tensor:
            _, _, parameter = name.partition("/")
            how = slices.get(parameter)
            if how is None or tensor.dim() == 0 or tensor.shape == shapes[parameter]:
                return tensor
            return how.of(tensor, self.shard)

        return {name: own(name, tensor) for name, tensor in state.items()}

    def _sum(self, place: tuple[int, int], tensor: Tensor) -> Tensor:
        if self.sum_in_pass is None:
            return tensor
        return self.sum_in_pass(tensor, (self._backward if self.is_backward else self._forward)[place])

    def _share_out(self, layers: Mapping[int, nn.Module]) -> None:
        """How far a pass has come at each of its sums, by the elements of the matrices that it has multiplied with."""
        work: list[tuple[tuple[int, int], int]] = []
        for index, layer in layers.items():
            branches = products_of(layer) or [sum(each.weight.numel() for each in _products(layer))]
            work += [((index, branch), elements) for branch, elements in enumerate(branches)]
        total, done = max(1, sum(elements for _, elements in work)), 0
        for place, elements in work:
            self._backward[place] = (total - done) / total
            done += elements
            self._forward[place] = done / total


def refuse_dropout(layers: Iterable[nn.Module]) -> None:
    """Refuse to train a sharded stage whose devices would draw unlike random numbers.

    Raises
    ------
    InputError
        If a layer has dropout.
    """
    for layer in layers:
        for module in layer.modules():
            rate = module.p if isinstance(module, nn.Dropout) else getattr(module, "attention_dropout", 0.0)
            if isinstance(rate, float) and rate > 0:
                allowed = "no dropout in a stage with shards: its devices would drop unlike elements"
                raise InputError(type(module).__name__, rate, allowed)


def summands_of(layers: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Parameters whose gradients the devices of a stage with shards sum once a step: those used head by head."""
    return [parameter for layer in layers for parameter in shared_by_heads(layer) if parameter.requires_grad]


def _products(layer: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    return [module for module in layer.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
