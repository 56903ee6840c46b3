"""Layers that move between devices, with all that training has made of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dora_nb.errors import InputError
from dora_nb.executor.device.layer_state import load_state, state_of
from dora_nb.executor.device.replica import Replica
from dora_nb.executor.networks.chain import built_layer
from dora_nb.executor.networks.stored import store
from dora_nb.executor.tasks.assemble import random_task
from dora_nb.executor.tasks.scale import executable
from dora_nb.executor.tasks.task import Cut, Source, Task

BEFORE, AFTER = 2, 5

TWO = [(0, 2, [(0, 4)], 2, None), (2, 6, [(1, 4)], 1, None)]
THREE = [(0, 3, [(0, 4)], 2, None), (3, 5, [(2, 4)], 1, None), (5, 6, [(1, 4)], 1, None)]
REPLICATED = [(0, 3, [(2, 3), (0, 1)], 2, ("star", 2)), (3, 6, [(1, 4)], 1, None)]
ONE = [(0, 6, [(1, 4)], 1, None)]


def moved(plan, task, ran) -> dict[str, Replica]:
    """Replicas under a new plan: layers stay where they can, others come as states of a device that held them."""
    replicas = {}
    for device in plan.devices:
        kept = ran.replicas.get(device)
        stage = next(each for each in plan.stages if device in each.devices)
        needed = set(range(stage.first_layer, stage.stop_layer))
        if plan.hosts_first_layer(plan.stages.index(stage)):
            needed.add(0)
        needed -= set(kept.layers if kept else ())
        owners = {index: each for each in ran.replicas.values() for index in each.layers}
        states = {index: owners[index].state(index) for index in needed}
        replicas[device] = Replica(device, plan, task, states=states, kept=kept)
    return replicas


def parameters(ran) -> dict[str, torch.Tensor]:
    return {name: each.detach() for replica in ran.replicas.values() for name, each in replica.named_parameters()}


@pytest.mark.parametrize("stages", [THREE, ONE])
def test_training_goes_on_to_the_bit_under_another_plan(lab, stages):
    """Without replicas the sums are the same, wherever the stages begin."""
    plan, other = (executable(lab.plan(each, 2)) for each in (TWO, stages))
    task = random_task(lab.workload(lab.architectures["untied"], "training", 8), 3)
    straight = lab.run(task, plan, AFTER)
    ran = lab.run(task, plan, BEFORE)
    went_on = lab.run(task, other, AFTER, moved(other, task, ran), first=BEFORE)
    assert went_on.losses == straight.losses[BEFORE:]
    expected = parameters(straight)
    assert parameters(went_on).keys() == expected.keys()
    assert all(torch.equal(each, expected[name]) for name, each in parameters(went_on).items())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((TWO, "synchronised"), (ONE, "one-stage")),
        ((ONE, "one-stage"), (TWO, "synchronised")),
        ((TWO, "synchronised"), (REPLICATED, "synchronised")),
        ((REPLICATED, "synchronised"), ([(1, 2, [(0, 4)], 2, None), (2, 6, [(1, 4)], 1, None)], "hosted")),
    ],
)
def test_tied_parameters_move_too(lab, before, after):
    plan, other = (executable(lab.plan(stages, 2, tied)) for stages, tied in (before, after))
    task = random_task(lab.workload(lab.architectures["tied"], "training", 8), 3)
    straight = lab.run(task, plan, AFTER)
    ran = lab.run(task, plan, BEFORE)
    went_on = lab.run(task, other, AFTER, moved(other, task, ran), first=BEFORE)
    assert went_on.losses == pytest.approx(straight.losses[BEFORE:], rel=1e-12)
    expected = parameters(straight)
    for name, each in parameters(went_on).items():
        torch.testing.assert_close(each, expected[name], rtol=0, atol=1e-10)


def test_without_the_optimizers_memory_training_is_another(lab):
    """What the test above would miss if states held parameters only."""
    plan, other = (executable(lab.plan(each, 2)) for each in (TWO, THREE))
    task = random_task(lab.workload(lab.architectures["untied"], "training", 8), 3)
    ran = lab.run(task, plan, BEFORE)
    replicas = moved(other, task, ran)
    state = {name: each for name, each in replicas["d2"].state(3).items() if name.startswith("parameter/")}
    replicas["d2"].load_state(3, state)
    went_on = lab.run(task, other, AFTER, replicas, first=BEFORE)
    expected = parameters(lab.run(task, plan, AFTER))
    assert max(float((each - expected[name]).abs().max()) for name, each in parameters(went_on).items()) > 1e-5


def test_a_state_is_a_copy_and_goes_back(lab):
    task = random_task(lab.workload(lab.architectures["vit"], "training", 4), 0)
    plan = executable(lab.plan([(0, 6, [(0, 4)], 1, None)], 1))
    ran = lab.run(task, plan, 1)
    replica = ran.replicas["d0"]
    state = replica.state(1)
    kinds = {name.partition("/")[0] for name in state}
    assert kinds == {"parameter", "exp_avg", "exp_avg_sq", "step"}
    copy = {name: each.clone() for name, each in state.items()}
    lab.run(task, plan, 2, ran.replicas, first=1)
    assert all(torch.equal(each, copy[name]) for name, each in state.items()), "training on does not change it"
    assert not all(torch.equal(each, state[name]) for name, each in replica.state(1).items())
    replica.load_state(1, state)
    assert all(torch.equal(each, state[name]) for name, each in replica.state(1).items())


def test_warming_up_changes_nothing(lab, tmp_path):
    layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    task = Task(
        network=store(layers, tmp_path),
        data=Source(factory="builtins:object"),  # what is between the ends reads none
        mode="training",
        batch=4,
        cuts=[Cut(shape=(4,), dtype="float64")] * 2,
        summed_parameters=[0.0] * 4,
    )
    stages = [(index, index + 1, [(index, 2)], 1, None) for index in range(3)]
    replica = Replica("d1", lab.plan(stages, 2), task)
    before, numbers = replica.state(1), torch.random.get_rng_state()
    replica.warm_up()
    assert all(torch.equal(each, before[name]) for name, each in replica.state(1).items())
    assert torch.equal(torch.random.get_rng_state(), numbers)
    assert all(each.grad is None for each in replica.parameters())


def test_a_state_of_another_layer_is_refused(lab):
    network = random_task(lab.workload(lab.architectures["vit"], "training", 4), 0).network.build()
    block, head = (built_layer(network, index, dtype=torch.float64, seed=0) for index in (1, 5))
    with pytest.raises(InputError, match="state"):
        load_state(head, state_of(block))
    wrong = state_of(head) | {"parameter/classifier.bias": torch.zeros(11)}
    with pytest.raises(InputError) as refused:
        load_state(head, wrong)
    assert refused.value.field == "state.parameter/classifier.bias"
