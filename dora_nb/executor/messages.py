"""What the coordinator and its workers say to each other: one JSON record per line, over the worker's pipes.

Lines are capped in length and checked against these records before anything is done with them. Tensors go as
safetensors files through a private directory; nothing is pickled.
"""

from __future__ import annotations

import threading
from typing import IO, Annotated, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from dora_nb.domain.plan import Plan
from dora_nb.domain.record import Record
from dora_nb.domain.run_record import EventKind
from dora_nb.domain.workload import Workload
from dora_nb.errors import ExecutionError, InputError

#: Longest line accepted, in bytes: events of thousands of micro-batches fit.
LINE_LIMIT = 64 * 1024 * 1024


class Job(Record):
    """Join a group of devices and build this device's part of the network."""

    kind: Literal["job"] = "job"
    generation: int
    devices: tuple[str, ...]
    device: str
    store_port: int
    timeout_s: float
    workload: Workload
    plan: Plan
    seed: int


class Probe(Record):
    """Measure the link between the first two devices of the group."""

    kind: Literal["probe"] = "probe"


class Target(Record):
    """Seconds that a computation of an emulated device lasts."""

    phase: Literal["forward", "backward", "step"]
    stage: int
    seconds: float


class Run(Record):
    """Run the inference batch and the training steps; tensors go to the file ``results``."""

    kind: Literal["run"] = "run"
    steps: int
    inference_targets: tuple[Target, ...]
    training_targets: tuple[Target, ...]
    results: str


Order = Annotated[Job | Probe | Run, Field(discriminator="kind")]


class Heartbeat(Record):
    """The worker's process is alive."""

    kind: Literal["heartbeat"] = "heartbeat"


class Ready(Record):
    """The worker is up, or what was ordered is done."""

    kind: Literal["ready"] = "ready"


class Probed(Record):
    """One way, between two workers."""

    kind: Literal["probed"] = "probed"
    latency_s: float
    rate_bytes_per_s: float


class StepDone(Record):
    """One iteration is over on this worker."""

    kind: Literal["step-done"] = "step-done"
    step: int
    seconds: float


class EventReport(Record):
    """One instruction; see :class:`~dora_nb.executor.interpreter.Event`."""

    kind: EventKind
    stage: int
    micro_batch: int
    start_s: float
    end_s: float


class IterationReport(Record):
    """One iteration of one worker; see :class:`~dora_nb.executor.interpreter.Iteration`."""

    step: int
    start_s: float
    end_s: float
    loss: float
    late: int
    events: tuple[EventReport, ...]


class Finished(Record):
    """Everything ordered by :class:`Run` is done and written."""

    kind: Literal["finished"] = "finished"
    iterations: tuple[IterationReport, ...]


class Failed(Record):
    """The worker could not do what was ordered."""

    kind: Literal["failed"] = "failed"
    problem: str


Reply = Annotated[Heartbeat | Ready | Probed | StepDone | Finished | Failed, Field(discriminator="kind")]

ORDERS: TypeAdapter[Order] = TypeAdapter(Order)
REPLIES: TypeAdapter[Reply] = TypeAdapter(Reply)

_Message = TypeVar("_Message")


class Writer:
    """Writes records to a pipe, one per line; several threads may.

    Parameters
    ----------
    stream
        Unbuffered or buffered, binary.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, message: Record) -> None:
        """Write one record.

        Raises
        ------
        OSError
            If nobody reads any more.
        """
        with self._lock:
            self._stream.write(message.model_dump_json().encode() + b"\n")
            self._stream.flush()


def read(stream: IO[bytes], messages: TypeAdapter[_Message]) -> _Message | None:
    """The next record of a pipe; None at its end.

    Raises
    ------
    ExecutionError
        If the line is too long, or is none of the records expected.
    """
    line = stream.readline(LINE_LIMIT + 1)
    if not line:
        return None
    if len(line) > LINE_LIMIT:
        raise ExecutionError(f"control channel: a line of more than {LINE_LIMIT} bytes; allowed: shorter ones")
    try:
        return messages.validate_json(line)
    except (ValidationError, InputError) as error:
        raise ExecutionError(f"control channel: {line[:200]!r} is not an expected message: {error}") from error
