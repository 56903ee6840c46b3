"""A worker: one process that plays one device. Started by the pool as ``python -m dora_nb.executor.worker``.

It takes orders as JSON lines on standard input and answers on what was standard output when it started. It ends when
its input does, so it never outlives its coordinator.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, BinaryIO

from dora_nb.domain.run_record import INFERENCE
from dora_nb.executor.messages import (
    ORDERS,
    EventReport,
    Failed,
    Finished,
    Heartbeat,
    IterationReport,
    Job,
    Order,
    Probe,
    Probed,
    Ready,
    Run,
    StepDone,
    Target,
    Writer,
    read,
)

if TYPE_CHECKING:  # torch is loaded once the heartbeat runs
    from torch import Tensor

    from dora_nb.executor.interpreter import Iteration
    from dora_nb.executor.replica import Replica
    from dora_nb.executor.transport import GlooTransport

HEARTBEAT_S = 0.5

#: Messages of the probe, and how many times each makes the round trip.
SMALL_BYTES, SMALL_TRIPS = 8, 40
LARGE_BYTES, LARGE_TRIPS = 1_000_000, 10


def main() -> None:
    """Serve orders until the input ends."""
    replies = Writer(_claimed_stdout())
    orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders, replies), daemon=True).start()
    threading.Thread(target=_beat, args=(replies,), daemon=True).start()

    import torch

    torch.set_num_threads(1)
    worker = Worker(replies)
    replies.write(Ready())
    while True:
        order = orders.get()
        try:
            worker.carry_out(order)
        except Exception as error:
            traceback.print_exc()
            replies.write(Failed(problem=f"{type(error).__name__}: {error}"[:2000]))


def _claimed_stdout() -> BinaryIO:
    """Keep standard output for replies; what libraries print goes to standard error."""
    private = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(private, "wb")


def _listen(orders: queue.SimpleQueue[Order], replies: Writer) -> None:
    """Pass orders on; leave at once when the coordinator is gone, whatever the main thread waits for."""
    try:
        while (order := read(sys.stdin.buffer, ORDERS)) is not None:
            orders.put(order)
    except Exception as error:
        replies.write(Failed(problem=str(error)[:2000]))
    finally:
        os._exit(0)


def _beat(replies: Writer) -> None:
    while True:
        try:
            replies.write(Heartbeat())
        except OSError:
            os._exit(0)
        time.sleep(HEARTBEAT_S)


class Worker:
    """Carries out orders; keeps what it built between them.

    Parameters
    ----------
    replies
        Where answers go.
    """

    def __init__(self, replies: Writer) -> None:
        self._replies = replies
        self._job: Job | None = None
        self._replica: Replica | None = None
        self._transport: GlooTransport | None = None

    def carry_out(self, order: Order) -> None:
        """Do what was ordered and answer."""
        match order:
            case Job():
                self._prepare(order)
                self._replies.write(Ready())
            case Probe():
                self._replies.write(self._probe())
            case Run():
                self._replies.write(self._run(order))

    def _prepare(self, job: Job) -> None:
        import torch

        from dora_nb.executor.data import micro_batch
        from dora_nb.executor.replica import Replica
        from dora_nb.executor.store import join_store
        from dora_nb.executor.transport import GlooTransport

        if self._transport is not None:
            self._transport.close()
            self._transport = None
        self._replica = Replica(job.device, job.plan, job.workload, job.seed, torch.float64)
        self._replica.warm_up(
            micro_batch(job.workload, job.seed, INFERENCE, 0, job.plan.micro_batch, self._replica.dtype)
        )
        self._transport = GlooTransport(
            job.devices,
            job.devices.index(job.device),
            join_store(job.store_port, job.generation, job.timeout_s),
            job.timeout_s,
        )
        self._job = job
        self._transport.barrier()  # connections are made on first use: not while something is timed

    def _probe(self) -> Probed:
        """Ping-pong between the first two devices: seconds one way of a small and of a large message."""
        import torch

        assert self._job is not None, "a probe follows a job"
        assert self._transport is not None, "a probe follows a job"
        transport, device, (first, second) = self._transport, self._job.device, self._job.devices[:2]
        seconds = []
        for tag, (size, trips) in enumerate(((SMALL_BYTES, SMALL_TRIPS), (LARGE_BYTES, LARGE_TRIPS))):
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
        small_s, large_s = seconds
        return Probed(latency_s=small_s, rate_bytes_per_s=LARGE_BYTES / max(large_s - small_s, 1e-9))

    def _run(self, run: Run) -> Finished:
        from dora_nb.executor.data import micro_batch
        from dora_nb.executor.instructions import compile_plan
        from dora_nb.executor.interpreter import Interpreter

        assert self._job is not None, "a run follows a job"
        assert self._replica is not None, "a run follows a job"
        assert self._transport is not None, "a run follows a job"
        job, replica, transport = self._job, self._replica, self._transport
        plan = job.plan
        iterations = []
        for step in range(INFERENCE, run.steps):
            trains = step != INFERENCE
            program = compile_plan(plan, trains=trains)[job.device]
            targets = _targets(run.training_targets if trains else run.inference_targets)
            data = [
                micro_batch(job.workload, job.seed, step, index, plan.micro_batch, replica.dtype)
                for index in range(plan.micro_batches)
            ]
            iteration = Interpreter(job.device, replica, transport, targets).run(program, data)
            if not trains:
                outputs = {f"output/{index}": each for index, each in replica.outputs.items()}
            iterations.append(_report(step, iteration))
            self._replies.write(StepDone(step=step, seconds=iteration.end_s - iteration.start_s))
        transport.barrier()  # nobody leaves while a peer still waits for something
        tensors = dict(outputs)
        for name, parameter in replica.named_parameters():
            tensors[f"parameter/{name}"] = parameter.detach()
            if parameter.grad is not None:
                tensors[f"gradient/{name}"] = parameter.grad
        _save(tensors, run.results)
        return Finished(iterations=tuple(iterations))


def _targets(targets: tuple[Target, ...]) -> dict[tuple[str, int], float]:
    return {(target.phase, target.stage): target.seconds for target in targets}


def _report(step: int, iteration: Iteration) -> IterationReport:
    return IterationReport(
        step=step,
        start_s=iteration.start_s,
        end_s=iteration.end_s,
        loss=iteration.loss,
        late=iteration.late,
        events=tuple(EventReport(**event._asdict()) for event in iteration.events),
    )


def _save(tensors: Mapping[str, Tensor], path: str) -> None:
    from safetensors.torch import save_file

    # A tied parameter appears under two names; the format wants two tensors then.
    save_file({name: each.clone().contiguous() for name, each in tensors.items()}, path)


if __name__ == "__main__":
    main()
