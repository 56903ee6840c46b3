"""What workers answer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dora_nb.domain.record import Record
from dora_nb.domain.run_timeline import EventKind
from dora_nb.executor.control.services import FileDelivery, FileRequest, StoreRequest
from dora_nb.executor.measuring.probe import Heard


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
    """One instruction; see :class:`~dora_nb.executor.device.interpreter.Event`."""

    kind: EventKind
    stage: int
    micro_batch: int
    start_s: float
    end_s: float
    part: int = 0


class IterationReport(Record):
    """One iteration of one worker; see :class:`~dora_nb.executor.device.interpreter.Iteration`."""

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


class ServedRound(Record):
    """How many requests joined in a round, and how many were there before."""

    joining: int
    going: int


class Served(Record):
    """All requests have their tokens; of stages behind the first this is all.

    Attributes
    ----------
    tokens
        Of every request.
    first_token_s, last_token_s
        When it had these, from the moment when all devices began.
    rounds
        In the order in which they began.
    """

    kind: Literal["served"] = "served"
    tokens: tuple[tuple[int, ...], ...] = ()
    first_token_s: tuple[float, ...] = ()
    last_token_s: tuple[float, ...] = ()
    rounds: tuple[ServedRound, ...] = ()


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


Reply = Annotated[
    Heartbeat
    | Ready
    | Probed
    | Surveyed
    | Iterated
    | Served
    | Stock
    | Failed
    | Clock
    | StoreRequest
    | FileRequest
    | FileDelivery,
    Field(discriminator="kind"),
]
