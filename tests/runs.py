"""A run that never was: what was predicted of it, and events that are off from that by known factors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from builders import cluster, layer, pipeline, workload

from dora_nb.costs.table import cost_table
from dora_nb.domain.plan import Plan
from dora_nb.domain.run_record import Differences, Environment, Link, RunRecord
from dora_nb.domain.run_timeline import INFERENCE, PredictedTimeline, RunEvent
from dora_nb.executor.predict import frozen_profile, predict

#: Seconds between any two micro-batches' events: longer than any of them.
SPACE_S = 100.0


def made_up_plan(buckets: int = 1) -> Plan:
    """Two stages, the second on two devices that take 3 and 1 of 4 samples and sum in so many buckets."""
    plan = pipeline((0, 2, {"a": 4}), (2, 4, {"b": 3, "c": 1}), micro_batches=2).replace(label="made up")
    first, second = plan.stages
    assert second.all_reduce is not None
    return plan.replace(stages=(first, second.replace(all_reduce=second.all_reduce.replace(buckets=buckets))))


def made_up_run(
    factors: Mapping[str, float], *, steps: int = 2, transfer_s: float = 0.5, waits: bool = True, buckets: int = 1
) -> RunRecord:
    """A run of :func:`made_up_plan` whose computations take ``factors[device]`` times what was predicted.

    Parameters
    ----------
    factors
        By device; times 2 for backward passes, times 3 for steps.
    steps
        Training steps; step k takes k + 1 seconds as a whole.
    transfer_s
        Seconds from the sender's having it to the receiver's having it.
    waits
        Whether receivers wait for what comes, or find it there.
    buckets
        Of the second stage.
    """
    work = workload([layer(f"l{index}", parameters=1000 * index) for index in range(4)], batch=8, precision="fp64")
    place = cluster(3).replace(devices=tuple(device.replace(flops_per_s=_RATES) for device in cluster(3).devices))
    plan = made_up_plan(buckets)
    table = cost_table(work, place)
    passive, resting = (
        work.replace(mode="inference"),
        plan.replace(stages=tuple(stage.replace(all_reduce=None) for stage in plan.stages)),
    )
    predicted = predict(plan, work, place, table)
    inference = predict(resting, passive, place, cost_table(passive, place))
    events = list(_events(predicted, plan, factors, range(steps), transfer_s, waits))
    events += _events(inference, plan, factors, [INFERENCE], transfer_s, waits)
    return RunRecord(
        workload=work,
        plan=plan,
        steps=steps,
        seed=0,
        differences=Differences(outputs=0.0),
        max_abs_diff=0.0,
        predicted_s=predicted.makespan_s,
        measured_s=1.5,
        step_s=tuple(float(step + 1) for step in range(steps)),
        inference_predicted_s=inference.makespan_s,
        inference_measured_s=0.7,
        losses=(0.0,) * steps,
        reference_losses=(0.0,) * steps,
        emulation="nothing was imitated",
        slow_down={"a": 1.0, "b": 1.0, "c": 1.0},
        overruns=0,
        link=Link(latency_s=1e-3, rate_bytes_per_s=1e6),
        cluster=place,
        predicted_inference=inference,
        predicted_training=predicted,
        profile=frozen_profile(plan, place, table),
        environment=Environment(torch="2", python="3", platform="none", cores=2),
        events=tuple(events),
        wall_s=3.0,
    )


_RATES = {operator: {"fp64": 1e9} for operator in ("matmul", "conv", "depthwise")}


def _events(
    predicted: PredictedTimeline,
    plan: Plan,
    factors: Mapping[str, float],
    steps: Sequence[int] | range,
    transfer_s: float,
    waits: bool,
) -> Iterator[RunEvent]:
    slower = {"forward": 1.0, "backward": 2.0, "step": 3.0}
    for step in steps:
        for index, each in enumerate(predicted.computations):
            seconds = slower[each.kind] * factors[each.device] * (each.end_s - each.start_s)
            own = _event(each.device, each.kind, each.stage, each.micro_batch, step, index * SPACE_S, seconds)
            yield own.replace(part=each.part)
        for index, each in enumerate(predicted.transfers):
            start_s = index * SPACE_S
            if each.kind == "all-reduce":
                # The second device comes 2 s later; both have the sum ``transfer_s`` after that.
                first = _event("b", "all-reduce", each.stage, 0, step, start_s, 2 + transfer_s)
                second = _event("c", "all-reduce", each.stage, 0, step, start_s + 2, transfer_s)
                yield from (own.replace(part=each.part) for own in (first, second))
                continue
            for device in each.senders:
                yield _event(device, "send", each.stage, each.micro_batch, step, start_s, 1e-5)
            for device in each.receivers:
                late_s = 0.0 if waits else transfer_s  # turns to it once it is there
                receive = (start_s + late_s, transfer_s - late_s)
                yield _event(device, "receive", each.stage, each.micro_batch, step, *receive)


def _event(device: str, kind: Any, stage: int, micro_batch: int, step: int, start_s: float, seconds: float) -> RunEvent:
    return RunEvent(
        device=device,
        kind=kind,
        stage=stage,
        micro_batch=micro_batch,
        step=step,
        start_s=start_s,
        end_s=start_s + seconds,
    )
