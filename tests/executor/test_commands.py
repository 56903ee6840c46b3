"""The commands that measure: what they write is planned with. In this process, which has loaded torch already."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dora_nb.catalog import data_dir, load_cluster
from dora_nb.cli import app
from dora_nb.executor.measuring import survey

RUNNER = CliRunner()


def answered(*arguments: str) -> dict[str, Any]:
    """What a command says as JSON."""
    ran = RUNNER.invoke(app, [*arguments, "--json"])
    assert ran.exit_code == 0, ran.stderr
    return json.loads(ran.stdout)


def refused(*arguments: str) -> str:
    """One message on standard error, nothing on standard output."""
    ran = RUNNER.invoke(app, list(arguments))
    assert ran.exit_code == 1, ran.output
    assert ran.stdout == ""
    return ran.stderr


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first two devices of the smart home, as a file in the working directory."""
    document = json.loads((data_dir() / "deployments" / "smart-home.json").read_text())
    document["devices"] = document["devices"][:2]
    rates = document["domains"][0]["rates_bytes_per_s"]
    document["domains"][0]["rates_bytes_per_s"] = {name: rates[name] for name in ("phone", "laptop")}
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "home.json"
    path.write_text(json.dumps(document))
    return path


def test_a_device_is_profiled_and_planned_with(home: Path) -> None:
    size = ["--mode", "training", "--batch", "2", "--image-px", "32"]
    facts = answered("profile", "mobilenet-v2", *size, "--repetitions", "1", "--samples", "2", "--out", "profile.json")
    assert (facts["layers"], facts["workload"]["precision"]) == (19, "fp32")
    whole_s = facts["forward_s"]["2"] + facts["backward_s"]["2"] + facts["step_s"]
    question = ["plan", "--cluster", "home.json", "--workload", "mobilenet-v2", *size, "--most-plans", "1"]
    both = ["--profile", "phone=profile.json", "--profile", "laptop=profile.json"]
    found = answered(*question, *both)
    single = next(each for each in found["baselines"] if each["label"].startswith("best single device"))
    assert single["makespan_s"] == pytest.approx(whole_s)
    assert "none is given for laptop" in refused(*question, *both[:2])
    assert "device=FILE" in refused(*question, "--profile", "phone")
    assert "home.json: is not a profile of dora_nb" in refused(*question, "--profile", "phone=home.json")


def test_what_cannot_be_profiled_is_one_clear_message(home: Path) -> None:
    assert "'module:name' of a tensor for your own model" in refused("profile", "my_model:make")
    assert "qwen3-0.6b" in refused("profile", "qwen4")
    assert "no folder nowhere" in refused("profile", "mobilenet-v2", "--out", "nowhere/profile.json")


def test_a_network_is_probed_and_loads(home: Path, pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "_pool", lambda *_: contextlib.nullcontext(pool))  # those that are warm
    facts = answered("probe", "--cluster", "home.json", "--out", "measured.json")
    assert facts["id"] == "wifi"
    assert facts["latency_s"] > 0
    measured = load_cluster("measured.json")
    assert measured.devices == load_cluster(home).devices
    assert measured.domains[0].kind == facts["kind"]
    assert measured.domains[0].sources["latency_s"].status == "measured"
    assert "host:port" in refused("probe", "--cluster", "home.json", "--listen", "here")
    assert "--tls-ca" in refused("probe", "--cluster", "home.json", "--tls-key", "key.pem")
