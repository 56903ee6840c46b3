"""How what a device produces gets to its peers, and what they produce to it, while the device computes.

Two ways, for the same instructions. *As ready*: everything leaves as soon as it exists and its receiver waits for it.
*In order*: everything leaves when the plan says that it is its turn on the medium
(:mod:`~dora_nb.executor.device.turns`), in the parts the plan schedules and in small chunks on the wire.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dora_nb.domain.plan import MOST_CHUNKS
from dora_nb.errors import ExecutionError
from dora_nb.executor.device.instructions import HandOver, Instruction, Piece, Recv, Send
from dora_nb.executor.device.transport import Pending, Transport
from dora_nb.executor.device.turns import SUMS_IN_PASSES, Schedule, TransferKey, Turns

#: Receives posted ahead of the one that is waited for: the next tensor moves while this one is used.
POSTED = 2

#: Bytes of a chunk on the wire. A large tensor in one piece would keep a small one behind it waiting.
CHUNK_BYTES = 256 * 1024

#: Names a hand-over: kind, stage, micro-batch.
HandOverKey = tuple[str, int, int]

#: Makes the tensor that a hand-over is received into: this device's samples.
Empty = Callable[[Recv], Tensor]


class Courier(Protocol):
    """Moves tensors between devices during one iteration."""

    def send(self, hand_over: Send, tensor: Tensor) -> None:
        """Hand a tensor of this device's samples over; returns at once."""

    def receive(self, hand_over: Recv) -> Tensor:
        """Wait for this device's samples of a hand-over."""

    def turn(self, transfer: TransferKey) -> contextlib.AbstractContextManager[None]:
        """What a sum of gradients waits for before it uses the network, and lets go of behind it."""

    def summed(self, transfer: TransferKey) -> None:
        """The sums inside a pass are over here."""

    def end(self) -> None:
        """Wait until everything has left."""

    def give_up(self) -> None:
        """Stop whatever goes on beside the iteration, which failed."""


class AsReady:
    """Sends at once; receives are posted in the order in which they are used.

    Parameters
    ----------
    program
        This device's instructions.
    interval
        Samples of a micro-batch that it takes.
    empty
        Makes receive buffers.
    transport
        How it reaches its peers.
    """

    def __init__(
        self, program: Sequence[Instruction], interval: tuple[int, int], empty: Empty, transport: Transport
    ) -> None:
        self._low, self._empty, self._transport = interval[0], empty, transport
        self._arrivals: dict[HandOverKey, tuple[Tensor, list[Pending]]] = {}
        self._following = iter([each for each in program if isinstance(each, Recv)])
        for _ in range(POSTED):
            self._post_next()

    def send(self, hand_over: Send, tensor: Tensor) -> None:
        """See :class:`Courier`."""
        for piece in hand_over.pieces:
            self._transport.send(_samples_of(piece, tensor, self._low), piece.peer, hand_over.tag, "hand-over")

    def receive(self, hand_over: Recv) -> Tensor:
        """See :class:`Courier`."""
        buffer, pending = self._arrivals.pop(key_of(hand_over))
        for each in pending:
            each.wait()
        self._post_next()
        return buffer

    def turn(self, transfer: TransferKey) -> contextlib.AbstractContextManager[None]:
        """See :class:`Courier`; nobody takes turns."""
        del transfer
        return contextlib.nullcontext()

    def summed(self, transfer: TransferKey) -> None:
        """See :class:`Courier`; nobody waits for it."""

    def end(self) -> None:
        """See :class:`Courier`."""
        self._transport.flush()

    def give_up(self) -> None:
        """See :class:`Courier`; nothing goes on."""

    def _post_next(self) -> None:
        receive = next(self._following, None)
        if receive is None:
            return
        buffer = self._empty(receive)
        pending = [
            self._transport.receive(_samples_of(piece, buffer, self._low), piece.peer, receive.tag, "hand-over")
            for piece in receive.pieces
        ]
        self._arrivals[key_of(receive)] = (buffer, pending)


class PromptFirst:
    """One courier for the prompt, and behind it tokens as ready: they follow each other, so no order is left open.

    Parameters
    ----------
    prompt
        Moves what the prompt's passes hand over.
    tokens
        Makes the courier of the tokens, which begins when the other one has nothing left to receive.
    """

    def __init__(self, prompt: Courier, tokens: Callable[[], Courier]) -> None:
        self._prompt, self._make_tokens = prompt, tokens
        self._tokens: Courier | None = None

    def send(self, hand_over: Send, tensor: Tensor) -> None:
        """See :class:`Courier`."""
        self._of(hand_over).send(hand_over, tensor)

    def receive(self, hand_over: Recv) -> Tensor:
        """See :class:`Courier`."""
        return self._of(hand_over).receive(hand_over)

    def turn(self, transfer: TransferKey) -> contextlib.AbstractContextManager[None]:
        """See :class:`Courier`."""
        return self._prompt.turn(transfer)

    def summed(self, transfer: TransferKey) -> None:
        """See :class:`Courier`."""
        self._prompt.summed(transfer)

    def end(self) -> None:
        """See :class:`Courier`."""
        self._prompt.end()

    def give_up(self) -> None:
        """See :class:`Courier`."""
        self._prompt.give_up()

    def _of(self, hand_over: HandOver) -> Courier:
        if hand_over.kind != "token":
            return self._prompt
        if self._tokens is None:
            self._tokens = self._make_tokens()
        return self._tokens


class _Wire(NamedTuple):
    """A chunk that passes between this device and a peer."""

    transfer: TransferKey
    chunk: Tensor
    peer: str
    tag: int


class InOrder:
    """Sends and receives in the plan's order, from threads of its own.

    Parameters
    ----------
    program, interval, empty, transport
        As for :class:`AsReady`.
    schedule
        This device's part in the plan's order.
    device
        Its id.
    parts
        In how many parts activations and gradients travel.
    """

    def __init__(
        self,
        program: Sequence[Instruction],
        interval: tuple[int, int],
        empty: Empty,
        transport: Transport,
        schedule: Schedule,
        device: str,
        parts: int,
    ) -> None:
        self._low, self._empty, self._transport, self._parts = interval[0], empty, transport, parts
        self._schedule = schedule
        self._hand_overs = {key_of(each): each for each in program if isinstance(each, HandOver)}
        self._turns = Turns(schedule, device, transport)
        lock = threading.Lock()
        # Two, so that nobody wakes up for what it does not wait for.
        self._given, self._over = threading.Condition(lock), threading.Condition(lock)
        self._produced: dict[HandOverKey, Tensor] = {}
        self._summed: set[TransferKey] = set()
        self._arrived: dict[HandOverKey, Tensor] = {}
        self._left_to_arrive = {key_of(each): parts for each in program if isinstance(each, Recv)}
        self._problem: BaseException | None = None
        works = [self._send_all] * bool(schedule.sends) + [self._receive_all] * bool(schedule.receives)
        self._under_way = len(works)
        for work in works:
            threading.Thread(target=self._guarded, args=(work,), daemon=True).start()

    def send(self, hand_over: Send, tensor: Tensor) -> None:
        """See :class:`Courier`."""
        with self._given:
            self._produced[key_of(hand_over)] = tensor
            self._given.notify()

    def receive(self, hand_over: Recv) -> Tensor:
        """See :class:`Courier`."""
        key = key_of(hand_over)
        self._wait(self._over, lambda: self._left_to_arrive[key] == 0)
        return self._arrived.pop(key)

    @contextlib.contextmanager
    def turn(self, transfer: TransferKey) -> Iterator[None]:
        """See :class:`Courier`."""
        self._turns.take(transfer)
        yield
        self._turns.pass_on(transfer)

    def summed(self, transfer: TransferKey) -> None:
        """See :class:`Courier`.

        Sums get onto the medium between other transfers as they come, since layers and sums take turns. The turn of
        their transfer comes and goes behind the pass, for those that stand behind it in the plan's order.
        """
        with self._given:
            self._summed.add(transfer)
            self._given.notify()

    def end(self) -> None:
        """See :class:`Courier`."""
        self._wait(self._over, lambda: self._under_way == 0)
        self._transport.flush()

    def give_up(self) -> None:
        """See :class:`Courier`."""
        self._fail(ExecutionError("the iteration was given up"))

    def _wait(self, changed: threading.Condition, ready: Callable[[], bool]) -> None:
        with changed:
            changed.wait_for(lambda: ready() or self._problem is not None)
        if self._problem is not None:
            raise self._problem

    def _fail(self, problem: BaseException) -> None:
        """Wake everybody that waits here."""
        with self._over:
            self._problem = self._problem or problem
            self._given.notify_all()
            self._over.notify_all()
        self._turns.give_up()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as problem:
            self._fail(problem)
        with self._over:
            self._under_way -= 1
            self._over.notify_all()

    def _send_all(self) -> None:
        left: dict[HandOverKey, int] = {}  # parts still to send
        for key in self._schedule.sends:
            name = key[:3]
            if key.kind in SUMS_IN_PASSES:
                self._wait(self._given, lambda key=key: key in self._summed)  # type: ignore[misc]  # bound per turn
                self._turns.take(key)
                self._turns.pass_on(key)
                continue
            self._wait(self._given, lambda name=name: name in self._produced)  # type: ignore[misc]  # bound per turn
            self._turns.take(key)
            for wire in self._wires(key, self._produced[name]):
                self._transport.send(wire.chunk, wire.peer, wire.tag, "hand-over", in_turn=True)
            self._turns.pass_on(key)
            left[name] = left.get(name, self._parts) - 1
            if not left[name]:
                del self._produced[name]

    def _receive_all(self) -> None:
        """Keep a few chunks posted, in the order in which they are sent."""
        posted: deque[tuple[_Wire, bool, Pending]] = deque()
        for wire, is_last in self._expected():
            posted.append((wire, is_last, self._transport.receive(wire.chunk, wire.peer, wire.tag, "hand-over")))
            if len(posted) > POSTED:
                self._finish(*posted.popleft())
        for each in posted:
            self._finish(*each)

    def _finish(self, wire: _Wire, is_last: bool, pending: Pending) -> None:
        pending.wait()
        if not is_last:
            return
        self._turns.pass_on(wire.transfer)
        with self._over:
            self._left_to_arrive[wire.transfer[:3]] -= 1
            self._over.notify_all()

    def _expected(self) -> Iterator[tuple[_Wire, bool]]:
        """Every chunk that is to arrive, and whether it is the last one of its transfer."""
        for key in self._schedule.receives:
            name = key[:3]
            hand_over = self._hand_overs[name]
            assert isinstance(hand_over, Recv), "what arrives here is received here"
            if name not in self._arrived:
                self._arrived[name] = self._empty(hand_over)
            wires = list(self._wires(key, self._arrived[name]))
            for wire in wires:
                yield wire, wire is wires[-1]

    def _wires(self, key: TransferKey, tensor: Tensor) -> Iterable[_Wire]:
        """The chunks of one part of a hand-over, by peer."""
        hand_over = self._hand_overs[key[:3]]
        for piece in hand_over.pieces:
            flat = _samples_of(piece, tensor, self._low).reshape(-1)
            part = flat.tensor_split(self._parts)[key.part - 1] if key.part else flat
            for chunk in torch.split(part, max(1, CHUNK_BYTES // flat.element_size())):
                yield _Wire(key, chunk, piece.peer, hand_over.tag * (MOST_CHUNKS + 1) + key.part)


def _samples_of(piece: Piece, tensor: Tensor, low: int) -> Tensor:
    """The samples of a piece, in a tensor of a device's samples, which begin at ``low``."""
    return tensor[piece.start - low : piece.stop - low]


def key_of(hand_over: HandOver) -> HandOverKey:
    """The name of a hand-over."""
    return (hand_over.kind, hand_over.stage, hand_over.micro_batch)
