"""What happened when a plan was run, next to what was predicted before."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dora_nb.domain.plan import Plan
from dora_nb.domain.record import Record
from dora_nb.domain.workload import Workload

#: Step index of the events of the inference batch that precedes the training steps.
INFERENCE = -1

EventKind = Literal["receive", "forward", "send", "backward", "all-reduce", "tied-sum", "step"]


class RunEvent(Record):
    """One instruction as one device carried it out. Measured.

    Attributes
    ----------
    device
        Who.
    kind
        What; a ``receive`` lasts as long as the device waited for it, a ``send`` only as long as handing it over.
    stage
        Stage that computes; for hand-overs as in :class:`~dora_nb.domain.plan.Transfer`.
    micro_batch
        Index of the micro-batch; 0 for the sums and the step at the end.
    step
        Training step, from 0; :data:`INFERENCE` for the inference batch.
    start_s, end_s
        Seconds since that step (or the inference batch) began on the first device.
    """

    device: str
    kind: EventKind
    stage: int
    micro_batch: int
    step: int
    start_s: float
    end_s: float


class Differences(Record):
    """Largest absolute differences from the same network in one process, over all devices.

    Attributes
    ----------
    outputs
        Of the inference batch.
    losses
        Of every training step; None when the workload does not train.
    gradients
        Of the last step, after replicas and tied copies were summed. AdamW hides a wrong scale of the gradients, so
        equal parameters alone would not show one.
    parameters
        After the last step.
    """

    outputs: float
    losses: float | None = None
    gradients: float | None = None
    parameters: float | None = None

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
        Bytes per second of a large one, latency apart.
    """

    latency_s: float = Field(ge=0)
    rate_bytes_per_s: float = Field(gt=0)


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
    """A plan run for real, on a small network of the same structure, and compared.

    Attributes
    ----------
    workload, plan
        What ran: the workload and the plan scaled down, in fp64.
    steps
        Training steps taken; 0 when the workload does not train.
    seed
        Of weights and data.
    differences, max_abs_diff
        From one process, by part and the largest of them.
    predicted_s
        Makespan of a training step, or of the inference batch when the workload does not train. Computed from the
        profile and the probe before the run began, and not changed since.
    measured_s
        The same, measured from the first device's start to the last one's end: the median over steps.
    step_s
        Measured seconds of every training step.
    inference_predicted_s, inference_measured_s
        The same two figures for the inference batch.
    losses, reference_losses
        Of every step, distributed and in one process.
    emulation
        How unlike devices were imitated, in words.
    slow_down
        Factor by which each device's computing was stretched; 1 without emulation.
    overruns
        Computations of all devices and steps that outlasted the time of the emulated device; 0 without emulation.
    link
        The network as probed; None with a single device.
    environment
        Where it ran.
    events
        Every instruction of every device.
    wall_s
        Seconds from call to return, starting the workers included.
    """

    workload: Workload
    plan: Plan
    steps: int = Field(ge=0)
    seed: int
    differences: Differences
    max_abs_diff: float
    predicted_s: float
    measured_s: float
    step_s: tuple[float, ...]
    inference_predicted_s: float
    inference_measured_s: float
    losses: tuple[float, ...]
    reference_losses: tuple[float, ...]
    emulation: str
    slow_down: dict[str, float]
    overruns: int
    link: Link | None
    environment: Environment
    events: tuple[RunEvent, ...]
    wall_s: float

    def __repr__(self) -> str:
        from dora_nb.render.runs import run_text  # a method that looks up a room: imported when called

        return run_text(self)

    def _repr_html_(self) -> str:
        from dora_nb.render.runs import run_html

        return run_html(self)
