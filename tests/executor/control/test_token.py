"""The token is random, and a file that others could read is not used."""

from __future__ import annotations

import os
import stat

import pytest

from dora_nb.errors import DocumentError, InputError
from dora_nb.executor.control.listener import Listener
from dora_nb.executor.control.token import create_token, read_token


def test_the_file_is_for_its_owner_alone_and_every_token_is_another(private):
    first, second = (create_token(private / name) for name in ("first", "second"))
    assert len(first) == 32
    assert first != second
    assert stat.S_IMODE((private / "first").stat().st_mode) == 0o600
    assert read_token(private / "first") == first


def test_a_new_folder_is_private(private):
    create_token(private / "new" / "token")
    assert stat.S_IMODE((private / "new").stat().st_mode) == 0o700


def test_a_folder_open_to_others_is_refused(private):
    private.chmod(0o755)
    with pytest.raises(InputError, match="chmod 700"):
        create_token(private / "token")
    assert not (private / "token").exists()


def test_a_file_that_is_there_is_not_touched(private):
    (private / "token").write_text("mine")
    with pytest.raises(InputError, match="does not exist yet"):
        create_token(private / "token")
    (private / "link").symlink_to(private / "elsewhere")
    with pytest.raises(InputError, match="does not exist yet"):
        create_token(private / "link")
    assert (private / "token").read_text() == "mine"
    assert not (private / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o622])
def test_a_file_that_others_can_read_or_write_is_refused(private, mode):
    create_token(private / "token")
    (private / "token").chmod(mode)
    with pytest.raises(InputError, match="chmod 600"):
        read_token(private / "token")


@pytest.mark.parametrize("content", [b"", b"00" * 31, b"00" * 33, b"zz" * 32, b"\xff" * 64])
def test_a_file_without_a_token_is_refused(private, content):
    path = private / "token"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(DocumentError, match="no token"):
        read_token(path)


def test_what_is_no_file_is_refused(private):
    create_token(private / "token")
    (private / "link").symlink_to("token")
    os.mkfifo(private / "pipe", 0o600)
    for name, why in (("missing", "No such file"), ("link", "cannot be read"), ("pipe", "regular file")):
        with pytest.raises(DocumentError, match=why):
            read_token(private / name)


def test_the_token_is_gone_when_nobody_listens_any_more(private):
    listener = Listener(token_file=private / "mine" / "token")
    listener.open(private, lambda *_: None)
    assert (private / "mine" / "token").exists()
    listener.close()
    assert not (private / "mine" / "token").exists()
