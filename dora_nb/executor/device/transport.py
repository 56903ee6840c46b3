"""How tensors pass between devices: a small contract, and gloo behind it."""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import os
import pathlib
import platform
import socket
import time
import uuid
from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]  # public, but not marked as exported

#: Classes of traffic. gloo delivers what two ranks of a group exchange in one queue, so each class has a group:
#: activations and gradients, sums of gradients, turns on a medium, and state that moves to another device.
Channel = Literal["hand-over", "sum", "turn", "state"]

#: Seconds in which all devices learn when to start.
HEAD_START_S = 0.005


class Pending(Protocol):
    """A receive under way."""

    def wait(self) -> object:
        """Return when the tensor is filled."""


class Transport(Protocol):
    """Point-to-point messages between the devices of a plan. Several threads may use it, each on its own channels."""

    def send(self, tensor: Tensor, peer: str, tag: int, channel: Channel, *, in_turn: bool = False) -> None:
        """Hand a tensor over; returns at once. The tensor must not change until :meth:`flush` returned.

        ``in_turn``: it is this device's turn on the medium, which nobody else uses before the turn is passed on.
        """

    def receive(self, into: Tensor, peer: str, tag: int, channel: Channel) -> Pending:
        """Begin to fill a contiguous tensor with what a peer sends under a tag."""

    def flush(self, channel: Channel | None = None) -> None:
        """Wait until everything sent has left, on one channel or on all."""

    def barrier(self) -> None:
        """Wait until every device has come here."""

    def common_start(self) -> float:
        """Wait for every device; return at, or a little behind, a moment that is the same for all.

        Returns
        -------
        that moment, of ``time.perf_counter``, which all processes of one host share
        """

    def wake(self) -> None:
        """Make everything that waits for a peer fail, in whatever thread; the transport is of no use any more."""

    def close(self) -> None:
        """Give everything back."""


class GlooTransport:
    """Transport over gloo, the processor's back end of torch.distributed.

    A gloo send moves only once its receive is posted and waits for nothing else, so sends are started at once and
    kept until :meth:`flush`: no device ever waits for a peer to take something, and the order of receives alone
    decides what moves. The groups are this object's own: nothing global is set up, so one transport can be made while
    another one is in use.

    Parameters
    ----------
    devices
        Device ids in the order of ranks.
    rank
        This process's.
    store
        Where the ranks find each other; of this group of devices only.
    timeout_s
        Longest wait for a peer.
    """

    def __init__(self, devices: Sequence[str], rank: int, store: Store, timeout_s: float) -> None:
        timeout = datetime.timedelta(seconds=timeout_s)
        self._rank_of = {device: index for index, device in enumerate(devices)}
        self._kept: dict[Channel, list[tuple[dist.Work, Tensor]]] = {channel: [] for channel in get_args(Channel)}
        before = _open_sockets()
        self._groups: dict[Channel, Any] = {  # torch's own type hints miss all of its methods
            channel: dist.ProcessGroupGloo(PrefixStore(channel, store), rank, len(devices), timeout)
            for channel in get_args(Channel)
        }
        self.barrier()  # connections are made on first use: not while something is timed
        self._sockets = {number: ends for number, ends in _open_sockets().items() if before.get(number) != ends}

    def send(self, tensor: Tensor, peer: str, tag: int, channel: Channel, *, in_turn: bool = False) -> None:
        """See :class:`Transport`; a turn changes nothing."""
        del in_turn
        tensor = tensor.detach().cpu().contiguous()
        work = self._groups[channel].send([tensor], self._rank_of[peer], tag)
        self._kept[channel].append((work, tensor))

    def receive(self, into: Tensor, peer: str, tag: int, channel: Channel) -> Pending:
        """See :class:`Transport`."""
        pending: Pending = self._groups[channel].recv([into], self._rank_of[peer], tag)
        return pending

    def flush(self, channel: Channel | None = None) -> None:
        """See :class:`Transport`."""
        for each in self._kept if channel is None else (channel,):
            kept, self._kept[each] = self._kept[each], []
            for work, _ in kept:
                work.wait()

    def barrier(self) -> None:
        """See :class:`Transport`."""
        if len(self._rank_of) > 1:
            self._groups["turn"].barrier().wait()

    def common_start(self) -> float:
        """See :class:`Transport`; the first rank names the moment.

        On a host with another clock it is a little after the ranks have met, which they do within a message's latency.
        """
        self.barrier()
        moment_s = time.perf_counter() + HEAD_START_S
        named = torch.tensor([round(moment_s * 1e9), clock_id()])
        self._groups["turn"].broadcast(named, 0).wait()
        start_ns, clock = named.tolist()
        start_s = start_ns * 1e-9 if clock == clock_id() else moment_s
        time.sleep(max(0.0, start_s - time.perf_counter()))
        return start_s

    def wake(self) -> None:
        """See :class:`Transport`.

        gloo offers no way to stop waiting, but fails at once when its connections end. Those of this transport alone
        are ended: the ones that appeared when its groups were made.
        """
        for number, ends in self._sockets.items():
            with (
                contextlib.suppress(OSError),  # closed meanwhile, by gloo
                socket.fromfd(number, socket.AF_INET, socket.SOCK_STREAM) as duplicate,
            ):
                if ends == (duplicate.getsockname(), duplicate.getpeername()):  # else the number is another one's now
                    duplicate.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """See :class:`Transport`."""
        self._kept.clear()
        self._groups.clear()


@functools.cache
def clock_id() -> int:
    """A number that two processes share if ``time.perf_counter`` says the same in both: that of a running system."""
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id")
    name = boot.read_text() if boot.exists() else f"{platform.node()} {uuid.getnode()}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")


def _open_sockets() -> dict[int, tuple[object, object]]:
    """The two ends of this process's connected internet sockets, by number; none where the system lists no sockets."""
    listed = pathlib.Path("/proc/self/fd")
    found: dict[int, tuple[object, object]] = {}
    for entry in listed.iterdir() if listed.is_dir() else ():
        with contextlib.suppress(OSError):  # closed meanwhile, or listening
            if os.readlink(entry).startswith("socket:"):
                with socket.fromfd(int(entry.name), socket.AF_INET, socket.SOCK_STREAM) as duplicate:
                    ends = duplicate.getsockname(), duplicate.getpeername()
                if isinstance(ends[1], tuple):  # otherwise a socket of this machine alone
                    found[int(entry.name)] = ends
    return found
