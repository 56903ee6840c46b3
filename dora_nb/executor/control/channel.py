"""A channel carries whole messages, in order, between the coordinator and one worker; here over pipes."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import IO, Protocol

from dora_nb.errors import ExecutionError

#: Longest message accepted, in bytes: events of thousands of micro-batches fit.
MESSAGE_LIMIT = 64 * 1024 * 1024


class Channel(Protocol):
    """Messages to and from one peer."""

    @property
    def heard_s(self) -> float:
        """When the peer was last heard, of ``time.monotonic``."""

    def send(self, message: bytes) -> None:
        """Send a message; several threads may. May wait for a peer that does not read.

        Raises
        ------
        OSError
            If nobody reads any more.
        """

    def receive(self) -> bytes | None:
        """The next message; None when the peer is gone.

        Raises
        ------
        ExecutionError
            If a message is too long or not the peer's.
        OSError
            If the connection broke.
        """

    def interrupt(self) -> None:
        """Wake who waits in it, for the last time; twice is fine."""

    def close(self) -> None:
        """Give everything back, once no thread uses it any more; twice is fine."""


class PipeChannel:
    """One message a line, over two pipes that only parent and child hold; so nobody has to prove who they are.

    Parameters
    ----------
    incoming, outgoing
        Binary streams.
    """

    def __init__(self, incoming: IO[bytes], outgoing: IO[bytes]) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._lock = threading.Lock()
        self.heard_s = time.monotonic()

    def send(self, message: bytes) -> None:
        """See :class:`Channel`; the message holds no line break."""
        with self._lock:
            self._outgoing.write(message + b"\n")
            self._outgoing.flush()

    def receive(self) -> bytes | None:
        """See :class:`Channel`."""
        line = self._incoming.readline(MESSAGE_LIMIT + 2)
        if not line:
            return None
        if len(line.removesuffix(b"\n")) > MESSAGE_LIMIT:
            raise ExecutionError(
                f"control channel: a message of more than {MESSAGE_LIMIT} bytes; allowed: shorter ones"
            )
        self.heard_s = time.monotonic()
        return line.removesuffix(b"\n")

    def interrupt(self) -> None:
        """See :class:`Channel`; nothing is to do: the end of the process at the other end wakes."""

    def close(self) -> None:
        """See :class:`Channel`."""
        for pipe in (self._outgoing, self._incoming):
            with contextlib.suppress(OSError):  # a message that never left
                pipe.close()
