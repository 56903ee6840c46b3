"""Networks of the catalogue and a person's own, profiled from names alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from builders import cluster

from dora_nb.costs.measured import measured_table
from dora_nb.errors import InputError
from dora_nb.executor.measuring.named_model import profile_named
from dora_nb.executor.measuring.real_size import RealSize, available_memory_bytes, needed_bytes, profile_workload

OWN = """
import torch
from torch import nn

def make():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

sample = torch.zeros(1, 8)

def samples():
    return torch.zeros(3, 8)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_own_model.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_own_model", raising=False)
    return "my_own_model"


@pytest.mark.parametrize(
    ("family", "mode"),
    [("tied", "training"), ("encoder", "inference"), ("vit", "training"), ("resnet", "inference")],
)
def test_every_layer_of_the_catalogue_s_chain_is_timed(family: str, mode: str, lab) -> None:
    work = lab.workload(lab.architectures[family], mode, 3)
    found = profile_workload(work, repetitions=1)
    assert found.workload == work
    for layer in found.layers:
        assert set(layer.forward_s) == {1, 2, 3}
        assert set(layer.backward_s) == ({1, 2, 3} if mode == "training" else set())
        assert all(seconds > 0 for seconds in layer.forward_s.values())
    place = cluster(2, 1e9)
    table = measured_table(work, place, dict.fromkeys(place.device_ids, found))
    assert table.forward_s[:, 1, 3].tolist() == [layer.forward_s[3] for layer in found.layers]


@pytest.mark.parametrize("family", ["untied", "encoder", "vit", "mobilenet"])
def test_layers_are_those_of_the_chain_and_hold_ordinary_numbers(family: str, lab) -> None:
    architecture = lab.architectures[family]
    work = lab.workload(architecture, "inference", 1)
    network = RealSize(architecture, "float32", None)
    assert len(network) == len(work.layers)
    for index, layer in enumerate(work.layers):
        module = network.layer(index)
        assert sum(each.numel() for each in module.parameters()) == layer.parameters
        for parameter in module.parameters():
            assert torch.isfinite(parameter).all()
            assert parameter.dtype == torch.float32
            assert (parameter.abs() > 1e-30).float().mean() > 0.9


def test_what_does_not_fit_in_memory_is_left_out_and_told(lab) -> None:
    work = lab.workload(lab.architectures["untied"], "training", 4)
    room = needed_bytes(work, 2)
    assert needed_bytes(work, 1) < room < needed_bytes(work, 4)
    told: list[str] = []
    found = profile_workload(work, repetitions=1, available_bytes=room, on_progress=told.append)
    assert set(found.layers[0].forward_s) == {1, 2}
    assert "not timed with 4 samples at once" in told[0]
    assert told[1].endswith(" with 1 and 2 samples")
    with pytest.raises(InputError, match=r"block.0, 1 at once'; allowed: .* are available"):
        profile_workload(work, available_bytes=1000.0)
    available = available_memory_bytes()
    assert available is None or available > 1e6


def test_what_cannot_be_profiled_at_its_real_size(lab) -> None:
    work = lab.workload(lab.architectures["untied"], "inference", 2)
    with pytest.raises(InputError, match=r"workload.architecture"):
        profile_workload(work.replace(architecture=None))
    with pytest.raises(InputError, match="serves streams as well"):
        profile_workload(work.replace(mode="stream", requests_per_s=1.0))
    with pytest.raises(InputError, match="samples"):
        profile_workload(work, samples=[0])


def test_a_profile_of_inference_serves_streams(lab) -> None:
    work = lab.workload(lab.architectures["untied"], "inference", 2)
    found, place = profile_workload(work, repetitions=1), cluster(1)
    table = measured_table(work.replace(mode="stream", requests_per_s=1.0), place, {"a": found})
    assert table.forward_s[0, 0, 2] == found.layers[0].forward_s[2]


@pytest.mark.parametrize("sample", ["sample", "samples"])
def test_a_model_of_one_s_own_by_name(sample: str, own: str) -> None:
    found = profile_named(f"{own}:make", f"{own}:{sample}", mode="training", batch=2, samples=None, repetitions=1)
    assert found.workload.name == "make"
    assert [layer.parameters for layer in found.workload.layers] == [8 * 16 + 16, 0, 16 * 4 + 4]
    assert set(found.layers[0].forward_s) == {1, 2}


@pytest.mark.parametrize(
    ("model", "sample", "field"),
    [
        ("my_own_model:nothing", "my_own_model:sample", "name"),
        ("my_own_model:make", "my_own_model:OWN", "name"),
        ("my_own_model:make", "my_own_model:make", "sample"),
        ("no_such_module:make", "my_own_model:sample", "name"),
    ],
)
def test_names_that_lead_nowhere(model: str, sample: str, field: str, own: str) -> None:
    with pytest.raises(InputError) as refused:
        profile_named(model, sample, mode="inference", batch=1, samples=None, repetitions=1)
    assert refused.value.field == field
