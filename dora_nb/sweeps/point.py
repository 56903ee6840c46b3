"""One point of a sweep: papermill runs the notebook in a kernel of its own, in whatever process this is called."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dora_nb.sweeps.grid import Point
from dora_nb.sweeps.notebook import points_code

#: What the metadata of an executed notebook calls what a sweep knows of it.
METADATA = "dora_nb"

#: One thread a kernel: points run side by side, and sums come out the same on every machine. Python's hashes of text
#: are fixed as well, so that nothing depends on the order of a set.
KERNEL_ENVIRONMENT = {
    "DORA_NB_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "POLARS_MAX_THREADS": "1",
    "PYTHONHASHSEED": "0",
}


@dataclass(frozen=True)
class Task:
    """What a process needs to know to run a point: all of it, since it may be on another machine.

    Attributes
    ----------
    key
        Of the point.
    parameters
        Of the point.
    notebook
        JSON of the notebook.
    kernel
        Name of the kernel it asks for.
    folder
        Where it runs, if there is such a folder.
    limit_s
        Seconds after which it fails; None: never.
    code
        Hash of the code that the sweep expects here.
    """

    key: str
    parameters: Point
    notebook: str
    kernel: str
    folder: str
    limit_s: float | None
    code: str


@dataclass(frozen=True)
class Outcome:
    """What became of a point.

    Attributes
    ----------
    key
        Of the point.
    notebook
        JSON of the executed notebook, as far as it came; with what went wrong in it.
    error
        In one line; empty if nothing went wrong.
    wall_s
        Seconds from start to end, the kernel's start included.
    """

    key: str
    notebook: str
    error: str
    wall_s: float


def run_point(task: Task) -> Outcome:
    """Run a point, and bring back the executed notebook; whatever goes wrong in it goes into the outcome.

    Every point has a fresh kernel, so that none can influence another.
    """
    started = time.monotonic()
    if points_code() != task.code:
        error = "this process has another release of dora_nb than the sweep; install the same one everywhere"
        return Outcome(task.key, task.notebook, error, 0.0)
    error, told = "", [task.notebook]
    try:
        _execute(task, told.append)
    except Exception as problem:  # whatever a notebook or its kernel does is the point's own matter
        error = _one_line(problem)
    wall_s = time.monotonic() - started
    return Outcome(task.key, _described(told[-1], task.key, error, wall_s), error, wall_s)


def described(notebook: str) -> dict[str, Any]:
    """What the metadata of an executed notebook says of its point: ``point``, ``error`` and ``wall_s``."""
    found: dict[str, Any] = json.loads(notebook).get("metadata", {}).get(METADATA, {})
    return found


def _execute(task: Task, tell: Callable[[str], None]) -> None:
    from dora_nb.sweeps.engine import execute  # loads papermill, which only the process that runs points needs

    with contextlib.ExitStack() as stack:
        folder = task.folder
        if not Path(folder).is_dir():  # another machine than the sweep's
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dora-nb-", ignore_cleanup_errors=True))
        execute(
            task.notebook,
            task.parameters,
            tell,
            kernel=task.kernel,
            environment=os.environ | KERNEL_ENVIRONMENT,
            folder=folder,
            limit_s=task.limit_s,
        )


def _one_line(problem: Exception) -> str:
    name = getattr(problem, "ename", "") or type(problem).__name__
    said = str(getattr(problem, "evalue", "") or problem)
    return " ".join(f"{name}: {said}".split())[:500]


def _described(text: str, key: str, error: str, wall_s: float) -> str:
    """The notebook with what a sweep knows of it, without what papermill notes down of places and times."""
    document = json.loads(text)
    metadata = document.setdefault("metadata", {})
    metadata.pop("papermill", None)
    metadata[METADATA] = {"point": key, "error": error, "wall_s": wall_s}
    for cell in document["cells"]:
        cell.get("metadata", {}).pop("papermill", None)
    outputs = (output for cell in document["cells"] for output in cell.get("outputs", ()))
    if error and all(output.get("output_type") != "error" for output in outputs):
        said = {"cell_type": "markdown", "metadata": {}, "source": f"**This point failed.** {error}"}
        document["cells"].insert(0, said if document.get("nbformat_minor", 0) < 5 else said | {"id": "failed"})
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
