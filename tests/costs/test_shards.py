"""What slicing a stage's layers over devices costs: closed forms, and the simulator event by event."""

from __future__ import annotations

import pytest
from builders import Dice, cluster, device, examples, layer, pipeline, random_question, randomly_sliced, seeded, sliced
from builders import workload as chain
from hypothesis import HealthCheck, assume, given, settings
from worlds import Case, scheduled

from dora_nb.catalog import load_workload
from dora_nb.costs.evaluate import evaluate
from dora_nb.costs.memory import MemoryModel
from dora_nb.costs.switching import switch
from dora_nb.costs.table import cost_table
from dora_nb.domain.layer import NextToken
from dora_nb.domain.transfer import Transfer
from dora_nb.errors import InputError
from dora_nb.simulation import World, run_step
from dora_nb.simulation.steps import StepModel

EXACT = 1e-9

#: Layers of 1 s at 1 GFLOP/s that hand over 1 MB.
BLOCK = layer("block", parts=4, parameters=1000, kv_elements=10)
QUICK = {"suppress_health_check": list(HealthCheck)}


@pytest.mark.parametrize(
    ("kind", "algorithm", "sum_s"),
    [
        ("switch", "ring", 2 * (0.5 + 0.1)),  # half the output each way at once, twice
        ("switch", "star", 2 * (1.0 + 0.1)),  # to the leader and back
        ("shared", "star", 2 * (2.0 + 0.1)),  # both hops hold the medium
    ],
)
def test_a_pass_takes_the_slowest_share_and_two_sums_a_layer(kind: str, algorithm: str, sum_s: float) -> None:
    work = chain([layer("whole"), BLOCK, BLOCK.replace(name="again")], mode="inference", batch=1)
    place = cluster([device("a"), device("b", 3e9)], 1e6, kind, latency_s=0.1)
    plan = scheduled(work, place, sliced(pipeline((0, 3, {"a": 1})), 0, {"a": 1, "b": 3}, algorithm))
    assert [transfer.kind for transfer in plan.transfer_order] == ["shard-sum"]
    found = evaluate(plan, work, place)
    # Device a: the layer that cannot be sliced, and a quarter of the others; b needs 1/3 + 2 * 3/4 / 3 seconds.
    assert found.prediction.makespan_s == pytest.approx(1.0 + 2 * 0.25 + 2 * 2 * sum_s)
    busy_s = {each.device: each.busy_s for each in found.prediction.devices}
    assert busy_s == pytest.approx({"a": 1.5, "b": 1 / 3 + 0.5})
    (entry,) = found.scheduled.prediction.schedule
    assert entry.senders == entry.receivers == ("a", "b")


def test_what_enters_goes_to_every_device_and_the_first_one_sends_what_leaves() -> None:
    work = chain([layer("whole"), BLOCK, layer("end")], mode="inference", batch=2, source="a", input_bytes=1e6)
    place = cluster(5, 1e6, "switch")
    plan = sliced(pipeline((0, 1, {"a": 1, "b": 1}), (1, 2, {"c": 2}), (2, 3, {"e": 2})), 1, {"c": 2, "d": 2})
    plan = plan.replace(stages=(plan.stages[0].replace(all_reduce=None), *plan.stages[1:]))
    prediction = evaluate(scheduled(work, place, plan), work, place).scheduled.prediction
    moved = {each.kind + str(each.stage): (each.senders, each.receivers) for each in prediction.schedule}
    assert moved["activation0"] == (("a", "b"), ("c", "d"))
    assert moved["activation1"] == (("c",), ("e",))
    # b's input; both samples to each of c and d; two sums of two halves each way; both samples to e.
    assert prediction.network_bytes == pytest.approx(1e6 + 2 * 2e6 + 2 * 2 * 2e6 + 2e6)


def test_every_token_is_summed_on_its_way() -> None:
    token = NextToken(flops=1e8, read_parameters=0, output_elements=25_000)
    work = chain([BLOCK.replace(next_token=token)], mode="generate", batch=1, sequence=2, new_tokens=4)
    place = cluster(2, 1e6, "switch", latency_s=0.1)
    plan = scheduled(work, place, sliced(pipeline((0, 1, {"a": 1})), 0, {"a": 2, "b": 2}))
    found = evaluate(plan, work, place)
    # A step: half of 0.1 s, and twice two rounds of half of 0.1 MB.
    assert found.prediction.token_s == pytest.approx(0.05 + 2 * 2 * (0.05 + 0.1))
    steps = [each for each in found.timeline if each.kind == "shard-token-sum"]
    assert [each.micro_batch for each in steps] == [0, 1, 2]
    assert len(found.details.slack_s) == len(found.timeline)


def test_a_share_of_what_sliced_layers_keep_and_all_of_the_rest() -> None:
    work = chain(
        [
            layer("whole", parameters=100, output_elements=10, stash_elements=70),
            layer("block", parameters=400, output_elements=10, stash_elements=100, parts=4, traffic_elements=5),
        ],
        batch=2,
    )
    model, how = MemoryModel(work), {"samples": 2.0, "in_flight": 1, "micro_batches": 1, "replicated": False}
    whole, part = (float(model.replica_bytes(0, 2, **how, share=share)) for share in (1.0, 0.25))
    # Weights, gradients and two moments of 300 parameters; the stash of 2 samples but for four tensors of 10.
    assert whole - part == pytest.approx(300 * 16 + 0.75 * 2 * (100 - 40) * 4)


def test_memory_of_the_cache() -> None:
    work = load_workload("qwen3-0.6b", mode="generate", batch=1, sequence=16, new_tokens=16)
    model = MemoryModel(work)
    how = {"samples": 1.0, "in_flight": 1, "micro_batches": 1, "replicated": False}
    whole, half = (float(model.replica_bytes(1, 3, **how, share=share)) for share in (1.0, 0.5))
    blocks = work.layers[1:3]
    assert whole - half == pytest.approx(sum(each.parameters + 32 * each.kv_elements for each in blocks) * 4 / 2)


@settings(max_examples=examples(60), deadline=None, **QUICK)
@given(seeded(lambda dice: _random_case(dice)))
def test_a_step_is_the_plans_own_schedule_and_costs_what_is_predicted(case: Case) -> None:
    work, place, plan = case
    assume(any(stage.shards for stage in plan.stages))
    predicted = evaluate(plan, work, place)
    result = run_step(StepModel(plan, work, place, cost_table(work, place)), World(place), timeline=True)
    assert result.end_s == pytest.approx(predicted.prediction.makespan_s, rel=EXACT)
    assert len(predicted.details.busy_s) == len(predicted.timeline)
    busy_s = dict(zip(place.device_ids, result.busy_s, strict=True))
    for each in predicted.prediction.devices:
        assert busy_s[each.device] == pytest.approx(each.busy_s, rel=1e-6)
    sent_j = sum((d.active_w - d.idle_w) * busy_s[d.id] for d in place.devices) + result.network_j
    idle_j = sum(place.device(name).idle_w for name in plan.devices) * result.duration_s
    assert sent_j + idle_j == pytest.approx(predicted.prediction.energy_participating_j, rel=1e-6)


def _random_case(dice: Dice) -> Case:
    modes, kinds = ("training", "inference", "generate"), ("shared", "switch", "cell", "mixed", "links")
    work, place = random_question(dice, modes=modes, layers=(2, 4), kinds=kinds)
    work, plan = randomly_sliced(dice, work, place)
    return work, place, scheduled(work, place, plan)


def test_a_training_step_sums_behind_both_passes_and_no_gradients() -> None:
    work = chain([BLOCK], batch=2)
    place = cluster(2, 1e6, "switch")
    plan = scheduled(work, place, sliced(pipeline((0, 1, {"a": 2})), 0, {"a": 2, "b": 2}))
    assert [transfer.kind for transfer in plan.transfer_order] == ["shard-sum", "shard-gradient-sum"]
    prediction = evaluate(plan, work, place).prediction
    computing = prediction.devices[0].busy_s
    assert prediction.makespan_s == pytest.approx(computing + 2 * 2 * 2 * 2 * 0.5)
    assert prediction.period_s == pytest.approx(prediction.makespan_s, rel=1e-3)  # apart from the optimizer's step


def test_a_stream_waits_for_the_sums_of_the_request_before() -> None:
    work = chain([BLOCK], mode="stream", batch=1, requests_per_s=0.4)
    place = cluster(2, 1e6, "switch")
    plan = sliced(pipeline((0, 1, {"a": 1})), 0, {"a": 2, "b": 2}).replace(
        transfer_order=(Transfer(kind="shard-sum", stage=0, micro_batch=0),)
    )
    assert evaluate(plan, work, place).prediction.makespan_s == pytest.approx(0.5 + 2 * 2 * 0.5)
    assert evaluate(plan, work, place).prediction.period_s == pytest.approx(2.5)
    with pytest.raises(InputError, match="repeat every"):
        evaluate(plan, work.replace(requests_per_s=0.41), place)


def test_plans_with_shards_are_not_switched_between() -> None:
    work, place = chain([BLOCK], batch=1), cluster(2)
    plan = pipeline((0, 1, {"a": 1}))
    with pytest.raises(InputError, match="shards"):
        switch(plan, sliced(plan, 0, {"a": 2, "b": 2}), work, place, "participating")
