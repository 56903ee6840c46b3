"""Buckets of gradients on a device: what is in each, when each leaves, and that the sums are those of one process."""

from __future__ import annotations

import functools
import itertools
import threading

import pytest
import torch
from torch import nn

from dora_nb.executor.compare import differences
from dora_nb.executor.course import Outputs
from dora_nb.executor.device import interpreter as interpreting
from dora_nb.executor.device.instructions import compile_plan
from dora_nb.executor.device.passes import Pass
from dora_nb.executor.device.replica import Replica
from dora_nb.executor.device.summing import Summing
from dora_nb.executor.reference import reference_run
from dora_nb.executor.tasks.assemble import random_task
from dora_nb.executor.tasks.scale import executable

#: Seconds after which what should have come long ago counts as missing.
PATIENCE_S = 20.0

STAGES = [(0, 2, [(0, 4)], 2, None), (2, 6, [(1, 3), (2, 1)], 1, ("ring", 1, 3))]


def test_a_pass_in_parts_gives_the_gradients_of_a_whole_one():
    torch.manual_seed(0)
    layers = [nn.Linear(3, 3).double() for _ in range(4)]
    given, back = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)

    def gradients(cuts: list[int]) -> list[torch.Tensor]:
        for layer in layers:
            layer.zero_grad()
        x = given.clone().requires_grad_()
        under_way = Pass(x)
        for index, layer in enumerate(layers):
            for _ in range(cuts.count(index)):
                x = under_way.cut(x)
            x = layer(x).tanh()
        under_way.end(x)
        filled = []
        while not under_way.over:
            returned = under_way.backward(back)
            filled.append(sum(layer.weight.grad is not None for layer in layers))
        # As many layers are behind each cut as have their gradients when the part behind it is over.
        assert filled == [4 - cut for cut in reversed([0, *cuts])]
        return [returned, *(each.grad for layer in layers for each in layer.parameters())]

    whole = gradients([])
    for cuts in ([2], [1, 2, 3], [0, 2], [3, 3], [0, 0, 0]):
        assert all(torch.equal(one, other) for one, other in zip(whole, gradients(cuts), strict=True))


def test_layers_that_do_not_train_end_the_way_back():
    frozen, trained = nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2)
    x = torch.ones(1, 2)
    under_way = Pass(x)
    x = trained(under_way.cut(frozen(x)))
    under_way.end(x.sum())
    returned = [under_way.backward(None), under_way.backward(None)]
    assert all(not each.any() for each in returned)
    assert trained.weight.grad is not None
    assert under_way.over


@pytest.mark.parametrize(("network", "tied"), [("untied", "none"), ("tied", "one-stage")])
@pytest.mark.parametrize("buckets", [2, 3, 4])
def test_every_gradient_is_in_one_bucket_and_full_when_that_is(lab, network, tied, buckets):
    """Tied layers at both ends have one tensor: it is full when the first layer's part is over."""
    plan = executable(lab.plan([(0, 6, [(0, 1), (1, 1)], 1, ("star", 0, buckets))], 2, tied))
    replica = Replica("d0", plan, random_task(lab.workload(lab.architectures[network], "training", 4), 3))
    data = replica.batch(0)
    replica.begin(trains=True)
    for index, each in enumerate(data):
        replica.forward(0, index, None, each)
    replica.backward(0, 0, None)
    seen, full = [], []
    for bucket in range(1, buckets + 1):
        replica.backward(0, 1, None)
        own = replica.own_gradients(bucket)
        seen += [id(each) for each in own]
        full.append([(each, each.clone()) for each in own])
    assert sorted(seen) == sorted(id(each) for each in replica.own_gradients())
    assert all(torch.equal(each, then) for each, then in itertools.chain(*full))
    assert all(own for own in full)


@pytest.mark.parametrize("buckets", [2, 3, 4])
@pytest.mark.parametrize("algorithm", ["ring", "star"])
def test_more_buckets_than_layers_have_parameters_for(lab, buckets, algorithm):
    """Buckets without layers are summed in their turn, and nothing passes."""
    stages = [
        (0, 1, [(0, 2), (1, 1)], 2, (algorithm, 1, buckets)),
        (1, 6, [(2, 2), (3, 1)], 1, (algorithm, 3, buckets)),
    ]
    plan = lab.plan(stages, 3)
    task = random_task(lab.workload(lab.architectures["untied"], "training", 9), 5)
    done = lab.run(task, plan, 3)
    apart = differences(reference_run(task, plan, 3), [Outputs(plan, done.results)], done.results, done.losses)
    assert apart.largest <= 1e-12


def test_a_bucket_is_summed_before_the_pass_that_fills_the_next_one_ends(lab, monkeypatch):
    """Every device begins the second part of its last backward pass only when its first bucket is summed.

    Sums that waited for the end of the pass would keep it waiting forever.
    """
    plan = lab.plan(STAGES, 2)
    summed = {device: threading.Event() for device in ("d1", "d2")}
    parts = dict.fromkeys(summed, 0)
    backward, all_reduce = Replica.backward, interpreting.all_reduce

    def waiting(replica, stage, micro_batch, gradient):
        device = replica._device_id
        if (stage, micro_batch) == (1, 1):
            parts[device] += 1
            assert parts[device] == 1 or summed[device].wait(PATIENCE_S), "the first bucket waits for the pass"
        return backward(replica, stage, micro_batch, gradient)

    def telling(vector, device, instruction, transport, turn):
        all_reduce(vector, device, instruction, transport, turn)
        summed[device].set()

    monkeypatch.setattr(Replica, "backward", waiting)
    monkeypatch.setattr(interpreting, "all_reduce", telling)
    task = random_task(lab.workload(lab.architectures["untied"], "training", 8), 5)
    done = lab.run(task, plan, 1)
    assert parts == {"d1": 3, "d2": 3}
    apart = differences(reference_run(task, plan, 1), [Outputs(plan, done.results)], done.results, done.losses)
    assert apart.largest <= 1e-12


def test_the_step_waits_for_all_buckets_and_events_say_so(lab):
    plan = executable(lab.plan(STAGES, 2))
    task = random_task(lab.workload(lab.architectures["untied"], "training", 8), 5)
    replicas = {device: Replica(device, plan, task) for device in plan.devices}
    programs, iterations = compile_plan(plan, trains=True), {}

    def work(device, transport):
        replica = replicas[device]
        iterations[device] = lab.interpreter(replica, transport).run(programs[device], replica.batch(0))

    lab.in_threads(plan.devices, work)
    for device in ("d1", "d2"):
        events = iterations[device].events
        parts = {(each.kind, each.part): each for each in events if each.part}
        assert sorted(parts) == [(kind, part) for kind in ("all-reduce", "backward") for part in (1, 2, 3)]
        for part in (1, 2, 3):
            assert parts["all-reduce", part].start_s >= parts["backward", part].end_s
        (step,) = (each for each in events if each.kind == "step")
        assert step.start_s >= max(each.end_s for each in events if each.kind == "all-reduce")
        assert events[-1] == step


def test_a_sum_that_fails_is_raised_where_it_is_waited_for_and_no_other_begins():
    sums, begun = Summing(), []

    def fails():
        raise OSError("no peer")

    sums.begin(None, fails)
    sums.begin(None, functools.partial(begun.append, 1))
    with pytest.raises(OSError, match="no peer"):
        sums.wait()
    sums.end()
    assert not begun


def test_what_was_given_up_begins_no_further_sum():
    sums, going, begun = Summing(), threading.Event(), []
    sums.begin(None, lambda: going.wait(PATIENCE_S))
    sums.begin(None, functools.partial(begun.append, 1))
    sums.end()
    going.set()
    sums._thread.join(PATIENCE_S)
    assert not sums._thread.is_alive()
    assert not begun
