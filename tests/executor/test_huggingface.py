"""Hugging Face models as sequences: live, from a configuration, from a checkpoint."""

from __future__ import annotations

import sys

import pytest
import torch
from own_models import CONFIGS, assert_equals_one_process, live, reads_of, split, workload_for

from dora_nb.errors import DocumentError, InputError, MissingDependencyError
from dora_nb.executor.device.replica import Replica
from dora_nb.executor.networks.chain import built_layers
from dora_nb.executor.tasks.assemble import task_of


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_hugging_face_model_as_a_sequence(name, attention):
    from dora_nb.executor.networks.huggingface import sequential

    model = live(name, attn_implementation=attention)
    tokens = torch.randint(40, (3, 9))
    with torch.no_grad():
        assert torch.equal(sequential(model)(tokens), model(tokens).logits)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_live_hugging_face_model(lab, tmp_path, name):
    """Written down, split and trained, it equals the model, which is left as it was."""
    from dora_nb.executor.networks.huggingface import sequential

    model = live(name)
    before = {key: each.clone() for key, each in model.state_dict().items()}
    tokens = torch.randint(40, (8, 9))
    tied = name != "llama"
    plan = split(lab, 5, tied="synchronised" if tied else "none")
    work = workload_for(5, 8, tied=640 if tied else 0)
    task, plan, *_ = task_of(sequential(model), plan, work, data=(tokens, tokens.roll(1, 1)), directory=tmp_path)
    reference, _ = assert_equals_one_process(lab, task, plan)
    with torch.no_grad():
        assert torch.equal(torch.cat(reference.outputs), torch.cat([model(each).logits for each in tokens.split(4)]))
    assert all(torch.equal(before[key], each) for key, each in model.state_dict().items())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_with_random_weights(lab, tmp_path, name):
    pytest.importorskip("transformers")
    from dora_nb.executor.networks.pretrained import random_source

    tied = name != "llama"
    plan = split(lab, 5, tied="hosted" if tied else "none")
    work = workload_for(5, 8, tied=640 if tied else 0, sequence=10)
    task, plan, *_ = task_of(random_source(CONFIGS[name], seed=1), plan, work, directory=tmp_path)
    assert_equals_one_process(lab, task, plan)
    other = built_layers(random_source(CONFIGS[name], seed=2).build(), dtype=torch.float64, seed=0)
    this = built_layers(task.network.build(), dtype=torch.float64, seed=0)
    assert not torch.equal(next(this[1].parameters()), next(other[1].parameters()))


def test_an_old_checkpoint_of_bert_and_what_is_missing(tmp_path):
    from safetensors.torch import load_file, save_file

    from dora_nb.executor.networks.pretrained import checkpoint_source

    model = live("bert")
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): each
        for name, each in tensors.items()
    }
    assert old.keys() != tensors.keys()
    save_file(old, file)
    tokens = torch.randint(40, (2, 5))
    with torch.no_grad():
        built = built_layers(checkpoint_source(tmp_path).build(), dtype=torch.float64, seed=0).eval()
        assert torch.equal(built(tokens), model(tokens).logits)
    del old["bert.encoder.layer.1.output.dense.weight"]
    save_file(old, file)
    network = checkpoint_source(tmp_path).build()
    assert network.layer(1) is not None
    with pytest.raises(DocumentError, match=r"bert\.encoder\.layer\.1\.output\.dense\.weight"):
        network.layer(2)
    file.unlink()
    with pytest.raises(InputError, match=r"model\.safetensors"):
        checkpoint_source(tmp_path).build()
    (tmp_path / "config.json").unlink()
    with pytest.raises(DocumentError, match=r"config\.json"):
        checkpoint_source(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "gpt2"}, "config.model_type"),
        ({"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, "model.config.layer_types"),
    ],
)
def test_models_of_another_kind_are_refused(change, named):
    pytest.importorskip("transformers")
    from dora_nb.executor.networks.pretrained import random_source

    with pytest.raises(InputError) as refused:
        random_source(CONFIGS["qwen3"] | change).build()
    assert refused.value.field == named


def test_without_transformers_one_is_told_what_to_install(monkeypatch):
    from dora_nb.executor.networks.pretrained import random_source

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"dora-nb\[exec,hf\]"):
        random_source(CONFIGS["qwen3"]).build()


def test_a_worker_reads_its_own_tensors_only(lab, tmp_path, monkeypatch):
    """Of a checkpoint in several files."""
    model = live("qwen3")
    model.save_pretrained(tmp_path / "checkpoint", max_shard_size="6KB")
    assert len(list((tmp_path / "checkpoint").glob("*.safetensors"))) > 1
    from dora_nb.executor.networks import pretrained

    read = reads_of(pretrained, monkeypatch)
    plan, work = split(lab, 5, tied="synchronised"), workload_for(5, 8, tied=640, sequence=10)
    task, plan, *_ = task_of(str(tmp_path / "checkpoint"), plan, work, directory=tmp_path)
    read.clear()
    replica = Replica("d0", plan, task)
    assert replica.layers == (0, 1)
    names = [f"model.{name}" for name, _ in model.model.named_parameters()]
    assert sorted(read) == sorted(name for name in names if "embed" in name or "layers.0." in name)
    expected = [*model.model.embed_tokens.parameters(), *model.model.layers[0].parameters()]
    for got, own in zip(replica.parameters(), expected, strict=True):
        assert torch.equal(got, own)
