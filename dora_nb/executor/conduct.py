"""Conducts a run: batch by batch and step by step, changing plans where a controller says so, going on after faults."""

from __future__ import annotations

import pathlib
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from dora_nb.costs.energy import BUSY_KINDS
from dora_nb.domain.controller import Controller, StepReport
from dora_nb.domain.plan import Plan
from dora_nb.domain.run_record import Incident, Link
from dora_nb.domain.run_timeline import INFERENCE, RunEvent
from dora_nb.errors import ExecutionError
from dora_nb.executor.checkpoint import Checkpoint, directory_of, finish, latest, read_checkpoint
from dora_nb.executor.fallback import copies_to_neighbours, first_without, without
from dora_nb.executor.messages import Iterated
from dora_nb.executor.moves import holders_of, layers_of
from dora_nb.executor.rehearsal import Expected, Rehearsal
from dora_nb.executor.session import DeviceLostError, Session, Switched, latest_complete
from dora_nb.units import format_seconds

if TYPE_CHECKING:
    from torch import Tensor

#: Who has the state of a layer beside the device that trains it: nobody on purpose, the other replicas of its stage, or
#: also a neighbour of every device that is alone in its stage.
Copies = Literal["none", "replicas", "neighbours"]

#: Times a group is formed again after a failure that lost no device, before that is taken for a defect.
PATIENCE = 3

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


class Conductor:
    """Runs a course on a session.

    Parameters
    ----------
    session
        Whose workers are up.
    rehearsal
        Says what to expect of a plan.
    course
        What to do.
    tell
        Called with a line of text as the run goes on.
    watch
        Called with what was done in every step or batch, when it is over.
    stop
        Set when the run is to end early.
    """

    def __init__(
        self,
        session: Session,
        rehearsal: Rehearsal,
        course: Course,
        tell: Tell,
        watch: Callable[[Iterable[RunEvent]], None],
        stop: threading.Event,
    ) -> None:
        self._session, self._rehearsal, self._course = session, rehearsal, course
        self._tell, self._watch, self._stop = tell, watch, stop
        self._trains = session.task.trains
        self._began_s = time.monotonic()
        self._expected: Expected
        self._done: Conducted
        self._chosen: Plan | None = None  # as the controller knows it
        self._failures = 0

    def run(self, plan: Plan) -> Conducted:
        """Run the course, beginning with a plan in the form that is run.

        Raises
        ------
        CancelledError
            If it was stopped.
        ExecutionError
            If it cannot go on.
        """
        self._start(plan)
        self._batches()
        while self._trains and self._session.completed < self._course.steps:
            self._go_on(self._step)
        if self._trains:
            self._done.parameters = self._session.load("parameters")
        return self._done

    # ------------------------------------------------------------------ the course

    def _start(self, plan: Plan) -> None:
        self._tell("preparing the workers")
        checkpoint, losses = None, dict[int, float]()
        if self._course.resume:
            checkpoint, found = self._found_checkpoint()
            self._session.completed = found.completed
            losses = dict(enumerate(found.losses))
        self._session.clear()
        self._session.prepare(plan, fresh=checkpoint is None, checkpoint=checkpoint)
        self._session.commit(plan)
        link = self._session.probe()
        self._expected = self._rehearsal.expect(plan, link, in_order=self._in_order(plan))
        self._done = Conducted(link, self._expected, losses=losses)
        if checkpoint is not None:
            self._note("resume", f"going on from {checkpoint}")
        self._tell("running")

    def _batches(self) -> None:
        task = self._session.task
        count = 1 if task.trains or task.streams else self._course.steps
        if self._trains and self._session.completed:
            return  # a checkpoint's parameters are not those that the batch is compared with
        while len(self._done.batches) < count:
            self._go_on(self._batch)
            which = "inference batch" if count == 1 else f"batch {len(self._done.batches)} of {count}"
            which = f"stream of {task.requests} requests" if task.streams else which
            if self._done.batches:
                self._tell(f"{which} done in {self._speed(self._done.batches[-1])}")
        self._go_on(self._take_outputs)

    def _batch(self) -> None:
        self._choose()
        done = self._iterate(INFERENCE, trains=False)
        self._done.batches.append(done)
        self._report(done)

    def _speed(self, done: Mapping[str, Iterated]) -> str:
        took_s, task = duration_s(done), self._session.task
        return f"{format_seconds(took_s)}, {task.requests * task.batch / took_s:.3g} samples/s"

    def _take_outputs(self) -> None:
        self._done.outputs = self._session.load("outputs")
        self._done.plan = self._session.plan

    def _step(self) -> None:
        step = self._session.completed
        self._choose()
        done = self._iterate(step, trains=True)
        self._done.steps[step] = done
        loss = self._done.losses[step] = sum(each.iteration.loss for each in done.values())
        self._tell(f"step {step + 1} of {self._course.steps} done in {self._speed(done)}, loss {loss:.4g}")
        self._report(done)
        if self._course.checkpoints is not None and (step + 1) % self._course.checkpoint_every == 0:
            self._write_checkpoint(self._course.checkpoints)

    def _iterate(self, step: int, *, trains: bool) -> dict[str, Iterated]:
        plan = self._session.plan
        assert plan is not None, "a plan was committed"
        due = trains and self._course.copies != "none" and (step + 1) % self._course.copy_every == 0
        copies = copies_to_neighbours(plan) if due and self._course.copies == "neighbours" else ()
        number = step if trains else len(self._done.batches)
        slower = {} if self._course.slow_down_at is None else self._course.slow_down_at(number)
        targets = {
            device: [each.replace(seconds=each.seconds * slower.get(device, 1.0)) for each in own[trains]]
            for device, own in self._expected.targets.items()
        }
        arrival_s = self._rehearsal.arrival_s
        done = self._session.iterate(step, trains=trains, targets=targets, keep=due, copies=copies, arrival_s=arrival_s)
        self._watch(events_of(step, done))
        if copies and not self._done.incidents:
            self._done.copying_s.append(max(each.copying_s for each in done.values()))
        return done

    # ------------------------------------------------------------------ plans

    def _choose(self) -> None:
        """Let the controller say what runs next, and change to it."""
        if self._stop.is_set():
            raise CancelledError("the run was cancelled")
        controller = self._course.controller
        if controller is None:
            return
        chosen = controller.next_plan(self._now_s(), self._session.present)
        if chosen is None:
            there = ", ".join(sorted(self._session.present))
            raise StoppedError(f"the controller has no plan for the devices that are there ({there})")
        before, self._chosen = self._chosen, chosen
        if chosen == before:
            return
        plan = self._course.in_run_form(chosen)
        if plan == self._session.plan:
            return
        switched = self._session.switch(plan)
        self._take_up(plan)
        self._note("switch", f"to {_described(plan)}", switched)

    def _take_up(self, plan: Plan) -> None:
        if self._done.link is None:  # so far there was one device
            self._done.link = self._session.probe()
        self._expected = self._rehearsal.expect(plan, self._done.link, in_order=self._in_order(plan))

    def _in_order(self, plan: Plan) -> bool:
        return self._session.network.in_order and bool(plan.transfer_order)

    def _now_s(self) -> float:
        """Seconds since the start, as the plan counts them."""
        return (time.monotonic() - self._began_s) / self._rehearsal.emulation.dilation

    def _report(self, done: Mapping[str, Iterated]) -> None:
        """Tell the controller what was measured, in the plan's seconds."""
        controller, plan = self._course.controller, self._chosen
        if controller is None or plan is None:
            return
        dilation = self._rehearsal.emulation.dilation
        took_s = duration_s(done) / dilation
        end_s = self._now_s()
        expected = self._expected.training if self._trains else self._expected.inference
        assert expected is not None, "what runs was predicted"
        expected_busy_s = dict.fromkeys(done, 0.0)
        for each in expected.computations:
            expected_busy_s[each.device] += (each.end_s - each.start_s) / dilation
        measured_s = {
            device: sum(event.end_s - event.start_s for event in each.iteration.events if event.kind in BUSY_KINDS)
            / dilation
            for device, each in done.items()
        }
        controller.observe(
            StepReport(
                plan=plan,
                arrival_s=end_s - took_s,
                start_s=end_s - took_s,
                end_s=end_s,
                lost_to=None,
                energy_j=0.0 if plan.prediction is None else plan.prediction.energy_participating_j,
                expected_s=expected_busy_s,
                measured_s=measured_s,
            )
        )

    # ------------------------------------------------------------------ faults

    def _go_on(self, work: Callable[[], None]) -> None:
        """Do one piece of the course; after a fault, re-form the group and leave the rest to the next call."""
        try:
            work()
            self._failures = 0
            return
        except (CancelledError, StoppedError):
            raise
        except ExecutionError as error:
            fault = error
        while True:
            if self._stop.is_set():
                raise CancelledError("the run was cancelled") from fault
            try:
                self._recover(fault)
                return
            except StoppedError:
                raise
            except ExecutionError as another:
                fault = another

    def _recover(self, fault: ExecutionError) -> None:
        session, noticed_s = self._session, time.monotonic()
        self._failures += 1
        if self._failures > PATIENCE and not isinstance(fault, DeviceLostError):
            raise fault
        plan = session.plan
        assert plan is not None, "only what runs can fail"
        session.give_up()
        if isinstance(fault, DeviceLostError):
            self._tell(f"lost {fault.device}")
            self._note("fault", str(fault).splitlines()[0])
            session.drop(fault.device)
        else:
            self._tell("connections failed")
        stock = session.stock()
        new = self._plan_for(session.present, plan)
        layers = sorted(holders_of(plan))
        found = latest_complete(stock, layers)
        fresh = not session.completed
        if fresh:  # nothing was learnt yet: what is gone can be had from where it came from
            found = 0, {layer: [device for device, own in stock.items() if layer in own.get(0, ())] for layer in layers}
        if found is None:
            raise self._stopped(fault, plan, stock)
        completed, holders = found
        if new is None:
            raise StoppedError(f"no device is left to go on with after {completed} steps: {fault}") from fault
        switched = session.go_on_with(new, completed, holders, fresh=fresh)
        self._chosen = None
        self._take_up(new)
        switched = switched._replace(seconds=time.monotonic() - noticed_s)
        self._note("recovery", f"going on with {_described(new)}", switched)

    def _plan_for(self, present: frozenset[str], plan: Plan) -> Plan | None:
        if present.issuperset(plan.devices):
            return plan
        fallbacks = (self._course.in_run_form(each) for each in self._course.fallbacks)
        found = first_without(fallbacks, present)
        if found is not None:
            return found
        left: Plan | None = plan
        for device in plan.devices:
            if left is not None and device not in present:
                left = without(left, device)
        return left

    def _stopped(
        self, fault: ExecutionError, plan: Plan, stock: Mapping[str, Mapping[int, Sequence[int]]]
    ) -> StoppedError:
        """A clean end that says what is lost and what is not."""
        there = {layer for own in stock.values() for layers in own.values() for layer in layers}
        gone = sorted(set(holders_of(plan)) - there)
        device = getattr(fault, "device", None)
        held = f"{device} alone held layers {gone}" if device is not None and gone else "no common state is left"
        where = self._course.checkpoints
        last = latest(where) if where is not None else None
        if last is None:
            hope = "there is no checkpoint: all steps are lost; give 'checkpoints', or copies='neighbours'"
        else:
            kept = read_checkpoint(last).completed
            hope = (
                f"the last checkpoint is {last}, after {kept} steps; {self._session.completed - kept} steps behind it "
                f"are lost; go on with resume=True"
            )
        return StoppedError(f"stopped after {self._session.completed} steps: {held}; {hope}. {fault}")

    # ------------------------------------------------------------------ checkpoints

    def _write_checkpoint(self, root: pathlib.Path) -> None:
        session, plan = self._session, self._session.plan
        assert plan is not None, "something ran"
        # Workers on other hosts reach the private directory alone; nothing counts before the manifest is written.
        staging = session.pool.directory / "checkpoint"
        staging.mkdir(exist_ok=True)
        directory = directory_of(root, session.completed)
        directory.mkdir(parents=True, exist_ok=True)
        written = session.save("states", staging)
        for path in written.values():
            shutil.move(path, directory / path.name)
        holders = holders_of(plan)
        files = {
            layer: written[device].name
            for device in plan.devices
            for layer in layers_of(plan, device)
            if holders[layer][0] == device
        }
        losses = tuple(self._done.losses[step] for step in range(session.completed))
        finish(directory, Checkpoint(completed=session.completed, files=files, losses=losses))

    def _found_checkpoint(self) -> tuple[pathlib.Path, Checkpoint]:
        root = self._course.checkpoints
        found = latest(root) if root is not None else None
        if found is None:
            raise ExecutionError(f"resume: there is no checkpoint in {root}; give the directory that a run wrote to")
        checkpoint, pool = read_checkpoint(found), self._session.pool
        if pool.connected:  # they reach the private directory alone
            found = pathlib.Path(shutil.copytree(found, pool.directory / found.name))
        return found, checkpoint

    def _note(
        self, kind: Literal["switch", "fault", "recovery", "resume"], text: str, switched: Switched | None = None
    ) -> None:
        moved = 0 if switched is None else sum(len(each.receivers) for each in switched.moves)
        self._done.incidents.append(
            Incident(
                kind=kind,
                completed=self._session.completed,
                at_s=time.monotonic() - self._began_s,
                seconds=0.0 if switched is None else switched.seconds,
                layers_moved=moved,
                text=text,
            )
        )


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


def _described(plan: Plan) -> str:
    stages = " | ".join("+".join(stage.devices) for stage in plan.stages)
    return f"{plan.label or 'a plan'} on {stages}"
