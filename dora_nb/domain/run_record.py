"""What happened when a plan was run, next to what was predicted before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dora_nb.domain.accuracy import Accuracy
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.profile import LayerProfile
from dora_nb.domain.record import Record
from dora_nb.domain.run_timeline import INFERENCE, PredictedTimeline, RunEvent
from dora_nb.domain.run_times import StreamTimes, TokenTimes
from dora_nb.domain.workload import Workload
from dora_nb.units import format_seconds

if TYPE_CHECKING:
    from dora_nb.costs.table import CostTable


class Differences(Record):
    """Largest absolute differences from the same network in one process, over all devices.

    Attributes
    ----------
    outputs
        Of the inference batch, or of all requests; where tokens are generated, the logits of the last one. None in a
        run that was resumed.
    losses
        Of every training step; None when the workload does not train.
    gradients
        Of the last step, after replicas and tied copies were summed. AdamW hides a wrong scale of the gradients, so
        equal parameters alone would not show one.
    parameters
        After the last step.
    tokens
        How many of the generated tokens are others; None where none are generated.
    """

    outputs: float | None = None
    losses: float | None = None
    gradients: float | None = None
    parameters: float | None = None
    tokens: int | None = None

    @property
    def largest(self) -> float:
        """The largest of them."""
        parts = (self.outputs, self.losses, self.gradients, self.parameters)
        return max(part for part in parts if part is not None)


class Link(Record):
    """The network between two workers, measured before the run.

    Attributes
    ----------
    latency_s
        Seconds of a small message, one way.
    rate_bytes_per_s
        Bytes per second of a large one, latency apart; None where the network is imitated and its rates are known.
    """

    latency_s: float = Field(ge=0)
    rate_bytes_per_s: float | None = Field(default=None, gt=0)


class Ordering(Record):
    """Whether transfers left in the plan's order or as soon as they were ready, and why.

    Attributes
    ----------
    in_order
        Whether in the plan's order.
    asked
        Whether that was asked for; if not, the prediction decided.
    predicted_in_order_s, predicted_as_ready_s
        What was predicted of the two, before the run: of a training step, or of the inference batch when the workload
        does not train. None of what was not an alternative.
    """

    in_order: bool
    asked: bool
    predicted_in_order_s: float | None = None
    predicted_as_ready_s: float | None = None

    @property
    def text(self) -> str:
        """In words."""
        ways = {"in the plan's order": self.predicted_in_order_s, "as ready": self.predicted_as_ready_s}
        way, other = ways if self.in_order else reversed(ways)
        if self.asked:
            return f"{way}, as asked"
        own_s, other_s = ways[way], ways[other]
        if own_s is None or other_s is None:
            return f"{way}: the plan has no order that is executed"
        return f"{way}: predicted {format_seconds(own_s)}, {other} {format_seconds(other_s)}"


class EnergyFigure(Record):
    """Joules of one thing over a stretch of time, from a meter or from the model.

    Attributes
    ----------
    joules
        How many.
    status
        ``measured`` by a meter, ``estimated`` by the model.
    meter
        Which meter, or the model.
    scope
        Whose: a device, the network, or all of a host, other programs included.
    seconds
        How long it was counted.
    note
        What it rests on.
    """

    joules: float = Field(ge=0)
    status: Literal["measured", "estimated"]
    meter: str = Field(min_length=1)
    scope: str = Field(min_length=1)
    seconds: float = Field(ge=0)
    note: str = ""


class Copying(Record):
    """What it takes to keep a copy of every state that one device alone has.

    Attributes
    ----------
    size_bytes
        Of all copies together, parameters and optimizer state.
    predicted_s, measured_s
        Seconds behind a step, as computed from sizes and rates before the run, and the median of what they took on the
        slowest device.
    """

    size_bytes: float
    predicted_s: float
    measured_s: float


class Incident(Record):
    """Something that happened between two steps.

    Attributes
    ----------
    kind
        ``switch`` to another plan, a ``fault``, the ``recovery`` from it, or that training was ``resume``-d.
    completed
        Training steps behind it.
    at_s
        Seconds since the run began.
    seconds
        How long it took: a switch from the order to readiness, a recovery from the moment the fault was noticed.
    layers_moved
        Layers that a device got from another one.
    text
        In words.
    """

    kind: Literal["switch", "fault", "recovery", "resume"]
    completed: int
    at_s: float
    seconds: float = 0.0
    layers_moved: int = 0
    text: str


class Environment(Record):
    """Where it ran.

    Attributes
    ----------
    torch, python, platform
        Versions.
    cores
        Processor cores the workers could use together.
    """

    torch: str
    python: str
    platform: str
    cores: int


class RunRecord(Record):
    """A plan run for real, on a person's own network or a small one of the same structure, and compared.

    Attributes
    ----------
    workload, plan
        What ran: those planned, or without a model of one's own both scaled down, in fp64.
    scaled_down
        Whether they are.
    steps
        Training steps taken; 0 when the workload does not train.
    seed
        Of weights and data.
    differences, max_abs_diff
        From one process that holds its layers as the plan does, by part and the largest of them.
    accuracy
        How far that process is from one that holds all layers in the network's precision; None where the plan does so.
    predicted_s
        Makespan of a training step, or of the inference batch when the workload does not train. Computed from the
        profile and the probe before the run began, and not changed since.
    measured_s
        The same, measured from the first device's start to the last one's end: the median over steps.
    step_s
        Measured seconds of every training step.
    inference_predicted_s, inference_measured_s
        The same two figures for the inference batch; for all requests of a stream together, whose ``predicted_s`` and
        ``measured_s`` are those of the median request.
    predicted_tokens, measured_tokens
        Where tokens are generated, how fast they come; measured: medians over batches. Else None.
    predicted_stream, measured_stream
        Of a stream, how long each request takes; else None.
    losses, reference_losses
        Of every step, distributed and in one process.
    emulation
        How unlike devices were imitated, in words.
    slow_down
        Factor by which each device's computing was stretched; 1 without emulation.
    dilation
        Seconds here for one second of the plan, where devices were imitated; 1 without emulation.
    overruns
        Computations of all devices and steps that outlasted the time of the emulated device; 0 without emulation.
    link
        The network as probed; None with a single device.
    ordering
        In which order transfers left under the first plan; None with a single device.
    cluster
        The devices that took part, on the network as probed.
    predicted_inference, predicted_training
        Every operation as predicted: of the inference batch, and of each training step (None without training).
    profile
        What the prediction took every layer to need on each device: seconds of this machine times the slow-down.
    energy
        Joules of the run; each figure says whether a meter or the model gave it, of what, and over how many seconds.
    not_metered
        Meters that could not be read, and why.
    copying
        Copies for neighbours, behind the steps and not part of their seconds; None if there were none.
    incidents
        Changes of plans, and faults, in order.
    environment
        Where it ran.
    events
        Every instruction of every device; of what ran before a fault in the middle of a stream, as far as the device
        lived to tell.
    wall_s
        Seconds from call to return, starting the workers included.
    """

    workload: Workload
    plan: Plan
    scaled_down: bool = False
    steps: int = Field(ge=0)
    seed: int
    differences: Differences
    max_abs_diff: float
    accuracy: Accuracy | None = None
    predicted_s: float
    measured_s: float
    step_s: tuple[float, ...]
    inference_predicted_s: float
    inference_measured_s: float
    predicted_tokens: TokenTimes | None = None
    measured_tokens: TokenTimes | None = None
    predicted_stream: StreamTimes | None = None
    measured_stream: StreamTimes | None = None
    losses: tuple[float, ...]
    reference_losses: tuple[float, ...]
    emulation: str
    slow_down: dict[str, float]
    dilation: float = Field(default=1.0, gt=0)
    overruns: int
    link: Link | None
    ordering: Ordering | None = None
    cluster: Cluster
    predicted_inference: PredictedTimeline
    predicted_training: PredictedTimeline | None
    profile: dict[str, tuple[LayerProfile, ...]]
    energy: tuple[EnergyFigure, ...] = ()
    not_metered: tuple[str, ...] = ()
    copying: Copying | None = None
    incidents: tuple[Incident, ...] = ()
    environment: Environment
    events: tuple[RunEvent, ...]
    wall_s: float

    @property
    def requests(self) -> int:
        """Requests of a stream; 1 where there is none."""
        return 1 if self.measured_stream is None else len(self.measured_stream.latencies_s)

    @property
    def predicted(self) -> PredictedTimeline:
        """What ``predicted_s`` is the makespan of."""
        return self.predicted_training or self.predicted_inference

    @property
    def compared_steps(self) -> dict[int, float]:
        """Measured seconds of each step that :attr:`predicted` speaks of, or of the inference batch.

        Those are the training steps under :attr:`plan`, which is the first one: what came after a change of plans was
        not predicted before the run. Without training that is the last batch, or a stream with a part of it.
        """
        changes = [each.completed for each in self.incidents if each.kind in ("switch", "recovery")]
        if self.predicted_training is None:
            return {} if changes else {INFERENCE: self.inference_measured_s}
        until = min(changes, default=None)
        ran = sorted({event.step for event in self.events if event.step >= 0})
        return {step: seconds for step, seconds in zip(ran, self.step_s, strict=True) if until is None or step < until}

    @property
    def compared_events(self) -> tuple[RunEvent, ...]:
        """The events of :attr:`compared_steps`."""
        steps = self.compared_steps
        return tuple(event for event in self.events if event.step in steps)

    def as_cost_table(self, cluster: Cluster | None = None, base: CostTable | None = None) -> CostTable:
        """What was measured as compute times to plan with again; see :func:`dora_nb.costs.measured.run_table`."""
        from dora_nb.costs.measured import run_table  # a method that looks up a room: imported when called

        return run_table(self, cluster, base)

    def to_trace(self, path: str | Path) -> Path:
        """Write the predicted and the measured timeline, side by side, for https://ui.perfetto.dev.

        Parameters
        ----------
        path
            Where to; an existing file is replaced.

        Raises
        ------
        DocumentError
            If it cannot be written.
        """
        from dora_nb.render.trace import run_trace, write_trace

        return write_trace(path, run_trace(self))

    def __repr__(self) -> str:
        from dora_nb.render.runs import run_text  # a method that looks up a room: imported when called

        return run_text(self)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from dora_nb.render.runs import run_html

        return run_html(self)
