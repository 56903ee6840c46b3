"""Addresses: how they are written, which of them stay on this host, and the network interface behind one."""

from __future__ import annotations

import ipaddress
import pathlib
import socket
import struct
from typing import NamedTuple

from dora_nb.errors import InputError

#: ``SIOCGIFADDR`` of Linux: the IPv4 address of an interface.
_GET_ADDRESS = 0x8915


class Address(NamedTuple):
    """A host, by name or number, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, *, listens: bool = False) -> Address:
    """``host:port``, or ``[host]:port`` for a host with colons.

    Parameters
    ----------
    text
        As a person writes it.
    listens
        Whether it is of who listens, where port 0 stands for any that is free.

    Raises
    ------
    InputError
        If it is neither.
    """
    host, _, port = text.rpartition(":")
    plain = host.removeprefix("[").removesuffix("]")
    ports = range(0 if listens else 1, 65536)
    if not plain or not port.isdecimal() or int(port) not in ports or (":" in plain and plain == host):
        allowed = "host:port, such as 192.168.1.10:4242 or [fd00::1]:4242"
        if listens:
            raise InputError("listen", text, f"{allowed}; port 0 stands for one that is free")
        raise InputError("coordinator", text, allowed)
    return Address(plain, int(port))


def resolve(field: str, host: str) -> str:
    """The number of a host, as the operating system finds it.

    Raises
    ------
    InputError
        If there is no such host, or it stands for every interface at once.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InputError(field, host, f"a host that can be found ({error.strerror or error})") from None
    number = str(found[0][4][0])
    if ipaddress.ip_address(number.partition("%")[0]).is_unspecified:
        raise InputError(field, host, "one address of this host, such as the one it has in the VPN: not all of them")
    return number


def is_loopback(number: str) -> bool:
    """Whether what is sent to an address stays on this host."""
    return ipaddress.ip_address(number.partition("%")[0]).is_loopback


def interface_of(number: str) -> str | None:
    """The network interface that has an address; None where the system does not tell."""
    wanted = ipaddress.ip_address(number.partition("%")[0])
    if wanted.version == 6:
        table = pathlib.Path("/proc/net/if_inet6")
        lines = table.read_text(encoding="ascii").splitlines() if table.exists() else []
        return next((line.split()[5] for line in lines if int(line.split()[0], 16) == int(wanted)), None)
    try:
        import fcntl
    except ImportError:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, _GET_ADDRESS, struct.pack("256s", name.encode()[:15]))
            except OSError:  # an interface without an address
                continue
            if (wanted.is_loopback and name.startswith("lo")) or answer[20:24] == wanted.packed:
                return name
    return None
