"""A network imitated on one machine: media that all processes share, and a transport that keeps to them.

Every process maps the same small file, which holds for each medium (or port) the moment from which it is free. Who
sends reserves the media on the way in short slices, so that several senders share a medium about equally and a lone one
has all of it; then it waits that long; then the bytes pass over loopback in no time worth mentioning. Whoever has the
turn on a medium reserves all it needs at once: from then on its place is sure, and the turn may go on. That is the
network of :mod:`dora_nb.costs.network` played in real time: rates per device, both hops of a shared medium, ports of a
switch, latencies.
"""

from __future__ import annotations

import contextlib
import mmap
import pathlib
import queue
import struct
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from dora_nb.costs.network import Flow, Network
from dora_nb.errors import ExecutionError

with contextlib.suppress(ImportError):  # not on Windows, where no worker starts, see require_posix
    import fcntl

if TYPE_CHECKING:
    from torch import Tensor

    from dora_nb.executor.device.transport import Channel, Pending, Transport

#: Seconds of a medium that are reserved at once: short beside a transfer, long beside what a wake-up is late by.
SLICE_S = 2e-3

_MOMENT = struct.Struct("d")


class Medium:
    """When each resource of a network is free, shared by all processes that open the same file.

    Parameters
    ----------
    path
        The file; made if it is not there.
    resources
        Names of media and ports, the same and in the same order in every process.
    """

    def __init__(self, path: pathlib.Path, resources: tuple[str, ...]) -> None:
        self._place = {name: index * _MOMENT.size for index, name in enumerate(resources)}
        size = max(1, len(resources)) * _MOMENT.size
        self._file = open(path, "a+b")  # noqa: SIM115 - closed by close()
        if self._file.seek(0, 2) < size:
            self._file.truncate(size)
        self._moments = mmap.mmap(self._file.fileno(), size)
        self._within = threading.Lock()  # the file's lock is the process's, not the thread's

    def reserve(self, ready_s: float, seconds: Mapping[str, float]) -> float:
        """Hold several resources from the first moment at which all are free.

        Parameters
        ----------
        ready_s
            Not before this moment of ``time.perf_counter``, which all processes of one host share.
        seconds
            How long, by resource.

        Returns
        -------
        the moment at which the last of them is let go
        """
        if not seconds:
            return ready_s
        with self._within:
            fcntl.lockf(self._file, fcntl.LOCK_EX)
            try:
                free_s = (_MOMENT.unpack_from(self._moments, self._place[name])[0] for name in seconds)
                start_s = float(max(ready_s, *free_s))
                for name, each in seconds.items():
                    _MOMENT.pack_into(self._moments, self._place[name], start_s + each)
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)
        return start_s + max(seconds.values())

    def close(self) -> None:
        """Let go of the file."""
        self._moments.close()
        self._file.close()


class _Message(NamedTuple):
    tensor: Tensor
    peer: str
    tag: int
    channel: Channel
    since_s: float
    in_turn: bool


class EmulatedTransport:
    """A transport that takes as long as another network would.

    Sending returns at once; a thread per channel plays the network. What is received is not delayed any further.

    Parameters
    ----------
    inner
        Carries the bytes.
    device
        This process's.
    network
        What is imitated.
    medium
        Shared with all other devices.
    """

    def __init__(self, inner: Transport, device: str, network: Network, medium: Medium) -> None:
        self._inner, self._device, self._network, self._medium = inner, device, network, medium
        self._lines: dict[Channel, _Line] = {}
        self._making = threading.Lock()  # several threads pass turns on

    def send(self, tensor: Tensor, peer: str, tag: int, channel: Channel, *, in_turn: bool = False) -> None:
        """See :class:`~dora_nb.executor.device.transport.Transport`."""
        with self._making:
            if channel not in self._lines:
                self._lines[channel] = _Line(self._inner, self._device, self._network, self._medium)
        self._lines[channel].put(_Message(tensor, peer, tag, channel, time.perf_counter(), in_turn))

    def receive(self, into: Tensor, peer: str, tag: int, channel: Channel) -> Pending:
        """See :class:`~dora_nb.executor.device.transport.Transport`."""
        return self._inner.receive(into, peer, tag, channel)

    def flush(self, channel: Channel | None = None) -> None:
        """See :class:`~dora_nb.executor.device.transport.Transport`."""
        lines = list(self._lines.values()) if channel is None else [self._lines.get(channel)]
        for line in lines:
            if line is not None:
                line.drain()
        self._inner.flush(channel)

    def barrier(self) -> None:
        """See :class:`~dora_nb.executor.device.transport.Transport`; takes no time on the imitated network."""
        self._inner.barrier()

    def common_start(self) -> float:
        """See :class:`~dora_nb.executor.device.transport.Transport`."""
        return self._inner.common_start()

    def wake(self) -> None:
        """See :class:`~dora_nb.executor.device.transport.Transport`."""
        self._inner.wake()

    def close(self) -> None:
        """End the threads and close what carries the bytes."""
        for line in self._lines.values():
            line.end()
        self._lines.clear()
        self._inner.close()
        self._medium.close()


class _Line:
    """Messages of one channel on their way: one at a time on the air, any number behind it in the latency."""

    def __init__(self, inner: Transport, device: str, network: Network, medium: Medium) -> None:
        self._inner, self._device, self._network, self._medium = inner, device, network, medium
        self._waiting: queue.SimpleQueue[_Message | None] = queue.SimpleQueue()
        self._arriving: queue.SimpleQueue[tuple[float, _Message] | None] = queue.SimpleQueue()
        self._done = threading.Condition()
        self._under_way = 0
        self._problem: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._guarded, args=(each,), daemon=True) for each in (self.air, self.arrive)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, message: _Message) -> None:
        with self._done:
            self._under_way += 1
        if message.in_turn or message.channel == "turn":  # nothing to share: no thread need wake up for it
            seconds, latency_s = self._hold(message)
            self._arriving.put((self._medium.reserve(message.since_s, seconds) + latency_s, message))
        else:
            self._waiting.put(message)

    def drain(self) -> None:
        """Wait until everything put so far was handed to what carries the bytes."""
        with self._done:
            self._done.wait_for(lambda: self._under_way == 0 or self._problem is not None)
        if self._problem is not None:
            raise ExecutionError(f"sending failed: {self._problem}") from self._problem

    def end(self) -> None:
        self._waiting.put(None)
        self._arriving.put(None)
        for thread in self._threads:
            thread.join()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as problem:
            with self._done:
                self._problem = problem
                self._done.notify_all()

    def air(self) -> None:
        """Reserve the media for one message after the other, and wait until each has passed them."""
        until_s = 0.0
        while (message := self._waiting.get()) is not None:
            seconds, latency_s = self._hold(message)
            count = max(1, round(max(seconds.values(), default=0.0) / SLICE_S))
            per_slice = {name: each / count for name, each in seconds.items()}
            # What waited behind another message goes on where that one ended, not when this thread woke up.
            until_s = max(message.since_s, until_s)
            for _ in range(count):
                until_s = self._medium.reserve(until_s, per_slice)
                _sleep_until(until_s)
            self._arriving.put((until_s + latency_s, message))

    def arrive(self) -> None:
        """Hand every message over when it is due."""
        while (due := self._arriving.get()) is not None:
            moment_s, message = due
            _sleep_until(moment_s)
            self._inner.send(message.tensor, message.peer, message.tag, message.channel)
            with self._done:
                self._under_way -= 1
                self._done.notify_all()

    def _hold(self, message: _Message) -> tuple[dict[str, float], float]:
        """How long a message holds what, and the latency at the end."""
        latency_s = self._network.route(self._device, message.peer).latency_s
        if message.channel == "turn":  # a word: too short to hold anything
            return {}, latency_s
        size = message.tensor.numel() * message.tensor.element_size()
        return dict(self._network.exchange([Flow(self._device, message.peer, size)]).seconds), latency_s


def _sleep_until(moment_s: float) -> None:
    left_s = moment_s - time.perf_counter()
    if left_s > 0:
        time.sleep(left_s)
