"""A prompt and the tokens that follow it, counted by hand: seconds, bytes held and moved, the timeline."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from builders import cluster, device, examples, layer, pipeline, questions, random_plan, seeded, workload
from hypothesis import given, settings

from dora_nb.catalog import load_workload
from dora_nb.costs import Evaluation, evaluate
from dora_nb.costs.memory import MemoryModel
from dora_nb.costs.operations import Shape
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.table import cost_table
from dora_nb.costs.timing import timing_of
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.layer import NextToken
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.formulation.schedules.list_schedule import list_schedule

#: 0.1 s of work and 20,000 bytes handed over for one sample's next token.
TOKEN = NextToken(flops=1e8, read_parameters=0, output_elements=5_000)


def generating(layers: int = 2, **fields: Any) -> Workload:
    chain = [layer(f"l{index}", next_token=TOKEN, kv_elements=100) for index in range(layers)]
    return workload(chain, **({"mode": "generate", "sequence": 8, "new_tokens": 5, "batch": 2} | fields))


def evaluated(plan: Plan, work: Workload, place: Cluster) -> Evaluation:
    timing = timing_of(plan, work, place, cost_table(work, place))
    schedule = list_schedule(operations_of(Shape.of(plan, work)), timing)
    return evaluate(plan.replace(transfer_order=schedule.transfers()), work, place)


def test_a_step_takes_both_stages_both_hand_overs_and_the_way_back() -> None:
    """Stages of 1 s a sample on a medium of 1 MB/s with 10 ms a message; the prompt's cut is 1 MB a sample.

    Prompt, one micro-batch of two samples: 2 s, 2 MB over two hops and a message, 2 s. A step: 0.2 s a stage, 40 kB
    over two hops, 16 bytes back over two hops, two messages.
    """
    work, place = generating(), cluster(2, latency_s=0.01)
    result = evaluated(pipeline((0, 1, {"a": 2}), (1, 2, {"b": 2})), work, place)
    step_s = 2 * 0.2 + 2 * 0.04 + 2 * 16e-6 + 2 * 0.01
    figures = result.prediction
    assert figures.first_token_s == pytest.approx(2 + 4.01 + 2)
    assert figures.token_s == pytest.approx(step_s)
    assert figures.makespan_s == pytest.approx(8.01 + 4 * step_s)
    assert figures.network_bytes == pytest.approx(2e6 + 4 * (40_000 + 16))
    assert [each.busy_s for each in figures.devices] == pytest.approx([2 + 4 * 0.2] * 2)
    steps = [entry for entry in result.timeline if entry.kind in ("decode", "token")]
    assert [(entry.kind, entry.stage, entry.micro_batch) for entry in steps[:5]] == [
        ("token", 1, 0),
        ("decode", 0, 0),
        ("token", 0, 0),
        ("decode", 1, 0),
        ("token", 1, 1),
    ]
    assert len(steps) == 4 * 4
    assert all(earlier.end_s == pytest.approx(later.start_s) for earlier, later in pairwise(steps))
    assert steps[-1].end_s == pytest.approx(figures.makespan_s)


def test_one_stage_moves_nothing_and_its_replicas_decode_side_by_side() -> None:
    work, place = generating(batch=4), cluster(2)
    figures = evaluated(pipeline((0, 2, {"a": 1, "b": 1}), micro_batches=2), work, place).prediction
    assert figures.first_token_s == pytest.approx(2 * 2)  # two micro-batches, a sample each
    assert figures.token_s == pytest.approx(2 * 2 * 0.1)  # two samples through two layers
    assert figures.network_bytes == 0


def test_a_single_new_token_is_the_prompts_own() -> None:
    figures = evaluated(pipeline((0, 2, {"a": 2})), generating(new_tokens=1), cluster(1)).prediction
    assert figures.first_token_s == figures.makespan_s == pytest.approx(4)
    assert figures.token_s is None


def test_what_was_generated_leaves_together_at_the_end() -> None:
    """8 bytes a token and sample, over two hops of 1 MB/s."""
    work = generating(sink="b", output_bytes=8)
    figures = evaluated(pipeline((0, 2, {"a": 2})), work, cluster(2)).prediction
    assert figures.makespan_s == pytest.approx(4 + 4 * 0.4 + 2 * (2 * 5 * 8) / 1e6)
    assert figures.first_token_s == pytest.approx(4)


def test_other_modes_have_no_tokens() -> None:
    figures = evaluated(pipeline((0, 2, {"a": 4})), workload(2, mode="inference"), cluster(1)).prediction
    assert (figures.first_token_s, figures.token_s) == (None, None)


def test_a_step_reads_all_parameters_once_and_the_growing_cache_per_sample() -> None:
    """100 bytes/s, fp32: 50 parameters; 5 elements a sample and 2 a token of context, which is 4 and then 5."""
    token = NextToken(flops=1.0, context_flops=1.0, read_parameters=50, output_elements=1, traffic_elements=5)
    work = workload([layer("a", kv_elements=2, next_token=token)], mode="generate", sequence=3, new_tokens=3, batch=2)
    table = cost_table(work, cluster([device("x", memory_bytes_per_s=100.0, layer_overhead_s=0.5)]))
    assert table.token_s is not None
    first, second = ((50 + n * (5 + 2 * 4.5)) * 4 / 100 + 0.5 for n in (1, 2))
    assert table.token_s[0, 0].tolist() == pytest.approx([0, first, second])


def test_the_higher_roof_is_taken_step_by_step() -> None:
    """Reading takes 1 s; computing 0.5, 1 and 1.5 s at contexts of 1, 2 and 3: the mean is that of 1, 1 and 1.5."""
    token = NextToken(flops=0.0, context_flops=0.5, read_parameters=25, output_elements=1)
    work = workload([layer("a", next_token=token)], mode="generate", sequence=1, new_tokens=4, batch=1)
    table = cost_table(work, cluster([device("x", 1.0, memory_bytes_per_s=100.0)]))
    assert table.token_s is not None
    assert table.token_s[0, 0, 1] == pytest.approx((1 + 1.5 + 2) / 3)  # contexts of 2, 3 and 4


def test_the_cache_is_held_for_the_whole_batch() -> None:
    """100 elements a layer, sample and token; 8 tokens of prompt and 5 new ones; 3 micro-batches of 2 samples."""
    how = {"samples": 2.0, "in_flight": 1, "micro_batches": 3, "replicated": False}
    work = generating(batch=6)
    without = work.replace(layers=tuple(each.replace(kv_elements=0) for each in work.layers))
    held = [float(MemoryModel(each).replica_bytes(0, 2, **how)) for each in (work, without)]
    assert held[0] - held[1] == 2 * 100 * 4 * (8 + 5) * 3 * 2


def test_what_a_qwen_block_does_for_one_token() -> None:
    """Published shape of Qwen3-0.6B: hidden 1024, 16 heads and 8 key-value heads of 128, feed-forward 3072."""
    block = load_workload("qwen3-0.6b", mode="generate", new_tokens=2).layers[1]
    token = block.next_token
    assert token is not None
    products = 1024 * (2 * 16 * 128 + 2 * 8 * 128) + 3 * 1024 * 3072
    assert token.flops == 2 * products
    assert token.context_flops == 4 * 16 * 128  # scores and weighted values
    assert token.read_parameters == block.parameters
    assert token.output_elements == 1024
    assert block.kv_elements == 2 * 8 * 128
    assert block.next_token.traffic_elements * 128 == block.traffic_elements


def test_only_the_prompts_last_token_is_scored() -> None:
    generate = load_workload("qwen3-0.6b", mode="generate", new_tokens=2, sequence=16)
    inference = load_workload("qwen3-0.6b", sequence=16)
    assert generate.layers[-1].forward_flops * 16 == inference.layers[-1].forward_flops
    assert generate.layers[1].forward_flops == inference.layers[1].forward_flops


@pytest.mark.parametrize("name", ["bert-base", "vit-b-16", "resnet-50", "mobilenet-v2"])
def test_only_decoders_generate(name: str) -> None:
    with pytest.raises(InputError, match="only a decoder generates tokens"):
        load_workload(name, mode="generate", new_tokens=2)


@pytest.mark.parametrize(("change", "field"), [({"sequence": None}, "sequence"), ({"layers": (layer("a"),)}, "layers")])
def test_a_workload_without_what_generating_takes(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=field):
        generating().replace(**change)


@settings(max_examples=examples(10))
@given(questions(modes=("generate",)), seeded(lambda dice: dice))
def test_a_random_plan_adds_up_in_plain_loops(question: tuple[Workload, Cluster], dice: Any) -> None:
    work, place = question
    plan = random_plan(dice, work, place)
    figures = evaluated(plan, work, place).prediction
    table, domain = cost_table(work, place), place.domain
    assert table.token_s is not None
    assert domain is not None
    if work.new_tokens == 1:
        assert figures.token_s is None
        return
    step_s = 0.0
    for stage in plan.stages:
        slowest_s = 0.0
        for replica in stage.replicas:
            place_of = place.device_ids.index(replica.device)
            samples = replica.samples * plan.micro_batches
            own_s = sum(table.token_s[each, place_of, samples] for each in range(stage.first_layer, stage.stop_layer))
            slowest_s = max(slowest_s, own_s)
        step_s += slowest_s
    if len(plan.stages) > 1:
        for sender, receiver in [*pairwise(plan.stages), (plan.stages[-1], plan.stages[0])]:
            token = work.layers[sender.stop_layer - 1].next_token
            assert token is not None
            size = plan.micro_batches * (8 if sender is plan.stages[-1] else 4 * token.output_elements)
            parts = [
                [each.samples * size / domain.rates_bytes_per_s[each.device] for each in side.replicas]
                for side in (sender, receiver)
            ]
            held_s = sum(map(sum, parts)) if domain.kind == "shared" else max(map(max, parts))
            step_s += held_s + domain.latency_s
    assert figures.token_s == pytest.approx(step_s)
    # The prompt alone is an inference batch without outputs.
    prompt = work.replace(mode="inference", new_tokens=0, sink=None)
    assert figures.first_token_s == pytest.approx(evaluated(plan, prompt, place).prediction.makespan_s)
