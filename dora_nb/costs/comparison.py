"""Holds a run against the prediction that was frozen before it: makespan, stages, transfers, steps and bubbles."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple, Protocol

from dora_nb.domain.comparison import Comparison, DeviceComparison, StageComparison, StepComparison, TransferComparison
from dora_nb.domain.plan import Plan
from dora_nb.domain.run_record import RunRecord
from dora_nb.domain.run_timeline import INFERENCE, PredictedTimeline, RunEvent
from dora_nb.domain.transfer import HOSTED
from dora_nb.errors import InputError

#: A receiver that waited less than this found its tensor there; handing over what has arrived takes about as long.
WAITED_S = 2e-4

#: The pass behind which sums over shards come.
SUMS_OF: Mapping[str, str] = {"shard-sum": "forward", "shard-gradient-sum": "backward", "shard-token-sum": "decode"}

_TIED = ("tied-reduce", "tied-exchange", "tied-broadcast")

ComputeKind = Literal["forward", "backward", "decode", "step"]
_COMPUTE: tuple[ComputeKind, ...] = ("forward", "backward", "decode", "step")


class Running(Protocol):
    """A run that may still be going on."""

    def wait(self) -> RunRecord:
        """Wait for its end."""


class HandOver(NamedTuple):
    """What passes from stage to stage, in one step of a run; see :class:`~dora_nb.domain.transfer.Transfer`."""

    kind: str
    stage: int
    micro_batch: int
    step: int


class HandOverTimes(NamedTuple):
    """When the last sender had it to send, when the last receiver came for it, and when it had it."""

    sent_s: float
    came_s: float
    had_s: float


def compare(plan: Plan, run: RunRecord | Running) -> Comparison:
    """Predicted against measured, part by part.

    Parameters
    ----------
    plan
        The plan that was run, as planned; what ran may be a smaller network cut in the same way.
    run
        Its record, or a run whose end is waited for.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        If that is no run, or one of another plan.
    """
    record = record_of(run)
    if _structure(plan) != _structure(record.plan):
        raise InputError("plan", plan.label or "a plan", "the plan that was run: the same devices, shares and batches")
    predicted, measured_s = record.predicted, record.compared_steps
    if not measured_s:
        raise InputError("run", "no step under its first plan", "a run that took one, or nothing was predicted of it")
    steps = [
        StepComparison(step=step, predicted_s=predicted.makespan_s, measured_s=seconds)
        for step, seconds in measured_s.items()
    ]
    if record.predicted_training is not None and record.inference_measured_s > 0:  # none where training was resumed
        expected_s = record.inference_predicted_s
        steps.insert(0, StepComparison(step=INFERENCE, predicted_s=expected_s, measured_s=record.inference_measured_s))
    return Comparison(
        label=plan.label,
        planned_s=None if plan.prediction is None else plan.prediction.makespan_s,
        what=_what(record),
        predicted_s=predicted.makespan_s,
        measured_s=statistics.median(measured_s.values()),
        emulation=record.emulation,
        steps=tuple(steps),
        stages=tuple(_stages(record, predicted)),
        transfers=(
            *_hand_overs(record, predicted),
            *_sums_in_passes(record, predicted),
            *_sums(record, predicted),
        ),
        devices=tuple(_devices(record, predicted)),
    )


def record_of(run: RunRecord | Running) -> RunRecord:
    """The record of a run; waits for the end of one that is still going on."""
    if isinstance(run, RunRecord):
        return run
    wait = getattr(run, "wait", None)
    record = wait() if callable(wait) else getattr(run, "record", None)
    if not isinstance(record, RunRecord):
        raise InputError("run", type(run).__name__, "what dora_nb.execute returned")
    return record


def _what(record: RunRecord) -> Literal["training step", "inference batch", "generated batch", "stream"]:
    if record.predicted_training is not None:
        return "training step"
    if record.measured_stream is not None:
        return "stream"
    return "inference batch" if record.measured_tokens is None else "generated batch"


def _structure(plan: Plan) -> tuple[object, ...]:
    # What ran may have fewer parts, in the same proportions.
    shards = [[parts / sum(stage.shards) for parts in stage.shards] for stage in plan.stages]
    return (plan.micro_batch, plan.micro_batches, plan.tied, [stage.replicas for stage in plan.stages], shards)


def seconds_of(events: Iterable[RunEvent], kind: str, stage: int, device: str) -> list[float]:
    """Measured seconds of one device's computations of one kind, in the order in which it carried them out.

    The parts of a backward pass, which follow one another, are one computation.
    """
    seconds: list[float] = []
    for event in events:
        if (event.kind, event.stage, event.device) == (kind, stage, device):
            since_s = seconds.pop() if event.part > 1 else 0.0
            seconds.append(since_s + event.end_s - event.start_s)
    return seconds


def hand_over_kind(plan: Plan, device: str, event: str, stage: int) -> Literal["activation", "gradient"]:
    """What a device sent or received (``event``): an activation leaves its stage, a gradient comes back to it."""
    own = device in plan.stages[stage].devices
    return "activation" if own == (event == "send") else "gradient"


def _stages(record: RunRecord, predicted: PredictedTimeline) -> Iterator[StageComparison]:
    # Parts of a backward pass add up to the pass; the slowest replica decides when the stage is done.
    expected: dict[tuple[int, str], dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for each in predicted.computations:
        by_device = expected[each.stage, each.kind][each.micro_batch]
        by_device[each.device] = by_device.get(each.device, 0.0) + each.end_s - each.start_s
    measured: dict[tuple[int, str], dict[tuple[int, int], float]] = defaultdict(dict)
    own_s: dict[tuple[int, str, str], float] = {}  # of the computation that a device is at
    for event in record.compared_events:
        passes = measured[event.stage, event.kind]
        key, own = (event.step, event.micro_batch), (event.stage, event.kind, event.device)
        own_s[own] = event.end_s - event.start_s + (own_s[own] if event.part > 1 else 0.0)
        passes[key] = max(passes.get(key, 0.0), own_s[own])
    for stage in range(HOSTED, len(record.plan.stages)):
        for kind in _COMPUTE:
            passes = measured.get((stage, kind), {})
            if not passes or (stage, kind) not in expected:
                continue
            yield StageComparison(
                stage=stage,
                kind=kind,
                devices=record.plan.stages[stage].devices,
                count=len(passes),
                predicted_s=statistics.median(max(each.values()) for each in expected[stage, kind].values()),
                measured_s=statistics.median(passes.values()),
            )


def _hand_overs(record: RunRecord, predicted: PredictedTimeline) -> Iterator[TransferComparison]:
    found = hand_over_times(record.plan, record.compared_events)
    expected = _expected_hand_overs(record.plan, predicted)
    measured: dict[tuple[str, int], list[tuple[float, bool]]] = defaultdict(list)
    for key, times in sorted(found.items()):
        measured[key.kind, key.stage].append((times.had_s - times.sent_s, times.had_s - times.came_s > WAITED_S))
    for kind, stage in sorted(measured, key=lambda each: (each[0], each[1])):
        known = [seconds for seconds, arrived in measured[kind, stage] if arrived]
        yield TransferComparison(
            kind=kind,
            stage=stage,
            count=len(measured[kind, stage]),
            waited=len(known),
            predicted_s=statistics.median(expected[kind, stage]),
            measured_s=statistics.median(known) if known else None,
        )


def hand_over_times(plan: Plan, events: Iterable[RunEvent]) -> dict[HandOver, HandOverTimes]:
    """When each hand-over was sent and had by all of its devices; those of which both is known."""
    first_sent: dict[tuple[HandOver, str], float] = {}
    last_had: dict[HandOver, RunEvent] = {}
    for event in events:
        end = event.kind.removeprefix("token-")
        if end not in ("send", "receive"):
            continue
        kind = hand_over_kind(plan, event.device, end, event.stage) if end == event.kind else "token"
        key = HandOver(kind, event.stage, event.micro_batch, event.step)
        if end == "send":
            by = key, event.device
            first_sent[by] = min(first_sent.get(by, event.start_s), event.start_s)
        elif key not in last_had or event.end_s > last_had[key].end_s:
            last_had[key] = event
    sent: dict[HandOver, float] = {}
    for (key, _), start_s in first_sent.items():
        sent[key] = max(sent.get(key, start_s), start_s)
    return {key: HandOverTimes(sent[key], event.start_s, event.end_s) for key, event in last_had.items() if key in sent}


def _expected_hand_overs(plan: Plan, predicted: PredictedTimeline) -> dict[tuple[str, int], list[float]]:
    """Predicted seconds of every micro-batch or token, from when its last sender has it."""
    produced: dict[tuple[str, int, int], float] = {}
    for each in predicted.computations:
        key = each.kind, each.stage, each.micro_batch
        produced[key] = max(produced.get(key, 0.0), each.end_s)
    arrived: dict[tuple[str, int, int], float] = {}
    for transfer in predicted.transfers:
        if transfer.kind in SUMS_OF:  # what leaves a stage with shards is there when their sums are
            made = SUMS_OF[transfer.kind], transfer.stage, transfer.micro_batch
            produced[made] = max(produced[made], transfer.end_s)
        if transfer.kind in ("activation", "gradient", "token"):
            had = transfer.kind, transfer.stage, transfer.micro_batch
            arrived[had] = max(arrived.get(had, 0.0), transfer.end_s)
    expected: dict[tuple[str, int], list[float]] = defaultdict(list)
    for (kind, stage, micro_batch), end_s in arrived.items():
        expected[kind, stage].append(end_s - produced[_made_by(plan, kind, stage, micro_batch)])
    return expected


def _made_by(plan: Plan, kind: str, stage: int, micro_batch: int) -> tuple[str, int, int]:
    """The pass that gives what is handed over; of a token, ``micro_batch`` is the round that needs it."""
    if kind == "activation":
        return "forward", stage, micro_batch
    if kind == "gradient":
        return "backward", stage + 1, micro_batch
    if stage < len(plan.stages) - 1:
        return "decode", stage, micro_batch
    earlier = micro_batch - plan.token_groups
    return ("decode", stage, earlier) if earlier >= 0 else ("forward", stage, plan.micro_batches - 1)


def _sums(record: RunRecord, predicted: PredictedTimeline) -> Iterator[TransferComparison]:
    expected = _expected_sums(record.plan, predicted)
    events: dict[_Sum, dict[int, list[RunEvent]]] = defaultdict(lambda: defaultdict(list))
    for event in record.compared_events:
        if event.kind in ("all-reduce", "tied-sum"):
            stage = event.stage if event.kind == "all-reduce" else len(record.plan.stages) - 1
            events[_Sum(event.kind, stage, event.part)][event.step].append(event)
    for key in sorted(events.keys() & expected.keys()):
        steps = events[key].values()
        # Who comes first waits for the others: the sum can begin when the last one is there.
        seconds = [max(each.end_s for each in step) - max(each.start_s for each in step) for step in steps]
        yield TransferComparison(
            kind=key.kind,
            stage=key.stage,
            part=key.part,
            count=len(seconds),
            waited=len(seconds),
            predicted_s=expected[key],
            measured_s=statistics.median(seconds),
        )


class _Sum(NamedTuple):
    kind: str
    stage: int
    part: int


def _expected_sums(plan: Plan, predicted: PredictedTimeline) -> dict[_Sum, float]:
    """Predicted seconds of every sum, from when all of its devices have nothing left to do before it."""
    filled: dict[tuple[int, int], float] = defaultdict(float)  # by stage and bucket, 0 for all passes
    for each in predicted.computations:
        if each.kind == "backward":
            stage = each.stage % len(plan.stages)  # a hosted first layer is the last stage's
            for part in {0, each.part}:
                filled[stage, part] = max(filled[stage, part], each.end_s)
    over: dict[_Sum, float] = {}
    began: dict[_Sum, float] = {}
    for transfer in predicted.transfers:
        if transfer.kind == "all-reduce":
            key = _Sum(transfer.kind, transfer.stage, transfer.part)
            before_s = over.get(key._replace(part=key.part - 1), 0.0)
            began[key], over[key] = max(filled[key.stage, key.part], before_s), transfer.end_s
        elif transfer.kind in _TIED:
            # Both ends take part in the sum of tied gradients: one row.
            key = _Sum("tied-sum", len(plan.stages) - 1, 0)
            began[key] = min(began.get(key, transfer.start_s), transfer.start_s)
            over[key] = max(over.get(key, transfer.end_s), transfer.end_s)
    return {key: end_s - began[key] for key, end_s in over.items()}


def _sums_in_passes(record: RunRecord, predicted: PredictedTimeline) -> Iterator[TransferComparison]:
    """The sums over shards, all those of a pass together."""
    expected: dict[tuple[str, int], list[float]] = defaultdict(list)
    for each in predicted.transfers:
        if each.kind in SUMS_OF:
            expected[each.kind, each.stage].append(each.end_s - each.start_s)
    # Who computes faster waits for the others in every sum: the device that waited least was waited for.
    measured: dict[tuple[str, int], dict[tuple[int, int], float]] = defaultdict(dict)
    for event in record.compared_events:
        if event.kind in SUMS_OF:
            passes, key = measured[event.kind, event.stage], (event.step, event.micro_batch)
            passes[key] = min(passes.get(key, math.inf), event.end_s - event.start_s)
    for kind, stage in sorted(measured.keys() & expected.keys()):
        seconds = measured[kind, stage].values()
        yield TransferComparison(
            kind=kind,
            stage=stage,
            count=len(seconds),
            waited=len(seconds),
            predicted_s=statistics.median(expected[kind, stage]),
            measured_s=statistics.median(seconds),
        )


def _devices(record: RunRecord, predicted: PredictedTimeline) -> Iterator[DeviceComparison]:
    makespan_s = record.compared_steps
    for device in record.plan.devices:
        expected_s = sum(each.end_s - each.start_s for each in predicted.computations if each.device == device)
        busy_s: dict[int, float] = dict.fromkeys(makespan_s, 0.0)
        for event in record.compared_events:
            if event.device == device and event.kind in _COMPUTE:
                busy_s[event.step] += event.end_s - event.start_s
        yield DeviceComparison(
            device=device,
            predicted_busy=expected_s / predicted.makespan_s,
            measured_busy=statistics.median(busy_s[step] / seconds for step, seconds in makespan_s.items()),
        )
