"""The headline comparison: nobody beats us in any cell of the quick grid, and what is computed is kept."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from processes import command, is_running, until
from typer.testing import CliRunner

from dora_nb.cli import app
from dora_nb.errors import DocumentError, InputError
from dora_nb.reproduction import QUICK, Reproduction, Setting, reproduce, rivals
from dora_nb.reproduction.grid import SEEDS
from dora_nb.reproduction.planners import GAP, Planners
from dora_nb.reproduction.run import Progress
from dora_nb.reproduction.store import Store, default_folder

#: The setting that is quickest to compute.
SMALL = Setting("edge-cluster", "bert-base", "inference")


@pytest.fixture(scope="module")
def quick() -> Reproduction:
    """Computed here; the notebook of the paper's results finds it in the same folder."""
    return reproduce(quick=True, solver="auto", fresh=True)


def test_nobody_is_better_at_anything_in_the_quick_grid(quick: Reproduction) -> None:
    """On its own objective, in any cell; under dynamics, too. None of our plans is taken from a baseline."""
    compared = 0
    for ours, others in rivals(quick.cells):
        for other in others:
            assert ours.not_worse(other, GAP), (ours, other)
            compared += other.value is not None
    assert compared > 0.8 * 18 * len(QUICK) * 8


def test_every_question_is_answered_by_every_planner(quick: Reproduction) -> None:
    questions = {cell.question for cell in quick.cells}
    assert len(questions) == len(QUICK) * 2 * 2 * 2
    answered = {(*cell.question, cell.by) for cell in quick.cells}
    assert len(answered) == len(quick.cells) == len(questions) * 19
    assert {cell.by for cell in quick.cells} >= {"dora_nb, list-scheduled", "Asteroid, fair-shared"}


def test_our_plans_are_proven_and_simulated_as_predicted(quick: Reproduction) -> None:
    gaps = [cell.gap for cell in quick.cells if cell.planner == "dora_nb" and not cell.dynamic]
    assert len(gaps) == len(QUICK) * 4
    assert all(gap is not None and gap <= GAP for gap in gaps)
    planners = Planners(SMALL, "highs")
    ours = planners.ours("latency", "all-on")
    alone = planners.alone(ours)
    assert ours.prediction is not None
    assert alone.makespan_s == pytest.approx(ours.prediction.makespan_s, rel=1e-9)
    for accounting, joules in alone.energy_j.items():
        assert joules == pytest.approx(ours.prediction.energy_j(accounting), rel=1e-9)


def test_json_says_what_every_figure_is_of(quick: Reproduction) -> None:
    facts = json.loads(json.dumps(quick.to_json(), allow_nan=False))
    asked = {"deployment", "model", "mode", "dynamic", "objective", "planner", "makespan_s", "energy_j", "qoe_kept"}
    asked |= {"sequence", "precision", "network", "energy_accounting"}
    assert all(asked <= set(cell) for cell in facts["cells"])
    summary = facts["summary"]
    for headline in ("speedup", "energy_saving"):
        for when in ("static", "dynamic"):
            for accounting in ("participating", "all-on"):
                figures = summary[headline][when][accounting]
                assert figures["over_strongest"]["worse"] == 0
                assert len(figures["over_each"]) == 18
    assert summary["paper"]["speedup"] == [1.1, 6.3]
    assert "arXiv" in summary["paper"]["source"]


def test_a_frame_has_a_row_a_cell(quick: Reproduction) -> None:
    frame = quick.to_frame()
    assert len(frame) == len(quick.cells)
    assert {"makespan_s", "energy_j", "latency_limit_s"} <= set(frame.columns)


def log(into: list[tuple[int, int, str]]) -> Progress:
    return lambda done, total, text: into.append((done, total, text))


def test_what_was_computed_is_kept_and_found_again(tmp_path: Path) -> None:
    said: list[tuple[int, int, str]] = []
    first = reproduce(settings=[SMALL], seeds=[3], cache=tmp_path, solver="highs", on_progress=log(said))
    assert said == [(1, 1, str(SMALL))]
    (kept,) = tmp_path.iterdir()
    again = reproduce(settings=[SMALL], seeds=[3], cache=tmp_path, solver="highs", on_progress=log(said))
    assert said[1:] == [(1, 1, "kept from before")]
    assert again.cells == first.cells
    kept.write_text(kept.read_text()[:-100])  # as if the disk had been full
    assert Store(tmp_path).load(kept.stem) is None, "to be computed anew"


def test_keys_depend_on_everything_that_cells_depend_on(tmp_path: Path) -> None:
    store = Store(tmp_path)
    other = Setting("edge-cluster", "bert-base", "training")
    keys = [
        store.key(SMALL, [0], "highs"),
        store.key(SMALL, [1], "highs"),
        store.key(SMALL, [0], "gurobi"),
        store.key(other, [0], "highs"),
    ]
    assert len(set(keys)) == 4
    assert keys[0] == store.key(SMALL, (0,), "highs")
    assert store.load(keys[0]) is None


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="jobs"):
        reproduce(jobs=0)
    with pytest.raises(InputError, match="settings"):
        reproduce(settings=[])
    with pytest.raises(InputError, match="seeds"):
        reproduce(seeds=[])
    (tmp_path / "file").write_text("")
    with pytest.raises(DocumentError, match="folder"):
        reproduce(settings=[SMALL], seeds=[0], cache=tmp_path / "file", solver="highs")


def test_the_command_prints_tables_or_json_and_writes_a_page(quick: Reproduction, tmp_path: Path) -> None:
    """From what the quick grid left in the user's cache, so nothing is computed."""
    told = CliRunner().invoke(app, ["reproduce", "--quick", "--out", str(tmp_path / "results.html")])
    assert told.exit_code == 0, told.output
    for words in ("Fastest", "Least energy within the latency limit", "1.1-6.3x faster", "They are not ours"):
        assert words in " ".join(told.stdout.split())
    page = (tmp_path / "results.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "<svg" in page
    assert "<script" not in page
    facts = CliRunner().invoke(app, ["reproduce", "--quick", "--json"])
    assert facts.exit_code == 0, facts.output
    assert len(json.loads(facts.stdout)["cells"]) == len(quick.cells)


def running(group: int) -> list[str]:
    """Processes of a group that have not ended; the dead that nobody has asked after yet do not count."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, own = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it ended meanwhile
            continue
        if int(own) == group and state != "Z":
            found.append(path.parent.name)
    return found


def test_a_script_that_its_processes_run_again_is_told_what_to_write(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"import dora_nb\ndora_nb.reproduce(quick=True, jobs=2, seeds=(1,), cache={str(tmp_path)!r})\n")
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=170)
    assert ran.returncode == 1
    told = [line for line in ran.stderr.splitlines() if line.startswith("dora_nb.errors.")]
    assert 'if __name__ == "__main__"' in told[-1]  # multiprocessing's own helpers may complain after that


@pytest.mark.usefixtures("quick")
def test_an_interrupt_leaves_what_was_done_and_nothing_half_written(tmp_path: Path) -> None:
    """Ctrl-C with two settings to go: exit status 130, no traceback, no process left; what is kept can be used."""
    store, folder = Store(default_folder()), tmp_path / "cells"
    shutil.copytree(store.folder, folder)
    for setting in QUICK[:2]:
        (folder / f"{store.key(setting, SEEDS, 'auto')}.json").unlink()
    before = sorted(folder.iterdir())
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", "from dora_nb.cli import main\nmain()"),
            *("reproduce", "--quick", "--jobs", "2", "--cache", str(folder)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    seen = process.stderr.readline()
    assert f"{len(QUICK) - 2} of {len(QUICK)} settings: kept from before" in seen
    time.sleep(5)  # the workers have begun, on a busy machine too
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, seen + err
    assert out == ""
    assert "interrupted" in err
    assert "Traceback" not in err
    deadline = time.monotonic() + 10
    while running(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert running(process.pid) == []
    assert sorted(folder.iterdir()) == before
    assert all(Store(folder).load(path.stem) for path in before)


def test_cells_are_kept_in_the_users_cache_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_folder() == Path("/somewhere/dora_nb/reproduce")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    assert default_folder() == Path.home() / ".cache/dora_nb/reproduce"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    """A notebook's kernel may be killed; nobody would end its pool."""

    def pool_of(process: psutil.Process) -> list[psutil.Process]:
        return [each for each in process.children() if "spawn_main" in " ".join(each.cmdline())]

    with command("reproduce", "--quick", "--jobs", "2", "--cache", str(tmp_path)) as process:
        parent = psutil.Process(process.pid)
        until(lambda: len(pool_of(parent)) == 2)
        workers = pool_of(parent)
        until(lambda: all(each.cpu_times().user > 3 for each in workers), 120)  # they are at work
        process.kill()
        process.wait()
        until(lambda: not any(is_running(each.pid) for each in workers))
