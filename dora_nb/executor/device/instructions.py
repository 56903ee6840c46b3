"""A plan as one list of instructions per device.

Compiled from the plan alone: no network, no model, no clock. Replicas of neighbouring stages take sample intervals
that overlap partly (5 | 3 against 2 | 6), so a hand-over of a micro-batch is several pieces, each between one sender
and one receiver. Devices that hold shards of a stage each get all that enters it; one of them sends what leaves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dora_nb.domain.plan import Plan
from dora_nb.domain.transfer import HOSTED
from dora_nb.errors import InputError

#: Hand-overs, in the order of their tags.
_KINDS = ("activation", "gradient", "token")


@dataclass(frozen=True)
class Piece:
    """Samples [start, stop) of a micro-batch that pass between this device and a peer."""

    peer: str
    start: int
    stop: int


@dataclass(frozen=True)
class HandOver:
    """A device's pieces of one hand-over, named as :class:`~dora_nb.domain.transfer.Transfer` names it.

    Attributes
    ----------
    kind
        ``activation`` leaves ``stage`` for the next one; ``gradient`` comes back to ``stage`` from the next one;
        ``token`` leaves ``stage`` for the next one, or the last one for the first, with a token of every sample.
    stage, micro_batch
        Which one; stage :data:`~dora_nb.domain.transfer.HOSTED` for a hosted first layer. Of a ``token``, the step.
    pieces
        What passes, by peer.
    """

    kind: Literal["activation", "gradient", "token"]
    stage: int
    micro_batch: int
    pieces: tuple[Piece, ...]

    @property
    def tag(self) -> int:
        """A number no other hand-over of the iteration between the same two devices has."""
        # The stage is part of it because two stages can share two boundaries: the one between them, and the one
        # behind a hosted first layer. No plan has 1024 stages.
        return (self.micro_batch * 3 + _KINDS.index(self.kind)) * 1024 + self.stage - HOSTED


@dataclass(frozen=True)
class Recv(HandOver):
    """Wait for the pieces and put them together."""


@dataclass(frozen=True)
class Send(HandOver):
    """Hand the pieces over; does not wait until they arrived."""


@dataclass(frozen=True)
class Forward:
    """Run a micro-batch forward through a stage, or through the hosted first layer."""

    stage: int
    micro_batch: int


@dataclass(frozen=True)
class Arrive:
    """Wait until a micro-batch has arrived.

    Attributes
    ----------
    stage, micro_batch
        Which one, and the stage that needs it.
    moment_s
        Seconds after the first one.
    """

    stage: int
    micro_batch: int
    moment_s: float


@dataclass(frozen=True)
class Backward:
    """Run a micro-batch backward, or a part of the way; gradients of parameters add up over micro-batches.

    Attributes
    ----------
    stage, micro_batch
        As for :class:`Forward`.
    part
        Of the last micro-batch of a stage that sums in buckets: which one the part fills, from 1. 0: all of the way.
    """

    stage: int
    micro_batch: int
    part: int = 0


@dataclass(frozen=True)
class Decode:
    """Run the next token of every sample of a group through a stage.

    Attributes
    ----------
    stage
        Which one.
    micro_batch
        The round: of one group, how many tokens there are behind the first one; of G groups, every G-th round is a
        group's own.
    before
        The stage that hands over what enters; None: the tokens chosen by this one.
    """

    stage: int
    micro_batch: int
    before: int | None


@dataclass(frozen=True)
class AllReduce:
    """Begin to sum the gradients of a stage's replicas, tied parameters apart when another stage holds them too.

    The device goes on with its next instruction meanwhile. In a stage with shards, those of parameters that every
    device uses with its own heads only: few, if any.

    Attributes
    ----------
    stage
        Which one.
    members
        Its devices in replica order.
    algorithm, leader
        As in :class:`~dora_nb.domain.plan.AllReduce`.
    part
        Which bucket, from 1; 0: all gradients at once.
    """

    stage: int
    members: tuple[str, ...]
    algorithm: Literal["ring", "star"]
    leader: str
    part: int = 0


@dataclass(frozen=True)
class TiedSum:
    """Begin to sum the gradients of both copies of tied parameters: within each stage, between the leaders, and back.

    Attributes
    ----------
    stage
        This device's stage: the first or the last.
    members, leader
        This stage's devices and the one that speaks for them.
    partner
        The leader of the other stage.
    first
        Whether this stage's sum is the first summand, so that both leaders add in the same order.
    last
        Index of the last stage, by which the exchange is named.
    """

    stage: int
    members: tuple[str, ...]
    leader: str
    partner: str
    first: bool
    last: int


@dataclass(frozen=True)
class Step:
    """One optimizer step of all parameters on this device, when all its sums are over."""

    stage: int


Instruction = Arrive | Recv | Forward | Send | Backward | Decode | AllReduce | TiedSum | Step


def compile_plan(plan: Plan, *, trains: bool, decode_steps: int = 0) -> dict[str, tuple[Instruction, ...]]:
    """The instructions of every participating device for one iteration, or one batch.

    Every stage computes in the order of :func:`~dora_nb.domain.plan.compute_order`. A bucket of gradients is summed as
    soon as the last backward pass has filled it, and all that is not summed in buckets when the device has no pass
    left; then it steps.

    Parameters
    ----------
    plan
        What to compile.
    trains
        Whether there are backward passes, sums and a step.
    decode_steps
        Tokens that are generated behind the one that the prompt's passes give.

    Returns
    -------
    instructions by device id

    Raises
    ------
    InputError
        If replicas are to train without a way to sum their gradients, or the in-flight counts make the stages wait
        for each other forever.
    """
    programs: dict[str, tuple[Instruction, ...]] = {}
    for index, stage in enumerate(plan.stages):
        if trains and len(stage.replicas) > 1 and stage.all_reduce is None and not stage.shards:
            raise InputError(f"stages[{index}].all_reduce", None, "an algorithm, since several replicas train")
        for device, interval in zip(stage.devices, stage.intervals, strict=True):
            instructions = _passes(plan, index, interval, trains)
            if trains:
                instructions += [*_sums(plan, index), Step(index)]
            instructions += _tokens(plan, index, interval, decode_steps)
            speaks = device in stage.senders
            programs[device] = tuple(each for each in instructions if speaks or not isinstance(each, Send))
    return programs


def _passes(plan: Plan, index: int, interval: tuple[int, int], trains: bool) -> list[Instruction]:
    program: list[Instruction] = []
    for phase, stage, micro_batch in plan.compute_order(index, trains):
        before, after = _before(plan, stage), _after(plan, stage)
        if phase == "forward":
            if before is not None:
                program.append(Recv("activation", before, micro_batch, _pieces(plan, before, interval, coming=True)))
            program.append(Forward(stage, micro_batch))
            if after is not None:
                program.append(Send("activation", stage, micro_batch, _pieces(plan, after, interval)))
        else:
            if after is not None:
                program.append(Recv("gradient", stage, micro_batch, _pieces(plan, after, interval, coming=True)))
            program += _backward(plan, stage, micro_batch)
            if before is not None:
                program.append(Send("gradient", before, micro_batch, _pieces(plan, before, interval)))
    return program


def _backward(plan: Plan, stage: int, micro_batch: int) -> list[Instruction]:
    """A backward pass, with a sum behind each part of it that fills a bucket of gradients."""
    is_last = stage != HOSTED and micro_batch == plan.micro_batches - 1
    buckets = plan.stages[stage].buckets if is_last else 0
    if buckets < 2:
        return [Backward(stage, micro_batch)]
    parts = range(1, buckets + 1)
    return [each for part in parts for each in (Backward(stage, micro_batch, part), _all_reduce(plan, stage, part))]


def _all_reduce(plan: Plan, index: int, part: int = 0) -> AllReduce:
    stage = plan.stages[index]
    assert stage.all_reduce is not None, "replicas that train sum their gradients"
    return AllReduce(index, stage.devices, stage.all_reduce.algorithm, stage.all_reduce.leader, part)


def _tokens(plan: Plan, index: int, interval: tuple[int, int], steps: int) -> list[Instruction]:
    """What follows the prompt: the tokens chosen go back to the first stage, every stage computes and hands on.

    Groups take turns: their first steps, then their second ones.
    """
    count, rounds = len(plan.stages), range(plan.token_groups * steps)
    before, after = (index - 1) % count, (index + 1) % count
    hand_over = [Send("token", index, number, _pieces(plan, after, interval)) for number in rounds]
    if count == 1:  # what is chosen here is used here
        return [Decode(index, number, None) for number in rounds]
    ahead = plan.token_groups if index == count - 1 else 0  # what is chosen at the end is the next step's
    program: list[Instruction] = [*hand_over[:ahead]]
    for number in rounds:
        program.append(Recv("token", before, number, _pieces(plan, before, interval, coming=True)))
        program.append(Decode(index, number, before))
        program.extend(hand_over[number + ahead : number + ahead + 1])
    return program


def _before(plan: Plan, stage: int) -> int | None:
    """The stage that hands its output to ``stage``."""
    first = HOSTED if plan.tied == "hosted" else 0
    return stage - 1 if stage > first else None


def _after(plan: Plan, stage: int) -> int | None:
    """The stage that ``stage`` hands its output to."""
    return stage + 1 if stage < len(plan.stages) - 1 else None


def _pieces(plan: Plan, peer_stage: int, interval: tuple[int, int], *, coming: bool = False) -> tuple[Piece, ...]:
    """Parts of a sample interval by the device of another stage that takes them, or that sends those that come."""
    peers = plan.stages[peer_stage]  # HOSTED is -1: the last stage's devices
    start, stop = interval
    return tuple(
        Piece(device, max(start, low), min(stop, high))
        for device, (low, high) in zip(peers.devices, peers.intervals, strict=True)
        if max(start, low) < min(stop, high) and (not coming or device in peers.senders)
    )


def _sums(plan: Plan, index: int) -> list[Instruction]:
    """What is summed when a device has no pass left."""
    stage, last = plan.stages[index], len(plan.stages) - 1
    sums: list[Instruction] = []
    if stage.shard_sum is not None:
        sums.append(AllReduce(index, stage.devices, stage.shard_sum, stage.leader))
    if stage.buckets == 1:
        sums.append(_all_reduce(plan, index))
    if plan.tied == "synchronised" and index in (0, last):
        partner = plan.stages[last if index == 0 else 0].leader
        sums.append(TiedSum(index, stage.devices, stage.leader, partner, first=index == 0, last=last))
    return sums
