"""Requests served by worker processes: every one gets the tokens that it gets alone."""

from __future__ import annotations

import pytest
import torch
from own_models import live, workload_for

from dora_nb.costs.serving.service import serving_plan
from dora_nb.domain.layer import NextToken
from dora_nb.errors import InputError
from dora_nb.executor.serving import serve_requests


def test_processes_serve_requests_as_they_come(lab, pool):
    workload = lab.workload(lab.architectures["untied"], "generate", 1, new_tokens=12)
    place = lab.cluster([1e9, 1e9])
    plan = serving_plan([(0, 3, "d0"), (3, 6, "d1")], 3, 2)
    run = serve_requests(plan, workload, place, [0.002 * number for number in range(12)], workers=pool)
    assert run.differing == ()
    assert [len(each) for each in run.tokens] == [12] * 12
    assert sum(joining for joining, _ in run.rounds) == 12
    assert sum(map(sum, run.rounds)) == 12 * 12
    assert all(0 < first < last for first, last in zip(run.first_token_s, run.latency_s, strict=True))
    expected = (run.predicted_first_token_s, run.predicted_latency_s)
    assert all(0 < first < last for first, last in zip(*expected, strict=True))
    assert run.arrivals_s == pytest.approx([0.002 * number for number in range(12)])
    assert repr(run).startswith("ServedRun of 12 requests, all tokens as alone: first token after")
    again = serve_requests(plan, workload, place, [0.0] * 12, wave=4, workers=pool)
    assert again.tokens == run.tokens
    assert {joining for joining, _ in again.rounds} == {0, 1}  # in waves, one a round
    whole = serve_requests(plan, workload, place, [0.0] * 12, batching="static", workers=pool)
    assert whole.tokens == run.tokens
    assert {joining for joining, _ in whole.rounds} == {0, 3}  # all slots of a group at once


def test_a_hugging_face_model_serves_prompts_of_ones_own(lab, pool):
    model = live("qwen3")
    token = NextToken(flops=1.0, read_parameters=1, output_elements=1)
    work = workload_for(5, 1, mode="inference", sequence=9)
    layers = [layer.replace(next_token=token) for layer in work.layers]
    work = work.replace(mode="generate", new_tokens=6, layers=layers)
    prompts = torch.randint(40, (7, 9), generator=torch.Generator().manual_seed(2))
    plan = serving_plan([(0, 2, "d0"), (2, 5, "d1")], 2, 2)
    run = serve_requests(
        plan, work, lab.cluster([1e9, 1e9]), [0.0] * 7, model, data=prompts, dtype="float64", workers=pool
    )
    assert run.differing == ()
    with torch.no_grad():
        own = model.double().generate(
            prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=6, do_sample=False,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    assert run.tokens == tuple(map(tuple, own[:, 9:].tolist()))


def test_what_cannot_be_served_is_refused(lab):
    workload = lab.workload(lab.architectures["untied"], "generate", 1, new_tokens=3)
    plan, place = serving_plan([(0, 6, "d0")], 2, 1), lab.cluster([1e9])
    with pytest.raises(InputError, match="arrivals_s"):
        serve_requests(plan, workload, place, [1.0, 0.0])
    with pytest.raises(InputError, match="from 1 to 2, the slots of all groups"):
        serve_requests(plan, workload, place, [0.0], wave=3)
    with pytest.raises(InputError, match="continuous, static"):
        serve_requests(plan, workload, place, [0.0], batching="none")
    with pytest.raises(InputError, match="one device a stage"):
        serve_requests(lab.plan([(0, 6, [(0, 1)], 1, None)], 2), workload, place, [0.0])
