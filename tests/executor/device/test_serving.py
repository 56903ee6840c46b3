"""Requests that join at token boundaries get the tokens that each gets alone."""

from __future__ import annotations

import itertools

import pytest
import torch
from own_models import live

from dora_nb.costs.serving.service import serving_plan
from dora_nb.domain.serving import AT_ONCE, Joining
from dora_nb.errors import InputError
from dora_nb.executor.device.cache import KeyValueCache
from dora_nb.executor.device.replica import Replica
from dora_nb.executor.device.serving import ServedHere, SlotStage, follow, lead
from dora_nb.executor.networks.chain import built_layers
from dora_nb.executor.networks.huggingface import sequential
from dora_nb.executor.tasks.assemble import random_task
from dora_nb.executor.tasks.models import build_layer
from dora_nb.executor.tasks.scale import scale_down

NEW_TOKENS, PROMPT = 6, 7


def served(lab, plan, stages, prompts, task, come, joining=AT_ONCE):
    """All devices as threads; what the first one says, and that nothing is left over."""
    told: list[ServedHere] = []

    def work(device, transport):
        caches = {
            layer: KeyValueCache(plan.micro_batch * plan.micro_batches, task.most_tokens) for layer in stages[device]
        }
        stage = SlotStage(stages[device], caches, task)
        if device == plan.devices[0]:
            told.append(lead(stage, transport, plan, prompts, NEW_TOKENS, come, joining))
        else:
            follow(stage, transport, plan, device)

    assert lab.in_threads(plan.devices, work).left_over == 0
    return told[0]


def alone(layers, prompt):
    """Tokens of one request, from the whole text each, without a cache."""
    text = prompt[None]
    with torch.no_grad():
        for _ in range(NEW_TOKENS):
            text = torch.cat((text, layers(text)[:, -1].argmax(-1, keepdim=True)), dim=1)
    return text[0, len(prompt) :].tolist()


def plan_of(cuts, slots, groups):
    stages = [(first, stop, f"d{index}") for index, (first, stop) in enumerate(itertools.pairwise(cuts))]
    return serving_plan(stages, slots, groups)


def one_a_round(rounds):
    return 1 + rounds


def small_job(lab, plan, slots, requests):
    """A plan on a small network: the plan, its task, all layers, prompts, and the layers of each device."""
    workload = lab.workload(lab.architectures["untied"], "generate", slots, PROMPT, new_tokens=NEW_TOKENS)
    small, plan = scale_down(plan, workload)
    task = random_task(small, 3)
    layers = built_layers(task.network.build(), dtype=task.torch_dtype, seed=task.seed)
    layers.eval()
    prompts = [each.inputs[0] for each in (task.data.build().micro_batch(0, index, 1) for index in range(requests))]
    stages = {device: {layer: layers[layer] for layer in Replica(device, plan, task).layers} for device in plan.devices}
    return plan, task, layers, prompts, stages


@pytest.mark.parametrize("cuts", [(0, 6), (0, 3, 6), (0, 1, 5, 6)])
@pytest.mark.parametrize(("slots", "groups"), [(1, 1), (3, 1), (2, 2), (3, 3)])
@pytest.mark.parametrize("come", [one_a_round, lambda _: 99], ids=["one a round", "all at once"])
def test_every_request_gets_the_tokens_that_it_gets_alone(lab, cuts, slots, groups, come):
    plan = plan_of(cuts, slots, groups)
    plan, task, layers, prompts, stages = small_job(lab, plan, slots * groups, 9)
    told = served(lab, plan, stages, prompts, task, come)
    assert told.tokens == [alone(layers, prompt) for prompt in prompts]
    assert len({token for tokens in told.tokens for token in tokens}) > NEW_TOKENS
    assert all(first <= last for first, last in zip(told.first_token_s, told.last_token_s, strict=True))
    together = [len(who.joining) + len(who.going) for who in told.rounds]
    assert sum(together) == len(prompts) * NEW_TOKENS
    assert max(together) <= slots
    if come is one_a_round and slots > 1:  # prompts pass while others go on, of unequal age
        assert any(who.joining and who.going for who in told.rounds)


def test_requests_join_in_waves_one_a_round(lab):
    plan = plan_of((0, 3, 6), 2, 2)
    plan, task, layers, prompts, stages = small_job(lab, plan, 4, 11)
    told = served(lab, plan, stages, prompts, task, lambda rounds: 10 + (rounds > 20), Joining(wave=3))
    assert told.tokens == [alone(layers, prompt) for prompt in prompts]
    joining = [len(who.joining) for who in told.rounds]
    # One is yet to come. Four slots for the first wave; behind round 12 the third has left too: three slots are free.
    assert joining[:15] == [1, 1, 1, 1, *[0] * 10, 1]
    assert sum(joining) == len(prompts)


def test_a_batch_fills_a_group_and_leaves_together(lab):
    plan = plan_of((0, 3, 6), 3, 2)
    plan, task, layers, prompts, stages = small_job(lab, plan, 6, 10)
    told = served(lab, plan, stages, prompts, task, lambda rounds: 8 if rounds < 10 else 10, Joining("static"))
    assert told.tokens == [alone(layers, prompt) for prompt in prompts]
    # Two batches are there. The two left of the eight wait until the last two have come, who follow at the end.
    joining = [len(who.joining) for who in told.rounds]
    assert sorted(joining, reverse=True)[:5] == [3, 3, 3, 1, 0]
    assert joining[:2] == [3, 3]
    assert not any(who.joining and who.going for who in told.rounds)


@pytest.mark.parametrize(("name", "attention"), [("qwen3", "sdpa"), ("llama", "eager")])
def test_hugging_face_decoders_serve(lab, name, attention):
    model = live(name).double()
    model.set_attn_implementation(attention)
    layers = sequential(model)
    plan = plan_of((0, 2, len(layers)), 3, 2)
    workload = lab.workload(lab.architectures["untied"], "generate", 6, PROMPT, new_tokens=NEW_TOKENS)
    task = random_task(scale_down(plan_of((0, 2, 6), 3, 2), workload)[0], 3)
    hidden = model.config.hidden_size
    cut = task.cuts[1].model_copy(update={"shape": (PROMPT, hidden)})
    task = task.replace(cuts=(cut,) * (len(layers) - 1))
    stages = {
        device: {layer: layers[layer] for layer in range(stage.first_layer, stage.stop_layer)}
        for device, stage in zip(plan.devices, plan.stages, strict=True)
    }
    prompts = list(torch.randint(40, (7, PROMPT), generator=torch.Generator().manual_seed(2)))
    told = served(lab, plan, stages, prompts, task, one_a_round)
    with torch.no_grad():  # the model's own generation, with its own cache, each by itself
        own = [
            model.generate(
                prompt[None], attention_mask=torch.ones(1, PROMPT), max_new_tokens=NEW_TOKENS, do_sample=False,
                eos_token_id=None, pad_token_id=0,
            )[0, PROMPT:].tolist()
            for prompt in prompts
        ]  # fmt: skip
    assert told.tokens == own
    assert any(who.joining and who.going for who in told.rounds)


def test_a_block_sees_what_it_sees_alone_whoever_is_beside_it(lab):
    block = build_layer(lab.architectures["untied"], 1, torch.float64, 0)
    x = torch.randn(2, 6, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cache = KeyValueCache(4, 8)
    with torch.no_grad():
        block(x[:1, :5], cache.rows([2]))
        block(x[1:, :3], cache.rows([0]))
        assert cache.rows([2, 0]).lengths == [5, 3]
        both = block(torch.stack((x[0, 5:6], x[1, 3:4])), cache.rows([2, 0]))
        torch.testing.assert_close(both[0, 0], block(x[:1])[0, 5], rtol=0, atol=1e-14)
        torch.testing.assert_close(both[1, 0], block(x[1:, :4])[0, 3], rtol=0, atol=1e-14)
    assert cache.rows([2]).length == 6
    with pytest.raises(InputError, match="unequal age"):
        _ = cache.rows([0, 2]).length
