"""Sharing files: how several streams share a cluster, as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from dora_nb.domain.document import check_format, from_fields, read_document, release, write_whole
from dora_nb.domain.sharing import Sharing

#: What the field ``format`` of a sharing file says, and the version this release writes and reads.
FORMAT, VERSION = "dora-nb/sharing", 1


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
    content = {"format": FORMAT, "version": VERSION, "created_by": release()} | sharing.model_dump(mode="json")
    return write_whole(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


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
    path = Path(path)
    document = read_document(path, "sharing")
    check_format(path, document, "sharing", FORMAT, VERSION)
    fields = {key: value for key, value in document.items() if key not in ("format", "version", "created_by")}
    return from_fields(path, Sharing, fields)
