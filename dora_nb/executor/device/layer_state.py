"""What a layer is made of while it trains: its parameters, its buffers and the optimizer's memory of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dora_nb.errors import InputError
from dora_nb.executor.device.adamw import MOMENTS, AdamW


def state_of(layer: nn.Module, optimizer: AdamW | None = None) -> dict[str, Tensor]:
    """Copies of everything that another process needs to go on with a layer, on the processor.

    Returns
    -------
    tensors by ``parameter/name``, ``buffer/name`` and, once the optimizer has stepped, ``exp_avg/name``,
    ``exp_avg_sq/name`` and ``step/name`` of each parameter
    """
    state = {}
    for name, parameter in layer.named_parameters(remove_duplicate=False):
        state[f"parameter/{name}"] = _copied(parameter)
        memory = {} if optimizer is None else optimizer.state.get(parameter, {})
        for moment in MOMENTS:
            if moment in memory:
                state[f"{moment}/{name}"] = _copied(memory[moment])
    for name, buffer in layer.named_buffers(remove_duplicate=False):
        state[f"buffer/{name}"] = _copied(buffer)
    return state


def load_state(layer: nn.Module, state: Mapping[str, Tensor], optimizer: AdamW | None = None) -> None:
    """The reverse of :func:`state_of`; an optimizer forgets what it knew of the layer.

    Raises
    ------
    InputError
        If the tensors are not those of this layer, by name and shape.
    """
    parameters = dict(layer.named_parameters(remove_duplicate=False))
    buffers = dict(layer.named_buffers(remove_duplicate=False))
    own: dict[str, Tensor] = {f"parameter/{name}": each for name, each in parameters.items()}
    own |= {f"buffer/{name}": each for name, each in buffers.items()}
    got = {name for name in state if name.partition("/")[0] not in MOMENTS}
    if wrong := sorted(own.keys() ^ got):
        raise InputError("state", wrong, "the names of the layer's parameters and buffers, each once")
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise InputError(f"state.{name}", tuple(state[name].shape), f"shape {tuple(tensor.shape)}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])
    if optimizer is None:
        return
    for name, parameter in parameters.items():
        optimizer.state.pop(parameter, None)
        found = {moment: state[f"{moment}/{name}"] for moment in MOMENTS if f"{moment}/{name}" in state}
        if found:
            optimizer.state[parameter] = {
                # The number of steps stays on the processor, as AdamW keeps it.
                moment: each.clone() if moment == "step" else each.to(parameter.device, copy=True)
                for moment, each in found.items()
            }


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
