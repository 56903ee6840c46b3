"""Forks workers from a process that has loaded torch: ``python -m dora_nb.executor.fork_server``, started on Linux.

Loading torch takes a worker seconds of a core and 200 MB; forked ones take milliseconds and share what was loaded. This
process does nothing but that, so it has a single thread when it forks. It takes requests on the socket that is its
standard input, ends when the other end of it is closed, and after a while without a worker.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from dora_nb.executor import worker

#: What workers load before their first steps.
PRELOADED = ("numpy", "torch", "dora_nb.executor.device.membership", "dora_nb.executor.faults.moves")

#: Seconds without a worker after which this process ends.
IDLE_S = 60.0

#: Longest request, in bytes.
REQUEST_LIMIT = 1 << 18


def main() -> None:
    """Fork a worker for every request, and tell how each ended."""
    with socket.socket(fileno=os.dup(0)) as line:
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        _load()
        _serve(line)


def _load() -> None:
    for name in PRELOADED:
        with contextlib.suppress(Exception):  # a worker fails in the same way, and can say so
            import_module(name)
    gc.freeze()  # pages that are never looked at again stay shared


def _serve(line: socket.socket) -> None:
    woken, wake = socket.socketpair()
    for end in (woken, wake):
        end.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler of its own it wakes nobody
    children: set[int] = set()
    heard, retires = [woken, line], False
    while children or not retires:
        ready, _, _ = select.select(heard, [], [], None if children else IDLE_S)
        if not ready:
            return
        if woken in ready:
            woken.recv(1024)
            for pid, code in _ended(children):
                _tell(line, {"pid": pid, "code": code})
        if line not in ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(line, REQUEST_LIMIT, 3)
        match json.loads(message) if message else None:
            case None:  # nobody is there any more
                heard, retires = [woken], True
            case {"retire": _}:
                retires = True
            case {"kill": pid}:
                if pid in children:  # else it has ended, and its number may be another process's
                    os.kill(pid, signal.SIGKILL)
            case order:
                pid = os.fork()
                if not pid:
                    for end in (line, woken, wake):
                        end.close()
                    _become_worker(order, descriptors)
                children.add(pid)
                for descriptor in descriptors:
                    os.close(descriptor)
                _tell(line, {"pid": pid})


def _ended(children: set[int]) -> list[tuple[int, int]]:
    """Numbers and exit codes of the children that have ended, which are forgotten."""
    ended = []
    for pid in list(children):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            children.remove(pid)
            ended.append((pid, os.waitstatus_to_exitcode(status)))
    return ended


def _tell(line: socket.socket, news: dict[str, int]) -> None:
    with contextlib.suppress(BrokenPipeError):  # seen as the end of the input as well
        line.send(json.dumps(news).encode())


def _become_worker(order: dict[str, Any], descriptors: Sequence[int]) -> NoReturn:
    """Be what a process started for this one worker would be."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()  # an interrupt from the keyboard reaches only the coordinator, which ends its workers
        for standard, descriptor in enumerate(descriptors):
            os.dup2(descriptor, standard)
            os.close(descriptor)
        os.chdir(order["folder"])
        for name, value in order["environment"].items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        tempfile.tempdir = None  # asked again, of this environment
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed()
        sys.argv[1:] = [order["directory"]]
        worker.main()
        code = 0
    except BaseException:  # whatever it is, this must not go on as the process that forks
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
