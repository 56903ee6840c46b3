"""A worker on another host: it calls the coordinator, proves that it knows the token, and serves."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import ssl
import sys
import threading
import time
from typing import NoReturn

from pydantic import ValidationError

from dora_nb.errors import ExecutionError, InputError
from dora_nb.executor.control.address import Address, interface_of, parse_address, resolve
from dora_nb.executor.control.coordinator import Coordinator
from dora_nb.executor.control.frames import SealedChannel, Wire
from dora_nb.executor.control.handshake import STRANGER_LIMIT, STRANGER_S, meet_coordinator
from dora_nb.executor.control.listener import Admission
from dora_nb.executor.control.paths import RemoteFiles
from dora_nb.executor.control.process import WORKER_ENVIRONMENT
from dora_nb.executor.control.scratch import Scratch
from dora_nb.executor.control.tls import Tls, check_tls
from dora_nb.executor.control.token import read_token
from dora_nb.executor.pool import require_torch
from dora_nb.executor.system import require_posix

#: Seconds between two calls while nobody answers, or the place is still taken.
AGAIN_S = 1.0


def join(
    coordinator: str,
    token_file: pathlib.Path,
    *,
    name: str | None = None,
    tls: Tls | None = None,
    wait_s: float = 60.0,
) -> NoReturn:
    """Serve a coordinator until it is gone, with which this process ends.

    Parameters
    ----------
    coordinator
        ``host:port``.
    token_file
        A copy of the file that the coordinator wrote.
    name
        Of the device this host plays; under ``torchrun``, the names of all its processes in order of rank, separated by
        commas. None: the name of the host, and under ``torchrun`` the rank.
    tls
        Certificates for mutual TLS; required unless the coordinator is on this host.
    wait_s
        How long to call again while nobody answers.

    Raises
    ------
    InputError
        If an argument cannot be used.
    DocumentError
        If a file cannot.
    MissingDependencyError
        If torch is not installed.
    ExecutionError
        If the coordinator cannot be reached, is another one, or does not want this worker.
    """
    require_posix()
    address = parse_address(coordinator)
    number = resolve("coordinator", address.host)
    check_tls("coordinator", number, tls)
    token, name = read_token(token_file), _own_name(name)
    context = None if tls is None else tls.context(server=False)
    _take_environment()
    require_torch()
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            connection = _connect(address, number, context)
            break
        except OSError as error:
            if time.monotonic() > deadline_s:
                raise ExecutionError(f"nobody answers at {address}: {error}") from None
            time.sleep(AGAIN_S)
    interface = interface_of(str(connection.getsockname()[0]))
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    channel, admission = _introduce(connection, token, name, address)
    print(f"worker {name}: connected to {address}", file=sys.stderr, flush=True)
    _serve(channel, admission)


def _own_name(name: str | None) -> str:
    rank = os.environ.get("RANK") if "TORCHELASTIC_RUN_ID" in os.environ else None
    if name is None:
        return socket.gethostname() + (f"-{rank}" if rank is not None else "")
    names = name.split(",")
    if rank is None:
        if len(names) > 1:
            raise InputError("name", name, "one name, or several under torchrun, one for each process")
        return name
    if not int(rank) < len(names):
        raise InputError("name", name, f"a name for each process of torchrun; this one has rank {rank}")
    return names[int(rank)]


def _take_environment() -> None:
    """Start anew where a setting is missing that only counts when a process starts."""
    missing = {key: value for key, value in WORKER_ENVIRONMENT.items() if key not in os.environ}
    if missing:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | missing)


def _connect(address: Address, number: str, context: ssl.SSLContext | None) -> socket.socket:
    connection = socket.create_connection((number, address.port), timeout=STRANGER_S)
    if context is None:
        return connection
    try:
        return context.wrap_socket(connection, server_hostname=address.host)
    except OSError as error:
        connection.close()
        raise ExecutionError(f"no mutual TLS with {address}: {error}") from None


def _introduce(connection: socket.socket, token: bytes, name: str, address: Address) -> tuple[SealedChannel, Admission]:
    wire = Wire(connection)
    try:
        channel = meet_coordinator(wire, token, name).channel
        message = channel.receive(STRANGER_LIMIT, time.monotonic() + STRANGER_S)
        admission = Admission.model_validate_json(message or b"")
    except (ExecutionError, OSError, ValidationError) as error:
        wire.close()
        # Who waits for TLS understands nothing of a plain beginning, and is silent.
        unlike = isinstance(error, OSError) and not isinstance(connection, ssl.SSLSocket)
        hint = "; where it has certificates, this worker needs its own as well" if unlike else ""
        raise ExecutionError(f"no agreement with {address}: {error}{hint}") from None
    if admission.problem is not None:
        wire.close()
        raise ExecutionError(f"{address} refused this worker: {admission.problem}")
    return channel, admission


def _serve(channel: SealedChannel, admission: Admission) -> NoReturn:
    from dora_nb.executor.worker import serve

    # Waited for in a thread: the main one may be waiting for a peer, where it hears no signal.
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    scratch = Scratch("dora-nb-worker-")

    def leave_on_signal() -> None:
        received = signal.sigwait(ends)
        scratch.close()
        os._exit(128 + received)

    threading.Thread(target=leave_on_signal, daemon=True).start()

    def leave() -> None:
        scratch.close()
        print("worker: the coordinator has ended, and so does this worker", file=sys.stderr, flush=True)

    coordinator = Coordinator(channel, on_end=leave)
    serve(coordinator, RemoteFiles(coordinator, pathlib.PurePath(admission.directory), scratch.directory))
