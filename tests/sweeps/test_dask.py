"""The same over a real Dask cluster on this machine, one of whose workers is killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from swept import tiny_notebook

from dora_nb.errors import ExecutionError
from dora_nb.sweeps import Grid, sweep
from dora_nb.sweeps.folder import read_rows

pytest.importorskip("distributed", reason="needs distributed: pip install -e '.[dask]'")

Cluster = tuple[str, list["subprocess.Popen[bytes]"]]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A scheduler and two workers, as 'dask scheduler' and 'dask worker' start them."""
    dask, where = [sys.executable, "-m", "dask"], tmp_path / "scheduler.json"
    log = (tmp_path / "dask.log").open("wb")

    def start(*options: str) -> subprocess.Popen[bytes]:
        command = [*dask, *options, "--host", "127.0.0.1", "--no-dashboard"]
        return subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)

    processes = [start("scheduler", "--port", "0", "--scheduler-file", str(where))]
    try:
        until = time.monotonic() + 120
        while not where.exists():
            assert time.monotonic() < until
            assert processes[0].poll() is None
            time.sleep(0.1)
        address = json.loads(where.read_text())["address"]
        for name in ("one", "two"):
            options = ("--nthreads", "1", "--no-nanny", "--name", name, "--local-directory", str(tmp_path / name))
            processes.append(start("worker", address, *options))
        yield address, processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
        log.close()


def test_no_point_is_lost_or_doubled_when_a_worker_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    address, processes = cluster
    notebook, grid = tiny_notebook(tmp_path), Grid(vary={"x": [1, 2, 3, 4]})
    killed: list[int] = []

    def kill_one(done: int, total: int, what: str) -> None:
        if done == 1 and not killed:
            processes[2].kill()
            killed.append(processes[2].wait())

    found = sweep(notebook, grid, tmp_path / "dask", dask=address, on_progress=kill_one)
    assert killed
    assert (found.points, found.kept, found.failures) == (4, 0, ())
    assert [row["x"] for row in read_rows(tmp_path / "dask", "results")] == [1, 2, 3, 4]
    # The same points on this machine: all from the same notebooks but one, which is run here.
    first = sorted((tmp_path / "dask" / "points").iterdir())[0]
    over_dask = (tmp_path / "dask" / "results.parquet").read_bytes()
    first.unlink()
    assert sweep(notebook, grid, tmp_path / "dask", jobs=1).kept == 3
    assert (tmp_path / "dask" / "results.parquet").read_bytes() == over_dask


def test_a_scheduler_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dora_nb.sweeps.runners._ANSWER_S", 0.2)
    with pytest.raises(ExecutionError, match="dask scheduler"):
        sweep(tiny_notebook(tmp_path), Grid(), tmp_path / "out", dask="tcp://127.0.0.1:9")
