from __future__ import annotations

import contextlib
import pathlib
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from processes import command, until

from dora_nb.errors import InputError
from dora_nb.executor import WorkerPool
from dora_nb.executor.control.frames import SealedChannel, Wire
from dora_nb.executor.control.listener import Listener


class Door:
    """A listener that lets in whoever knows the token, and remembers them."""

    def __init__(self, listener: Listener, directory: pathlib.Path) -> None:
        self.listener, self.directory = listener, directory
        self.guests: dict[str, SealedChannel] = {}
        self.problem: InputError | None = None

    def admit(self, name: str, address: str, enter: Callable[[str], SealedChannel]) -> None:
        if self.problem is not None:
            raise self.problem
        self.guests[name] = enter(str(self.directory))

    def guest(self, name: str) -> SealedChannel:
        until(lambda: name in self.guests)
        return self.guests[name]

    def call(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.listener.address.port), timeout=10)

    @property
    def token(self) -> bytes:
        return bytes.fromhex(self.listener.token_file.read_text().strip())


class Mixed(NamedTuple):
    """A pool with worker 0 on this machine, and worker 1, which plays ``d1``, connected."""

    pool: WorkerPool
    listener: Listener
    process: subprocess.Popen[str]


@pytest.fixture(scope="session")
def mixed() -> Iterator[Mixed]:
    listener = Listener()
    with contextlib.ExitStack() as stack:
        processes = []

        def connect(line: str) -> None:
            if "waiting for workers" in line:
                arguments = line.split("dora-nb ")[1].split()
                processes.append(stack.enter_context(command(*arguments)))

        with WorkerPool(1, listener=listener, remote=["d1"], on_progress=connect) as pool:
            yield Mixed(pool, listener, processes[0])
        assert processes[0].wait(timeout=20) == 0


@pytest.fixture
def private(tmp_path: pathlib.Path) -> pathlib.Path:
    """A directory that only we can enter."""
    directory = tmp_path / "private"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def door(private: pathlib.Path) -> Iterator[Door]:
    listener = Listener()
    opened = Door(listener, private)
    listener.open(private, opened.admit)
    yield opened
    listener.close()
    for channel in opened.guests.values():
        channel.close()


@pytest.fixture
def pair() -> Iterator[tuple[Wire, Wire]]:
    """Both ends of a connection over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        one = socket.create_connection(listening.getsockname())
        other, _ = listening.accept()
    wires = Wire(one), Wire(other)
    yield wires
    for wire in wires:
        wire.close()
