"""Loading by name and by path, and what a file may get wrong."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from dora_nb.catalog import (
    data_dir,
    folder,
    load_cluster,
    load_conditions,
    load_device,
    load_dynamics,
    load_streams,
    load_workload,
    names,
)
from dora_nb.errors import DocumentError, DoraError, InputError, UnknownNameError


def quantity(value: Any, unit: str, **more: Any) -> dict[str, Any]:
    return {"value": value, "unit": unit, "status": "assumed", "source": "a test"} | more


def device() -> dict[str, Any]:
    rates = {"fp32": quantity(10, "GFLOP/s")}
    return {
        "profile": "board",
        "memory_bytes": quantity(2, "GiB"),
        "flops_per_s": {"matmul": rates, "conv": dict(rates), "depthwise": dict(rates)},
        "memory_bytes_per_s": quantity(4, "GB/s"),
        "idle_w": quantity(500, "mW", note="a guess"),
        "active_w": quantity(3, "W"),
    }


def cluster() -> dict[str, Any]:
    return {
        "name": "two",
        "devices": [{"id": "a", "profile": "rpi5-8g"}, device() | {"id": "b"}],
        "domains": [
            {
                "id": "lan",
                "kind": "switch",
                "rates_bytes_per_s": {"a": quantity(938, "Mbit/s"), "b": quantity(100, "MB/s")},
                "latency_s": quantity(1, "ms"),
            }
        ],
    }


def written(folder: Path, document: Any) -> Path:
    path = folder / "given.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_names_are_sorted_and_known() -> None:
    assert names("deployments") == ("edge-cluster", "smart-home", "traffic-5g", "traffic-analytics", "wired-home")
    assert len(names("models")) == 7
    assert "rpi5-8g" in names("devices")
    with pytest.raises(UnknownNameError, match="did you mean 'devices'"):
        names("device")  # type: ignore[arg-type]


def test_units_become_si_numbers_and_their_source_is_kept(tmp_path: Path) -> None:
    loaded = load_device(written(tmp_path, device()), id="mine")
    assert (loaded.id, loaded.profile) == ("mine", "board")
    assert loaded.memory_bytes == 2 * 2**30
    assert loaded.flops_per_s["matmul"]["fp32"] == 10e9
    assert loaded.idle_w == 0.5
    assert loaded.sources["idle_w"].note == "a guess"
    assert loaded.sources["flops_per_s.matmul.fp32"].status == "assumed"


def test_a_device_is_named_after_its_profile_unless_told_otherwise() -> None:
    assert load_device("rpi5-8g").id == "rpi5-8g"
    assert load_device("rpi5-8g", id="hub").id == "hub"


def test_a_deployment_mixes_profiles_and_devices_of_its_own(tmp_path: Path) -> None:
    loaded = load_cluster(str(written(tmp_path, cluster())))
    assert loaded.device("a").replace(id="rpi5-8g") == load_device("rpi5-8g")
    assert loaded.device("b").active_w == 3
    domain = loaded.domain
    assert domain is not None
    assert domain.rates_bytes_per_s == {"a": pytest.approx(117.25e6), "b": 100e6}
    assert domain.latency_s == pytest.approx(1e-3)
    assert domain.sources["rates_bytes_per_s.a"].source == "a test"


def test_a_workload_has_the_documented_defaults(tmp_path: Path) -> None:
    assert load_workload("bert-base").sequence == 128
    assert load_workload("resnet-50").image_px == 224
    given = load_workload("qwen3-0.6b", mode="training", batch=16, sequence=64, precision="fp16", source="a", sink="b")
    assert (given.batch, given.sequence, given.precision, given.source, given.sink) == (16, 64, "fp16", "a", "b")
    copy = shutil.copy(data_dir() / "models" / "vit-b-16.json", tmp_path / "mine.json")
    assert load_workload(copy) == load_workload("vit-b-16")


@pytest.mark.parametrize(
    ("call", "suggestion"),
    [
        (lambda: load_device("rpi5"), "rpi5-8g"),
        (lambda: load_cluster("smarthome"), "smart-home"),
        (lambda: load_workload("qwen3-06b"), "qwen3-0.6b"),
        (lambda: load_workload("bert-base", mode="train"), "training"),  # type: ignore[arg-type]
        (lambda: load_workload("bert-base", precision="fp31"), "fp32"),  # type: ignore[arg-type]
    ],
)
def test_an_unknown_name_gets_a_suggestion(call: Any, suggestion: str) -> None:
    with pytest.raises(UnknownNameError, match=rf"did you mean '{suggestion}'"):
        call()


def _set(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The document with the field at a path set, or removed if the value is Ellipsis."""
    *parents, last = path.split("/")
    inner: Any = document
    for part in parents:
        inner = inner[int(part) if part.isdigit() else part]
    if value is ...:
        del inner[last]
    else:
        inner[int(last) if last.isdigit() else last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("memory_bytes/unit", "W", "memory_bytes"),
        ("memory_bytes/unit", ..., "memory_bytes.unit"),
        ("memory_bytes/unit", "", "memory_bytes.unit"),
        ("memory_bytes/value", -1, "memory_bytes.value"),
        ("memory_bytes/value", True, "memory_bytes.value"),
        ("memory_bytes/value", "8", "memory_bytes.value"),
        ("memory_bytes/value", ..., "memory_bytes.value"),
        ("memory_bytes/status", ..., "memory_bytes.status"),
        ("memory_bytes/status", "guessed", "memory_bytes.status"),
        ("memory_bytes/source", ..., "memory_bytes.source"),
        ("memory_bytes/source", "", "memory_bytes.source"),
        ("memory_bytes/remark", "x", "memory_bytes.remark"),
        ("memory_bytes", 8e9, "memory_bytes"),
        ("memory_bytes", ..., "memory_bytes"),
        ("memory_bytes_per_s/value", 0, "memory_bytes_per_s"),
        ("flops_per_s/matmul/fp32/unit", "GFLOPS", "flops_per_s.matmul.fp32"),
        ("flops_per_s/matmul", 3, "flops_per_s.matmul"),
        ("active_w/value", 0.1, "active_w"),
        ("colour", "red", "colour"),
    ],
)
def test_an_error_in_a_device_names_the_field(tmp_path: Path, path: str, value: Any, field: str) -> None:
    with pytest.raises(InputError) as caught:
        load_device(written(tmp_path, _set(device(), path, value)))
    assert caught.value.field == field
    assert caught.value.allowed


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("devices/1/idle_w/unit", "J", "devices[1].idle_w"),
        ("devices/1/id", "a", "devices"),
        ("devices/0/profile", "rpi6", "devices[0].profile"),
        ("devices/0", {"profile": "rpi5-8g"}, "devices[0]"),
        ("devices", "all", "devices"),
        ("devices", ..., "devices"),
        ("domains/0", 3, "domains[0]"),
        ("domains", [], "domains"),
        ("domains/0/kind", "hub", "domains[0].kind"),
        ("domains/0/rates_bytes_per_s/a/unit", "Mbit", "domains[0].rates_bytes_per_s.a"),
        ("domains/0/rates_bytes_per_s/c", quantity(1, "MB/s"), "domains[0].rates_bytes_per_s"),
        ("domains/0/latency_s/value", -2, "domains[0].latency_s.value"),
        ("name", ..., "name"),
    ],
)
def test_an_error_in_a_deployment_names_the_field(tmp_path: Path, path: str, value: Any, field: str) -> None:
    document = _set(cluster(), path, value)
    with pytest.raises(InputError) as caught:
        load_cluster(written(tmp_path, document))
    assert caught.value.field == field


def test_a_device_used_twice_is_refused(tmp_path: Path) -> None:
    document = _set(cluster(), "devices/1/id", "a")
    with pytest.raises(InputError, match=r"devices: got 'a'; allowed: every device once"):
        load_cluster(written(tmp_path, document))


@pytest.mark.parametrize(
    ("architecture", "field"),
    [
        (3, "architecture"),
        ({"family": "decodr"}, "architecture.family"),
        ({"family": ["decoder"]}, "architecture.family"),
        ({"family": "vit"}, "architecture.hidden"),
    ],
)
def test_an_error_in_a_model_names_the_field(tmp_path: Path, architecture: Any, field: str) -> None:
    with pytest.raises(InputError) as caught:
        load_workload(written(tmp_path, {"name": "mine", "architecture": architecture}))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"profile": "board",\n "memory_bytes": }', "line 2, column 18"),
        ("", "line 1, column 1"),
        ('{"idle_w": NaN}', "NaN is not a JSON number"),
        ("[1, 2]", "it holds JSON, but not an object in braces"),
        ('{"idle_w": 1, "idle_w": 2}', "key 'idle_w' stands twice"),
    ],
)
def test_a_damaged_file_says_where(tmp_path: Path, text: str, problem: str) -> None:
    path = written(tmp_path, text)
    for load in (load_device, load_cluster, load_workload):
        with pytest.raises(DocumentError, match=problem) as caught:
            load(path)
        assert caught.value.path == path


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="no such file"):
        load_device(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"{\xff}")
    with pytest.raises(DocumentError, match="not UTF-8"):
        load_device(tmp_path / "binary.json")


def test_a_file_may_be_yaml(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(cluster()).replace('"value": 938', '"value": 9.38e2'), encoding="utf-8")
    assert load_cluster(str(path)) == load_cluster(written(tmp_path, cluster()))
    path.write_text(json.dumps(cluster()).replace('"b": {', '"a": {', 1))
    with pytest.raises(DocumentError, match="the key 'a' stands twice"):
        load_cluster(path)
    path.write_text("[" * 100_000)
    with pytest.raises(DocumentError, match="nested too deeply"):
        load_cluster(path)
    path.write_bytes(b"{\xff}")
    with pytest.raises(DocumentError, match="is not YAML: not UTF-8"):
        load_cluster(path)


def test_a_byte_order_mark_is_no_matter(tmp_path: Path) -> None:
    assert load_cluster(written(tmp_path, "\ufeff" + json.dumps(cluster()))).name == "two"


def test_a_device_is_of_a_profile_or_has_all_its_fields(tmp_path: Path) -> None:
    document = _set(cluster(), "devices/0/idle_w", quantity(3, "W"))
    with pytest.raises(InputError, match=r"'id' and 'profile' alone, or all fields .* active_w missing") as caught:
        load_cluster(written(tmp_path, document))
    assert caught.value.field == "devices[0]"


def test_data_is_found_inside_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "dora_nb"
    package.mkdir(parents=True)
    monkeypatch.setattr(folder, "__file__", str(package / "catalog" / "folder.py"))
    with pytest.raises(DoraError, match="catalogue is missing"):
        data_dir()
    inside = package / "data"
    (inside / "devices").mkdir(parents=True)
    assert data_dir() == inside


def test_an_error_in_a_file_names_the_file(tmp_path: Path) -> None:
    for load, document in (
        (load_device, _set(device(), "idle_w/unit", "J")),
        (load_cluster, _set(cluster(), "devices/0/profile", "rpi6")),
        (load_workload, {"name": "mine", "architecture": 3}),
        (load_conditions, {"conditions": [3]}),
        (load_dynamics, {"states": [3]}),
        (load_streams, {"streams": [3]}),
    ):
        path = written(tmp_path, document)
        with pytest.raises(InputError, match=re.escape(f"{path}: ")) as caught:
            load(path)
        assert caught.value.path == path
    with pytest.raises(InputError) as caught:
        load_workload("vit-b-16", batch=0)
    assert caught.value.path is None


def test_a_name_that_is_unknown_may_have_been_meant_as_a_file() -> None:
    with pytest.raises(UnknownNameError, match="or the path of a JSON or YAML file"):
        load_cluster("mine")


def test_a_file_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="nested too deeply"):
        load_cluster(written(tmp_path, "[" * 100_000))
