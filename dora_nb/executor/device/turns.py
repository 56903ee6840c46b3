"""Whose turn it is on the network: the plan's order of transfers, kept by passing a turn from device to device.

Receivers alone cannot order what disjoint pairs send on one medium, so the right to send is handed on: a transfer
begins when the turn has come from every transfer before it in the plan's order that holds one of its media. No device
decides for others, and nothing is asked of a coordinator; a turn takes one small message. Our own design.

Who passes it on: on a network as it is, those who received the transfer, since a sender does not learn when the medium
has carried it. On an imitated one the sender knows which stretch of the medium's time is its transfer's, and passes
the turn on as soon as it has that: the message is on its way while the medium is still busy.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from dora_nb.costs.network import Network
from dora_nb.costs.operations import Operation
from dora_nb.costs.transfers import transfer_holds
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan, Stage
from dora_nb.domain.transfer import Transfer
from dora_nb.domain.workload import Workload
from dora_nb.errors import ExecutionError

if TYPE_CHECKING:  # plans are compiled without torch
    from dora_nb.executor.device.transport import Pending, Transport


#: Who passes the turn of a hand-over on: its senders, once it has its place on the medium, or its receivers, once it
#: has arrived. Sums take messages to and fro: whoever they are over with passes theirs on.
PassedBy = Literal["sender", "receiver"]

#: Kinds of transfers from one stage to another.
_HAND_OVERS = ("activation", "gradient")

#: Sums inside passes of a stage with shards that have a place in the order.
SUMS_IN_PASSES = ("shard-sum", "shard-gradient-sum")

#: Kinds of transfers without training.
_FORWARD = ("activation", "shard-sum")


class TransferKey(NamedTuple):
    """Names a transfer of an iteration; see :class:`~dora_nb.domain.transfer.Transfer`."""

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
        Its hand-overs in the plan's order: what it sends, sums inside its passes included, and what arrives.
    takes
        Before a transfer may begin here: turns that must have come.
    gives
        When a transfer has its place on the medium, or has arrived here: turns to pass on.
    """

    sends: list[TransferKey] = field(default_factory=list)
    receives: list[TransferKey] = field(default_factory=list)
    takes: dict[TransferKey, list[Handing]] = field(default_factory=lambda: defaultdict(list))
    gives: dict[TransferKey, list[Handing]] = field(default_factory=lambda: defaultdict(list))


class Passing(NamedTuple):
    """A turn that goes on from one transfer of an order to a later one.

    Attributes
    ----------
    before, after
        The two.
    givers, takers
        The devices that pass it on, and those that begin the later one: every giver tells every taker.
    on_arrival
        Whether it goes on when the earlier one is over, or when that has its place on the medium.
    """

    before: TransferKey
    after: TransferKey
    givers: Sequence[str]
    takers: Sequence[str]
    on_arrival: bool


def passings_of(
    plan: Plan, workload: Workload, cluster: Cluster, *, trains: bool, passed_by: PassedBy
) -> list[Passing]:
    """Every turn that is passed on in an iteration of a plan.

    Parameters
    ----------
    plan, workload, cluster, trains, passed_by
        As for :func:`schedules_of`.
    """
    last_on: dict[str, Transfer] = {}
    passings = []
    for transfer, resources in _ordered(plan, workload, cluster, trains=trains):
        for earlier in dict.fromkeys(last_on[name] for name in resources if name in last_on):
            early = passed_by == "sender" and earlier.kind in _HAND_OVERS
            starters, finishers = _ends(plan, earlier)
            passings.append(
                Passing(
                    before=_key(earlier),
                    after=_key(transfer),
                    givers=starters if early else finishers,
                    takers=_ends(plan, transfer)[0],
                    on_arrival=not early,
                )
            )
        last_on |= dict.fromkeys(resources, transfer)
    return passings


def schedules_of(
    plan: Plan, workload: Workload, cluster: Cluster, *, trains: bool, passed_by: PassedBy
) -> dict[str, Schedule]:
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
        Whether the iteration trains; if not, activations alone travel, and what is summed inside forward passes.
    passed_by
        Who passes the turn of a hand-over on.

    Returns
    -------
    schedule by device id
    """
    schedules = {device: Schedule() for device in plan.devices}
    for transfer, _ in _ordered(plan, workload, cluster, trains=trains):
        starters, finishers = _ends(plan, transfer)
        if transfer.kind in _HAND_OVERS or transfer.kind in SUMS_IN_PASSES:
            for device in starters:
                schedules[device].sends.append(_key(transfer))
        if transfer.kind in _HAND_OVERS:
            for device in finishers:
                schedules[device].receives.append(_key(transfer))
    passings = passings_of(plan, workload, cluster, trains=trains, passed_by=passed_by)
    for tag, passing in enumerate(passings):
        for giver in passing.givers:
            for taker in passing.takers:
                schedules[giver].gives[passing.before].append(Handing(taker, tag))
                schedules[taker].takes[passing.after].append(Handing(giver, tag))
    return schedules


def _ordered(
    plan: Plan, workload: Workload, cluster: Cluster, *, trains: bool
) -> Iterator[tuple[Transfer, Iterable[str]]]:
    """The transfers that take turns, in the plan's order, with what they hold."""
    holds = dict(transfer_holds(plan, workload, Network.of(cluster)))
    for transfer in plan.transfer_order:
        if trains or transfer.kind in _FORWARD:
            operation = Operation(transfer.kind, transfer.stage, transfer.micro_batch, transfer.part)
            resources = holds[operation.cls].seconds
            if resources:
                yield transfer, resources


def _key(transfer: Transfer) -> TransferKey:
    return TransferKey(transfer.kind, transfer.stage, transfer.micro_batch, transfer.part)


def _ends(plan: Plan, transfer: Transfer) -> tuple[Sequence[str], Sequence[str]]:
    """Devices that begin a transfer, and devices with which it is over."""
    own = plan.stages[transfer.stage]  # a hosted first layer is stage -1: the last stage's devices, before stage 0
    match transfer.kind:
        case "activation":
            return own.senders, plan.stages[transfer.stage + 1].devices
        case "gradient":
            return plan.stages[transfer.stage + 1].senders, own.devices
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
        """Let those begin that wait for a transfer, which has its place on the medium or has arrived here."""
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
