"""Run a notebook at every point of a grid, keep what it gives, and go on where a sweep was ended."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dora_nb.domain.record import Record
from dora_nb.errors import ExecutionError, InputError, MissingDependencyError
from dora_nb.sweeps.folder import Folder, read_table
from dora_nb.sweeps.grid import Grid, Point, Value, load_grid
from dora_nb.sweeps.notebook import Notebook, points_code, read_notebook
from dora_nb.sweeps.point import Outcome, Task
from dora_nb.sweeps.rows import rows_of
from dora_nb.sweeps.runners import Runner, dask_runner, local_runner
from dora_nb.units import counted

if TYPE_CHECKING:
    import pandas as pd

#: Called with points done, points in all, and what was just done.
Progress = Callable[[int, int, str], None]


class Failure(Record):
    """A point that went wrong.

    Attributes
    ----------
    parameters
        Of the point.
    error
        What went wrong, in one line.
    notebook
        The executed notebook, as far as it came, with the traceback.
    """

    parameters: dict[str, Value]
    error: str
    notebook: Path


class Sweep(Record):
    """What a sweep came to.

    Attributes
    ----------
    folder
        Where it is kept.
    points
        How many points there are.
    kept
        How many of them were there from before.
    failures
        Those that went wrong; they have no rows, and are run again the next time.
    """

    folder: Path
    points: int
    kept: int
    failures: tuple[Failure, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row a plan, or whatever the notebook's rows are; units in the column names."""
        return read_table(self.folder, "results")

    def timings(self) -> pd.DataFrame:
        """One row a point: wall seconds, and what the notebook timed itself."""
        return read_table(self.folder, "timings")

    def __repr__(self) -> str:
        done = self.points - len(self.failures)
        lines = [f"{done} of {counted(self.points, 'point')} done, {self.kept} of them kept from before: {self.folder}"]
        failed = (
            f"  failed: {point_words(each.parameters)}: {each.error}; see {each.notebook}" for each in self.failures
        )
        return "\n".join([*lines, *failed])

    __str__ = __repr__


def sweep(
    notebook: str | Path,
    grid: Grid | Mapping[str, Any] | str | Path,
    out: str | Path,
    *,
    jobs: int | None = None,
    dask: str | None = None,
    dask_remote: bool = False,
    limit_s: float | None = None,
    on_progress: Progress | None = None,
) -> Sweep:
    """Run a parametrised notebook at many points, each in a fresh kernel with one thread, and put their rows together.

    The notebook has one cell tagged ``parameters`` and hands rows over with
    :func:`dora_nb.sweeps.record_rows <dora_nb.sweeps.rows.record_rows>`; ``notebooks/sweep_point.ipynb`` is one.
    Executed notebooks are kept under the hash of all that a point depends on: a sweep that was interrupted or killed
    goes on with what is missing, and one whose points failed with those. Results do not depend on how often that
    happened, on the number of jobs, or on who ran which point.

    Parameters
    ----------
    notebook
        Path of the notebook; its folder is where points run.
    grid
        The points: a :class:`Grid <dora_nb.sweeps.grid.Grid>`, its fields by name, or the path of a JSON or YAML file.
    out
        Folder for ``results.parquet``, ``timings.parquet`` and the executed notebooks (``points/``, ``failed/``). The
        tables are written when all points were run.
    jobs
        Points at a time; None: as many as there are cores. With ``dask`` the cluster decides.
    dask
        Address of a Dask scheduler whose workers run the points; see
        :func:`dask_runner <dora_nb.sweeps.runners.dask_runner>` for what that exposes.
    dask_remote
        Whether an unprotected scheduler on another machine is meant.
    limit_s
        Seconds after which a point fails; None: never. A limit never changes what a point gives.
    on_progress
        Called at first, and whenever a point is done.

    Returns
    -------
    Sweep

    Raises
    ------
    InputError
        If something given cannot be used.
    DocumentError
        If the notebook or the grid cannot be read, or the folder cannot be written to.
    MissingDependencyError
        If a package of the extra ``sweep`` (or ``dask``) is not installed.
    ExecutionError
        If no Dask scheduler answers.
    """
    if jobs is not None and jobs < 1:
        raise InputError("jobs", jobs, "1 or more")
    if limit_s is not None and not limit_s > 0:
        raise InputError("limit_s", limit_s, "more than 0 seconds")
    _check_packages()
    runner = local_runner(jobs or os.cpu_count() or 1) if dask is None else dask_runner(dask, remote=dask_remote)
    if isinstance(grid, str | Path):
        grid = load_grid(grid)
    elif not isinstance(grid, Grid):
        grid = Grid(**grid)
    what = read_notebook(notebook)
    what.check_names(grid.names)
    return run_points(what, grid, Folder(Path(out)), runner, limit_s=limit_s, on_progress=on_progress)


def run_points(
    notebook: Notebook,
    grid: Grid,
    folder: Folder,
    runner: Runner,
    *,
    limit_s: float | None = None,
    on_progress: Progress | None = None,
) -> Sweep:
    """Run the points of a grid that a folder lacks, then write the tables.

    Parameters
    ----------
    notebook, grid
        What is run at which points.
    folder
        Where results are kept; what it has is not run again.
    runner
        Who runs the points.
    limit_s
        Seconds for a point; None: no limit.
    on_progress
        Told about each point.
    """
    say = on_progress or (lambda *_: None)
    points = {notebook.key(point): point for point in grid.listed()}
    found = {key: folder.load(key) for key in points}
    missing = [key for key, known in found.items() if known is None]
    kept = len(points) - len(missing)
    say(kept, len(points), f"{kept} kept from before" if kept else "started")
    failed: dict[str, Outcome] = {}
    if missing:
        tasks = [_task(notebook, key, points[key], limit_s) for key in missing]
        with closing(runner(tasks)) as outcomes:  # type: ignore[type-var]
            for done, executed_point in enumerate(outcomes, start=kept + 1):
                outcome = _with_rows(executed_point)
                folder.keep(outcome)
                if outcome.error:
                    failed[outcome.key] = outcome
                else:
                    found[outcome.key] = folder.load(outcome.key)
                say(done, len(points), point_words(points[outcome.key]) + (" FAILED" if outcome.error else ""))
    executed, lost = [], []
    for key, point in points.items():
        known = found[key]
        if known is not None:
            executed.append((key, notebook.defaults | point, *known))
        elif key not in failed:
            lost.append(point)
    if lost:
        raise ExecutionError(
            f"{counted(len(lost), 'point')} came to no end, such as {point_words(lost[0])}; run the sweep again"
        )
    failures = [(key, notebook.defaults | points[key], failed[key].wall_s) for key in points if key in failed]
    folder.write_tables(executed, failures)
    return Sweep(
        folder=folder.root,
        points=len(points),
        kept=kept,
        failures=tuple(
            Failure(parameters=points[key], error=failed[key].error, notebook=folder.path(key, failed=True))
            for key in points
            if key in failed
        ),
    )


def _check_packages() -> None:
    """Miss what a point needs before the first one rather than at every one."""
    for package in ("papermill", "pyarrow"):
        if find_spec(package) is None:
            raise MissingDependencyError(package, "a sweep", "sweep")


def point_words(point: Point) -> str:
    """A point in a few words."""
    return ", ".join(f"{name}={value}" for name, value in point.items()) or "the notebook as it stands"


def _task(notebook: Notebook, key: str, point: Point, limit_s: float | None) -> Task:
    return Task(
        key=key,
        parameters=point,
        notebook=notebook.text,
        kernel=notebook.kernel,
        folder=str(notebook.path.parent),
        limit_s=limit_s,
        code=points_code(),
    )


def _with_rows(outcome: Outcome) -> Outcome:
    """The outcome, or a failure where a notebook that ran to its end handed over nothing that can be used."""
    if outcome.error:
        return outcome
    try:
        nothing = rows_of(json.loads(outcome.notebook)) is None
        error = "the notebook handed over no rows: call dora_nb.sweeps.record_rows in a cell" if nothing else ""
    except InputError as problem:
        error = str(problem)
    return Outcome(outcome.key, outcome.notebook, error, outcome.wall_s)
