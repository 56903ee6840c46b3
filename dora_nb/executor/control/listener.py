"""Where workers of other hosts call: everyone is heard briefly, and only who knows the token is let in."""

from __future__ import annotations

import collections
import contextlib
import itertools
import logging
import pathlib
import shlex
import socket
import threading
import time
from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from dora_nb.domain.record import Record
from dora_nb.errors import DoraError, InputError
from dora_nb.executor.control.address import Address, interface_of, resolve
from dora_nb.executor.control.frames import SealedChannel, Wire
from dora_nb.executor.control.handshake import STRANGER_S, meet_worker
from dora_nb.executor.control.tls import Tls, check_tls
from dora_nb.executor.control.token import create_token

#: Callers that may be in the handshake at the same time; one more, and the one who is longest at it has to go.
MOST_STRANGERS = 16

#: Seconds between two warnings about refused callers, however many there are.
WARNING_S = 1.0

#: Called with the name and the address of a worker that knows the token; calls its third argument, with the private
#: directory of the coordinator, for the channel, or raises a :class:`~dora_nb.errors.DoraError` to refuse the worker.
Admit = Callable[[str, str, Callable[[str], SealedChannel]], None]

_log = logging.getLogger(__name__)


class Admission(Record):
    """Whether a worker that knows the token may take part, and if not, why.

    Attributes
    ----------
    problem
        Why not; None: it may.
    directory
        The coordinator's private one: files in it are asked for over the channel.
    """

    problem: Annotated[str, Field(max_length=1000)] | None
    directory: str = ""


class Listener:
    """Accepts workers from other hosts, or from this one.

    Parameters
    ----------
    host
        Address of this host that they call: loopback, or any single one with ``tls``.
    port
        0: one that is free.
    token_file
        Where to write the run's token, a file that does not exist yet; None: in the private directory of the pool.
    tls
        Certificates for mutual TLS; required unless the address is loopback.

    Raises
    ------
    InputError
        If the address is not loopback and there are no certificates, or is none of this host.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        token_file: pathlib.Path | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._number = resolve("host", host)
        check_tls("host", self._number, tls)
        self._host, self._port, self._tls = host, port, tls
        self._context = None if tls is None else tls.context(server=True)
        self._given_file = token_file
        self._token = b""
        self._socket: socket.socket | None = None
        self._strangers: dict[int, socket.socket] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._warned_s = -WARNING_S
        self.token_file = pathlib.Path()
        self.refused = 0
        self.last_refusals: collections.deque[str] = collections.deque(maxlen=20)

    def open(self, directory: pathlib.Path, admit: Admit) -> None:
        """Begin to listen.

        Parameters
        ----------
        directory
            Private; for the token file unless another place was given.
        admit
            Called in a thread for each worker that calls.

        Raises
        ------
        InputError
            If the token file cannot be made, or the address is not this host's or taken.
        """
        path = self._given_file or directory / "token"
        family = socket.AF_INET6 if ":" in self._number else socket.AF_INET
        try:
            listening = socket.create_server((self._number, self._port), family=family, backlog=128)
        except OSError as error:
            address = str(Address(self._host, self._port))
            raise InputError("host", address, f"a free port of an address of this host ({error.strerror})") from None
        self._socket, self._port = listening, int(listening.getsockname()[1])
        self._token = create_token(path)
        self.token_file = path
        self._thread = threading.Thread(target=self._accept, args=(listening, admit), daemon=True)
        self._thread.start()

    @property
    def address(self) -> Address:
        """What workers call; the port is known once it is open."""
        return Address(self._host, self._port)

    @property
    def interface(self) -> str | None:
        """The network interface they reach; None where the system does not tell."""
        return interface_of(self._number)

    def command(self, name: str) -> str:
        """What to enter on another host, once the token file was copied there."""
        parts = ["dora-nb", "worker", "--coordinator", str(self.address), "--token-file", str(self.token_file)]
        parts += ["--name", name]
        if self._tls is not None:
            parts += ["--tls-cert", f"{name}.crt", "--tls-key", f"{name}.key", "--tls-ca", "ca.crt"]
        return shlex.join(parts)

    def close(self) -> None:
        """Stop listening, send everyone away who is not in yet, and remove the token file."""
        listening, self._socket = self._socket, None
        if listening is None:
            return
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        with self._lock:
            for stranger in self._strangers.values():
                _hang_up(stranger)
        if self._thread is not None:
            self._thread.join(timeout=5)
        listening.close()
        if self._token:  # else it was never written
            self.token_file.unlink(missing_ok=True)

    def _accept(self, listening: socket.socket, admit: Admit) -> None:
        for number in itertools.count():
            try:
                caller, address = listening.accept()
            except OSError:
                if self._socket is None:
                    return
                time.sleep(0.05)  # out of descriptors, for example: somebody will hang up
                continue
            with self._lock:
                if len(self._strangers) >= MOST_STRANGERS:
                    # An honest handshake takes a few round trips, so whoever is longest at it is the least likely one.
                    _hang_up(self._strangers.pop(min(self._strangers)))
                self._strangers[number] = caller
            where = str(Address(str(address[0]), int(address[1])))
            threading.Thread(target=self._meet, args=(number, caller, where, admit), daemon=True).start()

    def _meet(
        self,
        number: int,
        caller: socket.socket,
        where: str,
        admit: Admit,
    ) -> None:
        wire: Wire | None = None
        try:
            caller.settimeout(STRANGER_S)
            if self._context is not None:
                caller = self._context.wrap_socket(caller, server_side=True, do_handshake_on_connect=False)
                with self._lock:
                    self._strangers[number] = caller
                caller.do_handshake()
            wire = Wire(caller)
            met = meet_worker(wire, self._token)
            self._let_in(number, met.name, where, met.channel, admit)
        except (DoraError, OSError) as error:
            (wire or caller).close()
            self._refuse(where, error)
        finally:
            with self._lock:
                self._strangers.pop(number, None)

    def _let_in(
        self,
        number: int,
        name: str,
        where: str,
        channel: SealedChannel,
        admit: Admit,
    ) -> None:
        def enter(directory: str) -> SealedChannel:
            with self._lock:
                self._strangers.pop(number, None)
            channel.send(Admission(problem=None, directory=directory).model_dump_json().encode())
            return channel

        try:
            admit(name, where, enter)
        except DoraError as error:
            with contextlib.suppress(OSError):
                channel.send(Admission(problem=str(error)[:1000]).model_dump_json().encode())
            raise

    def _refuse(self, where: str, error: Exception) -> None:
        with self._lock:
            self.refused += 1
            self.last_refusals.append(f"{where}: {error}")
            now_s = time.monotonic()
            tells = now_s - self._warned_s >= WARNING_S
            if tells:
                self._warned_s = now_s
        if tells and self._socket is not None:
            _log.warning("refused a caller at %s (%d so far): %s", where, self.refused, error)


def _hang_up(stranger: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(stranger, socket.SHUT_RDWR)
