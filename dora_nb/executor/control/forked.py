"""Worker processes that are forked from one which has loaded torch; see :mod:`dora_nb.executor.fork_server`."""

from __future__ import annotations

import atexit
import collections
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import IO

from dora_nb.errors import ExecutionError

#: Beginnings of the names of variables that count when an interpreter, a library or torch is loaded, and not later.
READ_AT_START = ("PYTHON", "LD_", "MALLOC_", "OMP_", "MKL_", "KMP_", "GOMP_", "OPENBLAS_", "TORCH_")

#: Seconds to wait, when this process ends, for the end of the one that forks.
END_S = 1.0

#: The number of a process, and the code of its end.
_Begun = tuple[int, Future[int]]


class ForkedProcess:
    """A worker, to be used as a :class:`subprocess.Popen` is, of which it is not a child.

    Parameters
    ----------
    pid
        Its number.
    code
        Of its end, once that is known; negative: the signal that ended it.
    kill
        Ends it, without waiting.
    stdin, stdout, stderr
        The other ends of its pipes.
    """

    def __init__(
        self,
        pid: int,
        code: Future[int],
        kill: Callable[[int], None],
        stdin: IO[bytes],
        stdout: IO[bytes],
        stderr: IO[bytes],
    ) -> None:
        self.pid, self._code, self._kill = pid, code, kill
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr

    def poll(self) -> int | None:
        """The code of its end; None while it runs."""
        return self._code.result() if self._code.done() else None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises
        ------
        subprocess.TimeoutExpired
            If it still runs after so many seconds.
        """
        try:
            return self._code.result(timeout)
        except TimeoutError:
            raise subprocess.TimeoutExpired(f"worker {self.pid}", timeout or 0.0) from None

    def kill(self) -> None:
        """End it, whatever it does, without waiting."""
        if not self._code.done():
            self._kill(self.pid)


class ForkServer:
    """The process that forks workers, as the one that asks for them sees it.

    Parameters
    ----------
    environment
        Of that process.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        # Whether there is an accelerator is asked in a way that leaves forked processes free to use it.
        self.environment = {**environment, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
        self.owner, self.is_gone = os.getpid(), False
        self._lock = threading.Lock()
        self._asked: collections.deque[Future[_Begun | None]] = collections.deque()
        self._running: dict[int, Future[int]] = {}
        self._line, its_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its_end:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "dora_nb.executor.fork_server"],
                stdin=its_end.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # what is wrong, a worker says again
                env=self.environment,
                start_new_session=True,
            )
        threading.Thread(target=self._listen, daemon=True).start()

    def suits(self, environment: Mapping[str, str]) -> bool:
        """Whether it can still fork, and workers would be the same as if they were started in this environment."""
        return not self.is_gone and self.owner == os.getpid() and _at_start(environment) == _at_start(self.environment)

    def fork(self, directory: pathlib.Path, environment: Mapping[str, str]) -> ForkedProcess | None:
        """A worker of the coordinator with this private directory; None if there is no process any more that forks."""
        own, names = self.environment, self.environment.keys() | environment.keys()
        changed = {name: environment.get(name) for name in names if environment.get(name) != own.get(name)}
        order = {"directory": str(directory), "folder": os.getcwd(), "environment": changed}
        asked: Future[_Begun | None] = Future()
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as its:
            given, pipes = [], []
            for mode in ("wb", "rb", "rb"):
                reads, writes = os.pipe()
                kept, passed = (writes, reads) if mode == "wb" else (reads, writes)
                pipes.append(ours.enter_context(os.fdopen(kept, mode)))
                its.callback(os.close, passed)
                given.append(passed)
            with self._lock:
                if self.is_gone:
                    return None
                self._asked.append(asked)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its end is being heard of
                    socket.send_fds(self._line, [json.dumps(order).encode()], given)
            begun = asked.result()
            if begun is None:
                return None
            ours.pop_all()
            return ForkedProcess(*begun, self._kill, *pipes)

    def retire(self) -> None:
        """Ask it to end as soon as no worker is left that it has forked; only who started it may."""
        if self.owner == os.getpid():
            self._send({"retire": 0})

    def wait(self, timeout_s: float) -> None:
        """Wait for its end, but not for long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)

    def _kill(self, pid: int) -> None:
        self._send({"kill": pid})

    def _send(self, order: Mapping[str, int]) -> None:
        with contextlib.suppress(OSError):  # it has ended, and its workers with it
            self._line.send(json.dumps(order).encode())

    def _listen(self) -> None:
        """Hear of beginnings and ends, until there is nobody any more who tells of them."""
        with contextlib.suppress(OSError):
            while news := self._line.recv(4096):
                self._hear(**json.loads(news))
        with self._lock:
            self.is_gone = True
        for asked in self._asked:
            asked.set_result(None)
        for pid, code in self._running.items():  # it was killed, and cannot say how they end
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            code.set_result(-signal.SIGKILL)
        self._process.wait()
        self._line.close()

    def _hear(self, pid: int, code: int | None = None) -> None:
        if code is not None:
            self._running.pop(pid).set_result(code)
        else:
            self._running[pid] = Future()
            self._asked.popleft().set_result((pid, self._running[pid]))


_servers: list[ForkServer] = []
_lock = threading.Lock()


def fork_server(environment: Mapping[str, str]) -> ForkServer:
    """The process that forks workers for this one; the first time, and after a while without workers, it is started."""
    with _lock:
        if not _servers or not _servers[-1].suits(environment):
            for old in _servers:
                old.retire()
            _servers[:] = [ForkServer(environment)]
        return _servers[-1]


def forked_worker(directory: pathlib.Path, environment: Mapping[str, str]) -> ForkedProcess:
    """A worker of the coordinator with this private directory.

    Parameters
    ----------
    directory
        The worker removes it if the coordinator dies.
    environment
        All variables of the worker.

    Raises
    ------
    ExecutionError
        If the process that would fork it cannot be started.
    """
    for _ in range(2):  # it may be about to end, for want of workers, when it is asked
        if (forked := fork_server(environment).fork(directory, environment)) is not None:
            return forked
    raise ExecutionError("no worker can be started: python -m dora_nb.executor.fork_server ends at once; try it")


@atexit.register
def _end() -> None:
    for server in _servers:
        server.retire()
        server.wait(END_S)


def _at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(READ_AT_START)}
