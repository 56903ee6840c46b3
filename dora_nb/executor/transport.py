"""How tensors pass between devices: a small contract, and gloo behind it."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # public, but not marked as exported

#: Classes of traffic. gloo delivers what two ranks of a group exchange in one queue, so each class has a group.
Channel = Literal["hand-over", "sum"]

#: Seconds in which all devices learn when to start.
HEAD_START_S = 0.005


class Pending(Protocol):
    """A receive under way."""

    def wait(self) -> object:
        """Return when the tensor is filled."""


class Transport(Protocol):
    """Point-to-point messages between the devices of a plan."""

    def send(self, tensor: Tensor, peer: str, tag: int, channel: Channel) -> None:
        """Hand a tensor over; returns at once. The tensor must not change until :meth:`flush` returned."""

    def receive(self, into: Tensor, peer: str, tag: int, channel: Channel) -> Pending:
        """Begin to fill a contiguous tensor with what a peer sends under a tag."""

    def flush(self) -> None:
        """Wait until everything sent has left."""

    def barrier(self) -> None:
        """Wait until every device has come here."""

    def common_start(self) -> float:
        """Wait for every device; return at, or a little behind, a moment that is the same for all.

        Returns
        -------
        that moment, of ``time.perf_counter``, which all processes of one host share
        """


class GlooTransport:
    """Transport over torch.distributed's gloo back end.

    A gloo send moves only once its receive is posted and waits for nothing else, so sends are started at once and
    kept until :meth:`flush`: no device ever waits for a peer to take something, and the order of receives alone
    decides what moves.

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

    def __init__(self, devices: Sequence[str], rank: int, store: PrefixStore, timeout_s: float) -> None:
        timeout = datetime.timedelta(seconds=timeout_s)
        self._rank_of = {device: index for index, device in enumerate(devices)}
        self._kept: list[tuple[dist.Work, Tensor]] = []
        dist.init_process_group("gloo", rank=rank, world_size=len(devices), store=store, timeout=timeout)
        self._groups: dict[Channel, dist.ProcessGroup] = {
            "hand-over": dist.new_group(timeout=timeout),
            "sum": dist.new_group(timeout=timeout),
        }

    def send(self, tensor: Tensor, peer: str, tag: int, channel: Channel) -> None:
        """See :class:`Transport`."""
        tensor = tensor.detach().contiguous()
        work = dist.isend(tensor, dst=self._rank_of[peer], group=self._groups[channel], tag=tag)
        assert work is not None, "this rank belongs to the group"
        self._kept.append((work, tensor))

    def receive(self, into: Tensor, peer: str, tag: int, channel: Channel) -> Pending:
        """See :class:`Transport`."""
        work = dist.irecv(into, src=self._rank_of[peer], group=self._groups[channel], tag=tag)
        assert work is not None, "this rank belongs to the group"
        return work

    def flush(self) -> None:
        """See :class:`Transport`."""
        for work, _ in self._kept:
            work.wait()
        self._kept.clear()

    def barrier(self) -> None:
        """See :class:`Transport`."""
        dist.barrier()

    def common_start(self) -> float:
        """See :class:`Transport`; the first rank names the moment."""
        self.barrier()
        moment = torch.tensor([time.perf_counter() + HEAD_START_S], dtype=torch.float64)
        dist.broadcast(moment, src=0)
        start_s = float(moment.item())
        time.sleep(max(0.0, start_s - time.perf_counter()))
        return start_s

    def close(self) -> None:
        """Leave the group, so that this process can join another one."""
        self._groups.clear()
        dist.destroy_process_group()
