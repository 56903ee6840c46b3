"""Whoever calls without the token gets nothing, holds nobody up and breaks nothing."""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import threading
import time

import pytest
from processes import until

from dora_nb.errors import ExecutionError, InputError
from dora_nb.executor.control import handshake
from dora_nb.executor.control.frames import SealedChannel, Wire
from dora_nb.executor.control.handshake import meet_coordinator
from dora_nb.executor.control.listener import MOST_STRANGERS, Listener
from dora_nb.executor.control.orders import ClockQuestion
from dora_nb.executor.control.replies import Clock


def random_string(dice: random.Random) -> bytes:
    """Noise, or noise that begins like a frame, JSON or another protocol."""
    noise = dice.randbytes(dice.choice((0, 1, 3, 4, 5, 40, 500, 6000)))
    begins = (
        b"",
        len(noise).to_bytes(4, "big"),
        b"\xff\xff\xff\xff",
        b'\0\0\0\x40{"protocol": "dora-nb control 1", "name": "',
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",  # TLS
        b"\x80\x04\x95",  # a pickle
    )
    return dice.choice(begins) + noise


def throw(port: int, content: bytes) -> bytes:
    """What is answered to some bytes until the connection ends."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as stranger, contextlib.suppress(OSError):
        stranger.sendall(content)
        stranger.shutdown(socket.SHUT_WR)
        while part := stranger.recv(65536):
            answer += part
    return answer


def enter(door, name: str) -> SealedChannel:
    return meet_coordinator(Wire(door.call()), door.token, name).channel


def test_a_thousand_random_strings_get_nobody_in_while_the_workers_go_on(mixed):
    dice = random.Random(7)
    port, refused = mixed.listener.address.port, mixed.listener.refused
    strings = [random_string(dice) for _ in range(1000)]
    answers = []

    def throw_some(first: int) -> None:
        answers.extend(throw(port, each) for each in strings[first::4])

    threads = [threading.Thread(target=throw_some, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    asked = 0
    while any(thread.is_alive() for thread in threads):
        told = mixed.pool.ask(dict.fromkeys((0, 1), ClockQuestion()), Clock, doing="asking", timeout_s=30)
        assert told.keys() == {0, 1}
        asked += 1
    assert asked > 10
    until(lambda: mixed.listener.refused == refused + 1000)
    assert len(answers) == 1000
    assert not any(b"proof" in each for each in answers)
    assert mixed.pool.alive == (0, 1)
    assert len(mixed.pool) == 2


def test_a_slow_stranger_blocks_nobody_and_is_sent_away(door, monkeypatch):
    monkeypatch.setattr(handshake, "STRANGER_S", 0.5)
    with door.call() as slow:
        assert slow.recv(4096)
        began_s = time.monotonic()
        enter(door, "quick").close()
        door.guest("quick")
        assert door.listener.refused == 0
        slow.settimeout(20)
        assert slow.recv(4096) == b""
        assert time.monotonic() - began_s < 10
    until(lambda: door.listener.refused == 1)
    assert "too slow" in door.listener.last_refusals[-1]


def test_a_crowd_of_silent_strangers_is_thinned_from_its_oldest(door):
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(door.call()) for _ in range(3 * MOST_STRANGERS)]
        enter(door, "quick").close()
        door.guest("quick")
        until(lambda: door.listener.refused >= 2 * MOST_STRANGERS)
        crowd[0].settimeout(20)
        assert crowd[0].recv(10000).endswith(b"}")  # the challenge, and then the end
        assert crowd[0].recv(10000) == b""
    until(lambda: door.listener.refused == 3 * MOST_STRANGERS)


def test_a_huge_frame_before_the_proof_is_refused_at_once(door):
    with door.call() as stranger:
        assert stranger.recv(4096)
        stranger.sendall((4097).to_bytes(4, "big"))
        assert stranger.recv(4096) == b""
    until(lambda: door.listener.refused == 1)
    assert "4097 bytes; allowed: 4096" in door.listener.last_refusals[-1]


def test_refused_callers_are_logged_but_do_not_flood_the_log(door, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            throw(door.listener.address.port, b"\0\0\0\x02{}")
        until(lambda: door.listener.refused == 50)
    assert 1 <= len(caplog.records) <= 10
    assert "refused a caller at 127.0.0.1" in caplog.text
    assert "is not the proof of 'dora-nb control 1'" in caplog.text


def test_a_friend_whose_connection_is_attacked_is_lost_and_nobody_else(door):
    friend, other = enter(door, "friend"), enter(door, "other")
    channel = door.guest("friend")
    friend.send(b"an answer")
    assert channel.receive() == b"an answer"
    friend._wire.write(b"\0\0\0\x05" + b"s" * 32 + b"order")  # somebody on the way
    with pytest.raises(ExecutionError, match="altered"):
        channel.receive()
    other.send(b"still here")
    assert door.guest("other").receive() == b"still here"
    friend.close()
    other.close()


def test_only_a_place_that_waits_is_given_away(mixed):
    token = bytes.fromhex(mixed.listener.token_file.read_text())
    for name in ("d1", "stranger"):
        wire = Wire(socket.create_connection(("127.0.0.1", mixed.listener.address.port), timeout=10))
        channel = meet_coordinator(wire, token, name).channel
        assert b"what the coordinator waits for: no more workers" in channel.receive()
        assert channel.receive() is None
        channel.close()
    assert mixed.pool.alive == (0, 1)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_nobody_listens_everywhere(host):
    with pytest.raises(InputError, match="not all of them"):
        Listener(host)


def test_a_taken_port_is_named(door, private):
    other = Listener(port=door.listener.address.port, token_file=private / "other")
    with pytest.raises(InputError, match=rf"127.0.0.1:{door.listener.address.port}.*free port"):
        other.open(private, door.admit)
    assert not (private / "other").exists()
