"""Frames arrive once, whole, in order and unaltered, or the connection ends."""

from __future__ import annotations

import secrets
import threading
import time

import pytest

from dora_nb.errors import ExecutionError
from dora_nb.executor.control import frames
from dora_nb.executor.control.frames import SealedChannel, read_frame, write_frame

KEYS = secrets.token_bytes(32), secrets.token_bytes(32)


@pytest.fixture
def channels(pair):
    return SealedChannel(pair[0], *KEYS), SealedChannel(pair[1], *reversed(KEYS))


def captured(pair, message, count=1):
    """What a sender puts on the wire."""
    sender = SealedChannel(pair[0], *KEYS)
    for _ in range(count):
        sender.send(message)
    return [pair[1].read(4 + 32 + len(message)) for _ in range(count)]


def test_messages_of_any_size_pass_both_ways_at_once(channels):
    messages = [b"", b"small", secrets.token_bytes(3_000_000)] * 3
    arrived = {}

    def receive(side):
        arrived[side] = [channels[side].receive() for _ in messages]

    threads = [threading.Thread(target=receive, args=(side,)) for side in (0, 1)]
    threads += [threading.Thread(target=lambda c=each: [c.send(m) for m in messages]) for each in channels]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert arrived == {0: messages, 1: messages}


def test_several_threads_may_send(channels):
    threads = [
        threading.Thread(target=lambda n=number: [channels[0].send(bytes([n]) * 100) for _ in range(50)])
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    arrived = [channels[1].receive() for _ in range(200)]
    assert sorted(arrived) == sorted(bytes([number]) * 100 for number in range(4) for _ in range(50))


@pytest.mark.parametrize("place", [4, 20, 36, 40])
def test_an_altered_frame_ends_the_connection(pair, place):
    (frame,) = captured(pair, b"give the order")
    altered = bytearray(frame)
    altered[place] ^= 1
    receiver = SealedChannel(pair[1], *reversed(KEYS))
    pair[0].write(bytes(altered))
    with pytest.raises(ExecutionError, match="altered, repeated or is not the peer's"):
        receiver.receive()
    assert pair[0].read(1) == b""  # hung up


def test_a_repeated_frame_ends_the_connection(pair):
    (frame,) = captured(pair, b"give the order")
    receiver = SealedChannel(pair[1], *reversed(KEYS))
    pair[0].write(frame)
    assert receiver.receive() == b"give the order"
    pair[0].write(frame)
    with pytest.raises(ExecutionError, match="repeated"):
        receiver.receive()


def test_frames_in_another_order_end_the_connection(pair):
    first, second = captured(pair, b"an order", count=2)
    assert first != second
    receiver = SealedChannel(pair[1], *reversed(KEYS))
    pair[0].write(second + first)
    with pytest.raises(ExecutionError, match="altered"):
        receiver.receive()


def test_a_frame_sent_back_ends_the_connection(channels, pair):
    channels[0].send(b"an order")
    pair[1].write(pair[1].read(4 + 32 + 8))
    with pytest.raises(ExecutionError, match="not the peer's"):
        channels[0].receive()


def test_a_huge_frame_is_refused_before_it_is_read(pair):
    pair[0].write(b"\xff\xff\xff\xff")
    with pytest.raises(ExecutionError, match=r"4294967295 bytes; allowed: 4096 at most"):
        read_frame(pair[1], 4096)


def test_a_frame_broken_off_is_refused(pair):
    write_frame(pair[0], b"x" * 100)
    pair[0].interrupt()
    assert read_frame(pair[1], 4096) == b"x" * 100
    assert read_frame(pair[1], 4096) is None


@pytest.mark.parametrize("part", [b"\0\0", b"\0\0\0\x09abc"])
def test_half_a_frame_is_refused(pair, part):
    pair[0].write(part)
    pair[0].interrupt()
    with pytest.raises(ExecutionError, match="ended within a frame"):
        read_frame(pair[1], 4096)


def test_who_dribbles_does_not_win_time(pair):
    ends = threading.Event()

    def dribble():
        for _ in range(100):
            pair[0].write(b"\0")
            if ends.wait(0.05):
                return

    thread = threading.Thread(target=dribble)
    thread.start()
    with pytest.raises(TimeoutError, match="too slow"):
        pair[1].read(1000, time.monotonic() + 0.2)
    ends.set()
    thread.join()


def test_who_takes_nothing_is_given_up(pair, monkeypatch):
    monkeypatch.setattr(frames, "STUCK_S", 0.1)
    with pytest.raises(TimeoutError, match="too slow"):
        SealedChannel(pair[0], *KEYS).send(b"x" * 50_000_000)


def test_an_interrupt_wakes_who_waits(channels):
    threading.Timer(0.1, channels[0].interrupt).start()
    assert channels[0].receive() is None
