"""Run files: what happened when a plan was run, as JSON that is compared with the plan later."""

from __future__ import annotations

from pathlib import Path

from dora_nb.domain.document import read_record, write_record
from dora_nb.domain.record import Record
from dora_nb.domain.run_record import RunRecord

#: The version of a run file that this release writes and reads.
VERSION = 1


class _RunFile(Record):
    """What a run file holds, beside what it says of itself."""

    run: RunRecord


def save_run(path: str | Path, run: RunRecord) -> Path:
    """Write the record of a run to a file, as a whole or not at all.

    Parameters
    ----------
    path
        Where to; an existing file is replaced once the new one is complete.
    run
        What to write.

    Returns
    -------
    Path
        Where it is now.

    Raises
    ------
    DocumentError
        If the file cannot be written.
    """
    return write_record(path, _RunFile(run=run), "run", VERSION, indent=None)  # on one line: events are many


def load_run(path: str | Path) -> RunRecord:
    """Read a run file.

    Parameters
    ----------
    path
        A file written by :func:`save_run` or ``dora-nb execute --out``.

    Returns
    -------
    RunRecord

    Raises
    ------
    DocumentError
        If there is no such file, it is no run file, or a field of it cannot be used.
    """
    return read_record(path, "run", _RunFile, VERSION).run
