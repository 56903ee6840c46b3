"""A worker: one process that plays one device. Started by the pool as ``python -m dora_nb.executor.worker``.

It takes orders as JSON lines on standard input and answers on what was standard output when it started. It ends when
its input does, so it never outlives its coordinator. Its argument is the coordinator's private directory.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
import time
import traceback
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from dora_nb.domain.serving import Joining
from dora_nb.errors import ExecutionError
from dora_nb.executor.control.channel import PipeChannel
from dora_nb.executor.control.coordinator import Coordinator
from dora_nb.executor.control.orders import (
    Abort,
    ClockQuestion,
    Commit,
    Exchange,
    Inventory,
    Iterate,
    Job,
    Meeting,
    Order,
    Probe,
    Save,
    Serve,
    Survey,
)
from dora_nb.executor.control.paths import Files, SharedFiles
from dora_nb.executor.control.replies import (
    Clock,
    EventReport,
    Failed,
    Iterated,
    IterationReport,
    Probed,
    Ready,
    Served,
    ServedRound,
    Stock,
    Surveyed,
)
from dora_nb.executor.device.held import Held, LayerState

if TYPE_CHECKING:  # torch is loaded once the heartbeat runs
    from dora_nb.executor.device.deliveries import Deliveries
    from dora_nb.executor.device.interpreter import Iteration
    from dora_nb.executor.device.membership import Membership
    from dora_nb.executor.device.transport import Transport

#: Messages of the probe, and how many times each makes the round trip.
SMALL_BYTES, SMALL_TRIPS = 8, 40
LARGE_BYTES, LARGE_TRIPS = 1_000_000, 10


def main() -> None:
    """Serve the orders of the process that started this one."""
    channel = PipeChannel(sys.stdin.buffer, _claimed_stdout())
    serve(Coordinator(channel), SharedFiles(pathlib.Path(sys.argv[1])))


def serve(coordinator: Coordinator, files: Files) -> NoReturn:
    """Carry out orders until the coordinator is gone, with which the process ends."""
    coordinator.start()

    import torch

    torch.set_num_threads(1)
    worker = Worker(coordinator, files)
    coordinator.write(Ready())
    while True:
        order = coordinator.next_order()
        try:
            worker.carry_out(order)
        except Exception as error:
            traceback.print_exc()
            coordinator.write(Failed(problem=f"{type(error).__name__}: {error}"[:2000]))


def _claimed_stdout() -> BinaryIO:
    """Keep standard output for replies; what libraries print goes to standard error."""
    private = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(private, "wb")


class Worker:
    """Carries out orders; keeps what it built between them.

    Parameters
    ----------
    coordinator
        Where answers go.
    files
        Those that orders name.
    """

    def __init__(self, coordinator: Coordinator, files: Files) -> None:
        self._coordinator, self._files = coordinator, files
        self._current: Membership | None = None
        self._prepared: Membership | None = None
        self._held = Held()
        self._losses: dict[int, float] = {}
        self._streamed: IterationReport | None = None
        self._aborted = -1
        self._connections: dict[int, Transport] = {}  # by generation; also those that are not a membership's yet
        coordinator.on_abort = self._abort

    def carry_out(self, order: Order) -> None:
        """Do what was ordered and answer."""
        match order:
            case Exchange():
                self._exchange(order)
                self._coordinator.write(Ready())
            case Job():
                self._prepare(self._files.localise(order))
                self._coordinator.write(Ready())
            case Commit():
                self._commit()
                self._coordinator.write(Ready())
            case Probe():
                self._coordinator.write(self._probe(order))
            case Survey():
                self._coordinator.write(self._survey(order))
            case Iterate():
                self._coordinator.write(self._iterate(order))
            case Serve():
                self._coordinator.write(self._serve(order))
            case Save():
                self._save(order)
                self._coordinator.write(Ready())
            case Inventory():
                self._coordinator.write(Stock(layers=self._stock(), losses=self._losses, streamed=self._streamed))
            case ClockQuestion():
                self._coordinator.write(Clock(now_s=time.perf_counter()))

    # ------------------------------------------------------------------ groups

    def _connect(self, order: Meeting) -> Transport:
        from dora_nb.executor.control.store import GroupStore
        from dora_nb.executor.device.membership import connect

        store = GroupStore(self._coordinator, order.generation, order.timeout_s)
        transport = connect(order.devices, order.device, order.network, store, order.timeout_s)
        self._connections[order.generation] = transport
        if order.generation <= self._aborted:  # it came while the connections were made
            transport.wake()
        return transport

    def _abort(self, abort: Abort) -> None:
        """Wake whatever waits for a peer; called while the main thread is at something else."""
        self._aborted = max(self._aborted, abort.generation)
        for generation, transport in list(self._connections.items()):
            if generation <= abort.generation:
                transport.wake()
        for member in (self._current, self._prepared):
            if member is not None and member.job.generation <= abort.generation:
                member.give_up()

    def _leave(self, generation: int) -> None:
        transport = self._connections.pop(generation, None)
        if transport is not None:
            transport.close()

    def _exchange(self, order: Exchange) -> None:
        from dora_nb.executor.faults.moves import exchange

        transport = self._connect(order)
        try:
            arrived = exchange(order.moves, order.device, transport, lambda layer: self._state(layer, order.completed))
            transport.barrier()  # nobody leaves while a peer still waits for something
        finally:
            self._leave(order.generation)
        self._held.keep(order.completed, arrived)

    def _prepare(self, job: Job) -> None:
        from dora_nb.executor.device.membership import Membership
        from dora_nb.executor.faults.checkpoint import read_layers
        from dora_nb.executor.faults.moves import layers_of

        transport = self._connect(job)
        try:
            own = self._current.replica if self._current is not None else None
            kept = own if own is not None and own.completed == job.completed else None
            if self._current is not None and not self._current.goes_on_as(job.plan):
                kept = None
            needed = set(layers_of(job.plan, job.device)) - set(kept.layers if kept is not None else ())
            held = self._held.get(job.completed)
            states = {layer: held[layer] for layer in needed & held.keys()}
            if job.checkpoint is not None:
                states |= read_layers(pathlib.Path(job.checkpoint), needed - states.keys())
            missing = needed - states.keys()
            if missing and not job.fresh:
                raise ExecutionError(f"nothing here has layers {sorted(missing)} after step {job.completed}")
            self._prepared = Membership(job, transport, states, kept)
        except BaseException:
            self._leave(job.generation)
            raise

    def _commit(self) -> None:
        if self._current is not None:
            self._leave(self._current.job.generation)
        self._current, self._prepared = self._prepared, None
        self._losses, self._streamed = {}, None  # shared out as the plan before had it
        self._held.forget(but=() if self._current is None else (self._current.replica.completed,))

    @property
    def _membership(self) -> Membership:
        assert self._current is not None, "a job was committed before"
        return self._current

    # ------------------------------------------------------------------ states

    def _state(self, layer: int, completed: int) -> LayerState:
        """A layer after so many steps, from what is kept or from what runs."""
        kept = self._held.get(completed)
        if layer in kept:
            return kept[layer]
        replica = self._membership.replica
        if replica.completed != completed or layer not in replica.layers:
            raise ExecutionError(f"layer {layer} after step {completed} is not here; here are {self._stock()}")
        return replica.state(layer)

    def _stock(self) -> dict[int, tuple[int, ...]]:
        stock = {completed: set(layers) for completed, layers in self._held.layers().items()}
        if self._current is not None:
            stock.setdefault(self._current.replica.completed, set()).update(self._current.replica.layers)
        return {completed: tuple(sorted(layers)) for completed, layers in stock.items()}

    def _iterate(self, order: Iterate) -> Iterated:
        from dora_nb.executor.faults.moves import exchange

        member = self._membership
        try:
            with self._deliveries(order) as deliveries:
                iteration = member.iterate(
                    order.step, order.targets, trains=order.trains, stream=order.stream, deliveries=deliveries
                )
        finally:
            done = None if order.stream is None else member.so_far()
            self._streamed = None if done is None else _report(order.step, done)
        began_s = time.perf_counter()
        replica = member.replica
        self._losses = {replica.completed: iteration.loss}
        if order.keep or order.copies:
            states = {layer: replica.state(layer) for layer in replica.layers}
            arrived = exchange(order.copies, member.job.device, member.transport, lambda layer: states[layer])
            self._held.keep(replica.completed, states | arrived)
        return Iterated(iteration=_report(order.step, iteration), copying_s=time.perf_counter() - began_s)

    def _serve(self, order: Serve) -> Served:
        told = self._membership.serve(order.arrivals_s, Joining(order.batching, order.wave))
        if told is None:
            return Served()
        began_s, served = told
        return Served(
            tokens=tuple(map(tuple, served.tokens)),
            first_token_s=tuple(each - began_s for each in served.first_token_s),
            last_token_s=tuple(each - began_s for each in served.last_token_s),
            rounds=tuple(ServedRound(joining=len(who.joining), going=len(who.going)) for who in served.rounds),
        )

    def _deliveries(self, order: Iterate) -> contextlib.AbstractContextManager[Deliveries | None]:
        """Where this device's outputs of a stream go, if it has any; left when all of them are there."""
        from dora_nb.executor.device.deliveries import Deliveries

        member = self._membership
        if order.stream is None or not member.gives_outputs:
            return contextlib.nullcontext()
        return Deliveries(self._files, order.stream.directory, member.job.device)

    def _save(self, order: Save) -> None:
        from dora_nb.executor.device.saved import save

        with self._files.deliver(order.path) as path:
            save(self._membership.replica, order.what, order.layers, path)

    # ------------------------------------------------------------------ the network

    def _survey(self, survey: Survey) -> Surveyed:
        from dora_nb.executor.measuring.probe import take_part

        transport = self._connect(survey)
        try:
            return Surveyed(heard=take_part(survey.rounds, survey.device, transport))
        finally:
            self._leave(survey.generation)

    def _probe(self, order: Probe) -> Probed:
        """Ping-pong between the first two devices: seconds one way of a small and of a large message."""
        import torch

        transport, job = self._membership.transport, self._membership.job
        device, (first, second) = job.device, job.devices[:2]
        seconds = []
        large = ((LARGE_BYTES, LARGE_TRIPS),) if order.rate else ()
        for tag, (size, trips) in enumerate(((SMALL_BYTES, SMALL_TRIPS), *large)):
            out, back = torch.zeros(size // 8, dtype=torch.float64), torch.empty(size // 8, dtype=torch.float64)
            times = []
            for _ in range(trips):
                start_s = time.perf_counter()
                pending = transport.receive(back, second if device == first else first, tag, "hand-over")
                if device == first:
                    transport.send(out, second, tag, "hand-over")
                    pending.wait()
                else:
                    pending.wait()
                    transport.send(out, first, tag, "hand-over")
                times.append((time.perf_counter() - start_s) / 2)
                transport.flush()
            seconds.append(sorted(times)[trips // 2])
        rate = LARGE_BYTES / max(seconds[1] - seconds[0], 1e-9) if order.rate else None
        return Probed(latency_s=seconds[0], rate_bytes_per_s=rate)


def _report(step: int, iteration: Iteration) -> IterationReport:
    return IterationReport(
        step=step,
        start_s=iteration.start_s,
        end_s=iteration.end_s,
        loss=iteration.loss,
        late=iteration.late,
        events=tuple(EventReport(**event._asdict()) for event in iteration.events),
    )


if __name__ == "__main__":
    main()
