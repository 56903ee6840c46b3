"""A sweep made by hand: a notebook that needs no planning, and the tables of one that planned."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat

#: What the tiny notebook's cells say: a point with x = 13 fails, one with x = 7 takes long.
CELLS = (
    "x = 1\nlabel = 'a'",
    "import time\n\nfrom dora_nb.sweeps.rows import record_rows\n\nif x == 13:\n    raise ValueError('unlucky')\n"
    "time.sleep(60 * (x == 7))",
    "record_rows([{'plan': label, 'makespan_s': x / 3, 'best': True}], solving_s=0.5)",
)


#: Address of a scheduler, and its process followed by those of the workers.
Cluster = tuple[str, list["subprocess.Popen[bytes]"]]


@contextmanager
def dask_cluster(folder: Path) -> Iterator[Cluster]:
    """A scheduler and two workers, as 'dask scheduler' and 'dask worker' start them."""
    dask, where = [sys.executable, "-m", "dask"], folder / "scheduler.json"
    log = (folder / "dask.log").open("wb")

    def start(*options: str) -> subprocess.Popen[bytes]:
        command = [*dask, *options, "--host", "127.0.0.1", "--no-dashboard"]
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)

    processes = [start("scheduler", "--port", "0", "--scheduler-file", str(where))]
    try:
        until = time.monotonic() + 120
        while not where.exists():
            assert time.monotonic() < until
            assert processes[0].poll() is None
            time.sleep(0.1)
        address = json.loads(where.read_text())["address"]
        for name in ("one", "two"):
            options = ("--nthreads", "1", "--no-nanny", "--name", name, "--local-directory", str(folder / name))
            processes.append(start("worker", address, *options))
        yield address, processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
        log.close()


def tiny_notebook(folder: Path, cells: tuple[str, ...] = CELLS) -> Path:
    """A notebook whose first cell has the parameters."""
    make = nbformat.v4.new_code_cell
    made = [make(cells[0], metadata={"tags": ["parameters"]}), *map(make, cells[1:])]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": kernel})
    nbformat.write(notebook, folder / "tiny.ipynb")
    return folder / "tiny.ipynb"


def made_up_tables() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Results and timings of five bandwidths and three limits on two deployments; the phone helps on a fast network."""
    results, timings = [], []
    grid = itertools.product(("edge-cluster", "smart-home"), (2.0, 4.0, None), (0.25, 0.5, 1.0, 2.0, 4.0))
    for index, (deployment, limit_s, bandwidth) in enumerate(grid):
        parameters = {"deployment": deployment, "bandwidth_scale": bandwidth, "latency_limit_s": limit_s}
        point = {"point": f"{index:04x}", **parameters}
        timings.append(point | {"status": "done", "wall_s": 3.0 + index, "planning_wall_s": 1.0 + index / 7})
        if limit_s == 2.0 and bandwidth < 0.5:
            results.append(point | {"plan": None, "is_best": True, "status": "infeasible"})
            continue
        helped = bandwidth >= (2.0 if limit_s else 4.0)
        plans = (
            ("latency-optimal", 0.5 / bandwidth + 1, 90.0),
            ("energy-optimal", 0.2 / bandwidth + 2, 60 / bandwidth),
        )
        for label, makespan_s, energy_j in plans:
            is_best = label == "energy-optimal"
            proof = {"value": energy_j, "value_unit": "J", "bound": energy_j * 0.999, "gap": 1e-3, "status": "optimal"}
            placement = "0-7:laptop|8-11:phone" if helped else "0-11:laptop"
            figures = {"makespan_s": makespan_s, "energy_j": energy_j, "placement": placement}
            results.append(point | {"plan": label, "is_best": is_best, **figures, **proof})
    columns = dict.fromkeys(name for row in results for name in row)
    return [{name: row.get(name) for name in columns} for row in results], timings
