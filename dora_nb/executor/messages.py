"""What the coordinator and its workers say to each other: one JSON record per message of the control channel.

Messages are capped in length and checked against these records before anything is done with them. Tensors go as
safetensors files; nothing is pickled.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.record import Record
from dora_nb.domain.run_timeline import EventKind
from dora_nb.domain.workload import Workload
from dora_nb.errors import ExecutionError, InputError
from dora_nb.executor.moves import Move
from dora_nb.executor.probe import Heard, Round
from dora_nb.executor.task import Task


class Bytes(Record):
    """A record with fields of bytes, which travel as base64."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


class NetworkUse(Record):
    """How a group of devices uses the network between them.

    Attributes
    ----------
    cluster, workload
        Whose network says which transfers share a medium, and what it is that is transferred; None where neither turns
        nor an imitation need it.
    in_order
        Whether transfers leave in the plan's order, or as soon as they are ready.
    medium
        The file through which processes of this machine imitate the cluster's network; None: the network as it is.
    """

    cluster: Cluster | None = None
    workload: Workload | None = None
    in_order: bool = False
    medium: str | None = None


class Meeting(Record):
    """Connect to some devices.

    Attributes
    ----------
    generation
        Of the connections.
    devices, device
        Who takes part in the order of ranks, and which of them this worker is.
    timeout_s
        Longest wait for a peer.
    network
        How the network is used.
    """

    generation: int
    devices: tuple[str, ...]
    device: str
    timeout_s: float
    network: NetworkUse = NetworkUse()


class Exchange(Meeting):
    """Connect to some devices, pass layers on, keep those that arrive, and leave.

    Attributes
    ----------
    completed
        Training steps behind the states that count.
    moves
        What passes.
    """

    kind: Literal["exchange"] = "exchange"
    completed: int
    moves: tuple[Move, ...]


class Job(Meeting):
    """Join a group of devices and build this device's part of the network, beside what runs now.

    Attributes
    ----------
    plan, task
        What is run how.
    completed
        Training steps behind the states to start from.
    fresh
        Whether layers start as the network's source has them where this worker has no state of so many steps; if not,
        that is an error.
    checkpoint
        A directory of layers to start from, before that.
    """

    kind: Literal["job"] = "job"
    plan: Plan
    task: Task
    completed: int = 0
    fresh: bool = True
    checkpoint: str | None = None


class Commit(Record):
    """From now on run what was prepared last; forget what ran before. Without anything prepared: leave the group."""

    kind: Literal["commit"] = "commit"


class Probe(Record):
    """Measure the link between the first two devices of the group.

    Attributes
    ----------
    rate
        Whether to measure how fast large messages pass; of an imitated network that is known.
    """

    kind: Literal["probe"] = "probe"
    rate: bool = True


class Survey(Meeting):
    """Connect to some devices, measure the network with them, and leave; see :mod:`dora_nb.executor.probe`.

    Attributes
    ----------
    rounds
        What to measure, the same for all devices.
    """

    kind: Literal["survey"] = "survey"
    rounds: tuple[Round, ...]


class Target(Record):
    """Seconds that a computation of an emulated device lasts."""

    phase: Literal["forward", "backward", "decode", "step"]
    stage: int
    seconds: float


class StreamPart(Record):
    """The requests of a stream that are left.

    Attributes
    ----------
    arrival_s
        Seconds from the arrival of a request to that of the next one.
    first_request
        The first one that is left, counted from 0.
    began_s
        When request 0 arrived, of the worker's ``time.perf_counter``; None: it arrives when all devices start.
    directory
        Where the outputs of every request go as soon as it is completed, in the coordinator's private directory.
    """

    arrival_s: float = Field(gt=0)
    first_request: int = Field(default=0, ge=0)
    began_s: float | None = None
    directory: str


class Iterate(Record):
    """Run one iteration, or one batch.

    Attributes
    ----------
    step
        Which data; :data:`~dora_nb.domain.run_timeline.INFERENCE` or less for a batch before all training.
    trains
        Whether it is a training step.
    targets
        How long the computations of an emulated device last.
    keep
        Whether to keep the states of the layers behind this step.
    copies
        Who then gives a copy of them to whom.
    stream
        The requests, which arrive one by one; None: all inputs are there from the start.
    """

    kind: Literal["iterate"] = "iterate"
    step: int
    trains: bool
    targets: tuple[Target, ...] = ()
    keep: bool = False
    copies: tuple[Move, ...] = ()
    stream: StreamPart | None = None


class Save(Record):
    """Write tensors to a file.

    Attributes
    ----------
    path
        Where to; a name alone is one in the coordinator's private directory.
    what
        ``outputs`` of the last batch, its tokens included (those of a stream's requests are delivered while it goes
        on), ``parameters`` with their gradients, or ``states``:
        everything that layers need to go on.
    layers
        Of the states, which; None: all.
    """

    kind: Literal["save"] = "save"
    path: str
    what: Literal["outputs", "parameters", "states"]
    layers: tuple[int, ...] | None = None


class Inventory(Record):
    """Say which layers there are, and in which state."""

    kind: Literal["inventory"] = "inventory"


class Abort(Record):
    """Give up, at once, what the group of devices does; read while the worker is still at it."""

    kind: Literal["abort"] = "abort"
    generation: int


class ClockQuestion(Record):
    """Say what time it is."""

    kind: Literal["clock-question"] = "clock-question"


class StoreAnswer(Bytes):
    """What a :class:`StoreRequest` gave: the values of its keys, a counter, or a problem."""

    kind: Literal["store-answer"] = "store-answer"
    request: int
    values: tuple[bytes, ...] = ()
    count: int = 0
    problem: str | None = None


class FilePart(Bytes):
    """A part of a file that was asked for, or what is wrong with it.

    Attributes
    ----------
    content, size
        The part, and bytes of the whole file.
    version
        Another one once the file was written again.
    entries
        Names in it, if it is a directory.
    """

    kind: Literal["file-part"] = "file-part"
    request: int
    content: bytes = b""
    size: int = 0
    version: str = ""
    entries: tuple[str, ...] | None = None
    problem: str | None = None


Order = Annotated[
    Exchange
    | Job
    | Commit
    | Probe
    | Survey
    | Iterate
    | Save
    | Inventory
    | Abort
    | ClockQuestion
    | StoreAnswer
    | FilePart,
    Field(discriminator="kind"),
]


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
    rate_bytes_per_s: float | None


class Surveyed(Record):
    """What a worker measured in each round."""

    kind: Literal["surveyed"] = "surveyed"
    heard: tuple[Heard, ...]


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


class Iterated(Record):
    """One iteration is over on this worker.

    Attributes
    ----------
    iteration
        What it did when.
    copying_s
        Seconds that copies took behind it.
    """

    kind: Literal["iterated"] = "iterated"
    iteration: IterationReport
    copying_s: float = 0.0


class Stock(Record):
    """Which layers a worker has.

    Attributes
    ----------
    layers
        By number of training steps behind their state: those it runs, those it kept and copies of others'.
    losses
        Its parts of the last steps' losses, by number of steps with that one.
    streamed
        What it did of the stream that it runs, over or given up; None: nothing.
    """

    kind: Literal["stock"] = "stock"
    layers: dict[int, tuple[int, ...]]
    losses: dict[int, float] = Field(default_factory=dict)
    streamed: IterationReport | None = None


class Failed(Record):
    """The worker could not do what was ordered."""

    kind: Literal["failed"] = "failed"
    problem: str


class Clock(Record):
    """The worker's ``time.perf_counter``."""

    kind: Literal["clock"] = "clock"
    now_s: float


class StoreRequest(Bytes):
    """Use the key-value store in which the processes of a group find each other; it lives in the coordinator."""

    kind: Literal["store-request"] = "store-request"
    request: int
    do: Literal["set", "get", "check", "wait", "add", "append", "compare-set", "delete", "count"]
    keys: tuple[str, ...] = ()
    values: tuple[bytes, ...] = ()
    amount: int = 0


class FileRequest(Record):
    """Read a part of a file in the coordinator's private directory."""

    kind: Literal["file-request"] = "file-request"
    request: int
    path: str
    offset: int = Field(ge=0)


class FileDelivery(Bytes):
    """Put a part of a file into the coordinator's private directory; the last part makes it appear there."""

    kind: Literal["file-delivery"] = "file-delivery"
    request: int
    path: str
    offset: int = Field(ge=0)
    content: bytes
    last: bool


Reply = Annotated[
    Heartbeat
    | Ready
    | Probed
    | Surveyed
    | Iterated
    | Stock
    | Failed
    | Clock
    | StoreRequest
    | FileRequest
    | FileDelivery,
    Field(discriminator="kind"),
]


class OrderLetter(Record):
    """An order and its number; 0 when it has no answer."""

    number: int
    order: Order


class ReplyLetter(Record):
    """A reply and the number of the order it answers, so that a late answer is not taken for another one."""

    number: int
    reply: Reply


ORDERS: TypeAdapter[OrderLetter] = TypeAdapter(OrderLetter)
REPLIES: TypeAdapter[ReplyLetter] = TypeAdapter(ReplyLetter)

_Message = TypeVar("_Message")


def encode(message: Record) -> bytes:
    """The record as one line of JSON."""
    return message.model_dump_json().encode()


def decode(message: bytes, messages: TypeAdapter[_Message]) -> _Message:
    """The record that a message holds.

    Raises
    ------
    ExecutionError
        If it is none of the records expected.
    """
    try:
        return messages.validate_json(message)
    except (ValidationError, InputError) as error:
        raise ExecutionError(f"control channel: {message[:200]!r} is not an expected message: {error}") from error
