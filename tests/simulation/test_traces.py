"""Traces: files that can be read, files that cannot, and what is between two samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dora_nb.catalog import data_dir, load_dynamics
from dora_nb.errors import DocumentError, InputError
from dora_nb.simulation.generators import wander
from dora_nb.simulation.traces import Trace, load_trace, save_trace


def written(folder: Path, text: str) -> Path:
    path = folder / "trace.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_value_holds_until_the_next() -> None:
    trace = Trace.steps([(0, 5.0), (2, 7.0), (3, 0.0)])
    assert [trace.at(time_s) for time_s in (0, 1.999, 2, 2.5, 3, 1e9)] == [5, 5, 7, 7, 0, 0]
    assert Trace.constant(3.0).at(10) == 3.0
    assert trace.scaled(2).at(2) == 14


def test_a_later_moment_sees_the_rest() -> None:
    trace = Trace.steps([(0, 5.0), (2, 7.0), (3, 0.0)], end_s=10)
    for by_s in (0, 1, 2, 2.5, 3, 8):
        later = trace.later(by_s)
        assert [later.at(at) for at in (0, 0.4, 1, 5)] == [trace.at(by_s + at) for at in (0, 0.4, 1, 5)]
        assert later.end_s == 10 - by_s
    assert trace.later(20).values.tolist() == [0.0]


def test_a_file_is_read_in_its_own_units(tmp_path: Path) -> None:
    text = "# status: generated\n# source: by hand\nmilliseconds,mbits_per_s\n500,8\n1000,16\n1500,0\n"
    trace = load_trace(written(tmp_path, text))
    assert trace.times_s.tolist() == [0.0, 0.5, 1.0]
    assert trace.values.tolist() == [1e6, 2e6, 0.0]
    assert trace.end_s == 1.5
    assert (trace.origin, trace.source) == ("generated", "by hand")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    trace = Trace(np.arange(4.0), np.array([1e6, 3.3e7, 0.0, 2e6]), 4.0, "generated", "a seed")
    save_trace(tmp_path / "t.csv", trace)
    again = load_trace(tmp_path / "t.csv")
    assert np.allclose(again.values, trace.values, rtol=1e-9)
    assert (again.times_s == trace.times_s).all()
    assert (again.end_s, again.origin, again.source) == (4.0, "generated", "a seed")
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no samples"),
        ("seconds,bits_per_s\n", "holds no samples"),
        ("time,bandwidth\n0,1\n", "line 1: got columns 'time,bandwidth'; allowed: seconds or milliseconds, then bits"),
        ("seconds,bits_per_s,note\n0,1,a\n", "line 1: got columns"),
        ("seconds,bits_per_s\n0,1\n1\n", "line 3: got '1'; allowed: a time and a rate of 0 or more, two numbers"),
        ("seconds,bits_per_s\n0,1\n1,\n", "line 3: got '1,'"),
        ("seconds,bits_per_s\n0,1\n1,5 Mbit/s\n", "line 3: got '1,5 Mbit/s'"),
        ("seconds,bits_per_s\n0,1\n1,nan\n", "line 3"),
        ("seconds,bits_per_s\n0,1\n1,-4\n", "line 3"),
        ("seconds,bits_per_s\n0,1\n# a note\n2,1\n1,1\n", "line 5: the time 1 s does not come after 2 s"),
        ("seconds,bits_per_s\n0,1\n0,1\n", "line 3: the time 0 s does not come after 0 s"),
        (
            "seconds,bits_per_s\n0,1\n1,1\n2,1\n60,1\n",
            "line 5: 58 s are missing before it; allowed: gaps of at most 10 s",
        ),
        (
            "# status: guessed\nseconds,bits_per_s\n0,1\n",
            "status: got 'guessed'; allowed: measured, generated, assumed",
        ),
    ],
)
def test_a_file_that_cannot_be_used_says_where_and_why(text: str, words: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(DocumentError) as refused:
        load_trace(path)
    assert words in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_gap_may_be_meant(tmp_path: Path) -> None:
    path = written(tmp_path, "seconds,bits_per_s\n0,8\n1,8\n2,8\n60,16\n")
    assert load_trace(path, largest_gap_s=60).at(30) == 1.0


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="cannot be read"):
        load_trace(tmp_path / "none.csv")


@pytest.mark.parametrize(
    "fields",
    [
        {"times_s": [0, 1], "values": [1]},
        {"times_s": [], "values": []},
        {"times_s": [1, 2], "values": [1, 2]},
        {"times_s": [0, 0], "values": [1, 2]},
        {"times_s": [0, float("nan")], "values": [1, 2]},
        {"times_s": [0, 1], "values": [1, -2]},
        {"times_s": [0, 1], "values": [1, float("inf")]},
        {"times_s": [0, 1], "values": [1, 2], "end_s": 0.5},
    ],
)
def test_a_trace_without_sense_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InputError, match="trace"):
        Trace(**{name: np.array(each) if isinstance(each, list) else each for name, each in fields.items()})


@pytest.mark.parametrize(("name", "nominal_bits_per_s"), [("wifi-neighbours", 266e6), ("5g-driving", 120e6)])
def test_traces_that_ship_are_generated_and_can_be_drawn_again(name: str, nominal_bits_per_s: float) -> None:
    shipped = load_trace(data_dir() / "traces" / f"{name}.csv")
    assert shipped.origin == "generated"
    assert "seed 7" in shipped.source
    assert len(shipped.times_s) == shipped.end_s == 600
    drawn = wander(load_dynamics(name), 600, seed=7)
    again = [drawn.at(time_s) * nominal_bits_per_s / 8 for time_s in shipped.times_s]
    assert shipped.values == pytest.approx(again, rel=1e-9)


def test_all_traces_that_ship_are_tested() -> None:
    assert sorted(path.stem for path in (data_dir() / "traces").iterdir()) == ["5g-driving", "wifi-neighbours"]
