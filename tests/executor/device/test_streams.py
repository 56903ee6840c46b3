"""Requests that arrive at a rate: answered as one process answers them, latencies predicted and measured."""

from __future__ import annotations

import pytest
import torch

import dora_nb as dora
from dora_nb.costs.table import cost_table
from dora_nb.costs.timing import timing_of
from dora_nb.domain.run_record import Link, RunRecord
from dora_nb.domain.run_times import StreamTimes
from dora_nb.domain.transfer import Transfer
from dora_nb.executor import execute
from dora_nb.executor.compare import differences
from dora_nb.executor.course import Outputs
from dora_nb.executor.device.instructions import Arrive, Forward, compile_plan
from dora_nb.executor.device.replica import Replica
from dora_nb.executor.device.streams import arrivals_s, over_requests, with_arrivals
from dora_nb.executor.latencies import stream_times
from dora_nb.executor.measuring.profile import LayerTimes
from dora_nb.executor.predict import machine_cluster, measured_table, predict
from dora_nb.executor.reference import reference_run
from dora_nb.executor.tasks.assemble import random_task
from dora_nb.executor.tasks.scale import executable, for_inference, scale_down

STAGES = {
    "one stage": [(0, 6, [(0, 1), (1, 3)], 1, None)],
    "two stages": [(0, 3, [(0, 3), (1, 1)], 1, None), (3, 6, [(2, 4)], 1, None)],
    "three stages": [(0, 1, [(0, 4)], 1, None), (1, 5, [(1, 1), (2, 3)], 1, None), (5, 6, [(3, 4)], 1, None)],
}
REQUESTS = 5


def streaming(lab, name, network="untied", per_s=1.0, micro_batches=2):
    plan = lab.plan(STAGES[name], micro_batches)
    batch = plan.micro_batch * micro_batches
    return plan, lab.workload(lab.architectures[network], "stream", batch, requests_per_s=per_s)


@pytest.mark.parametrize("network", ["untied", "vit"])
@pytest.mark.parametrize("name", STAGES)
def test_every_request_is_answered_as_one_process_answers_it(lab, name, network):
    plan, workload = streaming(lab, name, network)
    small, plan = scale_down(plan, workload)
    task = random_task(small, 3, requests=REQUESTS)
    reference, ran = reference_run(task, plan, 0), lab.run(task, plan, 0)
    assert len(reference.outputs) == REQUESTS * plan.micro_batches
    assert not torch.equal(reference.outputs[0], reference.outputs[-1])
    assert differences(reference, [Outputs(plan, ran.results)], ran.results, []).outputs <= 1e-12


def test_the_first_stage_waits_for_each_request(lab):
    plan, workload = streaming(lab, "two stages")
    small, plan = scale_down(plan, workload)
    task = random_task(small, 3, requests=REQUESTS)
    programs = {
        device: with_arrivals(program, arrivals_s(plan, REQUESTS, 0.05))
        for device, program in compile_plan(over_requests(plan, REQUESTS), trains=False).items()
    }
    assert not any(isinstance(each, Arrive) for each in programs["d2"])
    done = {}

    def work(device, transport):
        replica = Replica(device, plan, task)
        replica.warm_up()
        done[device] = lab.interpreter(replica, transport).run(programs[device], replica.batch(-1))

    lab.in_threads(plan.devices, work)
    for device in ("d0", "d1"):
        assert [type(each) for each in programs[device][:2]] == [Arrive, Forward]
        passes = [each for each in done[device].events if each.kind == "forward"]
        assert len(passes) == REQUESTS * plan.micro_batches
        for each in passes:
            assert each.start_s - done[device].start_s >= 0.05 * (each.micro_batch // plan.micro_batches)


def test_the_order_of_transfers_repeats_with_every_request(lab):
    order = [("activation", 1, 1), ("activation", 0, 0)]  # behind a request's first comes the second of the one before
    plan = lab.plan(STAGES["three stages"], 1)
    plan = plan.replace(
        transfer_order=[Transfer(kind=kind, stage=stage, micro_batch=0, lag=lag) for kind, stage, lag in order]
    )

    def turns(first: int) -> list[tuple[int, int]]:
        whole = over_requests(plan, 3, first)
        assert {each.lag for each in whole.transfer_order} <= {0}
        return [(each.stage, each.micro_batch) for each in whole.transfer_order]

    assert turns(0) == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
    assert turns(1) == [(0, 1), (1, 1), (0, 2), (1, 2)]
    alone = over_requests(plan, 1)
    assert [(each.stage, each.lag) for each in alone.transfer_order] == [(0, 0), (1, 0)]


@pytest.mark.parametrize("share", [0.6, 0.95])
def test_requests_in_the_planned_order_take_no_longer_than_planned(share):
    """Where stages work on several requests at once, and turns take no time."""
    cluster = dora.load_cluster("smart-home")
    workload = dora.load_workload("bert-base", mode="stream", requests_per_s=1).replace(source=None, sink=None)
    rate = share * dora.fastest_stream(workload, cluster).requests_per_s
    workload = workload.replace(requests_per_s=rate)
    plan = dora.plan(workload, cluster, dora.QoE(objective="latency"), most_plans=1).best
    assert any(each.lag for each in plan.transfer_order)
    whole = over_requests(executable(plan), 20)
    arrived_s = arrivals_s(plan, 20, workload.arrival_s)
    predicted = predict(whole, workload, cluster, cost_table(workload, cluster), arrivals_s=arrived_s)
    taken_s = stream_times(predicted.computations, plan.micro_batches, 20, workload.arrival_s).latencies_s
    assert max(taken_s) <= plan.prediction.makespan_s * (1 + 1e-6)
    assert taken_s[10:12] == pytest.approx(taken_s[9:11])  # all alike, until the last ones have the network alone


def test_a_stream_in_the_planned_order(lab, pool):
    """Executed on an imitated medium: nobody waits for a turn that does not come, and every answer is right."""
    plan, workload = streaming(lab, "three stages")
    cluster = lab.cluster([1e12] * 4)
    busy_s = timing_of(plan, workload, cluster, cost_table(workload, cluster)).compute_s
    workload = workload.replace(requests_per_s=0.3 / max(busy_s.values()))
    order = [(1, 0, 1), (0, 0, 0), (1, 1, 1), (0, 1, 0)]
    plan = plan.replace(
        transfer_order=[
            Transfer(kind="activation", stage=stage, micro_batch=batch, lag=lag) for stage, batch, lag in order
        ]
    )
    run = execute(plan, workload, cluster, steps=REQUESTS, in_order=True, workers=pool).wait()
    assert run.max_abs_diff <= 1e-12
    assert run.ordering.text == "in the plan's order, as asked"
    assert len(run.measured_stream.latencies_s) == REQUESTS


def test_figures_of_a_stream():
    steady = StreamTimes(arrival_s=0.5, latencies_s=(1.0, 2.0, 1.5, 1.0))
    assert (steady.median_s, steady.p95_s, steady.longest_s) == (1.25, 2.0, 2.0)
    assert steady.requests_per_s == pytest.approx(2.0)
    assert steady.kept_up is True
    late = StreamTimes(arrival_s=0.5, latencies_s=tuple(1.0 + 0.1 * index for index in range(40)))
    assert late.p95_s == pytest.approx(1.0 + 0.1 * 37)
    assert late.requests_per_s == pytest.approx(1 / 0.6)
    assert late.kept_up is False
    single = StreamTimes(arrival_s=0.5, latencies_s=(1.0,))
    assert (single.requests_per_s, single.kept_up) == (None, None)


def latencies(lab, name, arrival_s, requests=REQUESTS):
    """Predicted, of layers that take 1 ms a sample, on a fast network."""
    plan, workload = streaming(lab, name)
    small, plan = scale_down(plan, workload)
    plan, small = for_inference(plan, small)
    times = [LayerTimes({n: 1e-3 * n for n in (1, 3, 4)}, {}, 0.0) for _ in small.layers]
    cluster = machine_cluster(plan, lab.cluster([1e12] * 4), Link(latency_s=0.0, rate_bytes_per_s=1e15))
    table = measured_table(times, plan, cluster, dict.fromkeys(plan.devices, 1.0))
    whole = over_requests(plan, requests)
    predicted = predict(whole, small, cluster, table, arrivals_s=arrivals_s(plan, requests, arrival_s))
    return stream_times(predicted.computations, plan.micro_batches, requests, arrival_s).latencies_s


def test_predicted_latencies(lab):
    # One stage: two passes of 6 layers with 3 samples. Two: 3 layers with 3 samples, then two passes of 3 with 4.
    assert latencies(lab, "one stage", 1.0) == pytest.approx([36e-3] * REQUESTS)
    assert latencies(lab, "two stages", 1.0) == pytest.approx([33e-3] * REQUESTS, rel=1e-5)
    # The second stage needs 24 ms for a request: faster arrivals overlap, and still faster ones wait ever longer.
    assert latencies(lab, "two stages", 24e-3) == pytest.approx([33e-3] * REQUESTS, rel=1e-5)
    assert latencies(lab, "two stages", 20e-3) == pytest.approx([33e-3 + 4e-3 * n for n in range(REQUESTS)], rel=1e-5)


def run_at(lab, pool, load: float, requests: int) -> RunRecord:
    """Two stages on slowed devices; requests that keep the slower stage busy for so much of the time."""
    plan, workload = streaming(lab, "two stages")
    cluster = lab.cluster([2e12, 1e12, 1e12])
    busy_s = timing_of(plan, workload, cluster, cost_table(workload, cluster)).compute_s
    period_s = plan.micro_batches * max(busy_s.values())
    workload = workload.replace(requests_per_s=load / period_s)
    return execute(plan, workload, cluster, steps=requests, emulate="devices", workers=pool).wait()


def test_a_stream_that_keeps_up(lab, pool):
    run = run_at(lab, pool, 0.85, 6)
    assert run.max_abs_diff <= 1e-12
    predicted, measured = run.predicted_stream, run.measured_stream
    assert predicted.kept_up is True
    assert predicted.latencies_s == pytest.approx([predicted.median_s] * 6)
    assert (run.predicted_s, run.measured_s) == (predicted.median_s, measured.median_s)
    # Computing is slept, so nothing is faster than predicted; the stages work on several requests at once.
    assert measured.median_s >= 0.95 * predicted.median_s
    assert predicted.median_s > measured.arrival_s
    assert run.requests == len(measured.latencies_s) == 6
    ended = stream_times(run.events, run.plan.micro_batches, 6, measured.arrival_s)
    assert measured.latencies_s == pytest.approx(ended.latencies_s)  # what was delivered says what the events say
    arrivals = {event.device for event in run.events if event.kind == "arrive"}
    assert arrivals == {"d0", "d1"}
    assert RunRecord.model_validate_json(run.model_dump_json()) == run
    text = repr(run)
    for shown in ("a stream of 6 requests", "median latency", "95 % within", "predicted it kept up"):
        assert shown in text, text
    assert dora.compare(run.plan, run).what == "stream"


def test_a_stream_that_does_not(lab, pool):
    run = run_at(lab, pool, 2.0, 5)
    assert run.max_abs_diff <= 1e-12
    for times in (run.predicted_stream, run.measured_stream):
        assert times.kept_up is False
        assert times.latencies_s[-1] > times.latencies_s[0] + 2 * times.arrival_s
    assert "measured it did not keep up" in repr(run)
