"""One device's place in a group that runs one plan: its connections, its layers, its part of the schedule."""

from __future__ import annotations

import bisect
import functools
import pathlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from torch.distributed import Store  # type: ignore[attr-defined]  # public, but not marked as exported

from dora_nb.costs.network import Network
from dora_nb.domain.plan import Plan
from dora_nb.domain.serving import Joining
from dora_nb.executor.control.orders import Job, NetworkUse, StreamPart, Target
from dora_nb.executor.device.courier import AsReady, Courier, InOrder, PromptFirst
from dora_nb.executor.device.deliveries import Deliveries, Delivery
from dora_nb.executor.device.instructions import HandOver, Instruction, compile_plan
from dora_nb.executor.device.interpreter import Event, Interpreter, Iteration
from dora_nb.executor.device.medium import EmulatedTransport, Medium
from dora_nb.executor.device.replica import Replica
from dora_nb.executor.device.serving import ServedHere, follow, lead
from dora_nb.executor.device.shard_stages import shard_stage_of
from dora_nb.executor.device.streams import arrivals_s, from_request, over_requests, with_arrivals
from dora_nb.executor.device.transport import GlooTransport, Transport
from dora_nb.executor.device.turns import PassedBy, schedules_of

if TYPE_CHECKING:
    from dora_nb.executor.device.held import LayerState


def connect(devices: Sequence[str], device: str, network: NetworkUse, store: Store, timeout_s: float) -> Transport:
    """Connections between devices, imitating a network where that is asked for.

    Parameters
    ----------
    devices, device
        All of the group in the same order, and this one.
    network
        How it is used.
    store
        Where they find each other.
    timeout_s
        Longest wait for a peer.
    """
    transport = GlooTransport(devices, list(devices).index(device), store, timeout_s)
    if network.medium is None or network.cluster is None:
        return transport
    imitated = Network.of(network.cluster)
    medium = Medium(pathlib.Path(network.medium), tuple(sorted(imitated.domain_of)))
    return EmulatedTransport(transport, device, imitated, medium)


class Membership:
    """Runs iterations of one plan as one of its devices.

    Parameters
    ----------
    job
        What the coordinator ordered.
    transport
        To the other devices of the plan.
    states
        Layers that go on from a state, by index; others start as the network's source has them.
    kept
        This device's replica of the plan before, if its layers are in the state that counts.
    """

    def __init__(
        self, job: Job, transport: Transport, states: Mapping[int, LayerState], kept: Replica | None = None
    ) -> None:
        self.job, self.transport = job, transport
        self._courier: Courier | None = None
        self._interpreter: Interpreter | None = None
        self._given_up = threading.Event()
        # By whether it trains, and the first request.
        self._couriers: dict[tuple[bool, int], Callable[[Sequence[Instruction]], Courier]] = {}
        self.replica = Replica(job.device, job.plan, job.task, states=states, kept=kept)
        self.replica.completed = job.completed
        self.replica.warm_up()

    @property
    def gives_outputs(self) -> bool:
        """Whether this device runs the last layer."""
        return self.replica.stage == len(self.job.plan.stages) - 1

    def goes_on_as(self, plan: Plan) -> bool:
        """Whether what this device holds of its layers is what another plan has it hold: all of each, or this shard."""
        return shard_stage_of(plan, self.job.device) == shard_stage_of(self.job.plan, self.job.device)

    def iterate(
        self,
        step: int,
        targets: Sequence[Target],
        *,
        trains: bool,
        stream: StreamPart | None = None,
        deliveries: Deliveries | None = None,
    ) -> Iteration:
        """Carry out one iteration or batch, or the requests of a stream that are left.

        Parameters
        ----------
        step
            Which data.
        targets
            How long the computations of an emulated device last.
        trains
            Whether there are backward passes and a step.
        stream
            The requests; None: everything is there from the start.
        deliveries
            Where the outputs of every request go.
        """
        self.replica.seed(step)
        plan, task = self.job.plan, self.job.task
        first, began_s = (0, None) if stream is None else (stream.first_request, stream.began_s)
        whole = over_requests(plan, task.requests, first)
        program = compile_plan(whole, trains=trains, decode_steps=task.decode_steps)[self.job.device]
        if stream is not None:
            program = with_arrivals(program, arrivals_s(plan, task.requests, stream.arrival_s))
            program = from_request(program, plan, first)
        targets_s: dict[tuple[str, int, int], float] = {
            (each.phase, each.stage, each.part): each.seconds for each in targets
        }
        if (trains, first) not in self._couriers:  # turns are worked out once, not every step
            self._couriers[trains, first] = self._courier_of(whole, trains=trains)
        make = self._couriers[trains, first]

        def courier_of(program: Sequence[Instruction]) -> Courier:
            self._courier = make(program)
            return self._courier

        interpreter = Interpreter(self.job.device, self.replica, self.transport, courier_of, targets_s, self._given_up)
        self._interpreter = interpreter

        def on_event(event: Event) -> None:
            if deliveries is not None:
                self._deliver(event, deliveries)

        data = self.replica.batch(step, first)
        return interpreter.run(program, data, arriving_from_s=began_s, on_event=on_event)

    def serve(self, arrivals_s: Sequence[float], joining: Joining) -> tuple[float, ServedHere] | None:
        """Serve requests that arrive at these times and join so.

        Returns
        -------
        when all began, of ``time.perf_counter``, and what became of them; None behind the first stage
        """
        plan, device = self.job.plan, self.job.device
        self.replica.begin(trains=False)
        stage = self.replica.slot_stage
        began_s = self.transport.common_start()
        if device != plan.devices[0]:
            follow(stage, self.transport, plan, device)
            return None

        def come(rounds: int) -> int:
            del rounds  # they come when it is their time
            return bisect.bisect_right(arrivals_s, time.perf_counter() - began_s)

        prompts = self.replica.prompts(len(arrivals_s))
        return began_s, lead(stage, self.transport, plan, prompts, self.job.task.new_tokens, come, joining)

    def so_far(self) -> Iteration | None:
        """What is done of the last iteration, also if it was given up; None if it did not begin."""
        return None if self._interpreter is None else self._interpreter.so_far()

    def give_up(self) -> None:
        """Make an iteration under way fail, from another thread."""
        self._given_up.set()
        self.transport.wake()
        if self._courier is not None:
            self._courier.give_up()

    def _deliver(self, event: Event, deliveries: Deliveries) -> None:
        """Hand on the outputs of a request whose last micro-batch has just left the last layer."""
        count = self.job.plan.micro_batches
        request, place = divmod(event.micro_batch, count)  # they leave it in their order
        done = self.so_far() if (event.kind, event.stage, place) == ("forward", self.replica.stage, count - 1) else None
        if done is not None:
            outputs = self.replica.take_outputs(range(request * count, (request + 1) * count))
            deliveries.put(request, Delivery(outputs, done.start_s, done.end_s))

    def _courier_of(self, plan: Plan, *, trains: bool) -> Callable[[Sequence[Instruction]], Courier]:
        job, replica = self.job, self.replica
        network = job.network
        ordered = network.in_order and plan.transfer_order
        as_ready = functools.partial(
            AsReady, interval=replica.interval, empty=replica.receive_buffer, transport=self.transport
        )
        if not ordered or network.cluster is None or network.workload is None:
            return as_ready
        passed_by: PassedBy = "receiver" if network.medium is None else "sender"
        schedules = schedules_of(plan, network.workload, network.cluster, trains=trains, passed_by=passed_by)
        in_order = functools.partial(
            InOrder,
            interval=replica.interval,
            empty=replica.receive_buffer,
            transport=self.transport,
            schedule=schedules[job.device],
            device=job.device,
            parts=plan.chunks,
        )
        if not job.task.decode_steps:
            return in_order

        def prompt_first(program: Sequence[Instruction]) -> Courier:
            hand_overs = [each for each in program if isinstance(each, HandOver)]
            tokens = [each for each in hand_overs if each.kind == "token"]
            return PromptFirst(
                in_order([each for each in hand_overs if each.kind != "token"]), lambda: as_ready(tokens)
            )

        return prompt_first
