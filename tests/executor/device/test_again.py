"""Layers that are run again before their backward pass: the same training to the bit, with less kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dora_nb.costs.memory import MemoryModel
from dora_nb.executor.device.again import run_again
from dora_nb.executor.device.replica import Replica
from dora_nb.executor.tasks.assemble import random_task
from dora_nb.executor.tasks.scale import executable


class Held(TorchDispatchMode):
    """Counts the bytes of tensors that operators made and that are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, torch.Tensor):
                storage = each.untyped_storage()
                self.made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self.held_bytes())
        return made

    def held_bytes(self) -> int:
        self.made = {key: each for key, each in self.made.items() if not each[0].expired()}
        return sum(size for _, size in self.made.values())


def kept(lab, recomputes: bool) -> tuple[int, int, list[torch.Tensor], float]:
    """Bytes kept after three forward passes and at the peak, the gradients, and the bytes that the model says."""
    plan = executable(lab.plan([(0, 3, [(0, 2)], 3, None), (3, 6, [(1, 2)], 1, None)], 3))
    plan = plan.replace(stages=(plan.stages[0].replace(recomputes=recomputes), plan.stages[1]))
    workload = lab.workload(lab.architectures["untied"], "training", 6)
    replica = Replica("d0", plan, random_task(workload, 3))
    replica.begin(trains=True)
    batches = replica.batch(0)
    with Held() as held:
        leaving = [replica.forward(0, index, None, data) for index, data in enumerate(batches)]
        between = held.held_bytes()
        for index, each in enumerate(leaving):
            assert each is not None
            replica.backward(0, index, torch.ones_like(each))
    model_bytes = MemoryModel(workload).replica_bytes(
        0, 3, samples=2, in_flight=3, micro_batches=3, replicated=False, recomputes=recomputes
    )
    return between, held.peak_bytes, replica.own_gradients(), float(model_bytes)


def test_a_stage_that_recomputes_keeps_less_and_gives_the_same_gradients(lab):
    between, peak, gradients, model_bytes = kept(lab, recomputes=False)
    between_again, peak_again, same, model_bytes_again = kept(lab, recomputes=True)
    print(f"\nkept {between} and {between_again} bytes, at the peak {peak} and {peak_again}")
    assert between_again < between / 3
    assert peak_again < peak
    assert model_bytes_again < model_bytes
    assert all(torch.equal(one, other) for one, other in zip(gradients, same, strict=True))


@pytest.mark.parametrize("passes", [1, 2])
def test_statistics_and_random_numbers_are_those_of_one_pass(passes):
    def train(again: bool) -> list[torch.Tensor]:
        torch.manual_seed(1)
        layer = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).double()
        left = []
        for index in range(passes):
            x = torch.full((5, 3), float(index + 1), dtype=torch.float64) * torch.arange(5)[:, None]
            x.requires_grad_()
            left.append(run_again(layer, x) if again else layer(x))
        numbers = torch.rand(2)
        for each in left:
            each.square().sum().backward()
        return [numbers, *(each.grad for each in layer.parameters()), *layer.buffers()]

    for one, other in zip(train(False), train(True), strict=True):
        assert torch.equal(one, other)
