"""Problem files: read back equal, described by a schema, and refused with the place, the value and what is allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from dora_nb.catalog import data_dir
from dora_nb.domain.problem import MeasuredProblem
from dora_nb.domain.problem_file import load_problem, problem_schema, save_problem
from dora_nb.errors import DocumentError, MissingDependencyError

SCHEMA = data_dir() / "schemas" / "problem.schema.json"
EXAMPLES = sorted((data_dir() / "problems").glob("*.json"))


def document(**changes: Any) -> dict[str, Any]:
    """Two layers on two types of devices."""
    return {
        "format": "dora-nb/problem",
        "version": 1,
        "name": "small",
        "layers": [
            {"name": "a", "time_s": {"phone": 0.2, "laptop": "50 ms"}, "memory_bytes": "3 MB"},
            {"name": "b", "time_s": {"laptop": 0.1}, "alternatives": [{"way": "recompute", "time_s": {"phone": 1}}]},
        ],
        "tensors": [{"producer": "a", "consumers": ["b"], "bytes": 1000}],
        "devices": [{"type": "phone", "bytes_per_s": "8 Mbit/s"}, {"type": "laptop", "count": 2}],
    } | changes


def written(folder: Path, content: Any, name: str = "problem.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_text_with_units_is_read(tmp_path: Path) -> None:
    problem = load_problem(written(tmp_path, document()))
    assert problem.layers[0].time_s == {"phone": 0.2, "laptop": 0.05}
    assert problem.layers[0].memory_bytes == 3e6
    assert problem.devices[0].bytes_per_s == 1e6


def test_a_saved_problem_reads_back_equal(tmp_path: Path) -> None:
    problem = load_problem(written(tmp_path, document()))
    assert load_problem(save_problem(tmp_path / "again.json", problem)) == problem


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_yaml_says_the_same(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, yaml.safe_dump(document()), "problem" + suffix)
    assert load_problem(path) == load_problem(written(tmp_path, document()))


def test_yaml_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    with pytest.raises(MissingDependencyError, match="pyyaml"):
        load_problem(written(tmp_path, "{}", "problem.yaml"))


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "a: [1, 2\n"])
def test_yaml_that_is_no_problem_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DocumentError, match=r"problem\.yaml"):
        load_problem(written(tmp_path, text, "problem.yaml"))


def test_the_schema_file_is_the_generated_one() -> None:
    generated = json.dumps(problem_schema(), indent=2, ensure_ascii=False) + "\n"
    assert SCHEMA.read_text(encoding="utf-8") == generated, "write problem_schema() to data/schemas/problem.schema.json"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_fit_the_schema(path: Path) -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    checker = jsonschema.Draft202012Validator(schema)
    content = json.loads(path.read_text())
    checker.validate(content)
    assert load_problem(path).note
    content["layers"][0]["colour"] = "blue"
    assert not checker.is_valid(content)


def changed(path: str, value: Any) -> dict[str, Any]:
    """The document with one field changed, or taken out."""
    content: Any = json.loads(json.dumps(document()))
    at, *keys = [content, *(int(key) if key.isdigit() else key for key in path.split("."))]
    for key in keys[:-1]:
        at = at[key]
    if value is None and keys[-1] in at:
        del at[keys[-1]]
    else:
        at[keys[-1]] = value
    return dict(content)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("layers.0.time_s.phone", -1, ["layers[0].time_s.phone", "-1"]),
        ("layers.0.time_s.phone", "3 kg", ["layers[0].time_s.phone", "3 kg", "ms"]),
        ("layers.0.time_s.fone", 1, ["layers[0].time_s", "fone", "phone"]),
        ("layers.0.time_s", {}, ["layers[0].time_s", "{}", "at least one"]),
        ("layers.0.time_s", None, ["layers[0].time_s", "None", "required"]),
        ("layers.1.name", "a", ["layers[1].name", "'a'", "layers[0]"]),
        ("layers.1.alternatives.0.time_s.tablet", 1, ["layers[1].alternatives[0].time_s", "tablet"]),
        ("layers.1.alternatives.0.way", "plain", ["layers[1].alternatives[0].way", "plain"]),
        ("layers.1.colour", "blue", ["layers[1].colour", "blue", "no such field"]),
        ("tensors.0.consumers", ["c"], ["tensors[0].consumers", "'c'", "a, b"]),
        ("tensors.0.consumers", ["a"], ["tensors[0].consumers", "other than its producer"]),
        ("tensors.0.producer", "z", ["tensors[0].producer", "'z'"]),
        ("tensors.0", {}, ["tensors[0]", "a producer, consumers, or both"]),
        ("devices.1.type", "phone", ["devices[1].type", "phone", "devices[0]"]),
        ("devices.1.count", 0, ["devices[1].count", "0", "greater than or equal to 1"]),
        ("devices", [], ["devices", "[]", "at least 1"]),
        ("execution", {"objective": "speed"}, ["execution.objective", "speed", "period"]),
        ("execution", {"transfers": "link"}, ["devices[1].bytes_per_s", "None", "a rate"]),
        ("execution", {"objective": "latency", "most_replicas": 2}, ["execution.most_replicas", "2", "latency"]),
        ("execution", {"stages": "any", "in_flight": "pipeline"}, ["execution.in_flight", "pipeline", "one"]),
        ("execution", {"stages": "any"}, ["layers[1].alternatives", "one way"]),
        ("execution", {"transfers": "link", "most_replicas": 2}, ["execution.most_replicas", "2", "transfers 'link'"]),
        ("media", [{"bytes_per_s": {"phone": 1}}], ["layers[1].alternatives", "unsharded, with media"]),
        ("media", [{"bytes_per_s": {"tablet": 1}}], ["media[0].bytes_per_s", "tablet", "laptop, phone"]),
        ("version", 2, ["version 2", "reads version 1"]),
        ("format", "other", ["is not a problem of dora_nb", "other"]),
    ],
)
def test_what_cannot_be_used_is_named_with_its_place(tmp_path: Path, path: str, value: Any, words: list[str]) -> None:
    with pytest.raises(DocumentError) as error:
        load_problem(written(tmp_path, changed(path, value)))
    for word in ["problem.json", *words]:
        assert word in str(error.value), str(error.value)


def test_layers_that_wait_for_each_other_are_refused(tmp_path: Path) -> None:
    tensors = [{"producer": "a", "consumers": ["b"]}, {"producer": "b", "consumers": ["a"]}]
    with pytest.raises(DocumentError, match=r"tensors: got \['a', 'b'\]; allowed: no circle"):
        load_problem(written(tmp_path, document(tensors=tensors)))


def test_a_problem_is_hashable_by_content(tmp_path: Path) -> None:
    problem = load_problem(written(tmp_path, document()))
    assert isinstance(problem, MeasuredProblem)
    assert problem.digest() == load_problem(written(tmp_path, document())).digest()
