"""Tokens generated with a cache, by one stage or several, are those of one process that computes every text anew."""

from __future__ import annotations

import itertools
import json
import statistics

import pytest
import torch
from own_models import live, workload_for

import dora_nb as dora
from dora_nb.costs.evaluate import evaluate
from dora_nb.domain.layer import NextToken
from dora_nb.domain.run_record import Link, RunRecord
from dora_nb.domain.transfer import Transfer
from dora_nb.errors import InputError
from dora_nb.executor import execute
from dora_nb.executor.compare import differences
from dora_nb.executor.course import Outputs
from dora_nb.executor.device.cache import KeyValueCache
from dora_nb.executor.latencies import token_times
from dora_nb.executor.measuring.profile import LayerTimes
from dora_nb.executor.predict import machine_cluster, measured_table, predict, targets_of
from dora_nb.executor.reference import reference_run
from dora_nb.executor.tasks.assemble import random_task, task_of
from dora_nb.executor.tasks.models import build_layer
from dora_nb.executor.tasks.scale import scale_down

NEW_TOKENS = 6

STAGES = {
    "one device": [(0, 6, [(0, 4)], 1, None)],
    "uneven replicas": [(0, 6, [(0, 1), (1, 3)], 1, None)],
    "two stages": [(0, 5, [(0, 4)], 1, None), (5, 6, [(1, 4)], 1, None)],
    "shares that do not match": [(0, 3, [(0, 5), (1, 3)], 1, None), (3, 6, [(2, 2), (3, 6)], 1, None)],
    "three stages": [(0, 1, [(0, 4)], 1, None), (1, 5, [(1, 1), (2, 3)], 1, None), (5, 6, [(3, 4)], 1, None)],
}


def generating(lab, stages, network="untied", new_tokens=NEW_TOKENS, micro_batches=3):
    plan = lab.plan(stages, micro_batches)
    batch = plan.micro_batch * micro_batches
    return plan, lab.workload(lab.architectures[network], "generate", batch, new_tokens=new_tokens)


def assert_same_text(lab, task, plan):
    reference = reference_run(task, plan, 0)
    ran = lab.run(task, plan, 0)
    apart = differences(reference, [Outputs(plan, ran.results)], ran.results, ran.losses)
    assert apart.tokens == 0
    assert apart.outputs <= 1e-12
    return reference, ran


@pytest.mark.parametrize("network", ["tied", "untied"])
@pytest.mark.parametrize("name", STAGES)
def test_tokens_equal_those_of_one_process_without_a_cache(lab, name, network):
    plan, workload = generating(lab, STAGES[name], network)
    small, plan = scale_down(plan, workload)
    task = random_task(small, 3)
    reference, ran = assert_same_text(lab, task, plan)
    assert all(each.shape == (plan.micro_batch, NEW_TOKENS) for each in reference.tokens)
    if network == "untied":  # with random tied tables, what comes in goes out
        assert len(torch.cat(reference.tokens).unique()) > NEW_TOKENS
    # What the caches take is what the plan reckons with.
    for stage in plan.stages:
        for replica in stage.replicas:
            caches = ran.replicas[replica.device]._generation.caches.values()
            own = small.layers[stage.first_layer : stage.stop_layer]
            elements = sum(layer.kv_elements for layer in own) * (small.sequence + small.new_tokens)
            assert sum(each.size_bytes for each in caches) == 8 * elements * replica.samples * plan.micro_batches


@pytest.mark.parametrize(("name", "groups"), [(name, groups) for name in STAGES for groups in (2, 4)])
def test_groups_that_follow_each_other_generate_the_same(lab, name, groups):
    plan, workload = generating(lab, STAGES[name], micro_batches=4)
    small, plan = scale_down(plan.replace(token_groups=groups), workload)
    assert plan.token_groups == groups
    reference, _ = assert_same_text(lab, random_task(small, 3), plan)
    assert len(torch.cat(reference.tokens).unique()) > NEW_TOKENS


@pytest.mark.parametrize("new_tokens", [1, 2])
def test_the_first_token_may_be_the_only_one(lab, new_tokens):
    plan, workload = generating(lab, STAGES["three stages"], new_tokens=new_tokens)
    small, plan = scale_down(plan, workload)
    assert_same_text(lab, random_task(small, 3), plan)


def test_a_wrong_token_shows(lab):
    plan, workload = generating(lab, STAGES["two stages"])
    small, plan = scale_down(plan, workload)
    task = random_task(small, 3)
    reference, ran = reference_run(task, plan, 0), lab.run(task, plan, 0)
    ran.results["d1"]["token/1"] = ran.results["d1"]["token/1"].clone()
    ran.results["d1"]["token/1"][2, 3] += 1
    assert differences(reference, [Outputs(plan, ran.results)], ran.results, []).tokens == 1


@pytest.mark.parametrize(("name", "stages"), [("qwen3", 1), ("qwen3", 2), ("llama", 3)])
def test_hugging_face_decoders_generate(lab, tmp_path, name, stages):
    model = live(name)
    cuts = {1: [0, 5], 2: [0, 2, 5], 3: [0, 1, 3, 5]}[stages]
    plan = lab.plan(
        [
            (first, stop, [(3 * index, 1), (3 * index + 1, 3)] if index == stages // 2 else [(3 * index, 4)], 1, None)
            for index, (first, stop) in enumerate(itertools.pairwise(cuts))
        ],
        2,
    )
    tokens = torch.randint(40, (8, 9), generator=torch.Generator().manual_seed(2))
    workload = generating_workload(5, 8, sequence=9)
    task, plan, *_ = task_of(model, plan, workload, data=(tokens, tokens), directory=tmp_path)
    reference, _ = assert_same_text(lab, task, plan)
    with torch.no_grad():  # the model's own generation, with its own cache
        own = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=NEW_TOKENS, do_sample=False,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    assert torch.equal(torch.cat(reference.tokens), own[:, 9:])


def generating_workload(layers, batch, sequence):
    token = NextToken(flops=1.0, read_parameters=1, output_elements=1)
    work = workload_for(layers, batch, mode="inference", sequence=sequence)
    return work.replace(
        mode="generate", new_tokens=NEW_TOKENS, layers=[layer.replace(next_token=token) for layer in work.layers]
    )


def test_a_layer_sees_with_its_cache_what_it_sees_without(lab):
    block = build_layer(lab.architectures["untied"], 1, torch.float64, 0)
    x = torch.randn(5, 7, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cache = KeyValueCache(5, 7)
    with torch.no_grad():
        for part in (slice(0, None, 2), slice(1, None, 2)):  # as micro-batches lie in it
            begun = block(x[part, :4], cache.part(part))
            torch.testing.assert_close(begun, block(x[part, :4]), rtol=0, atol=1e-15)
        for position in (4, 5, 6):
            last = block(x[:, position : position + 1], cache.part())
            torch.testing.assert_close(last[:, 0], block(x[:, : position + 1])[:, -1], rtol=0, atol=1e-14)
    assert cache.part().length == 7
    cache.clear()
    assert cache.part().length == 0


def test_a_network_without_caches_is_refused(lab, tmp_path):
    plan = lab.plan([(0, 2, [(0, 2)], 1, None)], 1)
    model = torch.nn.Sequential(torch.nn.Embedding(8, 4), torch.nn.Linear(4, 8))
    with pytest.raises(InputError, match="caches = True"):
        task_of(model, plan, generating_workload(2, 2, 3), data=torch.zeros(2, 3, dtype=torch.long), directory=tmp_path)


def ordered(plan):
    """Activations, then tokens, in their only order."""
    last = len(plan.stages) - 1
    order = [
        Transfer(kind="activation", stage=stage, micro_batch=index)
        for index in range(plan.micro_batches)
        for stage in range(last)
    ]
    order += [Transfer(kind="token", stage=stage, micro_batch=0) for stage in (last, *range(last))]
    return plan.replace(transfer_order=order)


def test_prediction_is_that_of_the_cost_model(lab):
    plan, workload = generating(lab, STAGES["three stages"])
    small, plan = scale_down(ordered(plan), workload)
    times = [
        LayerTimes({n: 1e-3 * (n + index) for n in (1, 3, 4)}, {}, 0.0, {n: 1e-4 * (n + index) for n in (3, 9, 12)})
        for index, _ in enumerate(small.layers)
    ]
    cluster = machine_cluster(plan, lab.cluster([1e12] * 4), Link(latency_s=1e-4, rate_bytes_per_s=1e9))
    table = measured_table(times, plan, cluster, dict.fromkeys(plan.devices, 2.0))
    expected = evaluate(plan, small, cluster, table).prediction
    predicted = predict(plan, small, cluster, table)
    found = token_times(predicted.computations, small.decode_steps)
    assert predicted.makespan_s == pytest.approx(expected.makespan_s)
    assert found.first_token_s == pytest.approx(expected.first_token_s)
    assert found.token_s == pytest.approx(expected.token_s)
    targets = {(each.phase, each.stage): each.seconds for each in targets_of("d2", plan, small, cluster, table)}
    assert targets["decode", 1] == pytest.approx(2 * sum(times[index].token_s[9] for index in range(1, 5)))


@pytest.fixture(scope="module")
def run(lab, pool) -> RunRecord:
    """On real workers, with an imitated network whose transfers take turns."""
    plan, workload = generating(lab, STAGES["shares that do not match"], new_tokens=8, micro_batches=2)
    return execute(ordered(plan), workload, lab.cluster([2e12, 1e12, 1e12, 2e12]), steps=2, workers=pool).wait()


def test_real_workers_generate_the_same(run):
    assert run.differences.tokens == 0
    assert run.differences.outputs <= 1e-12
    assert run.workload.new_tokens == 8


def test_times_of_tokens_are_measured_and_predicted_before(run):
    predicted, measured = run.predicted_tokens, run.measured_tokens
    assert predicted.first_token_s + 7 * predicted.token_s == pytest.approx(run.predicted_s)
    decoded = [event for event in run.events if event.kind == "decode"]
    assert len(decoded) == 7 * len(run.plan.devices)
    # Both stages compute for every token, one after the other, and the slowest replica sleeps until it is due.
    own = [each for each in run.predicted.computations if each.kind == "decode"]
    due_s = [max(each.end_s - each.start_s for each in own if each.stage == stage) for stage in (0, 1)]
    assert measured.token_s >= 0.99 * sum(due_s)
    assert measured.first_token_s + 7 * measured.token_s <= max(event.end_s for event in run.events) * 1.5
    assert RunRecord.model_validate_json(run.model_dump_json()) == run


def test_the_record_tells_of_tokens(run, tmp_path):
    text = repr(run)
    for shown in ("one batch of 16 x 8 new tokens", "first token", "further token", "0 of 128"):
        assert shown in text, text
    found = dora.compare(run.plan, run)
    assert found.what == "generated batch"
    decode = [each for each in found.stages if each.kind == "decode"]
    assert [(each.stage, each.count) for each in decode] == [(0, 7), (1, 7)]
    tokens = [each for each in found.transfers if each.kind == "token"]
    assert [(each.stage, each.count) for each in tokens] == [(0, 7), (1, 7)]
    assert "token behind stage 1" in repr(found)
    trace = json.loads(run.to_trace(tmp_path / "trace.json").read_text())
    decoded = [each["pid"] for each in trace["traceEvents"] if each.get("cat") == "decode"]
    assert decoded.count(1) == decoded.count(2) == 7 * len(run.plan.devices)  # predicted and measured


def test_real_workers_generate_in_groups(lab, pool):
    plan, workload = generating(lab, STAGES["two stages"], new_tokens=8, micro_batches=4)
    plan = ordered(plan.replace(token_groups=2))
    run = execute(plan, workload, lab.cluster([2e12, 1e12]), steps=1, workers=pool).wait()
    assert run.differences.tokens == 0
    assert run.differences.outputs <= 1e-12
    decoded = [event for event in run.events if event.kind == "decode"]
    assert len(decoded) == 2 * 7 * len(run.plan.devices)
    predicted = [each for each in run.predicted.computations if each.kind == "decode"]
    # While one group is handed over, the other one is computed.
    moved = [each for each in run.predicted.transfers if each.kind == "token"]
    assert any(a.start_s < b.end_s and b.start_s < a.end_s for a in moved for b in predicted)
    assert run.predicted_tokens.first_token_s + 7 * run.predicted_tokens.token_s == pytest.approx(run.predicted_s)
    found = dora.compare(run.plan, run)
    assert [(each.stage, each.count) for each in found.stages if each.kind == "decode"] == [(0, 14), (1, 14)]
    assert [(each.stage, each.count) for each in found.transfers if each.kind == "token"] == [(0, 14), (1, 14)]


def test_what_was_measured_is_planned_with(run):
    table = run.as_cost_table()
    measured = [event.end_s - event.start_s for event in run.events if (event.device, event.kind) == ("d3", "decode")]
    device, samples = run.cluster.device_ids.index("d3"), 2 * 6
    assert table.token_s[3:6, device, samples].sum() == pytest.approx(statistics.median(measured))
    assert evaluate(run.plan, run.workload, run.cluster, table).prediction.token_s > 0
