"""Both sides prove that they know the token; nothing else gets anybody in."""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import threading

import pytest
from processes import until

from dora_nb.errors import DoraError, ExecutionError
from dora_nb.executor.control.frames import Wire, read_frame, write_frame
from dora_nb.executor.control.handshake import PROTOCOL, meet_coordinator, meet_worker

TOKEN = bytes(range(32))


def together(pair, coordinator, worker):
    """Run both sides; what each returned or raised."""
    outcome = {}

    def guarded(name, work):
        try:
            outcome[name] = work()
        except (DoraError, OSError) as error:
            outcome[name] = error
            {"coordinator": pair[0], "worker": pair[1]}[name].interrupt()

    threads = [
        threading.Thread(target=guarded, args=each) for each in (("coordinator", coordinator), ("worker", worker))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    return outcome["coordinator"], outcome["worker"]


def test_both_know_the_token_and_can_talk(pair):
    ours, theirs = together(
        pair, lambda: meet_worker(pair[0], TOKEN), lambda: meet_coordinator(pair[1], TOKEN, "phone")
    )
    assert ours.name == "phone"
    ours.channel.send(b"to the worker")
    theirs.channel.send(b"to the coordinator")
    assert theirs.channel.receive() == b"to the worker"
    assert ours.channel.receive() == b"to the coordinator"


def test_a_worker_with_another_token_is_refused(pair):
    ours, theirs = together(
        pair, lambda: meet_worker(pair[0], TOKEN), lambda: meet_coordinator(pair[1], b"x" * 32, "phone")
    )
    assert "does not know the token" in str(ours)
    assert "as it is when the token is another one" in str(theirs)


def test_a_coordinator_that_does_not_know_the_token_is_refused(pair):
    def pretend():
        write_frame(pair[0], json.dumps({"protocol": PROTOCOL, "nonce": "a" * 64}).encode())
        read_frame(pair[0], 4096)
        write_frame(pair[0], json.dumps({"proof": "b" * 64}).encode())

    _, theirs = together(pair, pretend, lambda: meet_coordinator(pair[1], TOKEN, "phone"))
    assert "who answers does not know the token" in str(theirs)


def test_a_proof_sent_back_proves_nothing(pair):
    def reflect():
        write_frame(pair[0], json.dumps({"protocol": PROTOCOL, "nonce": "a" * 64}).encode())
        claim = json.loads(read_frame(pair[0], 4096))
        write_frame(pair[0], json.dumps({"proof": claim["proof"]}).encode())

    _, theirs = together(pair, reflect, lambda: meet_coordinator(pair[1], TOKEN, "phone"))
    assert "who answers does not know the token" in str(theirs)


def claim_of(challenge, *, token=TOKEN, name="phone", said=None, protocol=PROTOCOL):
    """A worker's proof, written out by hand."""
    nonce = secrets.token_bytes(32)
    parts = [PROTOCOL.encode(), bytes.fromhex(challenge["nonce"]), nonce, name.encode()]
    transcript = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    proof = hmac.digest(token, b"worker\0" + transcript, "sha256").hex()
    return {"protocol": protocol, "name": said or name, "nonce": nonce.hex(), "proof": proof}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, None),
        ({"token": b"y" * 32}, "does not know the token"),
        ({"said": "laptop"}, "does not know the token"),
        ({"protocol": "dora-nb control 0"}, "is not the proof of"),
    ],
)
def test_the_proof_holds_for_one_name_and_one_protocol(pair, change, why):
    def call():
        write_frame(pair[1], json.dumps(claim_of(json.loads(read_frame(pair[1], 4096)), **change)).encode())

    ours, _ = together(pair, lambda: meet_worker(pair[0], TOKEN), call)
    if why is None:
        assert ours.name == "phone"
    else:
        assert isinstance(ours, ExecutionError)
        assert why in str(ours)


def test_a_whole_handshake_replayed_is_refused(door):
    """Everything an honest worker sent, sent again on another connection, gets nobody in."""
    honest = Wire(door.call())
    sent = []
    original = honest.write
    honest.write = lambda content, deadline_s=None: (sent.append(content), original(content, deadline_s))
    met = meet_coordinator(honest, door.token, "phone")
    met.channel.send(b"an answer")
    assert door.guest("phone").receive() == b"an answer"
    with door.call() as again:
        again.sendall(b"".join(sent))
        answer = b""
        with contextlib.suppress(ConnectionResetError):  # the door closed on what came behind the proof
            while part := again.recv(4096):
                answer += part
    assert answer.count(b"proof") == 0
    until(lambda: door.listener.refused == 1)
    assert list(door.guests) == ["phone"]
    assert "does not know the token" in door.listener.last_refusals[-1]
    honest.close()
