"""Frames on a socket: capped in length, and once both sides are known, each sealed so that none can be forged."""

from __future__ import annotations

import contextlib
import hmac
import select
import socket
import ssl
import struct
import threading
import time

from dora_nb.errors import ExecutionError
from dora_nb.executor.control.channel import MESSAGE_LIMIT

#: Seconds after which a peer that takes nothing, or acknowledges nothing, is gone.
STUCK_S = 30.0

SEAL_BYTES = 32
_LENGTH = struct.Struct(">I")
_CHUNK_BYTES = 256 * 1024


class Wire:
    """A socket, plain or TLS, that one thread may read while another one writes.

    OpenSSL allows only one of them at a time inside a connection, so the socket never blocks: both wait outside, and
    take turns.

    Parameters
    ----------
    connection
        Connected; owned by this object from now on.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # else the system's own limit, of minutes, finds a cut connection
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(STUCK_S * 1000))
        self._connection, self._turn = connection, threading.Lock()
        self.heard_s = time.monotonic()

    def read(self, count: int, deadline_s: float | None = None) -> bytes:
        """Exactly so many bytes; fewer where the peer ended the connection.

        Raises
        ------
        TimeoutError
            If the deadline (of ``time.monotonic``) passes.
        OSError
            If the connection broke.
        """
        content = bytearray()
        while len(content) < count:
            try:
                with self._turn:
                    part = self._connection.recv(min(count - len(content), _CHUNK_BYTES))
            except (BlockingIOError, ssl.SSLWantReadError):
                self._wait(select.POLLIN, deadline_s)
                continue
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT, deadline_s)
                continue
            if not part:
                break
            content += part
            self.heard_s = time.monotonic()
        return bytes(content)

    def write(self, content: bytes, deadline_s: float | None = None) -> None:
        """All of the bytes; one thread at a time.

        Raises
        ------
        TimeoutError
            If the peer takes nothing for 30 s, or the deadline passes.
        OSError
            If the connection broke.
        """
        rest = memoryview(content)
        while rest:
            try:
                with self._turn:
                    rest = rest[self._connection.send(rest[:_CHUNK_BYTES]) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wait(select.POLLOUT, deadline_s or time.monotonic() + STUCK_S)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, deadline_s or time.monotonic() + STUCK_S)

    def interrupt(self) -> None:
        """End the connection, which wakes who waits in it; twice is fine."""
        with contextlib.suppress(OSError):
            # TLS sockets would wait for a farewell.
            socket.socket.shutdown(self._connection, socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the socket back, once no thread uses it any more; twice is fine."""
        self.interrupt()
        self._connection.close()

    def _wait(self, what: int, deadline_s: float | None) -> None:
        poll = select.poll()
        poll.register(self._connection, what)
        left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        if not poll.poll(None if left_s is None else left_s * 1000):
            raise TimeoutError("the peer is too slow")


def read_frame(wire: Wire, limit: int, deadline_s: float | None = None, seal_bytes: int = 0) -> bytes | None:
    """A frame's content, with its seal in front; None where the connection ended instead.

    Raises
    ------
    ExecutionError
        If it is longer than allowed, or broken off.
    OSError
        If the connection broke or the deadline passed.
    """
    head = wire.read(_LENGTH.size, deadline_s)
    if not head:
        return None
    length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
    if length > limit:
        raise ExecutionError(f"control channel: a frame of {length} bytes; allowed: {limit} at most")
    frame = wire.read(seal_bytes + length, deadline_s)
    if len(head) < _LENGTH.size or len(frame) < seal_bytes + length:
        raise ExecutionError("control channel: the connection ended within a frame")
    return frame


def write_frame(wire: Wire, content: bytes, deadline_s: float | None = None, seal: bytes = b"") -> None:
    """Write a frame.

    Raises
    ------
    OSError
        If the connection broke or the deadline passed.
    """
    wire.write(_LENGTH.pack(len(content)) + seal + content, deadline_s)


class SealedChannel:
    """Messages that only the peer of the handshake can have sent, each once and in order.

    The seal of a frame is HMAC-SHA256 over its number and content, with one key for each direction: a frame that is
    altered, left out, repeated, moved, sent back, or from another connection has the wrong seal.

    Parameters
    ----------
    wire
        After the handshake.
    send_key, receive_key
        Of this connection alone.
    """

    def __init__(self, wire: Wire, send_key: bytes, receive_key: bytes) -> None:
        self._wire = wire
        self._send_key, self._receive_key = send_key, receive_key
        self._sent = self._received = 0
        self._lock = threading.Lock()

    @property
    def heard_s(self) -> float:
        """See :class:`~dora_nb.executor.control.channel.Channel`; a part of a long message counts."""
        return self._wire.heard_s

    def send(self, message: bytes) -> None:
        """See :class:`~dora_nb.executor.control.channel.Channel`; any problem ends the connection."""
        with self._lock:
            seal = _seal(self._send_key, self._sent, message)
            self._sent += 1
            try:
                write_frame(self._wire, message, seal=seal)
            except OSError:
                self._wire.interrupt()  # nothing can follow half a frame
                raise

    def receive(self, limit: int = MESSAGE_LIMIT, deadline_s: float | None = None) -> bytes | None:
        """See :class:`~dora_nb.executor.control.channel.Channel`; any problem ends the connection."""
        try:
            frame = read_frame(self._wire, limit, deadline_s, SEAL_BYTES)
            if frame is None:
                return None
            seal, message = frame[:SEAL_BYTES], frame[SEAL_BYTES:]
            if not hmac.compare_digest(seal, _seal(self._receive_key, self._received, message)):
                raise ExecutionError("control channel: a frame that was altered, repeated or is not the peer's")
        except BaseException:
            self._wire.interrupt()
            raise
        self._received += 1
        return message

    def interrupt(self) -> None:
        """See :class:`~dora_nb.executor.control.channel.Channel`."""
        self._wire.interrupt()

    def close(self) -> None:
        """See :class:`~dora_nb.executor.control.channel.Channel`."""
        self._wire.close()


def _seal(key: bytes, number: int, message: bytes) -> bytes:
    return hmac.digest(key, number.to_bytes(8, "big") + message, "sha256")
