"""Weights in fewer bits: off by what rounding explains, and a run equal to one process that holds them so."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dora_nb.domain.plan import Plan, Replica, Stage
from dora_nb.errors import InputError
from dora_nb.executor import execute
from dora_nb.executor.measuring.accuracy import measure_accuracy
from dora_nb.executor.measuring.profiler import profile
from dora_nb.executor.networks.weights import Int8Linear, held_in, hold_in_int8


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


@pytest.mark.parametrize(("kind", "dtype", "off"), [("fp16", torch.float16, 1e-2), ("bf16", torch.bfloat16, 8e-2)])
def test_layers_in_16_bits_take_and_give_what_the_network_does(kind, dtype, off):
    torch.manual_seed(1)
    layer = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 8), nn.LayerNorm(8))
    ids = torch.arange(3)
    exact = layer(ids)
    held = held_in(layer, kind, tied=True)
    assert {each.dtype for each in held.parameters()} == {dtype}
    assert held(ids).dtype == torch.float32
    assert 0 < (held(ids) - exact).abs().max() < off
    assert held_in(held, kind, tied=True) is held
    assert held_in(nn.Flatten(), kind, tied=False)(exact).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "mode", "fields"),
    [
        *(("untied", "inference", {}), ("tied", "inference", {}), ("resnet", "inference", {})),
        *(("tied", "generate", {"new_tokens": 4}), ("vit", "stream", {"requests_per_s": 50.0})),
    ],
)
def test_a_run_equals_one_process_that_holds_its_layers_so(lab, pool, name, mode, fields):
    """The stage in 8 bits to rounding of FP64; those in 16 bits round sums of up to 64 products in another order.

    Outputs of the small random networks are of the order of 1; one rounding is off by 2^-11 of that in FP16, by 2^-8 in
    BF16.
    """
    stages = [(0, 2, [(0, 2), (1, 1)], 1, None), (2, 4, [(2, 3)], 1, None), (4, 6, [(3, 3)], 1, None)]
    batch = 3 if mode == "stream" else 6
    plan = lab.plan(stages, batch // 3)
    workload = lab.workload(lab.architectures[name], mode, batch, **fields)
    halves = [(("fp16", "int8", "fp16"), 2e-3), (("bf16", None, "bf16"), 2e-2)]
    for kinds, tolerance in (*halves, (("int8", None, "int8"), 1e-9)):
        held = tuple(stage.replace(weights=each) for stage, each in zip(plan.stages, kinds, strict=True))
        run = execute(
            plan.replace(stages=held), workload, lab.cluster([1e12] * 4), seed=7, emulate="nothing", workers=pool
        ).wait()
        print(f"\n{name} {mode} {kinds}: {run.max_abs_diff:.1e} from one process, {run.accuracy}")
        assert run.max_abs_diff <= tolerance
        assert run.accuracy is not None
        assert run.accuracy.magnitude > 0.01
        assert 1e-6 < run.accuracy.mean < 0.02 * run.accuracy.magnitude
        assert run.differences.tokens in (None, 0)
        assert "of a small random network" in str(run)


def test_accuracy_is_measured_on_a_network_of_ones_own():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    data = torch.randn(40, 8)
    work = profile(model, data[:1], batch=40).workload
    plain = Plan(micro_batch=20, micro_batches=2, tied="none", stages=[stage_of(0, 1), stage_of(1, 3, "b")])
    same = measure_accuracy(plain, work, model, data)
    assert (same.choices, same.same_choices, same.largest) == (40, 40, 0)
    rounded = measure_accuracy(plain.replace(stages=(plain.stages[0], stage_of(1, 3, "b", "int8"))), work, model, data)
    with torch.no_grad():
        exact, held = model(data), hold_in_int8(copy.deepcopy(model[2]))(model[:2](data))
    assert rounded.largest == pytest.approx(float((exact - held).abs().max()), rel=1e-5)
    assert rounded.mean == pytest.approx(float((exact - held).abs().mean()), rel=1e-5)
    assert rounded.same_choices == int((exact.argmax(1) == held.argmax(1)).sum())
    assert "same largest output in" in str(rounded)
    with pytest.raises(InputError, match="training keeps all bits"):
        measure_accuracy(plain, work.replace(mode="training"), model, data)
    with pytest.raises(InputError, match="random one would say little"):
        measure_accuracy(plain, work, None, data)


def stage_of(first, stop, device="a", weights=None):
    replica = Replica(device=device, samples=20)
    return Stage(first_layer=first, stop_layer=stop, replicas=[replica], in_flight=1, weights=weights)


def test_plans_to_change_to_are_refused(lab):
    plan = lab.plan([(0, 6, [(0, 3)], 1, None)], 2)
    held = plan.replace(stages=(plan.stages[0].replace(weights="int8"),))
    workload = lab.workload(lab.architectures["untied"], "inference", 6)
    with pytest.raises(InputError, match="fewer bits"):
        execute(held, workload, lab.cluster([1e12]), plans=[plan])


def test_training_in_8_bits_is_refused(lab):
    plan = lab.plan([(0, 6, [(0, 3)], 1, None)], 2)
    held = plan.replace(stages=(plan.stages[0].replace(weights="int8"),))
    with pytest.raises(InputError, match="None in training"):
        execute(held, lab.workload(lab.architectures["untied"], "training", 6), lab.cluster([1e12]))
