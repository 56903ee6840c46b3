"""Sweeps over a notebook that needs no planning: what is run, kept, told and resumed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from swept import CELLS, tiny_notebook
from typer.testing import CliRunner

from dora_nb.cli import app
from dora_nb.cli.talk import Pace
from dora_nb.errors import DocumentError, ExecutionError, InputError, UnknownNameError
from dora_nb.sweeps import Grid, read_table, sweep
from dora_nb.sweeps.folder import Folder, read_rows
from dora_nb.sweeps.notebook import read_notebook
from dora_nb.sweeps.point import Outcome, Task
from dora_nb.sweeps.rows import Rows
from dora_nb.sweeps.run import run_points
from dora_nb.sweeps.runners import dask_runner

#: Seconds until a process has done something, on a very busy machine.
_PATIENCE_S = 300.0

TINY = Grid(vary={"x": [1, 2, 3]})


def made_up(task: Task) -> Outcome:
    """What a kernel would bring back."""
    x = task.parameters["x"]
    error = "ValueError: unlucky" if x == 13 else ""
    data = Rows([{"makespan_s": x / 3}], {"solving_s": 0.5})._repr_mimebundle_()
    cells = [{"cell_type": "code", "source": "", "outputs": [] if error else [{"data": data}]}]
    metadata = {"dora_nb": {"point": task.key, "error": error, "wall_s": 1.0}}
    return Outcome(task.key, json.dumps({"cells": cells, "metadata": metadata}), error, 1.0)


def runner(seen: list[int], order: int = 1, stop_after: int = 99) -> Callable[[Sequence[Task]], Iterator[Outcome]]:
    """Runs points without kernels, in either order, and gives up after some."""

    def run(tasks: Sequence[Task]) -> Iterator[Outcome]:
        for task in tasks[::order]:
            if len(seen) == stop_after:
                raise KeyboardInterrupt
            seen.append(task.parameters["x"])
            yield made_up(task)

    return run


def tables(folder: Path) -> bytes:
    return (folder / "results.parquet").read_bytes()


def test_resuming_runs_only_what_is_missing_and_gives_the_same_bytes(tmp_path: Path) -> None:
    notebook, grid = read_notebook(tiny_notebook(tmp_path)), Grid(vary={"x": [5, 1, 4, 2, 3]})
    whole: list[int] = []
    run_points(notebook, grid, Folder(tmp_path / "whole"), runner(whole))
    assert whole == [5, 1, 4, 2, 3]
    first: list[int] = []
    rest: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        run_points(notebook, grid, Folder(tmp_path / "cut"), runner(first, -1, stop_after=2))
    assert not (tmp_path / "cut" / "results.parquet").exists()
    draft = tmp_path / "cut" / "points" / ".dora-nb-half.tmp"
    draft.write_text("half")
    said: list[tuple[int, int, str]] = []
    found = run_points(
        notebook, grid, Folder(tmp_path / "cut"), runner(rest), on_progress=lambda *each: said.append(each)
    )
    assert (first, rest, found.kept, draft.exists()) == ([3, 2], [5, 1, 4], 2, False)
    assert said[0] == (2, 5, "2 kept from before")
    assert said[-1][:2] == (5, 5)
    assert tables(tmp_path / "cut") == tables(tmp_path / "whole")
    assert [row["x"] for row in read_rows(tmp_path / "cut", "results")] == [5, 1, 4, 2, 3]
    # Fewer points: no kernel at all, and no rows of the others. A damaged notebook is run again.
    assert run_points(notebook, TINY, Folder(tmp_path / "cut"), runner([])).kept == 3
    assert [row["x"] for row in read_rows(tmp_path / "cut", "results")] == [1, 2, 3]
    key = notebook.key({"x": 2})
    Folder(tmp_path / "cut").path(key).write_text("{")
    again: list[int] = []
    run_points(notebook, TINY, Folder(tmp_path / "cut"), runner(again))
    assert again == [2]


def test_a_key_depends_on_all_that_a_point_depends_on(tmp_path: Path) -> None:
    notebook = read_notebook(tiny_notebook(tmp_path))
    keys = [notebook.key({"x": 1}), notebook.key({"x": 2}), notebook.key({"x": 1, "label": "home.json"})]
    (tmp_path / "home.json").write_text("{}")
    keys.append(notebook.key({"x": 1, "label": "home.json"}))
    (tmp_path / "home.json").write_text("[]")
    keys.append(notebook.key({"x": 1, "label": "home.json"}))
    other = read_notebook(tiny_notebook(tmp_path, (*CELLS, "1 + 1")))
    keys.append(other.key({"x": 1}))
    assert len(set(keys)) == len(keys)
    assert keys[0] == read_notebook(tiny_notebook(tmp_path)).key({"x": 1})
    assert notebook.defaults == {"x": 1, "label": "a"}


def test_a_point_that_never_ends_is_told(tmp_path: Path) -> None:
    notebook = read_notebook(tiny_notebook(tmp_path))

    def loses_one(tasks: Sequence[Task]) -> Iterator[Outcome]:
        yield from map(made_up, tasks[1:])

    with pytest.raises(ExecutionError, match="x=1"):
        run_points(notebook, TINY, Folder(tmp_path / "out"), loses_one)


def test_a_point_that_hands_over_nothing_has_failed(tmp_path: Path) -> None:
    notebook = read_notebook(tiny_notebook(tmp_path))

    def empty(tasks: Sequence[Task]) -> Iterator[Outcome]:
        for task in tasks:
            yield Outcome(task.key, json.dumps({"cells": [], "metadata": {}}), "", 1.0)

    found = run_points(notebook, TINY, Folder(tmp_path / "out"), empty)
    assert [each.error for each in found.failures] == [
        "the notebook handed over no rows: call dora_nb.sweeps.record_rows in a cell"
    ] * 3
    assert "failed: x=1" in repr(found)


def test_what_cannot_be_swept_is_refused(tmp_path: Path) -> None:
    notebook = tiny_notebook(tmp_path)
    with pytest.raises(UnknownNameError, match="label"):
        sweep(notebook, {"vary": {"lable": ["a"]}}, tmp_path / "out")
    with pytest.raises(InputError, match="jobs"):
        sweep(notebook, TINY, tmp_path / "out", jobs=0)
    with pytest.raises(InputError, match="limit_s"):
        sweep(notebook, TINY, tmp_path / "out", limit_s=0)
    with pytest.raises(DocumentError, match="no such file"):
        sweep(tmp_path / "none.ipynb", TINY, tmp_path / "out")
    (tmp_path / "bare.ipynb").write_text(json.dumps({"nbformat": 4, "cells": []}))
    with pytest.raises(DocumentError, match="0 cells tagged 'parameters'"):
        sweep(tmp_path / "bare.ipynb", TINY, tmp_path / "out")


@pytest.mark.parametrize("address", ["tcp://10.0.0.3:8786", "somewhere:8786", "ws://example.org:1"])
def test_an_unprotected_scheduler_elsewhere_must_be_meant(address: str) -> None:
    with pytest.raises(InputError, match="runs whatever it is sent"):
        dask_runner(address)
    assert dask_runner(address, remote=True) is not None
    for protected in ("tcp://127.0.0.1:1", "localhost:1", "tls://10.0.0.3:8786", "tcp://[::1]:1"):
        assert dask_runner(protected) is not None


def test_how_long_the_rest_takes() -> None:
    now = iter([0.0, 10.0, 20.0, 40.0])
    pace = Pace(clock=lambda: next(now))
    said = [pace.words(done, 10) for done in (4, 5, 6, 10)]
    assert said == ["", "; about 50 s left", "; about 40 s left", ""]


@pytest.mark.skipif(os.name != "posix", reason="sends what Ctrl-C sends to a group of processes")
def test_an_interrupt_ends_jobs_and_kernels_at_once(tmp_path: Path) -> None:
    notebook = tiny_notebook(tmp_path)
    (tmp_path / "grid.json").write_text(json.dumps({"points": [{"x": 7, "label": "a"}, {"x": 7, "label": "b"}]}))
    command = [sys.executable, "-m", "dora_nb", "sweep", str(notebook), "--grid", "grid.json", "--out", "out"]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    began = subprocess.Popen(
        [*command, "--jobs", "2"],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(scratch)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until, started = time.monotonic() + _PATIENCE_S, list[psutil.Process]()
    while sum("ipykernel_launcher" in _words(each) for each in started) < 2:
        assert time.monotonic() < until
        assert began.poll() is None
        time.sleep(0.2)
        started = psutil.Process(began.pid).children(recursive=True)
    os.killpg(began.pid, signal.SIGINT)
    said = began.communicate(timeout=_PATIENCE_S)[1]
    assert began.returncode == 130
    assert "interrupted; nothing half-written was left behind" in said
    assert "Traceback" not in said
    gone, alive = psutil.wait_procs(started, timeout=60)
    assert [_words(each) for each in alive] == []
    assert len(gone) == len(started)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []
    assert [path.name for path in scratch.iterdir() if "dora" in path.name] == []


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_a_killed_sweep_goes_on_and_a_failing_point_is_kept(tmp_path: Path) -> None:
    """In processes of its own, with real kernels: killed while a point is at work, then resumed by two jobs."""
    notebook = tiny_notebook(tmp_path)
    grid = tmp_path / "grid.json"
    grid.write_text(json.dumps({"vary": {"x": [1, 7, 13]}}))
    command = [sys.executable, "-m", "dora_nb", "sweep", str(notebook), "--grid", str(grid), "--out", "out"]
    began = subprocess.Popen([*command, "--jobs", "1"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    until = time.monotonic() + _PATIENCE_S
    while not list((tmp_path / "out").glob("points/*.ipynb")):
        assert time.monotonic() < until
        assert began.poll() is None
        time.sleep(0.1)
    began.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    began.wait()
    assert not list((tmp_path / "out").glob("*.parquet"))
    # The slow point is left out of the grid now; the other two are one kept, one that fails.
    points = Grid(vary={"x": [1, 13, 2]})
    found = sweep(notebook, points, tmp_path / "out", jobs=2, limit_s=_PATIENCE_S)
    assert (found.points, found.kept) == (3, 1)
    (failure,) = found.failures
    assert failure.error == "ValueError: unlucky"
    kept = json.loads(failure.notebook.read_text())
    (said,) = (each for cell in kept["cells"] for each in cell.get("outputs", ()) if each["output_type"] == "error")
    assert (said["ename"], said["evalue"]) == ("ValueError", "unlucky")
    assert any("raise ValueError('unlucky')" in re.sub(r"\x1b\[[\d;]*m", "", line) for line in said["traceback"])
    assert "papermill" not in kept["metadata"]
    rows = read_rows(tmp_path / "out", "results")
    assert [(row["x"], row["label"], row["makespan_s"]) for row in rows] == [(1, "a", 1 / 3), (2, "a", 2 / 3)]
    timings = read_table(tmp_path / "out", "timings")
    assert list(timings["status"]) == ["done", "done", "failed"]
    assert list(timings["solving_s"].dropna()) == [0.5, 0.5]
    # Nothing but the failing point is run again, and it fails again; without it nothing runs, and nothing fails.
    for values, status, said in (
        ([1, 13, 2], 1, "2 of 3 points done, 2 of them kept from before"),
        ([1, 2], 0, "2 of 2 points done, 2 of them kept from before"),
    ):
        grid.write_text(json.dumps({"vary": {"x": values}}))
        ran = CliRunner().invoke(app, [*command[3:-1], str(tmp_path / "out")])
        assert ran.exit_code == status, ran.output
        assert said in " ".join(ran.output.split())
        assert ("dora-nb: 1 of 3 points failed" in ran.stderr) == (status == 1)


def test_failing_points_are_counted_in_the_exit_status_and_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first two of four points fail: the others have their rows, and the failing ones their notebooks."""
    notebook, ran = tiny_notebook(tmp_path), list[int]()
    monkeypatch.setattr("dora_nb.sweeps.run.local_runner", lambda jobs: runner(ran))
    grid, out = tmp_path / "grid.json", tmp_path / "out"
    points = [{"x": 13, "label": "a"}, {"x": 13, "label": "b"}, {"x": 1, "label": "a"}, {"x": 2, "label": "a"}]
    grid.write_text(json.dumps({"points": points}))
    told = CliRunner().invoke(app, ["sweep", str(notebook), "--grid", str(grid), "--out", str(out), "--json"])
    assert told.exit_code == 1, told.output
    assert ran == [13, 13, 1, 2]
    assert "dora-nb: 2 of 4 points failed" in told.stderr
    found = json.loads(told.stdout)
    assert (found["points"], found["kept"]) == (4, 0)
    assert [(each["parameters"]["label"], each["error"]) for each in found["failures"]] == [
        ("a", "ValueError: unlucky"),
        ("b", "ValueError: unlucky"),
    ]
    assert {Path(each["notebook"]) for each in found["failures"]} == set((out / "failed").glob("*.ipynb"))
    assert [row["x"] for row in read_rows(out, "results")] == [1, 2]
    assert [row["status"] for row in read_rows(out, "timings")] == ["done", "done", "failed", "failed"]
