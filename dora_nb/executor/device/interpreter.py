"""Carries out a device's instructions over a transport, and notes when."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from dora_nb.domain.run_timeline import EventKind
from dora_nb.errors import ExecutionError
from dora_nb.executor.device.courier import Courier, HandOverKey, key_of
from dora_nb.executor.device.instructions import (
    AllReduce,
    Arrive,
    Backward,
    Decode,
    Forward,
    Instruction,
    Recv,
    Send,
    Step,
    TiedSum,
)
from dora_nb.executor.device.replica import Replica
from dora_nb.executor.device.summing import Summing
from dora_nb.executor.device.sums import all_reduce, flattened, scatter_back, sum_over, tied_sum
from dora_nb.executor.device.transport import Transport
from dora_nb.executor.device.turns import TransferKey
from dora_nb.executor.tasks.task import MicroBatch

#: An emulated computation counts as late when it ends this much after its target; sleeping is no more exact.
LATE_S = 2e-3

#: What a device is done with before it goes on.
_AtOnce = Arrive | Recv | Forward | Send | Backward | Decode | Step

#: What the sums inside a pass are called.
_SUMS_OF: Mapping[str, EventKind] = {
    "forward": "shard-sum",
    "backward": "shard-gradient-sum",
    "decode": "shard-token-sum",
}


class Event(NamedTuple):
    """One instruction carried out, or the sums inside a pass; times of ``time.perf_counter``."""

    kind: EventKind
    stage: int
    micro_batch: int
    start_s: float
    end_s: float
    part: int = 0


class Iteration(NamedTuple):
    """One pass over a program, or the part of it that is done.

    Attributes
    ----------
    start_s, end_s
        Times of ``time.perf_counter``: the moment all devices start from, and when this one had nothing left to do.
    loss
        This device's part of the loss.
    late
        Computations that outlasted their target.
    events
        Every instruction. Sums of gradients went on beside others, and are told when the step waits for them. A pass of
        a stage with shards lasts as long as it computed, and its sums follow it as one event, though in fact they took
        turns.
    """

    start_s: float
    end_s: float
    loss: float
    late: int
    events: tuple[Event, ...]


class Interpreter:
    """Runs one device's programs.

    Parameters
    ----------
    device
        Its id.
    replica
        What it computes.
    transport
        How it reaches its peers.
    courier_of
        Makes what moves tensors during one iteration of a program.
    targets_s
        Seconds a computation is to last, by ("forward" | "backward" | "decode" | "step", stage, part); what is missing,
        lasts as long as it does.
    given_up
        Set, from another thread, when no further instruction is to be carried out.
    """

    def __init__(
        self,
        device: str,
        replica: Replica,
        transport: Transport,
        courier_of: Callable[[Sequence[Instruction]], Courier],
        targets_s: Mapping[tuple[str, int, int], float],
        given_up: threading.Event | None = None,
    ) -> None:
        self._device = device
        self._replica = replica
        self._transport = transport
        self._courier_of = courier_of
        self._targets_s = targets_s
        self._given_up = given_up or threading.Event()
        self._late = 0
        self._events: list[Event] = []
        self._start_s: float | None = None
        self._free_s = self._arriving_from_s = 0.0
        self._target_s: float | None = None  # of the pass under way
        self._summing_s = 0.0  # in it, so far
        self._sent: set[HandOverKey] = set()
        self._received: dict[HandOverKey, Tensor] = {}
        self._produced: dict[HandOverKey, Tensor] = {}

    def run(
        self,
        program: Sequence[Instruction],
        data: Sequence[MicroBatch],
        *,
        arriving_from_s: float | None = None,
        on_event: Callable[[Event], None] = lambda _: None,
    ) -> Iteration:
        """Carry out a program once.

        Parameters
        ----------
        program
            Of this device.
        data
            Inputs and labels of every micro-batch.
        arriving_from_s
            The moment, of ``time.perf_counter``, from which arrivals count; None: the common start.
        on_event
            Called behind every instruction.

        Raises
        ------
        ExecutionError
            If it was given up.
        """
        trains = any(isinstance(instruction, Step) for instruction in program)
        self._replica.begin(trains=trains)
        self._late, self._events, self._start_s = 0, [], None
        self._sent = {key_of(each) for each in program if isinstance(each, Send)}
        if self._replica.shard is not None:
            self._replica.shard.sum_in_pass = self._sum_in_pass
        courier = self._courier_of(program)
        sums = Summing()
        try:
            start_s = self._transport.common_start()
            # A device is free from the common start on. Its process may wake later, when others hold the cores: that
            # is this machine's doing and not the emulated device's.
            self._start_s = self._free_s = start_s
            self._arriving_from_s = start_s if arriving_from_s is None else arriving_from_s
            for instruction in program:
                if self._given_up.is_set():  # who waits for no peer does not notice that the others have stopped
                    raise ExecutionError("the iteration was given up")
                if isinstance(instruction, AllReduce | TiedSum):
                    sums.begin(instruction, functools.partial(self._sum, instruction, courier))
                    continue
                if isinstance(instruction, Step):
                    self._wait_for(sums, on_event)
                began_s, self._summing_s = time.perf_counter(), 0.0
                kind = self._carry_out(instruction, data, courier)
                micro_batch, part = getattr(instruction, "micro_batch", 0), getattr(instruction, "part", 0)
                ended_s = time.perf_counter()
                summed_s = ended_s - self._summing_s
                if isinstance(instruction, Arrive):  # it is free then, though its process may wake later
                    self._free_s = max(self._free_s, self._arriving_from_s + instruction.moment_s)
                else:
                    self._free_s = ended_s
                own = [Event(kind, instruction.stage, micro_batch, began_s, summed_s, part)]
                if self._replica.shard is not None and kind in _SUMS_OF:
                    own.append(Event(_SUMS_OF[kind], instruction.stage, micro_batch, summed_s, ended_s))
                    courier.summed(TransferKey(own[-1].kind, instruction.stage, micro_batch))
                self._note(own, on_event)
            courier.end()
        except BaseException:
            courier.give_up()
            raise
        finally:
            sums.end()
        iteration = self.so_far()
        assert iteration is not None, "it began"
        return iteration

    def so_far(self) -> Iteration | None:
        """What is done of the last program, also if it was given up; None if it did not begin."""
        if self._start_s is None:
            return None
        end_s = self._events[-1].end_s if self._events else self._start_s
        return Iteration(self._start_s, end_s, self._replica.loss, self._late, tuple(self._events))

    def _note(self, events: Sequence[Event], on_event: Callable[[Event], None]) -> None:
        self._events += events
        for event in events:
            on_event(event)

    def _wait_for(self, sums: Summing, on_event: Callable[[Event], None]) -> None:
        """Wait until what was handed over is summed; the device is free from then on."""
        events = []
        for of, start_s, end_s in sums.wait():
            kind: EventKind = "all-reduce" if isinstance(of, AllReduce) else "tied-sum"
            events.append(Event(kind, of.stage, 0, start_s, end_s, getattr(of, "part", 0)))
        self._note(events, on_event)
        self._free_s = time.perf_counter()

    def _sum(self, instruction: AllReduce | TiedSum, courier: Courier) -> None:
        """Replace gradients by their sums; in a thread of the sums' own."""
        if isinstance(instruction, AllReduce):
            gradients = self._replica.own_gradients(instruction.part)
            vector = flattened(gradients)
            all_reduce(vector, self._device, instruction, self._transport, courier.turn)
        else:
            gradients = self._replica.shared_gradients()
            vector = flattened(gradients)
            tied_sum(vector, self._device, instruction, self._transport, courier.turn)
        scatter_back(vector, gradients)

    def _carry_out(self, instruction: _AtOnce, data: Sequence[MicroBatch], courier: Courier) -> EventKind:
        match instruction:
            case Arrive(moment_s=moment_s):
                if self._given_up.wait(max(0.0, self._arriving_from_s + moment_s - time.perf_counter())):
                    raise ExecutionError("the iteration was given up")
                return "arrive"
            case Recv():
                self._received[key_of(instruction)] = courier.receive(instruction)
                return "token-receive" if instruction.kind == "token" else "receive"
            case Send():
                courier.send(instruction, self._leaving(instruction))
                return "token-send" if instruction.kind == "token" else "send"
            case Forward(stage, micro_batch):
                self._lasting("forward", stage, lambda: self._forward(stage, micro_batch, data[micro_batch]))
                return "forward"
            case Backward(stage, micro_batch, part):
                self._lasting("backward", stage, lambda: self._backward(stage, micro_batch), part)
                return "backward"
            case Decode(stage):
                self._lasting("decode", stage, lambda: self._decode(instruction))
                return "decode"
            case Step(stage):
                self._lasting("step", stage, self._replica.step)
                return "step"

    def _lasting(self, kind: str, stage: int, compute: Callable[[], None], part: int = 0) -> None:
        """Compute, then sleep until the emulated device, which was free before, would have been done."""
        self._target_s = self._targets_s.get((kind, stage, part))
        compute()
        if self._target_s is not None:
            self._late += self._sleep_until(1.0) < -LATE_S

    def _sleep_until(self, share: float) -> float:
        """Sleep until the emulated device would have computed a share of the pass; gives the seconds that were left."""
        assert self._target_s is not None, "it has a target"
        computed_s = time.perf_counter() - self._free_s - self._summing_s
        left_s = share * self._target_s - computed_s
        if left_s > 0:
            time.sleep(left_s)
        return left_s

    def _sum_in_pass(self, tensor: Tensor, share: float) -> Tensor:
        """The sum over the devices that hold shards, each of which has computed a share of its pass by now."""
        shard = self._replica.shard
        assert shard is not None, "only shards are summed inside a pass"
        if self._target_s is not None:
            self._sleep_until(share)
        began_s, stage = time.perf_counter(), shard.stage
        self._transport.flush("sum")  # what the sum before sent: nobody waits long to take it
        vector = flattened([tensor.detach()])
        sum_over(vector, self._device, stage.devices, stage.algorithm, stage.leader, self._transport)
        self._summing_s += time.perf_counter() - began_s
        return vector.view(tensor.shape).to(tensor.device)

    def _forward(self, stage: int, micro_batch: int, data: MicroBatch) -> None:
        entering = self._received.pop(("activation", stage - 1, micro_batch), None)
        leaving = self._replica.forward(stage, micro_batch, entering, data)
        self._hand_over(("activation", stage, micro_batch), leaving)

    def _decode(self, instruction: Decode) -> None:
        stage, step, before = instruction.stage, instruction.micro_batch, instruction.before
        entering = None if before is None else self._received.pop(("token", before, step))
        leaving = self._replica.decode(stage, step, entering)
        self._hand_over(("token", stage, step), leaving)

    def _leaving(self, hand_over: Send) -> Tensor:
        """What a hand-over takes along; tokens chosen behind the last layer stay there as well."""
        produced = self._produced.pop(key_of(hand_over), None)
        return self._replica.chosen(hand_over.micro_batch) if produced is None else produced

    def _backward(self, stage: int, micro_batch: int) -> None:
        gradient = self._received.pop(("gradient", stage, micro_batch), None)
        returned = self._replica.backward(stage, micro_batch, gradient)
        self._hand_over(("gradient", stage - 1, micro_batch), returned)

    def _hand_over(self, key: HandOverKey, tensor: Tensor | None) -> None:
        """Keep what is to be sent; of those that hold shards, one device sends."""
        if tensor is not None and key in self._sent:
            self._produced[key] = tensor
