"""Processes in tests: started, looked at, waited for, ended."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def until(true: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Wait for something."""
    deadline_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline_s, "it never came true"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether there is such a process, and not only its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def python(code: str, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Some code in a process of its own, which is ended with the context."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def command(*arguments: str, **environment: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """The command line in a process of its own, which is ended with the context."""
    return python("from dora_nb.cli import main; main()", *arguments, **environment)
