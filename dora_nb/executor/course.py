"""What a run is to do, and what came of it."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from dora_nb.domain.controller import Controller
from dora_nb.domain.plan import Plan
from dora_nb.domain.run_record import Incident, Link
from dora_nb.domain.run_timeline import RunEvent
from dora_nb.errors import ExecutionError
from dora_nb.executor.control.replies import Iterated
from dora_nb.executor.rehearsal import Expected

if TYPE_CHECKING:
    from torch import Tensor

    from dora_nb.executor.device.deliveries import Delivery

#: Who has the state of a layer beside the device that trains it: nobody on purpose, the other replicas of its stage, or
#: also a neighbour of every device that is alone in its stage.
Copies = Literal["none", "replicas", "neighbours"]


#: Called with a line of text as a run goes on.
Tell = Callable[[str], None]


class CancelledError(ExecutionError):
    """The run was stopped because somebody asked for it."""


class StoppedError(ExecutionError):
    """The run cannot go on, whatever is tried."""


@dataclass(frozen=True)
class Course:
    """What a run is to do.

    Attributes
    ----------
    steps
        Training steps in all, or batches where the workload does not train; requests of a stream.
    controller
        Says before every step which plan runs; None: the one given, as long as it can.
    in_run_form
        Turns a plan of the controller, or a fallback, into the form that is run.
    fallbacks
        Plans for when devices are lost, best first; where none will do, one is made on the spot.
    copies, copy_every
        Who keeps states for that, and behind every how many steps.
    checkpoints, checkpoint_every
        Where training is written down, behind every how many steps; None: nowhere.
    resume
        Whether to go on from the latest checkpoint there.
    slow_down_at
        How many times as long emulated devices compute in a step or batch, by its number; those not named as usual.
    in_order
        Whether transfers leave in the plan's order; None: where that is predicted to be faster than as ready.
    """

    steps: int
    controller: Controller | None = None
    in_run_form: Callable[[Plan], Plan] = lambda plan: plan
    fallbacks: tuple[Plan, ...] = ()
    copies: Copies = "replicas"
    copy_every: int = 1
    checkpoints: pathlib.Path | None = None
    checkpoint_every: int = 1
    resume: bool = False
    slow_down_at: Callable[[int], Mapping[str, float]] | None = None
    in_order: bool | None = None


class Outputs(NamedTuple):
    """What the devices of a last stage computed.

    Attributes
    ----------
    plan
        Under which, in the form that is run.
    tensors
        By device: ``output/m`` of micro-batch m and, of tokens, ``token/m``.
    micro_batches
        Which ones, counted as the plan cuts them; None: all.
    """

    plan: Plan
    tensors: Mapping[str, Mapping[str, Tensor]]
    micro_batches: range | None = None


@dataclass
class Stream:
    """How far a stream has come.

    Attributes
    ----------
    began_s
        When its first request arrived, of ``time.perf_counter``; None: it has not begun.
    ended_s
        When each completed request was; no later one is completed.
    """

    began_s: float | None = None
    ended_s: list[float] = field(default_factory=list)

    @property
    def completed(self) -> int:
        """Requests completed."""
        return len(self.ended_s)

    @property
    def duration_s(self) -> float:
        """Seconds from its beginning to the last completed request."""
        assert self.began_s is not None, "it has begun"
        return max(self.ended_s) - self.began_s

    def latencies_s(self, arrival_s: float) -> tuple[float, ...]:
        """Seconds from each completed request's arrival, with so much time between them, to its last output."""
        assert self.began_s is not None, "it has begun"
        return tuple(end_s - self.began_s - request * arrival_s for request, end_s in enumerate(self.ended_s))


@dataclass
class Conducted:
    """What came of it.

    Attributes
    ----------
    link
        The network as probed.
    first
        What the first plan was expected to do.
    batches
        What every device did in each batch before training; the last one is compared. Of a stream, in each part of it:
        a fault begins another one, and of what was before it the devices that lived tell.
    stream
        How far it came.
    steps
        What every device did in each training step.
    losses
        Of each training step, those before a resumed run included.
    copying_s
        Seconds that copies for neighbours took behind each step of the first plan.
    incidents
        Changes of plans, faults and checkpoints.
    outputs
        Of the last batch, or of all requests, part by part.
    parameters
        What the devices have at the end, by device.
    """

    link: Link | None
    first: Expected
    batches: list[dict[str, Iterated]] = field(default_factory=list)
    stream: Stream = field(default_factory=Stream)
    steps: dict[int, dict[str, Iterated]] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    copying_s: list[float] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    outputs: list[Outputs] = field(default_factory=list)
    parameters: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def duration_s(devices: Mapping[str, Iterated]) -> float:
    """From the first device's start to the last one's end; on one host, that is one clock."""
    return max(each.iteration.end_s for each in devices.values()) - start_s(devices)


def start_s(devices: Mapping[str, Iterated]) -> float:
    """When the first device started."""
    return min(each.iteration.start_s for each in devices.values())


def outputs_of(plan: Plan, first_request: int, requests: Sequence[Mapping[str, Delivery]]) -> Outputs:
    """What was delivered of some requests of a stream, one behind the other."""
    tensors: dict[str, dict[str, Tensor]] = {device: {} for device in plan.stages[-1].devices}
    for parts in requests:
        for device, delivery in parts.items():
            tensors[device] |= {f"output/{micro_batch}": each for micro_batch, each in delivery.outputs.items()}
    first, count = first_request * plan.micro_batches, len(requests) * plan.micro_batches
    return Outputs(plan, tensors, range(first, first + count))


def events_of(step: int, devices: Mapping[str, Iterated], origin_s: float | None = None) -> Iterator[RunEvent]:
    """What devices did in a step, from a moment of ``time.perf_counter`` on; None: from its start on."""
    origin_s = start_s(devices) if origin_s is None else origin_s
    for device, done in devices.items():
        for event in done.iteration.events:
            yield RunEvent(
                device=device,
                kind=event.kind,
                stage=event.stage,
                micro_batch=event.micro_batch,
                step=step,
                start_s=event.start_s - origin_s,
                end_s=event.end_s - origin_s,
                part=event.part,
            )
