"""Whose turn it is on the network: the plan's order of transfers, kept by passing a turn from device to device.

Receivers alone cannot order what disjoint pairs send on one medium, so the right to send is handed on: a transfer
begins when every transfer before it in the plan's order that holds one of its media has arrived, and those who received
that one say so to those who are to send. No device decides for others, and nothing is asked of a coordinator; a turn
takes one small message. Our own design.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from dora_nb.costs.evaluate import transfer_holds
from dora_nb.costs.network import Network
from dora_nb.costs.operations import Operation, OperationClass
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan, Stage, Transfer
from dora_nb.domain.workload import Workload
from dora_nb.errors import ExecutionError

if TYPE_CHECKING:  # plans are compiled without torch
    from dora_nb.executor.transport import Pending, Transport


class TransferKey(NamedTuple):
    """Names a transfer of an iteration; see :class:`~dora_nb.domain.plan.Transfer`."""

    kind: str
    stage: int
    micro_batch: int
    part: int = 0


class Handing(NamedTuple):
    """One turn passed between this device and a peer, under a tag that no other one has."""

    peer: str
    tag: int


@dataclass
class Schedule:
    """A device's part in the order of transfers.

    Attributes
    ----------
    sends, receives
        Its hand-overs in the plan's order: what it sends, and what arrives.
    takes
        Before a transfer may begin here: turns that must have come.
    gives
        When a transfer has arrived here: turns to pass on.
    """

    sends: list[TransferKey] = field(default_factory=list)
    receives: list[TransferKey] = field(default_factory=list)
    takes: dict[TransferKey, list[Handing]] = field(default_factory=lambda: defaultdict(list))
    gives: dict[TransferKey, list[Handing]] = field(default_factory=lambda: defaultdict(list))


def schedules_of(plan: Plan, workload: Workload, cluster: Cluster, *, trains: bool) -> dict[str, Schedule]:
    """Each device's part in the plan's order of transfers.

    Parameters
    ----------
    plan
        With a transfer order, of hand-overs and sums between its devices only.
    workload
        What it is for.
    cluster
        Whose network says which transfers share a medium.
    trains
        Whether the iteration trains; if not, activations alone travel.

    Returns
    -------
    schedule by device id
    """
    holds = dict(transfer_holds(plan, workload, Network.of(cluster)))
    schedules = {device: Schedule() for device in plan.devices}
    last_on: dict[str, int] = {}
    order = [each for each in plan.transfer_order if trains or each.kind == "activation"]
    order = [each for each in order if holds[_class(each)].seconds]
    ends = [_ends(plan, each) for each in order]
    for number, transfer in enumerate(order):
        key = TransferKey(transfer.kind, transfer.stage, transfer.micro_batch, transfer.part)
        starters, finishers = ends[number]
        if transfer.kind in ("activation", "gradient"):
            for device in starters:
                schedules[device].sends.append(key)
            for device in finishers:
                schedules[device].receives.append(key)
        resources = holds[_class(transfer)].seconds
        for before in sorted({last_on[name] for name in resources if name in last_on}):
            earlier = order[before]
            ended = TransferKey(earlier.kind, earlier.stage, earlier.micro_batch, earlier.part)
            tag = before * len(order) + number
            for giver in ends[before][1]:
                for taker in starters:
                    schedules[giver].gives[ended].append(Handing(taker, tag))
                    schedules[taker].takes[key].append(Handing(giver, tag))
        last_on |= dict.fromkeys(resources, number)
    return schedules


def _class(transfer: Transfer) -> OperationClass:
    return Operation(transfer.kind, transfer.stage, transfer.micro_batch, transfer.part).cls


def _ends(plan: Plan, transfer: Transfer) -> tuple[Sequence[str], Sequence[str]]:
    """Devices that begin a transfer, and devices with which it is over."""
    own = plan.stages[transfer.stage]  # a hosted first layer is stage -1: the last stage's devices, before stage 0
    match transfer.kind:
        case "activation":
            return own.devices, plan.stages[transfer.stage + 1].devices
        case "gradient":
            return plan.stages[transfer.stage + 1].devices, own.devices
        case "tied-reduce":
            return _others(own), (own.leader,)
        case "tied-broadcast":
            return (own.leader,), _others(own)
        case "tied-exchange":
            leaders = (plan.stages[0].leader, plan.stages[-1].leader)
            return leaders, leaders
    return own.devices, own.devices


def _others(stage: Stage) -> tuple[str, ...]:
    return tuple(device for device in stage.devices if device != stage.leader)


class Turns:
    """Takes turns and passes them on, for one device and one iteration.

    Parameters
    ----------
    schedule
        The device's.
    device
        Its id.
    transport
        How turns travel.
    """

    def __init__(self, schedule: Schedule, device: str, transport: Transport) -> None:
        import torch

        self._schedule, self._device, self._transport = schedule, device, transport
        self._word = torch.zeros(1, dtype=torch.uint8)
        self._given_up = False
        self._own = {tag: threading.Event() for peer, tag in _handings(schedule.takes) if peer == device}
        # All at once: a turn that nobody waits for yet would stay with its giver.
        self._coming: dict[Handing, Pending] = {
            handing: transport.receive(torch.empty(1, dtype=torch.uint8), handing.peer, handing.tag, "turn")
            for handing in _handings(schedule.takes)
            if handing.peer != device
        }

    def take(self, transfer: TransferKey) -> None:
        """Wait until a transfer may begin here.

        Raises
        ------
        ExecutionError
            If everybody gave up meanwhile.
        """
        for handing in self._schedule.takes.get(transfer, ()):
            if handing.peer == self._device:
                self._own[handing.tag].wait()
            else:
                self._coming.pop(handing).wait()
        if self._given_up:
            raise ExecutionError("the iteration was given up")

    def pass_on(self, transfer: TransferKey) -> None:
        """Say that a transfer has arrived here."""
        for handing in self._schedule.gives.get(transfer, ()):
            if handing.peer == self._device:
                self._own[handing.tag].set()
            else:
                self._transport.send(self._word, handing.peer, handing.tag, "turn")

    def give_up(self) -> None:
        """Wake whoever waits for a turn of this device's own."""
        self._given_up = True
        for event in self._own.values():
            event.set()


def _handings(turns: Mapping[TransferKey, Sequence[Handing]]) -> Iterator[Handing]:
    return (handing for each in turns.values() for handing in each)
