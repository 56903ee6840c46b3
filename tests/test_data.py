"""What comes in data/: every number has a unit, a status and a source, and measured ones are as published."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from dora_nb.catalog import data_dir, load_cluster, load_device, load_workload, names
from dora_nb.domain.cluster import Status
from dora_nb.units import UNITS

FILES = sorted(path for path in data_dir().glob("*/*.json") if path.parent.name not in ("schemas", "problems"))
PUBLISHED = Path(__file__).parents[1] / ".." / "shared" / "facts"
#: Collected numbers that a field of ours carries over when it says it is measured, or is the datasheet's.
CARRIED = {
    "memory_bytes": ("memory_bytes",),
    "flops_per_s.matmul.fp64": ("achieved_fp64_hpl_flops",),
    "idle_w": ("power_idle_W",),
    "active_w": ("power_hpl_W", "power_active_llm_W"),
}
MODEL_NAMES = {"bert-base": "bert-base-uncased", "mobilenet-v2": "mobilenet-v2-1.0"}


def published(name: str) -> Any:
    path = PUBLISHED / name
    if not path.is_file():
        pytest.skip("the collected numbers are not at hand")
    return json.loads(path.read_text())


def numbers(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number of a document, as its quantity object or, where it has none, as it stands."""
    if isinstance(node, dict) and "value" in node:
        yield path, node
    elif isinstance(node, dict):
        for key, inner in node.items():
            # The numbers of an architecture share the status and source beside it.
            if key != "architecture":
                yield from numbers(inner, f"{path}.{key}".strip("."))
    elif isinstance(node, list):
        for index, inner in enumerate(node):
            yield from numbers(inner, f"{path}[{index}]")
    elif not isinstance(node, str):
        yield path, node


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_number_has_unit_status_and_source(path: Path) -> None:
    text = path.read_text()
    document = json.loads(text)
    units = {unit for dimension in UNITS.values() for unit in dimension}
    for where, quantity in numbers(document):
        assert isinstance(quantity, dict), f"{where} is a bare number"
        assert set(quantity) <= {"value", "unit", "status", "source", "note"}, where
        assert isinstance(quantity["value"], int | float), where
        assert quantity["value"] > 0, where
        assert quantity["unit"] in units, where
        assert quantity["status"] in get_args(Status), where
        assert quantity["source"].strip(), where
        if quantity["status"] in ("computed", "assumed"):
            assert quantity["note"].strip(), f"{where} does not say how it follows"
    if path.parent.name != "devices":
        assert document["name"] == path.stem
        assert document["status"] in get_args(Status)
        assert document["source"].strip()
    else:
        assert document["profile"] == path.stem
    assert text == json.dumps(document, indent=2, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("name", names("devices"))
def test_every_device_is_complete(name: str) -> None:
    device = load_device(name)
    for operator in ("matmul", "conv", "depthwise"):
        assert {"fp32", "fp16", "bf16"} <= set(device.flops_per_s[operator])
    assert len(device.sources) == sum(map(len, device.flops_per_s.values())) + 6
    assert device.idle_w < device.active_w


@pytest.mark.parametrize("name", names("deployments"))
def test_every_deployment_loads_and_says_it_is_ours(name: str) -> None:
    cluster = load_cluster(name)
    assert cluster.name == name
    for domain in cluster.domains:
        rates = len(domain.rates_bytes_per_s) + len(domain.down_rates_bytes_per_s)
        assert len(domain.sources) == rates + 2
    assert "our own composition" in cluster.description.lower()


def test_the_deployments_are_made_of_what_they_say() -> None:
    assert load_cluster("smart-home").device_ids == ("phone", "laptop", "minipc", "tvbox", "hub")
    profiles = [device.profile for device in load_cluster("edge-cluster").devices]
    assert profiles == ["rpi4b-8g"] * 4 + ["rpi5-8g"] * 2 + ["macmini-m4"]
    domain = load_cluster("edge-cluster").domain
    assert domain is not None
    assert domain.rates_bytes_per_s["pi5-1"] == pytest.approx(117.25e6)  # 938 Mbit/s


@pytest.mark.parametrize("name", names("models"))
def test_every_model_loads_in_every_mode(name: str) -> None:
    for mode in ("training", "inference", "stream"):
        workload = load_workload(name, mode=mode, requests_per_s=1.0 if mode == "stream" else None)
        assert workload.name == name
        assert workload.label_bytes > 0 or mode != "training"


@pytest.mark.parametrize("name", [name for name in names("models") if name != "bert-base"])
def test_the_layers_add_up_to_the_totals_in_the_file(name: str) -> None:
    document = json.loads((data_dir() / "models" / f"{name}.json").read_text())
    workload = load_workload(name)
    assert workload.parameters == document["parameters"]["value"]
    assert workload.forward_flops == document["forward_flops"]["value"]


@pytest.mark.parametrize("name", names("models"))
def test_totals_in_the_files_are_the_published_ones(name: str) -> None:
    entry = published("models.json")[MODEL_NAMES.get(name, name)]
    document = json.loads((data_dir() / "models" / f"{name}.json").read_text())
    assert document["parameters"]["value"] == entry["params_total"]
    flops = entry.get("flops_forward_seq128_b1", entry.get("flops_forward_b1"))
    assert document["forward_flops"]["value"] == flops


@pytest.mark.parametrize("name", names("devices"))
def test_measured_numbers_are_carried_over_unchanged(name: str) -> None:
    entries = {entry["id"]: entry for entry in published("devices.json")["devices"]}
    device = load_device(name)
    values = {
        "memory_bytes": device.memory_bytes,
        "flops_per_s.matmul.fp64": device.flops_per_s["matmul"].get("fp64"),
        "idle_w": device.idle_w,
        "active_w": device.active_w,
    }
    measured = {field for field, source in device.sources.items() if source.status in ("measured", "datasheet")}
    assert measured <= set(CARRIED)  # nothing else claims to be measured
    for field in measured:
        candidates = [entries[name][key]["value"] for key in CARRIED[field] if key in entries[name]]
        assert any(values[field] == pytest.approx(candidate, rel=1e-12) for candidate in candidates), field


@pytest.mark.parametrize("name", names("deployments"))
def test_measured_rates_are_carried_over_unchanged(name: str) -> None:
    entries = {entry["id"]: entry for entry in published("devices.json")["devices"]}
    cluster = load_cluster(name)
    measured = 0
    for domain in cluster.domains:
        key = "wifi_bps" if domain.kind == "shared" else "ethernet_or_primary_bps"
        for member, rate in domain.rates_bytes_per_s.items():
            source = domain.sources[f"rates_bytes_per_s.{member}"]
            if source.status == "measured":
                entry = entries[cluster.device(member).profile][key]
                assert rate * 8 == pytest.approx(entry["value"])
                assert source.source == entry["source"]
                measured += 1
    assert measured or name.startswith("traffic")


def test_the_cell_is_as_measured() -> None:
    radio = {(each["radio"], each["direction"]): each for each in published("radio_power_cellular.json")}
    cell = load_cluster("traffic-5g").domains[1]
    up, down = radio["NSALow", "uplink"], radio["NSALow", "downlink"]
    assert set(cell.rates_bytes_per_s.values()) == {up["throughput_max_Mbps"] * 1e6 / 8}
    assert set(cell.down_rates_bytes_per_s.values()) == {down["throughput_max_Mbps"] * 1e6 / 8}
    watts_per_byte_per_s = up["slope_mW_per_Mbps"] * 1e-3 / (1e6 / 8)
    assert cell.energy_j_per_byte == pytest.approx(watts_per_byte_per_s)
    assert {cell.sources[name].source for name in cell.sources if "rates" in name} == {up["source"]}


def test_the_measured_contention_is_carried_over_unchanged() -> None:
    document = json.loads((data_dir() / "measurements" / "wifi-contention.json").read_text())
    for ours, theirs in zip(document["rows"], published("wifi_contention.json")["rows"], strict=True):
        assert ours["case"] == theirs["case"]
        values = [each["value"] for each in ours.get("goodput_bytes_per_s", [])]
        assert values == theirs.get("per_station_Mbps", [])
        assert ours.get("jain", {}).get("value") == theirs.get("jain")
