"""Serving files: a plan with slots for requests that want tokens, as JSON."""

from __future__ import annotations

from pathlib import Path

from dora_nb.domain.document import read_record, write_record
from dora_nb.domain.serving import Serving

#: The version of a serving file that this release writes and reads.
VERSION = 1


def save_serving(path: str | Path, serving: Serving) -> Path:
    """Write a serving to a JSON file, as a whole or not at all.

    Parameters
    ----------
    path
        Where to; an existing file is replaced once the new one is complete.
    serving
        What to write: plan, figures, and what is proven of them.

    Returns
    -------
    Path
        Where it is now.

    Raises
    ------
    DocumentError
        If the file cannot be written.
    """
    return write_record(path, serving, "serving", VERSION)


def load_serving(path: str | Path) -> Serving:
    """Read a serving file.

    Parameters
    ----------
    path
        Where it is.

    Returns
    -------
    Serving
        As it was saved.

    Raises
    ------
    DocumentError
        If there is no such file, it is no serving file, or a field of it cannot be used.
    """
    return read_record(path, "serving", Serving, VERSION)
