"""Sharing files: how several streams share a cluster, as JSON."""

from __future__ import annotations

from pathlib import Path

from dora_nb.domain.document import read_record, write_record
from dora_nb.domain.sharing import Sharing

#: The version of a sharing file that this release writes and reads.
VERSION = 1


def save_sharing(path: str | Path, sharing: Sharing) -> Path:
    """Write a sharing to a JSON file, as a whole or not at all.

    Parameters
    ----------
    path
        Where to; an existing file is replaced once the new one is complete.
    sharing
        What to write: plans, timetable, and what is proven of them.

    Returns
    -------
    Path
        Where it is now.

    Raises
    ------
    DocumentError
        If the file cannot be written.
    """
    return write_record(path, sharing, "sharing", VERSION)


def load_sharing(path: str | Path) -> Sharing:
    """Read a sharing file.

    Parameters
    ----------
    path
        Where it is.

    Returns
    -------
    Sharing
        As it was saved.

    Raises
    ------
    DocumentError
        If there is no such file, it is no sharing file, or a field of it cannot be used.
    """
    return read_record(path, "sharing", Sharing, VERSION)
