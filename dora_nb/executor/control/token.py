"""The secret of one run: random, in a file that only its owner can read."""

from __future__ import annotations

import os
import pathlib
import secrets
import stat

from dora_nb.errors import DocumentError, InputError

TOKEN_BYTES = 32


def create_token(path: pathlib.Path) -> bytes:
    """Draw a token and write it to a new file.

    Parameters
    ----------
    path
        Must not exist yet. Its folder is made (mode 0700), or must be closed to others.

    Raises
    ------
    InputError
        If others may enter the folder, or the file is there already.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(path.parent.stat().st_mode) & 0o077:
        raise InputError(
            "token_file", str(path), f"a file in a folder that only you can enter; try: chmod 700 {path.parent}"
        )
    token = secrets.token_bytes(TOKEN_BYTES)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise InputError("token_file", str(path), "a file that does not exist yet: every run has its own") from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(token.hex() + "\n")
    return token


def read_token(path: pathlib.Path) -> bytes:
    """The token in a file.

    Raises
    ------
    InputError
        If anyone else can read the file.
    DocumentError
        If it cannot be read or holds no token.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise DocumentError(path, f"the token file cannot be read: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise DocumentError(path, "the token file must be a regular file")
        if facts.st_uid != os.getuid() or stat.S_IMODE(facts.st_mode) & 0o077:
            raise InputError("token_file", str(path), f"a file of yours that nobody else can read: chmod 600 {path}")
        text = file.read(2 * TOKEN_BYTES + 2)
    try:
        token = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        token = b""
    if len(token) != TOKEN_BYTES:
        raise DocumentError(path, f"no token: {2 * TOKEN_BYTES} hexadecimal digits as written by the coordinator")
    return token
