"""The same over a real Dask cluster on this machine, one of whose workers is killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from swept import Cluster, dask_cluster, tiny_notebook

from dora_nb.errors import ExecutionError
from dora_nb.sweeps import Grid, sweep
from dora_nb.sweeps.folder import read_rows

pytest.importorskip("distributed", reason="needs distributed: pip install -e '.[dask]'")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with dask_cluster(tmp_path) as started:
        yield started


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
