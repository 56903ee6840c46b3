"""Layers that change place: who gives which one to whom, and how it travels.

A layer travels with its optimizer state as one safetensors message, in chunks, so that nothing needs to be known of it
beforehand and nothing is pickled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from dora_nb.domain.plan import Plan
from dora_nb.domain.record import Record

if TYPE_CHECKING:  # moves are planned without torch
    from dora_nb.executor.device.held import LayerState
    from dora_nb.executor.device.transport import Transport

#: Bytes that are sent at once.
CHUNK_BYTES = 4 * 1024 * 1024


class Move(Record):
    """One layer from one device to others."""

    layer: int
    sender: str
    receivers: tuple[str, ...]


def layers_of(plan: Plan, device: str) -> tuple[int, ...]:
    """Layers that a device of a plan holds; none if it takes no part."""
    for index, stage in enumerate(plan.stages):
        if device in stage.devices:
            hosted = range(1) if plan.hosts_first_layer(index) else range(0)
            return (*hosted, *range(stage.first_layer, stage.stop_layer))
    return ()


def holders_of(plan: Plan) -> dict[int, tuple[str, ...]]:
    """Devices that hold each layer."""
    holders: dict[int, list[str]] = defaultdict(list)
    for device in plan.devices:
        for layer in layers_of(plan, device):
            holders[layer].append(device)
    return {layer: tuple(devices) for layer, devices in holders.items()}


def moves_to(plan: Plan, holders: Mapping[int, Collection[str]]) -> tuple[Move, ...]:
    """What must travel so that every device of a plan has its layers.

    Of several holders of a layer the one that has given the least so far gives it.

    Parameters
    ----------
    plan
        To come.
    holders
        Devices that have each layer in the state that counts. A layer that nobody has is left out: it comes from
        where the network comes from.
    """
    given: dict[str, int] = defaultdict(int)
    moves = []
    for layer, wanting in sorted(holders_of(plan).items()):
        having = holders.get(layer, ())
        receivers = tuple(device for device in wanting if device not in having)
        if receivers and having:
            sender = min(sorted(having), key=lambda device: given[device])
            given[sender] += len(receivers)
            moves.append(Move(layer=layer, sender=sender, receivers=receivers))
    return tuple(moves)


def movers(moves: Iterable[Move]) -> tuple[str, ...]:
    """Devices that give or get something."""
    return tuple(dict.fromkeys(device for move in moves for device in (move.sender, *move.receivers)))


def exchange(
    moves: Sequence[Move], device: str, transport: Transport, state_of: Callable[[int], LayerState]
) -> dict[int, LayerState]:
    """Give and get what the moves say.

    Parameters
    ----------
    moves
        The same, in the same order, on every device.
    device
        This one.
    transport
        Between all of them.
    state_of
        The state of a layer that this device gives.

    Returns
    -------
    states that arrived, by layer
    """
    import torch
    from safetensors.torch import load, save

    for tag, move in enumerate(moves):
        if move.sender == device:
            content = torch.frombuffer(bytearray(save(dict(state_of(move.layer)))), dtype=torch.uint8)
            size = torch.tensor([len(content)])
            for receiver in move.receivers:
                transport.send(size, receiver, 2 * tag, "state")
                for chunk in torch.split(content, CHUNK_BYTES):
                    transport.send(chunk, receiver, 2 * tag + 1, "state")
    arrived: dict[int, LayerState] = {}
    for tag, move in enumerate(moves):
        if device in move.receivers:
            size = torch.empty(1, dtype=torch.int64)
            transport.receive(size, move.sender, 2 * tag, "state").wait()
            content = torch.empty(int(size.item()), dtype=torch.uint8)
            for chunk in torch.split(content, CHUNK_BYTES):
                transport.receive(chunk, move.sender, 2 * tag + 1, "state").wait()
            arrived[move.layer] = load(content.numpy().tobytes())
    transport.flush()
    return arrived
