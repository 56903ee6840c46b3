"""Profile files: what a device was measured to take, as JSON that other machines plan with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from dora_nb.domain.document import check_format, from_fields, read_document, release, write_whole
from dora_nb.domain.profile import Profile
from dora_nb.domain.record import Record

#: What the field ``format`` of a profile file says.
FORMAT = "dora-nb/profile"


class ProfileFile(Record):
    """What a profile file holds.

    Attributes
    ----------
    format, version
        What the file is: ``dora-nb/profile``, version 1.
    created_by
        The release that wrote it.
    profile
        The profile.
    """

    format: Literal["dora-nb/profile"]
    version: Literal[1]
    created_by: str
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
    content = ProfileFile(format="dora-nb/profile", version=1, created_by=release(), profile=profile)
    text = json.dumps(content.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    return write_whole(path, text + "\n")


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
    document = read_document(path, "profile")
    check_format(path, document, "profile", FORMAT)
    return from_fields(path, ProfileFile, document).profile
