"""Which points a grid lists, and what a grid file may not say."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from dora_nb.errors import DocumentError, InputError
from dora_nb.sweeps import Grid, Range, load_grid
from dora_nb.sweeps.sampling import unit_sample


def test_every_combination_with_the_last_parameter_changing_first() -> None:
    grid = Grid(fixed={"m": "v"}, vary={"a": ["x", None], "b": {"low": 0.25, "high": 4, "steps": 5, "scale": "log"}})
    points = grid.listed()
    assert [point["b"] for point in points[:5]] == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert [point["a"] for point in points] == ["x"] * 5 + [None] * 5
    assert {point["m"] for point in points} == {"v"}
    assert grid.names == ("a", "b", "m")


def test_a_list_of_points_and_equal_points_once() -> None:
    grid = Grid(points=[{"a": 1}, {"a": 2, "b": "80 ms"}, {"a": 1}])
    assert grid.listed() == ({"a": 1}, {"a": 2, "b": "80 ms"})
    assert Grid().listed() == ({},)
    assert Grid(vary={"a": Range(low=1, high=3, steps=9, whole=True)}).listed() == ({"a": 1}, {"a": 2}, {"a": 3})


def test_a_latin_hypercube_meets_every_slice_of_every_parameter_once() -> None:
    shares = unit_sample(20, 3, "latin-hypercube", seed=5)
    for dimension in range(3):
        assert sorted(int(20 * row[dimension]) for row in shares) == list(range(20))
    grid = Grid(
        vary={"x": {"low": 1, "high": 100, "scale": "log"}, "name": ["a", "b", "c", "d"]},
        sample={"points": 20, "seed": 5},
    )
    points = grid.listed()
    assert points == grid.listed()
    assert [sum(point["name"] == name for point in points) for name in "abcd"] == [5] * 4
    assert sorted(int(10 * math.log10(point["x"])) for point in points) == list(range(20))
    other = grid.replace(sample={"points": 20, "seed": 6}).listed()
    assert other != points


def test_a_random_sample_stays_between_the_ends() -> None:
    grid = Grid(vary={"x": {"low": -1, "high": 1}}, sample={"points": 200, "method": "random", "seed": 1})
    values = [point["x"] for point in grid.listed()]
    assert len(set(values)) == 200
    assert -1 <= min(values) < -0.9
    assert 0.9 < max(values) <= 1


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ({"vary": {"a": {"low": 2, "high": 1, "steps": 3}}}, "vary.a.high"),
        ({"vary": {"a": {"low": 0, "high": 1, "steps": 3, "scale": "log"}}}, "vary.a.low"),
        ({"vary": {"a": {"low": 0, "high": 1}}}, "vary.a.steps"),
        ({"vary": {"a": {"low": 0, "high": 1, "stpes": 3}}}, "vary.a.stpes"),
        ({"vary": {"a": 3}}, "vary.a"),
        ({"vary": {"a": []}}, "vary.a"),
        ({"vary": {"a b": [1]}}, "vary.a b"),
        ({"vary": {"a": [1]}, "fixed": {"a": 2}}, "vary.a"),
        ({"vary": {"a": [1]}, "points": [{"a": 2}]}, "points"),
        ({"points": [{"a": 2}], "fixed": {"a": 2}}, "points[0].a"),
        ({"sample": {"points": 3}}, "sample"),
        ({"vary": {"a": [1]}, "sample": {"points": 0}}, "sample.points"),
        ({"vary": {name: list(range(400)) for name in "abc"}}, "vary"),
        ({"grid": {}}, "grid"),
    ],
)
def test_what_cannot_be_used_is_named_by_its_path_in_the_file(
    tmp_path: Path, document: dict[str, Any], where: str
) -> None:
    path = tmp_path / "grid.json"
    path.write_text(json.dumps(document))
    with pytest.raises(DocumentError, match="allowed: ") as problem:
        load_grid(path)
    assert f"cannot be used: {where}" in str(problem.value)


def test_yaml_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text("fixed: {model: vit-b-16}\nvary: {latency_limit_s: [80 ms, null]}\n")
    expected = Grid(fixed={"model": "vit-b-16"}, vary={"latency_limit_s": ["80 ms", None]})
    assert load_grid(tmp_path / "grid.yaml") == expected
    with pytest.raises(InputError, match="finite"):
        Grid(fixed={"a": [math.inf]})
