"""Only the records expected pass, whole and not too long."""

from __future__ import annotations

import io

import pytest

from dora_nb.errors import ExecutionError
from dora_nb.executor.control import channel, messages
from dora_nb.executor.control.channel import PipeChannel
from dora_nb.executor.control.services import StoreRequest


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b'{"kind": "ready"}',
        b'{"number": 1, "reply": {"kind": "unheard-of"}}',
        b'{"number": 1, "reply": {"kind": "probed", "latency_s": 1, "rate_bytes_per_s": 2, "extra": 3}}',
        b'{"number": 1, "reply": {"kind": "probed", "latency_s": "soon", "rate_bytes_per_s": 2}}',
    ],
)
def test_unexpected_messages_are_refused(line):
    with pytest.raises(ExecutionError, match="not an expected message"):
        messages.decode(line, messages.REPLIES)


def test_bytes_survive_the_trip():
    request = StoreRequest(request=3, do="set", keys=("a",), values=(bytes(range(256)),))
    letter = messages.ReplyLetter(number=0, reply=request)
    assert messages.decode(messages.encode(letter), messages.REPLIES) == letter


def test_long_messages_are_refused_and_the_end_is_none(monkeypatch):
    monkeypatch.setattr(channel, "MESSAGE_LIMIT", 100)
    with pytest.raises(ExecutionError, match="more than 100 bytes"):
        PipeChannel(io.BytesIO(b"x" * 1000), io.BytesIO()).receive()
    exactly = PipeChannel(io.BytesIO(b"x" * 100 + b"\n"), io.BytesIO())
    assert exactly.receive() == b"x" * 100
    assert exactly.receive() is None
