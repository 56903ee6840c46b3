"""What a run is to do, and what came of it."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from dora_nb.domain.controller import Controller
from dora_nb.domain.plan import Plan
from dora_nb.domain.run_record import Incident, Link
from dora_nb.domain.run_timeline import RunEvent
from dora_nb.errors import ExecutionError
from dora_nb.executor.messages import Iterated
from dora_nb.executor.rehearsal import Expected

if TYPE_CHECKING:
    from torch import Tensor

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
        What every device did in each batch before training; the last one is compared.
    steps
        What every device did in each training step.
    losses
        Of each training step, those before a resumed run included.
    copying_s
        Seconds that copies for neighbours took behind each step of the first plan.
    incidents
        Changes of plans, faults and checkpoints.
    outputs, parameters
        What the devices computed, by device.
    plan
        Under which the outputs were made.
    """

    link: Link | None
    first: Expected
    batches: list[dict[str, Iterated]] = field(default_factory=list)
    steps: dict[int, dict[str, Iterated]] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    copying_s: list[float] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    outputs: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    parameters: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    plan: Plan | None = None


def duration_s(devices: Mapping[str, Iterated]) -> float:
    """From the first device's start to the last one's end; on one host, that is one clock."""
    return max(each.iteration.end_s for each in devices.values()) - start_s(devices)


def start_s(devices: Mapping[str, Iterated]) -> float:
    """When the first device started."""
    return min(each.iteration.start_s for each in devices.values())


def events_of(step: int, devices: Mapping[str, Iterated]) -> Iterator[RunEvent]:
    """What devices did in a step, from its start on."""
    origin_s = start_s(devices)
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
            )
