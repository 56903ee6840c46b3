"""From what a run did to its record: compared with one process, and with what was predicted."""

from __future__ import annotations

import platform
import statistics
import time
from typing import TYPE_CHECKING

from dora_nb.domain.accuracy import Accuracy
from dora_nb.domain.plan import Plan
from dora_nb.domain.run_record import Copying, Environment, RunRecord
from dora_nb.domain.run_timeline import INFERENCE
from dora_nb.domain.run_times import StreamTimes, TokenTimes
from dora_nb.executor.course import Conducted, duration_s, events_of
from dora_nb.executor.faults.fallback import copies_to_neighbours
from dora_nb.executor.latencies import stream_times, token_times
from dora_nb.executor.rehearsal import Rehearsal
from dora_nb.executor.system import usable_cores

if TYPE_CHECKING:
    from dora_nb.executor.reference import Reference


def reference_of(rehearsal: Rehearsal, plan: Plan, steps: int) -> tuple[Reference, Accuracy | None]:
    """What one process gives, and how far it is from one all in its own precision, where the plan's is not.

    See :func:`~dora_nb.executor.reference.reference_run`, :func:`~dora_nb.executor.measuring.accuracy.accuracy_of`.
    """
    from dora_nb.executor.measuring.accuracy import accuracy_of
    from dora_nb.executor.reference import reference_run
    from dora_nb.executor.threads import one_thread

    with one_thread():
        reference = reference_run(rehearsal.task, plan, steps)
        return reference, accuracy_of(rehearsal.task, plan) if any(plan.weights_by_layer) else None


def record_of(
    rehearsal: Rehearsal, plan: Plan, conducted: Conducted, reference: Reference, *, steps: int, began_s: float
) -> RunRecord:
    """Everything worth keeping of a run.

    Parameters
    ----------
    rehearsal
        What was known before.
    plan
        The first one.
    conducted
        What happened.
    reference
        What one process computes.
    steps
        Training steps; 0 if the workload does not train.
    began_s
        ``time.monotonic`` at the call.
    """
    import torch

    from dora_nb.executor.compare import differences

    losses = tuple(loss for _, loss in sorted(conducted.losses.items()))
    step_s = tuple(duration_s(each) for _, each in sorted(conducted.steps.items()))
    stream = conducted.stream
    batch_s = (stream.duration_s,) if rehearsal.task.streams else tuple(duration_s(each) for each in conducted.batches)
    inference_s = statistics.median(batch_s) if batch_s else 0.0
    apart = differences(reference, conducted.outputs, conducted.parameters, losses)
    first = conducted.first
    predicted_tokens, measured_tokens = _tokens(rehearsal, conducted)
    predicted_stream, measured_stream = _stream(rehearsal, plan, conducted)
    predicted_s, measured_s = (first.training or first.inference).makespan_s, inference_s
    if predicted_stream is not None and measured_stream is not None:
        predicted_s, measured_s = predicted_stream.median_s, measured_stream.median_s
    batches = conducted.batches if rehearsal.task.streams else conducted.batches[-1:]
    iterations = [*batches, *conducted.steps.values()]
    events = [event for devices in batches for event in events_of(INFERENCE, devices, stream.began_s)]
    events += [event for step, devices in conducted.steps.items() for event in events_of(step, devices)]
    return RunRecord(
        workload=rehearsal.workload,
        plan=plan,
        steps=steps,
        seed=rehearsal.task.seed,
        differences=apart,
        max_abs_diff=apart.largest,
        predicted_s=predicted_s,
        measured_s=statistics.median(step_s) if step_s else measured_s,
        step_s=step_s,
        inference_predicted_s=first.inference.makespan_s,
        inference_measured_s=inference_s,
        predicted_tokens=predicted_tokens,
        measured_tokens=measured_tokens,
        predicted_stream=predicted_stream,
        measured_stream=measured_stream,
        losses=losses,
        reference_losses=tuple(reference.losses),
        emulation=rehearsal.emulation.describe(),
        slow_down=dict(rehearsal.emulation.factors),
        dilation=rehearsal.emulation.dilation,
        overruns=sum(each.iteration.late for devices in iterations for each in devices.values()),
        link=conducted.link,
        cluster=first.cluster,
        predicted_inference=first.inference,
        predicted_training=first.training,
        profile=first.profile,
        copying=_copying(rehearsal, plan, conducted),
        incidents=tuple(conducted.incidents),
        environment=Environment(
            torch=str(torch.__version__),
            python=platform.python_version(),
            platform=platform.platform(),
            cores=usable_cores(),
        ),
        events=tuple(events),
        wall_s=time.monotonic() - began_s,
    )


def _tokens(rehearsal: Rehearsal, conducted: Conducted) -> tuple[TokenTimes | None, TokenTimes | None]:
    """How fast tokens came, predicted and measured: medians over batches."""
    if not rehearsal.task.generates:
        return None, None
    steps = rehearsal.task.decode_steps
    batches = [token_times(events_of(INFERENCE, each), steps) for each in conducted.batches]
    token_s = [each.token_s for each in batches if each.token_s is not None]
    measured = TokenTimes(
        first_token_s=statistics.median(each.first_token_s for each in batches),
        token_s=statistics.median(token_s) if token_s else None,
    )
    return token_times(conducted.first.inference.computations, steps), measured


def _stream(rehearsal: Rehearsal, plan: Plan, conducted: Conducted) -> tuple[StreamTimes | None, StreamTimes | None]:
    """How long requests took, predicted and measured."""
    if rehearsal.arrival_s is None:
        return None, None
    count, arrival_s = rehearsal.task.requests, rehearsal.arrival_s
    predicted = stream_times(conducted.first.inference.computations, plan.micro_batches, count, arrival_s)
    return predicted, StreamTimes(arrival_s=arrival_s, latencies_s=conducted.stream.latencies_s(arrival_s))


def _copying(rehearsal: Rehearsal, plan: Plan, conducted: Conducted) -> Copying | None:
    if not conducted.copying_s:
        return None
    size_bytes, predicted_s = rehearsal.copying(copies_to_neighbours(plan), conducted.first.cluster)
    return Copying(size_bytes=size_bytes, predicted_s=predicted_s, measured_s=statistics.median(conducted.copying_s))
