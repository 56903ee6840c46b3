"""Addresses as people write them."""

from __future__ import annotations

import socket

import pytest

from dora_nb.errors import InputError
from dora_nb.executor.control.address import Address, interface_of, is_loopback, parse_address, resolve


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:4242", ("127.0.0.1", 4242)),
        ("my-laptop.local:1", ("my-laptop.local", 1)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_addresses_are_read_and_written_alike(text, address):
    assert parse_address(text) == Address(*address)
    assert str(parse_address(text)) == text


@pytest.mark.parametrize("text", ["", "host", ":1", "host:", "host:0", "host:65536", "host:x", "::1:4242", "host:-1"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(InputError, match="host:port"):
        parse_address(text)


def test_who_listens_may_take_any_port():
    assert parse_address("127.0.0.1:0", listens=True) == Address("127.0.0.1", 0)
    with pytest.raises(InputError, match="port 0 stands for one that is free"):
        parse_address("127.0.0.1", listens=True)


def test_a_host_that_does_not_exist_is_named():
    with pytest.raises(InputError, match=r"nowhere.invalid.*can be found"):
        resolve("coordinator", "nowhere.invalid")


def test_only_this_host_is_loopback():
    assert is_loopback("127.0.0.1")
    assert is_loopback("127.9.9.9")
    assert is_loopback("::1")
    assert not is_loopback("192.168.1.10")
    assert not is_loopback("fe80::1%eth0")


def test_the_interface_of_an_address_is_found():
    names = {name for _, name in socket.if_nameindex()}
    assert interface_of("127.0.0.1") in names
    assert interface_of("203.0.113.77") is None
