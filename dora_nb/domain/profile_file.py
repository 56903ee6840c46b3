"""Profile files: what a device was measured to take, as JSON that other machines plan with."""

from __future__ import annotations

from pathlib import Path

from dora_nb.domain.document import read_record, write_record
from dora_nb.domain.profile import Profile
from dora_nb.domain.record import Record

#: The version of a profile file that this release writes and reads.
VERSION = 1


class _ProfileFile(Record):
    """What a profile file holds, beside what it says of itself."""

    profile: Profile


def save_profile(path: str | Path, profile: Profile) -> Path:
    """Write a profile to a file, as a whole or not at all.

    Parameters
    ----------
    path
        Where to; an existing file is replaced once the new one is complete.
    profile
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
    return write_record(path, _ProfileFile(profile=profile), "profile", VERSION)


def load_profile(path: str | Path) -> Profile:
    """Read a profile file.

    Parameters
    ----------
    path
        A file written by :func:`save_profile` or ``dora-nb profile``.

    Returns
    -------
    Profile

    Raises
    ------
    DocumentError
        If there is no such file, it is no profile file, or a field of it cannot be used.
    """
    return read_record(path, "profile", _ProfileFile, VERSION).profile
