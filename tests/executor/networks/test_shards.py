"""Layers sliced over several devices compute what the whole ones do, forward and backward."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from own_models import CONFIGS, live
from torch import nn

from dora_nb.errors import InputError
from dora_nb.executor.device.cache import KeyValueCache
from dora_nb.executor.networks.chain import built_layer
from dora_nb.executor.networks.shards import Shard, narrow, parts_of, shared_by_heads, slices_of, sum_branches
from dora_nb.executor.networks.stored import store
from dora_nb.executor.tasks.models import RandomNetwork

TOLERANCE = 1e-12


class Sums:
    """Sums over the threads that play the devices."""

    def __init__(self, devices: int) -> None:
        self.given = [torch.empty(0)] * devices
        self.calls = 0
        self.gate = threading.Barrier(devices)

    def over(self, device: int, tensor: torch.Tensor) -> torch.Tensor:
        self.given[device] = tensor
        self.gate.wait(timeout=20)
        summed = functools.reduce(torch.add, self.given)
        self.calls += device == 0
        self.gate.wait(timeout=20)
        return summed


def shards(shares: tuple[int, ...]) -> list[Shard]:
    return [Shard(sum(shares[:place]), sum(shares[: place + 1]), sum(shares)) for place in range(len(shares))]


def check(make, shares: tuple[int, ...], x: torch.Tensor, build=None) -> None:
    """``make()`` gives the whole layer; ``build(shard)`` the shard, if not narrowed from it."""
    whole = make()
    entering = x.clone().requires_grad_()
    left = whole(entering)
    coming = torch.linspace(-1, 1, left.numel(), dtype=x.dtype).reshape(left.shape).sin()
    left.backward(coming)
    sums, own = Sums(len(shares)), shards(shares)

    def work(device: int):
        layer = narrow(make(), own[device]) if build is None else build(own[device])
        sum_branches(layer, [functools.partial(sums.over, device)] * 2)
        enters = x.clone().requires_grad_()
        leaves = layer(enters)
        forward = sums.calls
        leaves.backward(coming)
        return layer, leaves.detach(), enters.grad, forward

    with ThreadPoolExecutor(len(shares)) as threads:
        results = list(threads.map(work, range(len(shares))))
    assert sums.calls == 4
    for _, leaves, gradient, forward in results:
        assert forward == 2
        torch.testing.assert_close(leaves, left.detach(), rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(gradient, entering.grad, rtol=0, atol=TOLERANCE)
        assert torch.equal(leaves, results[0][1])
        assert torch.equal(gradient, results[0][2])
    slices = slices_of(whole)
    summands = {id(each) for each in shared_by_heads(whole)}
    assert set(slices) <= {name for name, _ in whole.named_parameters()}
    for name, parameter in whole.named_parameters():
        parts = [layer.get_parameter(name) for layer, *_ in results]
        if name in slices:
            assert torch.equal(slices[name].whole([each.detach() for each in parts]), parameter.detach())
            gradient = slices[name].whole([each.grad for each in parts])
        else:
            assert all(torch.equal(each, parameter) for each in parts)
            gradient = sum(each.grad for each in parts) if id(parameter) in summands else parts[0].grad
        torch.testing.assert_close(gradient, parameter.grad, rtol=0, atol=TOLERANCE, msg=name)


@pytest.mark.parametrize("shares", [(1, 1), (3, 1), (1, 2, 1), (2,)])
@pytest.mark.parametrize("name", ["tied", "untied", "encoder", "vit"])
def test_a_sliced_block_equals_the_whole_one(lab, name, shares):
    spec = lab.architectures[name]
    parts = spec.kv_heads if hasattr(spec, "kv_heads") else spec.heads
    if sum(shares) != parts:
        spec = spec.replace(ffn=48, **({"heads": 2 * sum(shares), "kv_heads": sum(shares)} if parts == 2 else {}))
        spec = spec if parts == 2 else spec.replace(heads=sum(shares), hidden=8 * sum(shares))
    network = RandomNetwork(spec, "float64", seed=3)
    assert [parts_of(network.layer(index)) for index in (0, 1, 5)] == [1, sum(shares), 1]
    x = torch.randn((3, 7, spec.hidden), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    check(lambda: network.layer(1), shares, x)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_sliced_hugging_face_layer_reads_its_own_part_of_a_checkpoint(name, tmp_path):
    from dora_nb.executor.networks.pretrained import checkpoint_source, write_checkpoint

    model = live(name)
    network = checkpoint_source(write_checkpoint(model, tmp_path)).build()
    make = functools.partial(built_layer, network, 2, dtype=torch.float64, seed=0)
    x = torch.randn((2, 5, 16), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    check(make, (1, 1) if name == "qwen3" else (1, 3), x, lambda shard: make(shard=shard))


def test_a_sliced_layer_of_a_stored_sequence_reads_its_own_part(lab, tmp_path):
    spec = lab.architectures["encoder"]
    layers = [RandomNetwork(spec, "float64", seed=3).layer(index) for index in range(6)]
    stored = store(nn.Sequential(*layers), tmp_path).build()
    make = functools.partial(built_layer, stored, 2, dtype=torch.float64, seed=0)
    x = torch.randn((2, 5, 32), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    check(make, (1, 3), x, lambda shard: make(shard=shard))


def test_tokens_one_at_a_time_see_the_shards_own_keys_and_values(lab):
    spec = lab.architectures["untied"].replace(heads=8, kv_heads=4)
    network = RandomNetwork(spec, "float64", seed=3)
    prompt = torch.randn((2, 5, spec.hidden), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    tokens = torch.randn((3, 2, 1, spec.hidden), dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def passed(layer: nn.Module, cache: KeyValueCache) -> list[torch.Tensor]:
        with torch.no_grad():
            return [layer(each, cache.part()) for each in (prompt, *tokens)]

    whole_cache = KeyValueCache(2, 8)
    expected = passed(network.layer(1), whole_cache)
    own, sums = shards((3, 1)), Sums(2)

    def work(device: int) -> tuple[list[torch.Tensor], KeyValueCache]:
        layer, cache = narrow(network.layer(1), own[device]), KeyValueCache(2, 8)
        sum_branches(layer, [functools.partial(sums.over, device)] * 2)
        return passed(layer, cache), cache

    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(work, range(2)))
    for got, _ in results:
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)
    assert [cache.size_bytes / whole_cache.size_bytes for _, cache in results] == [0.75, 0.25]


def test_other_numbers_of_parts_are_refused_and_other_layers_stay_whole(lab):
    network = RandomNetwork(lab.architectures["tied"], "float64", seed=3)
    with pytest.raises(InputError, match="2"):
        narrow(network.layer(1), Shard(0, 1, 3))
    embedding = network.layer(0)
    before = {name: each.shape for name, each in embedding.named_parameters()}
    assert before == {name: each.shape for name, each in narrow(embedding, Shard(0, 1, 2)).named_parameters()}
