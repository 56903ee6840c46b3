"""Sequences of modules written down without pickle, and read layer by layer."""

from __future__ import annotations

import pytest
import torch
from own_models import reads_of, split, workload_for
from torch import nn

from dora_nb.errors import InputError
from dora_nb.executor.device.layer_state import state_of
from dora_nb.executor.device.replica import Replica
from dora_nb.executor.networks import stored
from dora_nb.executor.networks.chain import built_layer, built_layers
from dora_nb.executor.networks.stored import store
from dora_nb.executor.tasks.assemble import task_of
from dora_nb.executor.tasks.task import Source


def test_a_worker_reads_its_own_tensors_only(lab, tmp_path, monkeypatch):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 2)).double()
    data = (torch.randn(8, 4, dtype=torch.float64), torch.randint(2, (8,)))
    read = reads_of(stored, monkeypatch)
    task, plan, *_ = task_of(model, split(lab, 4), workload_for(4, 8), data=data, directory=tmp_path)
    read.clear()
    Replica("d2", plan, task)
    assert sorted(read) == ["2.parameter/bias", "2.parameter/weight", "3.parameter/bias", "3.parameter/weight"]


def test_layers_that_come_as_states_need_no_file(lab, tmp_path):
    """A worker that cannot read the coordinator's files is sent its layers."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 2)).double()
    data = (torch.randn(8, 4, dtype=torch.float64), torch.randint(2, (8,)))
    task, plan, *_ = task_of(model, split(lab, 4), workload_for(4, 8), data=data, directory=tmp_path)
    states = {
        index: state_of(built_layer(task.network.build(), index, dtype=torch.float64, seed=0)) for index in (0, 1)
    }
    (tmp_path / "network.safetensors").unlink()
    replica = Replica("d1", plan, task, states=states)
    for (name, each), own in zip(replica.named_parameters(), model[:2].parameters(), strict=True):
        assert torch.equal(each, own), name
    with pytest.raises(FileNotFoundError):
        Replica("d1", plan, task)


class Recurrent(nn.Module):
    """An LSTM as a layer that gives one tensor."""

    def __init__(self):
        super().__init__()
        self.cells = nn.LSTM(4, 4, num_layers=2, batch_first=True)

    def forward(self, x):
        return self.cells(x)[0]


def test_recurrent_and_attention_modules_are_rebuilt(tmp_path):
    torch.manual_seed(6)
    model = nn.Sequential(Recurrent(), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0))
    rebuilt = built_layers(store(model, tmp_path).build(), dtype=torch.float32, seed=0)
    x = torch.randn(2, 3, 4)
    assert torch.equal(rebuilt.eval()(x), model.eval()(x))
    assert repr(rebuilt) == repr(model)
    assert [path.name for path in tmp_path.iterdir()] == ["network.safetensors"]


class Remembers(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what


def hooked() -> nn.Module:
    module = nn.Linear(2, 2)
    module.register_forward_hook(print)
    return module


def shared() -> nn.Sequential:
    module = nn.Linear(2, 2)
    return nn.Sequential(nn.ReLU(), module, module)


def local() -> nn.Module:
    class Local(nn.Module):
        pass

    return Local()


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (nn.Sequential(nn.ReLU(), Remembers(object())), "model.1.what"),
        (nn.Sequential(Remembers([1, {"a": torch.zeros(1)}])), "model.0.what[1]['a']"),
        (nn.Sequential(Remembers(lambda x: x)), "model.0.what"),
        (nn.Sequential(nn.Sequential(local())), "model.0.0"),
        (nn.Sequential(hooked()), "model.0._forward_hooks"),
        (shared(), "model.2.weight"),
        (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))), "model.0"),
        (nn.Sequential(), "model"),
    ],
)
def test_what_cannot_be_described_is_named(tmp_path, model, named):
    with pytest.raises(InputError) as refused:
        store(model, tmp_path)
    assert refused.value.field == named
    assert not list(tmp_path.iterdir())


def test_only_allowed_modules_are_imported():
    source = Source(factory="dora_nb.executor.tasks.loss:cross_entropy", arguments={"x": [{"class": "wave:Wave_read"}]})
    assert source.modules == {"dora_nb.executor.tasks.loss", "wave"}
    with pytest.raises(InputError, match="wave"):
        source.function(allowed_modules=[])
    assert callable(source.function(allowed_modules=["wave"]))
