"""Conducts a run: batch by batch and step by step, changing plans where a controller says so, going on after faults."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from dora_nb.costs.energy import BUSY_KINDS
from dora_nb.domain.controller import StepReport
from dora_nb.domain.plan import Plan
from dora_nb.domain.run_record import Incident, Link
from dora_nb.domain.run_timeline import INFERENCE, RunEvent
from dora_nb.errors import ExecutionError
from dora_nb.executor.control.replies import Iterated
from dora_nb.executor.course import (
    CancelledError,
    Conducted,
    Course,
    Outputs,
    StoppedError,
    Tell,
    duration_s,
    events_of,
    outputs_of,
)
from dora_nb.executor.faults.checkpoint import checkpoint_to_resume, write_checkpoint
from dora_nb.executor.faults.fallback import copies_to_neighbours
from dora_nb.executor.faults.recovery import restart_of
from dora_nb.executor.rehearsal import Expected, Rehearsal
from dora_nb.executor.session import DeviceLostError, Session, Switched
from dora_nb.units import counted, format_seconds

#: Times a group is formed again after a failure that lost no device, before that is taken for a defect.
PATIENCE = 3


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
    foresee
        Called before the first step with the plan and what is expected of it.
    """

    def __init__(
        self,
        session: Session,
        rehearsal: Rehearsal,
        course: Course,
        tell: Tell,
        watch: Callable[[Iterable[RunEvent]], None],
        stop: threading.Event,
        foresee: Callable[[Plan, Expected], None] | None = None,
    ) -> None:
        self._session, self._rehearsal, self._course = session, rehearsal, course
        self._foresee = foresee
        self._tell, self._watch, self._stop = tell, watch, stop
        self._trains = session.task.trains
        self._began_s = time.monotonic()
        self._expected: Expected
        self._done: Conducted
        self._chosen: Plan | None = None  # as the controller knows it
        self._left_alone = False  # by the controller
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
        if not self._session.completed:  # a checkpoint's parameters are not those that a batch is compared with
            if self._session.task.streams:
                self._requests()
            else:
                self._batches()
        while self._trains and not self._done.parameters:  # a fault may take steps back
            unfinished = self._session.completed < self._course.steps
            self._go_on(self._step if unfinished else self._take_parameters)
        return self._done

    # ------------------------------------------------------------------ the course

    def _start(self, plan: Plan) -> None:
        self._tell("preparing the workers")
        checkpoint, losses = None, dict[int, float]()
        if self._course.resume:
            checkpoint, found = checkpoint_to_resume(self._session, self._course.checkpoints)
            self._session.completed = found.completed
            losses = dict(enumerate(found.losses))
        self._session.clear()
        self._session.prepare(plan, fresh=checkpoint is None, checkpoint=checkpoint)
        self._session.commit(plan)
        link = self._session.probe()
        self._done = Conducted(link, self._expect(plan, link), losses=losses)
        if self._foresee is not None:
            self._foresee(plan, self._expected)
        if checkpoint is not None:
            self._note("resume", f"going on from {checkpoint}")
        self._tell("running")

    def _batches(self) -> None:
        while len(self._done.batches) < self._batch_count:
            self._go_on(lambda: self._batch(len(self._done.batches)))
        while not self._done.outputs:
            self._go_on(self._take_outputs)

    @property
    def _batch_count(self) -> int:
        return 1 if self._trains else self._course.steps

    def _batch(self, number: int) -> None:
        self._choose()
        done = self._iterate(INFERENCE, trains=False, number=number)
        self._watch(events_of(INFERENCE, done))
        self._done.batches[number:] = [done]
        which = "inference batch" if self._batch_count == 1 else f"batch {number + 1} of {self._batch_count}"
        self._tell(f"{which} done in {self._speed(duration_s(done))}")
        self._report(done)

    def _speed(self, took_s: float) -> str:
        task = self._session.task
        return f"{format_seconds(took_s)}, {task.requests * task.batch / took_s:.3g} samples/s"

    def _take_outputs(self) -> None:
        if self._failures:  # who re-formed has forgotten them
            self._batch(self._batch_count - 1)
        plan = self._session.plan
        assert plan is not None, "a batch was run"
        self._done.outputs = [Outputs(plan, self._session.load("outputs"))]

    def _requests(self) -> None:
        """Answer all requests of a stream; behind a fault, those that are left."""
        while not self._answered_all:
            self._go_on(self._stream)
        requests = counted(self._session.task.requests, "request")
        self._tell(f"stream of {requests} done in {self._speed(self._done.stream.duration_s)}")

    def _stream(self) -> None:
        self._choose()
        done = self._iterate(INFERENCE, trains=False)
        self._take_answers(done)
        if not self._answered_all:
            raise ExecutionError(f"the devices delivered no outputs of request {self._done.stream.completed + 1}")
        if len(self._done.batches) == 1:  # what was expected is the whole stream
            self._report(done)

    @property
    def _answered_all(self) -> bool:
        return self._session.task.streams and self._done.stream.completed == self._session.task.requests

    def _take_answers(self, done: dict[str, Iterated]) -> None:
        """Keep what was delivered of the stream's requests, and what devices did, as far as they can say so."""
        answered, plan, stream = self._session.answered(), self._session.plan, self._done.stream
        if answered is None or plan is None:
            return
        if stream.began_s is None:
            starts_s = [each.iteration.start_s for each in done.values()]
            starts_s += [each.start_s for parts in answered.requests for each in parts.values()]
            stream.began_s = min(starts_s, default=answered.ordered_s)
        if answered.requests:
            self._failures = 0  # it does get on
            self._done.outputs.append(outputs_of(plan, stream.completed, answered.requests))
            stream.ended_s += [max(each.end_s for each in parts.values()) for parts in answered.requests]
        if done:
            self._done.batches.append(done)
            self._watch(events_of(INFERENCE, done, stream.began_s))

    def _take_parameters(self) -> None:
        self._done.parameters = self._session.load("parameters")

    def _step(self) -> None:
        step = self._session.completed
        self._choose()
        done = self._iterate(step, trains=True, number=step)
        self._watch(events_of(step, done))
        self._done.steps[step] = done
        loss = self._done.losses[step] = sum(each.iteration.loss for each in done.values())
        speed = self._speed(duration_s(done))
        self._tell(f"step {step + 1} of {self._course.steps} done in {speed}, loss {loss:.4g}")
        self._report(done)
        if self._course.checkpoints is not None and (step + 1) % self._course.checkpoint_every == 0:
            losses = [self._done.losses[number] for number in range(step + 1)]
            write_checkpoint(self._session, self._course.checkpoints, losses)

    def _iterate(self, step: int, *, trains: bool, number: int = 0) -> dict[str, Iterated]:
        plan = self._session.plan
        assert plan is not None, "a plan was committed"
        due = trains and self._course.copies != "none" and (step + 1) % self._course.copy_every == 0
        copies = copies_to_neighbours(plan) if due and self._course.copies == "neighbours" else ()
        targets = {device: own[trains] for device, own in self._expected.targets.items()}
        if self._course.slow_down_at is not None and targets:
            for device, factor in self._course.slow_down_at(number).items():
                targets[device] = tuple(each.replace(seconds=factor * each.seconds) for each in targets.get(device, ()))
        done = self._session.iterate(
            step,
            trains=trains,
            targets=targets,
            keep=due,
            copies=copies,
            arrival_s=self._rehearsal.arrival_s,
            first_request=self._done.stream.completed,
            began_s=self._done.stream.began_s,
        )
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
        if chosen is None:  # what runs needs only devices that are there
            if not self._left_alone:
                self._tell("the controller has no plan: going on with the one that runs")
            self._left_alone = True
            return
        self._left_alone = False
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
        self._expect(plan, self._done.link)

    def _expect(self, plan: Plan, link: Link | None) -> Expected:
        """Predict what was committed, and have its transfers leave in the order that was asked for or is faster."""
        session = self._session
        self._expected = self._rehearsal.expect(plan, link, in_order=self._course.in_order)
        if link is None:
            return self._expected
        ordering = self._expected.ordering
        self._tell(f"transfers go {ordering.text}")
        if plan.transfer_order and ordering.in_order != session.network.in_order:
            session.network = session.network.replace(in_order=ordering.in_order)
            session.prepare(plan, fresh=False)  # every device keeps its layers
            session.commit(plan)
        return self._expected

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
            tried = counted(self._failures - 1, "time")
            raise StoppedError(f"stopped, having tried {tried} to go on: {fault}") from fault
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
        done = {device: each.streamed for device, each in stock.items()}
        self._take_answers({device: Iterated(iteration=each) for device, each in done.items() if each is not None})
        if self._answered_all:
            self._note("recovery", self._how_far())
            return
        restart = restart_of(fault, plan, session.completed, session.present, stock, self._course)
        if restart.loss is not None:
            self._done.losses[session.completed] = restart.loss
        switched = session.go_on_with(restart.plan, restart.completed, restart.holders, fresh=restart.fresh)
        self._chosen = None
        self._take_up(restart.plan)
        switched = switched._replace(seconds=time.monotonic() - noticed_s)
        text = f"going on with {_described(restart.plan)}"
        if session.task.streams:
            text = f"{self._how_far()} under {_described(restart.plan)}"
            self._tell(self._how_far())
        self._note("recovery", text, switched)

    def _how_far(self) -> str:
        """Which requests of a stream are behind it, and which one is next."""
        count, completed = self._session.task.requests, self._done.stream.completed
        behind = f"{completed} of {counted(count, 'request')} were completed"
        return behind if completed == count else f"{behind}; going on with request {completed + 1}"

    # ------------------------------------------------------------------ what is told

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


def _described(plan: Plan) -> str:
    stages = " | ".join("+".join(stage.devices) for stage in plan.stages)
    return f"{plan.label or 'a plan'} on {stages}"
