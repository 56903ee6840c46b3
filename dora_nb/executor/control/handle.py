"""One worker as the coordinator sees it: a channel, the threads that serve it, and its process if it is a child."""

from __future__ import annotations

import collections
import contextlib
import queue
import subprocess
import threading
import time
from collections.abc import Callable
from typing import IO

from dora_nb.errors import ExecutionError
from dora_nb.executor.control.channel import Channel
from dora_nb.executor.control.messages import REPLIES, OrderLetter, ReplyLetter, decode, encode
from dora_nb.executor.control.orders import Order
from dora_nb.executor.control.process import Process
from dora_nb.executor.control.replies import Heartbeat, Reply

#: Last lines of a worker's standard error to show when it fails.
STDERR_LINES = 15

#: Seconds to wait for the end of a process whose pipes are closed.
END_S = 1.0


class Handle:
    """A worker of a pool. Nothing it does or fails to do ever blocks the caller.

    Parameters
    ----------
    index
        Its number in the pool.
    channel
        To it.
    on_news
        Called, in a thread of this handle, with every answer, every problem of the channel, and None at its end.
    on_request
        Called, in that thread, with every reply first; True if the reply was a request that is now answered.
    process
        Of a local worker, with a pipe for its standard error.
    name, address
        Of a worker that connected.
    """

    def __init__(
        self,
        index: int,
        channel: Channel,
        on_news: Callable[[Handle, ReplyLetter | Exception | None], None],
        on_request: Callable[[Handle, Reply], bool],
        process: Process | None = None,
        name: str = "",
        address: str = "",
    ) -> None:
        self.index, self.process, self.name, self.address = index, process, name, address
        self.ended = False
        self.last_lines: collections.deque[str] = collections.deque(maxlen=STDERR_LINES)
        self.expected: int | None = 0
        self._channel, self._on_news, self._on_request = channel, on_news, on_request
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._known_s, self._silent_s, self._watched_s = channel.heard_s, 0.0, time.monotonic()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._read, self._write)]
        self._hears_errors: threading.Thread | None = None
        if process is not None and process.stderr is not None:
            self._hears_errors = threading.Thread(target=self._read_errors, args=(process.stderr,), daemon=True)
            self._threads.append(self._hears_errors)
        for thread in self._threads:
            thread.start()

    def __str__(self) -> str:
        where = f"process {self.process.pid}" if self.process is not None else f"{self.name!r} at {self.address}"
        return f"worker {self.index} ({where})"

    def order(self, order: Order, number: int) -> None:
        """Give an order; it leaves as soon as the worker takes it."""
        self._outbox.put(encode(OrderLetter(number=number, order=order)))

    def watch(self, most_s: float) -> float:
        """Seconds it has been silent, as far as the coordinator was awake to hear it.

        Parameters
        ----------
        most_s
            Most that the time since the last call may add: a coordinator that was held up itself accuses nobody.
        """
        now_s = time.monotonic()
        if self._channel.heard_s > self._known_s:
            self._known_s, self._silent_s = self._channel.heard_s, 0.0
        else:
            self._silent_s += min(now_s - self._watched_s, most_s)
        self._watched_s = now_s
        return self._silent_s

    def how_it_ended(self) -> str:
        """Why its channel is closed, in words; its last lines have been read by then."""
        if self.process is None:
            return "its connection ended"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=END_S)
        if self._hears_errors is not None:
            self._hears_errors.join(timeout=END_S)
        return f"its process ended with code {self.process.poll()}"

    def kill(self) -> None:
        """Stop it without waiting; :meth:`end` must follow."""
        self.ended = True
        if self.process is not None:
            self.process.kill()
        self._channel.interrupt()

    def end(self) -> None:
        """Stop it and give everything back."""
        self.kill()
        self._outbox.put(None)
        if self.process is not None:
            self.process.wait()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=5)
        self._channel.close()
        if self.process is not None and self.process.stderr is not None:
            self.process.stderr.close()

    def _read(self) -> None:
        try:
            while (message := self._channel.receive()) is not None:
                letter = decode(message, REPLIES)
                if not isinstance(letter.reply, Heartbeat) and not self._on_request(self, letter.reply):
                    self._on_news(self, letter)
        except (ExecutionError, OSError, ValueError) as error:  # ValueError: the channel was closed meanwhile
            self._on_news(self, error)
        self.ended = True
        self._on_news(self, None)

    def _write(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads any more: the thread that reads sees it too
            while (message := self._outbox.get()) is not None:
                self._channel.send(message)

    def _read_errors(self, errors: IO[bytes]) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in errors:
                self.last_lines.append(line.decode(errors="replace").rstrip()[:500])
