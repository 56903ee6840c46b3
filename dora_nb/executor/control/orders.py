"""What the coordinator tells its workers to do."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.record import Record
from dora_nb.domain.serving import Batching
from dora_nb.domain.workload import Workload
from dora_nb.executor.control.services import FilePart, StoreAnswer
from dora_nb.executor.faults.moves import Move
from dora_nb.executor.measuring.probe import Round
from dora_nb.executor.tasks.task import Task


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
    """Connect to some devices, measure the network with them, and leave; see :mod:`dora_nb.executor.measuring.probe`.

    Attributes
    ----------
    rounds
        What to measure, the same for all devices.
    """

    kind: Literal["survey"] = "survey"
    rounds: tuple[Round, ...]


class Target(Record):
    """Seconds that a computation of an emulated device lasts; ``part`` of a backward pass, from 1, fills a bucket."""

    phase: Literal["forward", "backward", "decode", "step"]
    stage: int
    seconds: float
    part: int = 0


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


class Serve(Record):
    """Serve requests for tokens with the slots of the plan that runs; see :mod:`dora_nb.executor.device.serving`.

    Attributes
    ----------
    arrivals_s
        When each arrives, in order, from the moment when all devices begin.
    batching, wave
        How requests join.
    """

    kind: Literal["serve"] = "serve"
    arrivals_s: tuple[float, ...]
    batching: Batching = "continuous"
    wave: int = 1


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


Order = Annotated[
    Exchange
    | Job
    | Commit
    | Probe
    | Survey
    | Iterate
    | Serve
    | Save
    | Inventory
    | Abort
    | ClockQuestion
    | StoreAnswer
    | FilePart,
    Field(discriminator="kind"),
]
