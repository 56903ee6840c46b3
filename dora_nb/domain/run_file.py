"""Run files: what happened when a plan was run, as JSON that is compared with the plan later."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from dora_nb.domain.document import check_format, from_fields, read_document, release, write_whole
from dora_nb.domain.record import Record
from dora_nb.domain.run_record import RunRecord

#: What the field ``format`` of a run file says.
FORMAT = "dora-nb/run"


class RunFile(Record):
    """What a run file holds.

    Attributes
    ----------
    format, version
        What the file is: ``dora-nb/run``, version 1.
    created_by
        The release that wrote it.
    run
        The record.
    """

    format: Literal["dora-nb/run"]
    version: Literal[1]
    created_by: str
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
    content = RunFile(format="dora-nb/run", version=1, created_by=release(), run=run)
    return write_whole(path, content.model_dump_json() + "\n")  # on one line: events are many


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
    document = read_document(path, "run")
    check_format(path, document, "run", FORMAT)
    return from_fields(path, RunFile, document).run
