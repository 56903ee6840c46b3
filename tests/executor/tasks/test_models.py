from __future__ import annotations

import math

import pytest
import torch

from dora_nb import catalog
from dora_nb.errors import ExecutionError, InputError
from dora_nb.executor.compare import differences
from dora_nb.executor.course import Outputs
from dora_nb.executor.networks.chain import built_layers, tie
from dora_nb.executor.reference import reference_run
from dora_nb.executor.tasks.assemble import random_task
from dora_nb.executor.tasks.models import RandomNetwork, build_layer, tied_names
from dora_nb.executor.tasks.scale import scale_down


def whole_network(spec, seed):
    """All layers as one process builds them."""
    return built_layers(RandomNetwork(spec, "float64", seed), dtype=torch.float64, seed=seed)


FAMILIES = ["tied", "untied", "encoder", "vit", "resnet", "mobilenet"]


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_are_those_the_domain_counts(lab, name):
    spec = lab.architectures[name]
    workload = lab.workload(spec, "training", 4)
    for index, counted in enumerate(workload.layers):
        layer = build_layer(spec, index, torch.float64, 0)
        assert sum(each.numel() for each in layer.parameters()) == counted.parameters, counted.name
    whole = whole_network(spec, 0)
    assert sum(each.numel() for each in whole.parameters()) == workload.parameters


@pytest.mark.parametrize("name", FAMILIES)
def test_a_layer_alone_has_the_weights_it_has_in_the_whole(lab, name):
    spec = lab.architectures[name]
    for index, layer in enumerate(whole_network(spec, 3)):
        alone = build_layer(spec, index, torch.float64, 3)
        for (key, a), (_, b) in zip(layer.state_dict().items(), alone.state_dict().items(), strict=True):
            assert torch.equal(a, b), (index, key)
    other = build_layer(spec, 1, torch.float64, 4)
    assert not torch.equal(next(other.parameters()), next(build_layer(spec, 1, torch.float64, 3).parameters()))


@pytest.mark.parametrize("name", ["tied", "encoder"])
def test_tied_parameters_are_one_tensor_in_one_process(lab, name):
    spec = lab.architectures[name]
    last = spec.blocks + 1
    apart = {index: build_layer(spec, index, torch.float64, 0) for index in (0, last)}
    names = tied_names(spec)

    def pair():
        return apart[0].get_parameter(names[0]), apart[last].get_parameter(names[1])

    a, b = pair()
    assert a is not b
    assert torch.equal(a, b)
    tie(names, last + 1, apart)
    a, b = pair()
    assert a is b


def test_building_leaves_the_global_generator_alone(lab):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    whole_network(lab.architectures["tied"], 0)
    assert torch.equal(torch.rand(3), expected)


def test_a_causal_decoder_does_not_look_ahead(lab):
    spec = lab.architectures["tied"]
    network = whole_network(spec, 0)
    tokens = torch.randint(64, (1, 8))
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 64
    with torch.no_grad():
        before, after = network(tokens), network(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=1e-14)
    assert not torch.allclose(before[:, 5:], after[:, 5:])


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_handed_over_is_what_the_domain_counts(lab, name):
    workload = lab.workload(lab.architectures[name], "training", 4).replace(precision="fp64")
    cuts = random_task(workload, 0).cuts
    assert [math.prod(cut.shape) for cut in cuts] == [layer.output_elements for layer in workload.layers[:-1]]


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_convolutional_networks_equal_one_process(lab, name):
    """With uneven replicas, too: normalisation does not mix samples."""
    plan = lab.plan([(0, 3, [(0, 3), (1, 1)], 2, ("ring", 0)), (3, 6, [(2, 2), (3, 2)], 1, ("star", 3))], 2)
    workload, plan = scale_down(plan, lab.workload(lab.architectures[name], "training", 8))
    task = random_task(workload, 0)
    ran, reference = lab.run(task, plan, 3), reference_run(task, plan, 3)
    assert differences(reference, [Outputs(plan, ran.results)], ran.results, ran.losses).largest <= 1e-10


def test_a_chain_without_an_architecture_has_no_small_network(lab):
    workload = lab.workload(lab.architectures["vit"], "training", 4).replace(architecture=None)
    with pytest.raises(InputError, match="a model of your own"):
        scale_down(lab.plan([(0, 6, [(0, 2)], 1, None)], 2), workload)


def test_data_depend_on_seed_step_and_micro_batch_only(lab):
    workload, _ = scale_down(
        lab.plan([(0, 6, [(0, 4)], 1, None)], 2), lab.workload(lab.architectures["untied"], "training", 8)
    )
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, -1, 0)]
    drawn = [random_task(workload, seed).data.build().micro_batch(*key, 4).inputs for seed, *key in keys]
    assert torch.equal(drawn[0], random_task(workload, 0).data.build().micro_batch(0, 0, 4).inputs)
    assert all(not torch.equal(drawn[0], other) for other in drawn[1:])


@pytest.mark.parametrize("kind", ["output", "gradient", "parameter"])
def test_comparison_sees_a_small_change_and_a_missing_tensor(lab, kind):
    workload, plan = scale_down(
        lab.plan([(0, 6, [(0, 2)], 1, None)], 2), lab.workload(lab.architectures["untied"], "training", 4)
    )
    reference = reference_run(random_task(workload, 0), plan, 2)
    result = {f"output/{index}": each.clone() for index, each in enumerate(reference.outputs)}
    result |= {f"gradient/{name}": each.clone() for name, each in reference.gradients.items()}
    result |= {f"parameter/{name}": each.clone() for name, each in reference.parameters.items()}
    assert differences(reference, [Outputs(plan, {"d0": result})], {"d0": result}, reference.losses).largest == 0.0
    name = next(each for each in result if each.startswith(kind))
    result[name].view(-1)[-1] += 1e-6
    found = differences(reference, [Outputs(plan, {"d0": result})], {"d0": result}, reference.losses)
    assert getattr(found, f"{kind}s") == pytest.approx(1e-6)
    del result[name]
    with pytest.raises(ExecutionError):
        differences(reference, [Outputs(plan, {"d0": result})], {"d0": result}, reference.losses)


@pytest.mark.parametrize("model", ["qwen3-0.6b", "qwen2.5-3b", "bert-base", "vit-b-16", "resnet-50", "mobilenet-v2"])
def test_catalogue_models_scale_down(lab, model):
    workload = catalog.load_workload(model, mode="training", batch=8)
    blocks = len(workload.layers) - 2
    third = 1 + blocks // 3
    plan = lab.plan(
        [(0, 1, [(0, 4)], 3, None), (1, third, [(1, 4)], 2, None), (third, blocks + 2, [(2, 4)], 1, None)], 2
    )
    small, cut = scale_down(plan, workload)
    assert next(stage.stop_layer - stage.first_layer for stage in cut.stages) == 1
    assert cut.layer_count == len(small.layers)
    assert small.parameters < 3e6
    assert bool(small.tied_parameters) == bool(workload.tied_parameters)
    assert small.precision == "fp64"
    spec, original = small.architecture, workload.architecture
    if original.family == "decoder":
        assert spec.heads // spec.kv_heads == original.heads // original.kv_heads
        assert (spec.qk_norm, spec.qkv_bias) == (original.qk_norm, original.qkv_bias)
    for index, counted in enumerate(small.layers):
        layer = build_layer(spec, index, torch.float64, 0, small.image_px)
        assert sum(each.numel() for each in layer.parameters()) == counted.parameters
