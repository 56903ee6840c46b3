"""The folder of a sweep: executed notebooks by the hash of their point, and the two tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dora_nb.domain.document import write_whole
from dora_nb.errors import DocumentError, DoraError, MissingDependencyError
from dora_nb.sweeps.grid import Point
from dora_nb.sweeps.point import METADATA, Outcome
from dora_nb.sweeps.rows import Row, rows_of

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

#: Characters of a key that name a point: enough for them to differ.
_NAME_LENGTH = 16

#: One executed point: its key, its parameters, its rows and its timings.
Executed = tuple[str, Point, Sequence[Row], dict[str, Any]]


def name_of(key: str) -> str:
    """How files and tables call a point."""
    return key[:_NAME_LENGTH]


class Folder:
    """Where a sweep keeps what it did.

    An executed notebook is whole or not there, and is all there is to a point: a sweep that was ended at any moment
    goes on with what is missing. One sweep at a time uses a folder.

    Parameters
    ----------
    root
        Made if it is not there.

    Raises
    ------
    DocumentError
        If there cannot be such a folder.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.points, self.failed = root, root / "points", root / "failed"
        try:
            for folder in (self.points, self.failed):
                folder.mkdir(parents=True, exist_ok=True)
            for folder in (root, self.points, self.failed):
                for draft in folder.glob(".dora-nb-*.tmp"):  # of a sweep that was killed while it wrote
                    draft.unlink(missing_ok=True)
        except OSError as error:
            raise DocumentError(root, f"cannot be the folder of a sweep: {error.strerror or error}") from None

    def path(self, key: str, failed: bool = False) -> Path:
        """Where the executed notebook of a point is."""
        return (self.failed if failed else self.points) / f"{name_of(key)}.ipynb"

    def load(self, key: str) -> tuple[list[Row], dict[str, float]] | None:
        """Rows and timings of a point that was run to its end; None if there is none, or it cannot be used."""
        try:
            document = json.loads(self.path(key).read_text(encoding="utf-8"))
            about = document["metadata"][METADATA]
            found = rows_of(document)
            if about["point"] != key or about["error"] or found is None:
                return None
            return found[0], {"wall_s": float(about["wall_s"])} | found[1]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, DoraError):
            return None  # run anew, and the file replaced

    def keep(self, outcome: Outcome) -> None:
        """Keep the executed notebook of a point, with those that went through or with those that failed."""
        failed = bool(outcome.error)
        write_whole(self.path(outcome.key, failed), outcome.notebook)
        if not failed:
            self.path(outcome.key, failed=True).unlink(missing_ok=True)

    def write_tables(self, executed: Sequence[Executed], failures: Iterable[tuple[str, Point, float]]) -> None:
        """Write ``results.parquet`` and ``timings.parquet``.

        Parameters
        ----------
        executed
            Points that went through, in the order of their rows in the tables.
        failures
            Key, parameters and wall seconds of the others.
        """
        results: list[dict[str, Any]] = [
            {"point": name_of(key), **parameters, **row} for key, parameters, rows, _ in executed for row in rows
        ]
        timings: list[dict[str, Any]] = [
            {"point": name_of(key), **parameters, "status": "done", **took} for key, parameters, _, took in executed
        ]
        timings += [
            {"point": name_of(key), **parameters, "status": "failed", "wall_s": wall_s}
            for key, parameters, wall_s in failures
        ]
        write_whole(self.root / "results.parquet", parquet(results))
        write_whole(self.root / "timings.parquet", parquet(timings))


def read_rows(folder: str | Path, name: str) -> list[dict[str, Any]]:
    """The rows of one of the two tables of a sweep's folder, by column; what is empty is None.

    Parameters
    ----------
    folder
        Of the sweep.
    name
        ``results`` or ``timings``.

    Raises
    ------
    DocumentError
        If it is not there or cannot be read.
    MissingDependencyError
        If pyarrow is not installed.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingDependencyError("pyarrow", "reading a sweep's tables", "sweep") from None
    path = Path(folder) / f"{name}.parquet"
    if not path.is_file():
        raise DocumentError(path, "there is no such file; a sweep writes it when all of its points were run")
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise DocumentError(path, f"is not a table of a sweep: {' '.join(str(error).split())}") from None
    return rows


def read_table(folder: str | Path, name: str) -> pd.DataFrame:
    """A table of a sweep as a pandas frame."""
    import pandas as pd

    return pd.DataFrame(read_rows(folder, name))


def parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows as the bytes of a Parquet file, the same for the same rows."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingDependencyError("pyarrow", "a sweep", "sweep") from None
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    out = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), out)
    written: bytes = out.getvalue().to_pybytes()
    return written


def _column(values: Sequence[Any]) -> pa.Array:
    """A column of one type: whole numbers, numbers, true and false, or text; what is mixed or nested as JSON text."""
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds <= {bool} and kinds:
        return pa.array(values, pa.bool_())
    if kinds <= {int} and kinds:
        return pa.array(values, pa.int64())
    if kinds <= {int, float} and kinds:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    if kinds <= {str}:
        return pa.array(values, pa.string())
    return pa.array([None if value is None else json.dumps(value, sort_keys=True) for value in values], pa.string())
