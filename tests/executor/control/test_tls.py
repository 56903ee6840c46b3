"""Off this host the control channel is mutual TLS, or nothing."""

from __future__ import annotations

import contextlib
import pathlib
import secrets
import shutil
import socket
import ssl
import subprocess
import threading

import pytest
from processes import until

from dora_nb.errors import DocumentError, ExecutionError, InputError
from dora_nb.executor.control.address import Address, is_loopback
from dora_nb.executor.control.frames import Wire
from dora_nb.executor.control.handshake import meet_coordinator
from dora_nb.executor.control.join import _connect, join
from dora_nb.executor.control.listener import Listener
from dora_nb.executor.control.tls import Tls
from dora_nb.executor.control.token import create_token


def own_address() -> str | None:
    """An address of this host that is not loopback; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.1", 9))
        except OSError:
            return None
        number = probe.getsockname()[0]
    return None if is_loopback(number) or number == "0.0.0.0" else number


OWN = own_address()
off_loopback = pytest.mark.skipif(OWN is None, reason="this host has no address but loopback")

NEW_KEY = [
    "openssl",
    "req",
    "-x509",
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:prime256v1",
    "-nodes",
    "-days",
    "2",
]


def make_authority(directory: pathlib.Path) -> pathlib.Path:
    directory.mkdir()
    files = ["-keyout", str(directory / "ca.key"), "-out", str(directory / "ca.crt")]
    subprocess.run([*NEW_KEY, "-subj", "/CN=mine", *files], check=True, capture_output=True)
    return directory


def certify(authority: pathlib.Path, name: str, *addresses: str) -> Tls:
    """A key and a certificate of the authority."""
    tls = Tls(cert=authority / f"{name}.crt", key=authority / f"{name}.key", ca=authority / "ca.crt")
    names = ",".join(f"IP:{each}" for each in addresses) or f"DNS:{name}"
    extensions = ["-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE"]
    signed = ["-CA", str(authority / "ca.crt"), "-CAkey", str(authority / "ca.key")]
    files = ["-keyout", str(tls.key), "-out", str(tls.cert)]
    subprocess.run([*NEW_KEY, "-subj", f"/CN={name}", *extensions, *signed, *files], check=True, capture_output=True)
    return tls


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    return make_authority(tmp_path_factory.mktemp("tls") / "mine")


@pytest.fixture(scope="module")
def ours(authority):
    return certify(authority, "coordinator", "127.0.0.1", *([OWN] if OWN else []))


@pytest.fixture(scope="module")
def theirs(authority):
    return certify(authority, "phone")


@pytest.fixture
def open_listener(private, ours):
    """Listens with TLS; gives the listener and who came in."""
    opened = []

    def start(host="127.0.0.1"):
        listener, guests = Listener(host, tls=ours), {}

        def admit(name, _, enter):
            guests[name] = enter(str(private))

        listener.open(private, admit)
        opened.append((listener, guests))
        return listener, guests

    yield start
    for listener, guests in opened:
        listener.close()
        for channel in guests.values():
            channel.close()


def call(listener, context, token=None):
    """What a worker gets that connects like this."""
    token = token or bytes.fromhex(listener.token_file.read_text())
    wire = Wire(_connect(listener.address, listener.address.host, context))
    try:
        return meet_coordinator(wire, token, "phone").channel
    except BaseException:
        wire.close()
        raise


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param(OWN, marks=off_loopback)])
def test_with_certificates_large_messages_pass_both_ways_at_once(open_listener, theirs, host):
    listener, guests = open_listener(host)
    worker = call(listener, theirs.context(server=False))
    until(lambda: "phone" in guests)
    assert worker.receive()  # the admission
    messages = [secrets.token_bytes(2_000_000), b"small"] * 3
    arrived = {}

    def receive(name, channel):
        arrived[name] = [channel.receive() for _ in messages]

    sides = {"worker": worker, "coordinator": guests["phone"]}
    threads = [threading.Thread(target=receive, args=each) for each in sides.items()]
    threads += [threading.Thread(target=lambda c=each: [c.send(m) for m in messages]) for each in sides.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert arrived == {"worker": messages, "coordinator": messages}
    assert isinstance(worker._wire._connection, ssl.SSLSocket)
    assert worker._wire._connection.version() == "TLSv1.3"
    worker.close()


def test_without_a_certificate_of_the_authority_nobody_gets_in(open_listener, tmp_path, authority):
    listener, guests = open_listener()
    other = make_authority(tmp_path / "other")
    stranger = certify(other, "phone")
    stranger = Tls(cert=stranger.cert, key=stranger.key, ca=authority / "ca.crt")  # trusts us, but we not them
    with pytest.raises((ExecutionError, OSError)):
        call(listener, stranger.context(server=False))
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(authority / "ca.crt")
    with pytest.raises((ExecutionError, OSError)):
        call(listener, bare)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(authority / "ca.crt")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ExecutionError, match="no mutual TLS"):
        call(listener, old)
    with socket.create_connection(("127.0.0.1", listener.address.port), timeout=20) as plain:
        plain.sendall(b"\0\0\0\x02{}" * 20)
        with contextlib.suppress(ConnectionResetError):
            assert b"nonce" not in plain.recv(4096)
    until(lambda: listener.refused == 4)
    assert guests == {}


def test_a_coordinator_with_the_wrong_name_is_not_trusted(private, authority, theirs):
    listener = Listener(tls=certify(authority, "elsewhere", "203.0.113.5"))
    listener.open(private, lambda *_: None)
    with pytest.raises(ExecutionError, match="no mutual TLS"):
        call(listener, theirs.context(server=False))
    listener.close()


def test_a_certificate_does_not_replace_the_token(open_listener, theirs):
    listener, guests = open_listener()
    with pytest.raises(ExecutionError, match="another one"):
        call(listener, theirs.context(server=False), b"t" * 32)
    assert guests == {}


@off_loopback
def test_off_loopback_nothing_goes_without_certificates(private):
    with pytest.raises(InputError, match="certificates for mutual TLS"):
        Listener(OWN)
    create_token(private / "token")
    with pytest.raises(InputError, match="certificates for mutual TLS"):
        join(f"{OWN}:4242", private / "token")


def test_files_that_will_not_do_are_named(tmp_path, authority, ours):
    with pytest.raises(DocumentError, match=r"missing.crt: there is no such file"):
        Tls(cert=tmp_path / "missing.crt", key=ours.key, ca=ours.ca).context(server=True)
    with pytest.raises(DocumentError, match="no PEM certificate of the key"):
        Tls(cert=ours.cert, key=authority / "ca.key", ca=ours.ca).context(server=True)
    with pytest.raises(DocumentError, match="is no PEM certificate"):
        Tls(cert=ours.cert, key=ours.key, ca=ours.key).context(server=True)
    loose = tmp_path / "loose.key"
    loose.write_bytes(ours.key.read_bytes())
    loose.chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        Tls(cert=ours.cert, key=loose, ca=ours.ca).context(server=True)


def test_the_command_to_enter_names_the_certificates(ours):
    assert "--tls-cert phone.crt --tls-key phone.key --tls-ca ca.crt" in Listener(tls=ours).command("phone")
    assert Address("127.0.0.1", 0) == Listener(tls=ours).address
