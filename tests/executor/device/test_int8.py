"""Weights in 8 bits: off by what rounding explains, a quarter of the bytes, and the rest of a run as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dora_nb.errors import InputError
from dora_nb.executor import execute
from dora_nb.executor.device.int8 import Int8Linear, hold_in_int8


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_product_is_off_by_half_a_step_of_every_row_at_most(dtype):
    torch.manual_seed(1)
    linear, x = nn.Linear(40, 30).to(dtype), torch.randn(5, 40, dtype=dtype)
    with torch.no_grad():
        linear.weight[3] = 0  # a row of nothing has a scale of nothing
        exact, step = linear(x), linear.weight.abs().amax(dim=1) / 127
        most = x.abs().sum(dim=1, keepdim=True) * step / 2
        off = (Int8Linear(linear)(x) - exact).abs()
    assert (off <= most * (1 + 1e-4) + 1e-6).all()
    assert off.max() > most.max() / 100
    assert torch.equal(Int8Linear(linear)(x)[:, 3], linear(x)[:, 3])


def test_only_dense_products_are_held_in_8_bits():
    layer = nn.Sequential(nn.Embedding(10, 8), nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)), nn.Linear(8, 4))
    expected = [type(each) for each in layer.modules() if not isinstance(each, nn.Linear)]
    held = hold_in_int8(layer)
    assert [type(each) for each in held.modules() if not isinstance(each, Int8Linear)] == expected
    matrices = [each for each in held.modules() if isinstance(each, Int8Linear)]
    assert [each.matrix.dtype for each in matrices] == [torch.int8] * 2
    assert held(torch.arange(3)).shape == (3, 4)
    assert hold_in_int8(held) is held  # once is enough


def test_a_run_is_as_far_from_one_process_as_8_bits_explain(lab, pool):
    plan = lab.plan([(0, 3, [(0, 2), (1, 1)], 1, None), (3, 6, [(2, 3)], 1, None)], 2)
    plan = plan.replace(stages=(plan.stages[0], plan.stages[1].replace(weights="int8")))
    workload = lab.workload(lab.architectures["untied"], "inference", 6)
    run = execute(plan, workload, lab.cluster([1e12] * 3), steps=1, seed=7, emulate="nothing", workers=pool).wait()
    exact = execute(
        plan.replace(stages=(plan.stages[0], plan.stages[1].replace(weights=None))),
        workload, lab.cluster([1e12] * 3), steps=1, seed=7, emulate="nothing", workers=pool,
    ).wait()  # fmt: skip
    print(f"\nlargest difference {run.max_abs_diff:.2e}, without 8 bits {exact.max_abs_diff:.2e}")
    assert exact.max_abs_diff <= 1e-9
    # Logits of a random network are of the order of 1. Three layers, each with two products in a row that round every
    # element by 1 / 254 of the largest of its row at most: 6 / 254, were all of them rounded the same way.
    assert 1e-6 < run.max_abs_diff <= 6 / 254


def test_plans_to_change_to_are_refused(lab):
    plan = lab.plan([(0, 6, [(0, 3)], 1, None)], 2)
    held = plan.replace(stages=(plan.stages[0].replace(weights="int8"),))
    workload = lab.workload(lab.architectures["untied"], "inference", 6)
    with pytest.raises(InputError, match="8 bits"):
        execute(held, workload, lab.cluster([1e12]), plans=[plan])


def test_training_in_8_bits_is_refused(lab):
    plan = lab.plan([(0, 6, [(0, 3)], 1, None)], 2)
    held = plan.replace(stages=(plan.stages[0].replace(weights="int8"),))
    with pytest.raises(InputError, match="None in training"):
        execute(held, lab.workload(lab.architectures["untied"], "training", 6), lab.cluster([1e12]))
