"""Worker processes on this machine: started, asked, watched, and always ended."""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import dora_nb
from dora_nb.errors import ExecutionError, MissingDependencyError
from dora_nb.executor.messages import REPLIES, Failed, Heartbeat, Order, Ready, Reply, Writer, read

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not marked as exported

#: Seconds for a worker to load torch, which all of them do at once.
START_S = 120.0

#: Seconds after a failure in which further news may name the worker that failed first.
GRACE_S = 1.0

#: Loopback only, one thread, and memory that is kept once it was used: handing it back and getting it anew for every
#: micro-batch would double the time of a forward pass.
WORKER_ENVIRONMENT = {
    "GLOO_SOCKET_IFNAME": "lo",
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
}

STDERR_LINES = 15

_Answer = TypeVar("_Answer")


def require_torch() -> None:
    """Refuse to go on without the packages that run a plan.

    Raises
    ------
    MissingDependencyError
        If torch or safetensors is not installed.
    """
    for package in ("torch", "safetensors"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingDependencyError(package, "Running a plan", "exec") from error


class _Process:
    """One worker process, its pipes and the threads that read them."""

    def __init__(self, index: int, news: queue.SimpleQueue[tuple[int, Reply | Exception | None]]) -> None:
        package_root = str(pathlib.Path(dora_nb.__file__).parents[1])
        path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dora_nb.executor.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **WORKER_ENVIRONMENT, "PYTHONPATH": path},
            start_new_session=True,  # an interrupt from the keyboard reaches only the coordinator, which ends them
        )
        pipes = (self.process.stdin, self.process.stdout, self.process.stderr)
        self._orders_in, self._replies_out, self._errors_out = (each for each in pipes if each is not None)
        self.orders = Writer(self._orders_in)
        self.last_lines: collections.deque[str] = collections.deque(maxlen=STDERR_LINES)
        self.heard_s = time.monotonic()
        self._index, self._news = index, news
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._read_replies, self._read_errors)]
        for thread in self._threads:
            thread.start()

    def _read_replies(self) -> None:
        try:
            while (reply := read(self._replies_out, REPLIES)) is not None:
                self._news.put((self._index, reply))
        except (ExecutionError, OSError, ValueError) as error:  # ValueError: the pipe was closed meanwhile
            self._news.put((self._index, error))
        self._news.put((self._index, None))

    def _read_errors(self) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in self._errors_out:
                self.last_lines.append(line.decode(errors="replace").rstrip()[:500])

    def end(self) -> None:
        """Kill it and give everything back."""
        self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join(timeout=5)
        for pipe in (self._orders_in, self._replies_out, self._errors_out):
            with contextlib.suppress(OSError):  # an order that never left
                pipe.close()


class WorkerPool:
    """Warm workers, usable for one plan after another.

    A context manager: leaving it ends every worker and removes the private directory, whatever happened.

    Parameters
    ----------
    count
        Processes to start: the devices of the largest plan to run.
    silence_s
        A worker that gives no sign of life for so long has failed.

    Raises
    ------
    MissingDependencyError
        If torch is not installed.
    ExecutionError
        If a worker does not start.
    """

    def __init__(self, count: int, *, silence_s: float = 30.0) -> None:
        require_torch()
        self._count, self._silence_s = count, silence_s
        self._news: queue.SimpleQueue[tuple[int, Reply | Exception | None]] = queue.SimpleQueue()
        self._processes: list[_Process] = []
        self._generation = 0
        self._store: TCPStore | None = None
        self._directory: pathlib.Path | None = None
        self.store_port = 0

    def __enter__(self) -> Self:
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
        return len(self._processes)

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers."""
        return tuple(each.process.pid for each in self._processes)

    @property
    def directory(self) -> pathlib.Path:
        """A directory that only this person can read, gone when the pool is closed."""
        assert self._directory is not None, "the pool is open"
        return self._directory

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

        Raises
        ------
        ExecutionError
            If a worker ends, fails, falls silent or takes too long; the pool is closed then.
        """
        for index, order in orders.items():
            self._processes[index].heard_s = time.monotonic()
            try:
                self._processes[index].orders.write(order)
            except OSError:
                self._give_up(index, None, doing)
        return self._answers(set(orders), answer, doing, timeout_s, on_other)

    def close(self) -> None:
        """End every worker and remove the directory; doing it twice is fine."""
        for process in self._processes:
            process.process.kill()  # all first, so that none has time to complain about another's end
        for process in self._processes:
            process.end()
        self._processes.clear()
        self._store = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def _start(self) -> None:
        from dora_nb.executor.store import host_store

        self._directory = pathlib.Path(tempfile.mkdtemp(prefix="dora-nb-"))  # mode 0700
        self._processes.extend(_Process(index, self._news) for index in range(self._count))
        self._store, self.store_port = host_store()
        self._answers(set(range(self._count)), Ready, "starting", START_S, None)

    def _answers(
        self,
        waiting: set[int],
        answer: type[_Answer],
        doing: str,
        timeout_s: float,
        on_other: Callable[[int, Reply], None] | None,
    ) -> dict[int, _Answer]:
        answers: dict[int, _Answer] = {}
        deadline_s = time.monotonic() + timeout_s
        while waiting:
            try:
                index, reply = self._news.get(timeout=0.2)
            except queue.Empty:
                self._check_silence(waiting, doing, deadline_s)
                continue
            self._processes[index].heard_s = time.monotonic()
            if reply is None or isinstance(reply, Failed | Exception):
                self._give_up(index, reply, doing)
            elif isinstance(reply, answer):
                answers[index] = reply
                waiting.discard(index)
            elif on_other is not None and not isinstance(reply, Heartbeat):
                on_other(index, reply)
            self._check_silence(waiting, doing, deadline_s)
        return answers

    def _check_silence(self, waiting: set[int], doing: str, deadline_s: float) -> None:
        now_s = time.monotonic()
        for index in waiting:
            if now_s - self._processes[index].heard_s > self._silence_s:
                self._give_up(index, ExecutionError(f"no sign of life for {self._silence_s:g} s"), doing)
        if waiting and now_s > deadline_s:
            self._give_up(min(waiting), ExecutionError("no answer in time"), doing)

    def _give_up(self, index: int, reply: Failed | Exception | None, doing: str) -> None:
        """End everything and say which worker failed and why.

        A worker that dies makes its peers fail too, so news is collected for a moment, and a dead worker counts as
        the cause before one that complains.
        """
        causes: dict[int, Failed | Exception | None] = {index: reply}
        until_s = time.monotonic() + GRACE_S
        while None not in causes.values() and (left_s := until_s - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                other, news = self._news.get(timeout=left_s)
                if news is None or isinstance(news, Failed | Exception):
                    causes.setdefault(other, news)
        guilty = next((each for each, cause in causes.items() if cause is None), index)
        cause = causes[guilty]
        process = self._processes[guilty]
        if cause is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.process.wait(timeout=GRACE_S)
            problem = f"its process ended with code {process.process.poll()}"
        else:
            problem = cause.problem if isinstance(cause, Failed) else str(cause)
        pid = process.process.pid
        self.close()
        lines = "\n".join(process.last_lines) or "(nothing)"
        raise ExecutionError(
            f"worker {guilty} (process {pid}) failed while {doing}: {problem}\nIts last lines:\n{lines}"
        )
