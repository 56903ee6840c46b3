"""Workers, on this machine or connected from others: started, asked, watched, and always ended."""

from __future__ import annotations

import importlib.util
import itertools
import pathlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

from dora_nb.errors import ExecutionError, InputError, MissingDependencyError, WorkerLostError
from dora_nb.executor.control.address import interface_of
from dora_nb.executor.control.channel import PipeChannel
from dora_nb.executor.control.files import FileDesk
from dora_nb.executor.control.frames import SealedChannel
from dora_nb.executor.control.handle import Handle
from dora_nb.executor.control.inbox import Inbox
from dora_nb.executor.control.listener import Listener
from dora_nb.executor.control.orders import Order
from dora_nb.executor.control.process import start_process
from dora_nb.executor.control.rendezvous import Rendezvous
from dora_nb.executor.control.replies import Ready, Reply
from dora_nb.executor.control.scratch import Scratch
from dora_nb.executor.control.services import FileDelivery, FileRequest, StoreRequest
from dora_nb.executor.system import require_posix
from dora_nb.units import counted

#: Seconds for a worker to load torch, which all may do at once; meanwhile it may be silent.
START_S = 120.0

#: Seconds for everyone to enter a command on other hosts.
JOIN_S = 600.0

#: Seconds of silence after which a worker has failed, and has when others could go on without it. A worker beats every
#: 0.2 s: four beats in a row are late on a loaded machine only if it is as good as gone, and with the time until the
#: next look it is noticed within a second.
SILENCE_S, TOLERANT_SILENCE_S = 30.0, 0.8

_Answer = TypeVar("_Answer")


def require_torch() -> None:
    """Refuse to go on without the packages that run a plan, which are not loaded yet.

    Raises
    ------
    MissingDependencyError
        If torch or safetensors is not installed.
    """
    for package in ("torch", "safetensors"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(package, "Running a plan", "exec")


class WorkerPool:
    """Warm workers, usable for one plan after another.

    A context manager: leaving it ends every worker and removes the private directory, whatever happened.

    Parameters
    ----------
    count
        Processes to start on this machine.
    silence_s
        A worker that gives no sign of life for so long has failed; None: 30 s, or 0.8 s where the caller of
        :meth:`ask` can go on without it.
    listener
        Where workers of other hosts connect. Without one nothing listens.
    remote
        Names of the workers that must connect before the pool is open, or how many; their numbers follow those of this
        machine's.
    join_s
        Longest wait for them.
    on_progress
        Called with a line of text while it opens; among others the commands to enter on other hosts.

    Raises
    ------
    MissingDependencyError
        If torch is not installed.
    InputError
        If workers are to connect and there is no listener.
    ExecutionError
        If a worker does not start or does not connect.
    """

    def __init__(
        self,
        count: int,
        *,
        silence_s: float | None = None,
        listener: Listener | None = None,
        remote: int | Sequence[str] = 0,
        join_s: float = JOIN_S,
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        require_torch()
        self._count, self._silence_s = count, silence_s
        self._listener, self._join_s, self._tell = listener, join_s, on_progress or (lambda _: None)
        wanted: list[str | None] = [None] * remote if isinstance(remote, int) else list(remote)
        if wanted and listener is None:
            raise InputError("listener", None, "a Listener: workers that connect need an address to connect to")
        self._wanted = dict(enumerate(wanted, start=count))
        self._handles: dict[int, Handle] = {}
        self._inbox = Inbox(self._handles)
        self._numbers = itertools.count(1)
        self._generation = 0
        self._rendezvous = Rendezvous()
        self._scratch: Scratch | None = None
        self._lock = threading.Lock()
        self._interface = interface_of("127.0.0.1") or "lo"

    def __enter__(self) -> Self:
        return self.open()

    def open(self) -> Self:
        """Start the workers; in a notebook, where a ``with`` block cannot span cells. :meth:`close` ends them."""
        require_posix()
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._handles)

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers of this machine, by number."""
        handles = sorted(self._handles.items())
        return tuple(each.process.pid for _, each in handles if each.process is not None)

    @property
    def connected(self) -> tuple[int, ...]:
        """Numbers of the workers that connected, from other hosts as a rule."""
        return tuple(index for index, each in sorted(self._handles.items()) if each.process is None)

    @property
    def alive(self) -> tuple[int, ...]:
        """Numbers of the workers that were neither removed nor seen to end."""
        return tuple(index for index, each in sorted(self._handles.items()) if not each.ended)

    @property
    def directory(self) -> pathlib.Path:
        """A directory that only this person can read, gone when the pool is closed."""
        self.check_open()
        assert self._scratch is not None, "the pool is open"
        return self._scratch.directory

    def check_open(self) -> None:
        """Refuse a pool that is closed, or was never opened.

        Raises
        ------
        InputError
            If it is.
        """
        if self._scratch is None:
            allowed = "an open one: open() starts its workers, and new ones behind a run that failed, which ends them"
            raise InputError("workers", "a pool that is not open", allowed)

    def seats(self, devices: Sequence[str]) -> dict[str, int]:
        """Which worker plays which device: the one that connected under its name, or else the next free one.

        Raises
        ------
        InputError
            If there are too few workers, or files cannot be named after a device.
        """
        for device in devices:  # ids come from a person's file, and must not lead out of the private directory
            if not device.isprintable() or set("/\\") & set(device):
                raise InputError("devices", device, "names without slashes and line breaks: files are named after them")
        names = {self._handles[index].name: index for index in self.alive}
        named = {device: names[device] for device in devices if device in names}
        free = [index for index in self.alive if index not in named.values()]
        if len(named) + len(free) < len(devices):
            raise InputError("workers", len(self.alive), f"at least {counted(len(devices), 'worker')}, one per device")
        return {device: named[device] if device in named else free.pop(0) for device in devices}

    def next_generation(self) -> int:
        """A number no group of these workers had before."""
        self._generation += 1
        return self._generation

    def ask(
        self,
        orders: Mapping[int, Order],
        answer: type[_Answer],
        *,
        doing: str,
        timeout_s: float,
        on_other: Callable[[int, Reply], None] | None = None,
        tolerant: bool = False,
        silence_s: float | None = None,
    ) -> dict[int, _Answer]:
        """Give orders and wait for the answer of each worker that got one.

        Parameters
        ----------
        orders
            By worker.
        answer
            What to wait for.
        doing
            What is going on, for messages.
        timeout_s
            Longest wait for all answers.
        on_other
            Called with replies that are not the answer.
        tolerant
            Leave the pool open when something goes wrong. Answers to the orders that come after that are dropped.
        silence_s
            Instead of the pool's, for work in which a worker may be too busy to beat, such as importing a library.

        Raises
        ------
        WorkerLostError
            If the caller is tolerant and a worker, asked or not, ends or falls silent.
        ExecutionError
            If a worker fails or takes too long, or one is lost and the caller is not tolerant; the pool is closed
            unless it is.
        """
        number = next(self._numbers)
        asked = {index: self._handle(index) for index in orders}
        for index, handle in asked.items():
            handle.expected = number
            handle.order(orders[index], number)
        silence_s = silence_s or self._silence_s or (TOLERANT_SILENCE_S if tolerant else SILENCE_S)
        try:
            return self._inbox.answers(
                asked, answer, doing=doing, timeout_s=timeout_s, silence_s=silence_s, on_other=on_other
            )
        except BaseException as error:
            if tolerant:
                raise
            self.close()
            if isinstance(error, WorkerLostError):
                raise ExecutionError(str(error)) from None
            raise
        finally:
            for handle in asked.values():
                handle.expected = None

    def abort(self, message: Order) -> None:
        """Give an order to every living worker and wait for nothing."""
        for index in self.alive:
            self._handles[index].order(message, 0)

    def remove(self, index: int) -> None:
        """End a worker, whatever state it is in; its number stays free until :meth:`respawn`."""
        handle = self._handles.pop(index, None)
        if handle is not None:
            handle.end()
            self._rendezvous.forget(handle)

    def respawn(self, index: int) -> None:
        """Put another worker in place of a removed one: a new process, or whoever connects under its name.

        Raises
        ------
        ExecutionError
            If it does not start, or nobody connects.
        """
        self.remove(index)
        if index in self._wanted:
            self._wait_for([index], START_S)
        else:
            self._handles[index] = self._spawn(index)
        self._until_ready([index])

    def close(self) -> None:
        """End every worker, stop listening and remove the directory; doing it twice is fine."""
        if self._listener is not None:
            self._listener.close()
        with self._lock:
            handles = list(self._handles.values())
            self._handles.clear()
        for handle in handles:
            handle.kill()  # all first, so that none has time to complain about another's end
        for handle in handles:
            handle.end()
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None

    def _start(self) -> None:
        self._scratch = Scratch("dora-nb-")
        self._desk = FileDesk(self.directory)
        if self._listener is not None:
            self._listener.open(self.directory, self._admit)
            self._scratch.also(self._listener.token_file)
            self._interface = self._listener.interface or self._interface
        for index in range(self._count):
            self._handles[index] = self._spawn(index)
        if self._wanted:
            self._wait_for(list(self._wanted), self._join_s)
        self._until_ready(list(self._handles))

    def _until_ready(self, indices: Sequence[int]) -> None:
        asked = {index: self._handle(index) for index in indices}
        self._inbox.answers(asked, Ready, doing="starting", timeout_s=START_S, silence_s=START_S)

    def _spawn(self, index: int) -> Handle:
        process = start_process(self.directory, self._interface)
        assert process.stdin is not None, "a pipe"
        assert process.stdout is not None, "a pipe"
        channel = PipeChannel(process.stdout, process.stdin)
        return Handle(index, channel, self._inbox.put, self._serve, process)

    def _admit(self, name: str, address: str, enter: Callable[[str], SealedChannel]) -> None:
        """Give a worker that connected the place that waits for it.

        Raises
        ------
        InputError
            If no place does.
        """
        with self._lock:
            free = {index: wanted for index, wanted in self._wanted.items() if index not in self._handles}
            index = next((index for index, wanted in free.items() if wanted in (name, None)), None)
            if index is None or name in [each.name for each in self._handles.values()]:
                wanted = ", ".join(each or "any other name" for each in free.values()) or "no more workers"
                raise InputError("name", name, f"what the coordinator waits for: {wanted}")
            channel = enter(str(self.directory))
            self._handles[index] = Handle(index, channel, self._inbox.put, self._serve, name=name, address=address)
        self._tell(f"worker {name} connected from {address}")

    def _wait_for(self, indices: Sequence[int], join_s: float) -> None:
        """Wait until workers have connected.

        Raises
        ------
        ExecutionError
            If they have not after so many seconds.
        """
        assert self._listener is not None, "where they connect"
        commands = [f"  {self._listener.command(self._wanted[index] or f'worker{index}')}" for index in indices]
        self._tell("\n".join(["waiting for workers; copy the token file to each host and enter there:", *commands]))
        deadline_s = time.monotonic() + join_s
        while missing := [index for index in indices if index not in self._handles]:
            if time.monotonic() > deadline_s:
                names = ", ".join(self._wanted[index] or f"any (number {index})" for index in missing)
                how = "\n".join(command for index, command in zip(indices, commands, strict=True) if index in missing)
                raise ExecutionError(
                    f"no worker connected within {join_s:g} s as: {names}\nCopy {self._listener.token_file} to its "
                    f"host (readable by you alone) and enter there:\n{how}"
                )
            time.sleep(0.02)

    def _serve(self, handle: Handle, reply: Reply) -> bool:
        """Answer a worker's request, if it is one; called in a thread of its handle."""
        match reply:
            case StoreRequest():
                self._rendezvous.serve(handle, reply, lambda answer: handle.order(answer, 0))
            case FileRequest() | FileDelivery():
                handle.order(self._desk.serve(reply), 0)
            case _:
                return False
        return True

    def _handle(self, index: int) -> Handle:
        if index not in self._handles:
            raise InputError("worker", index, f"one of {', '.join(map(str, sorted(self._handles))) or 'none'}")
        return self._handles[index]
