"""Sums over devices, point to point, so that what crosses the network is what the plan says."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dora_nb.domain.plan import Algorithm
from dora_nb.executor.device.instructions import AllReduce, TiedSum
from dora_nb.executor.device.transport import Transport
from dora_nb.executor.device.turns import TransferKey

#: Waits for the turn of a transfer on the network, and passes it on behind it.
Turn = Callable[[TransferKey], contextlib.AbstractContextManager[None]]

# Tags on the channel of the sums. A ring uses one per round from its base on.
_GATHER, _SPREAD, _TIED_GATHER, _TIED_SPREAD, _TIED_EXCHANGE, _RING = 0, 1, 2, 3, 4, 16


def all_reduce(vector: Tensor, device: str, instruction: AllReduce, transport: Transport, turn: Turn) -> None:
    """Replace a vector on every member by the sum over members.

    Parameters
    ----------
    vector
        This device's summand, replaced by the sum; one without elements, as all members know, takes its turn and passes
        nothing.
    device
        This device.
    instruction
        Who sums, and how.
    transport, turn
        How tensors travel, and whose turn it is on the medium.
    """
    with turn(TransferKey("all-reduce", instruction.stage, 0, instruction.part)):
        if vector.numel():
            sum_over(vector, device, instruction.members, instruction.algorithm, instruction.leader, transport)


def sum_over(
    vector: Tensor, device: str, members: Sequence[str], algorithm: Algorithm, leader: str, transport: Transport
) -> None:
    """Replace a vector on every member by the sum, which is the same to the bit on each.

    Parameters
    ----------
    vector
        This device's, on the processor.
    device, members
        This one, and all in replica order.
    algorithm, leader
        See :data:`~dora_nb.domain.plan.Algorithm`.
    transport
        To the others.
    """
    if algorithm == "ring":
        _ring(vector, device, members, transport)
    else:
        _gather(vector, device, members, leader, transport, _GATHER)
        _spread(vector, device, members, leader, transport, _SPREAD)


def tied_sum(vector: Tensor, device: str, instruction: TiedSum, transport: Transport, turn: Turn) -> None:
    """Replace a vector on the devices of both stages by the sum over all of them.

    Both leaders add the first stage's sum and the last one's in that order, so the two copies stay equal to the bit.

    Parameters
    ----------
    vector
        This device's summand, replaced by the sum.
    device
        This device.
    instruction
        Who sums.
    transport, turn
        How tensors travel, and whose turn it is on the medium.
    """
    members, leader, stage = instruction.members, instruction.leader, instruction.stage
    with turn(TransferKey("tied-reduce", stage, 0)):
        _gather(vector, device, members, leader, transport, _TIED_GATHER)
    if device == leader:
        with turn(TransferKey("tied-exchange", instruction.last, 0)):
            other = torch.empty_like(vector)
            arriving = transport.receive(other, instruction.partner, _TIED_EXCHANGE, "sum")
            transport.send(vector.clone(), instruction.partner, _TIED_EXCHANGE, "sum")
            arriving.wait()
        vector.copy_(vector + other if instruction.first else other + vector)
    with turn(TransferKey("tied-broadcast", stage, 0)):
        _spread(vector, device, members, leader, transport, _TIED_SPREAD)


def _ring(vector: Tensor, device: str, members: Sequence[str], transport: Transport) -> None:
    """2 (k - 1) rounds: k - 1 that leave each member the sum of one part, k - 1 that pass these parts around."""
    count, place = len(members), members.index(device)
    following, preceding = members[(place + 1) % count], members[place - 1]
    parts = torch.tensor_split(vector, count)
    for turn in range(2 * (count - 1)):
        reducing = turn < count - 1
        shift = 0 if reducing else 1  # after the reduction a member holds the sum of the part behind its own
        outgoing = parts[(place - turn % (count - 1) + shift) % count]
        incoming = parts[(place - turn % (count - 1) + shift - 1) % count]
        arrived = torch.empty_like(incoming) if reducing else incoming
        # A vector shorter than the ring has empty parts; both sides know and pass nothing.
        pending = transport.receive(arrived, preceding, _RING + turn, "sum") if incoming.numel() else None
        if outgoing.numel():
            transport.send(outgoing.clone(), following, _RING + turn, "sum")
        if pending is not None:
            pending.wait()
            if reducing:
                incoming += arrived


def _gather(vector: Tensor, device: str, members: Sequence[str], leader: str, transport: Transport, tag: int) -> None:
    """The leader's vector becomes the sum over members, added in member order."""
    if device != leader:
        transport.send(vector.clone(), leader, tag, "sum")
        return
    arriving = {member: torch.empty_like(vector) for member in members if member != leader}
    for pending in [transport.receive(into, member, tag, "sum") for member, into in arriving.items()]:
        pending.wait()
    own = vector.clone()
    vector.zero_()
    for member in members:
        vector += arriving.get(member, own)


def _spread(vector: Tensor, device: str, members: Sequence[str], leader: str, transport: Transport, tag: int) -> None:
    """Every member's vector becomes the leader's."""
    if device != leader:
        transport.receive(vector, leader, tag, "sum").wait()
        return
    for member in members:
        if member != leader:
            transport.send(vector.clone(), member, tag, "sum")


def flattened(tensors: Sequence[Tensor]) -> Tensor:
    """All elements in one vector, on the processor."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors]).cpu() if tensors else torch.empty(0)


def scatter_back(vector: Tensor, tensors: Sequence[Tensor]) -> None:
    """The reverse of :func:`flattened`, into the tensors."""
    for tensor, part in zip(tensors, torch.split(vector, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
