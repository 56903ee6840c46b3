"""Coordinator and worker prove to each other that they know the token, and agree on keys for their connection.

::

    coordinator -> worker   Challenge(protocol, nonce of the coordinator)
    worker -> coordinator   Proof(protocol, name, nonce of the worker, HMAC of the transcript as "worker")
    coordinator -> worker   Welcome(HMAC of the transcript as "coordinator")

The transcript is protocol, both nonces and name; it never repeats, so neither does a proof, and a proof of one role is
none of the other. Who calls proves first: a stranger learns nothing from calling. The keys of the connection come from
the token and the transcript too, so who only passes messages on between the two has none.
"""

from __future__ import annotations

import hmac
import secrets
import time
from typing import Annotated, Literal, NamedTuple, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from dora_nb.domain.record import Record
from dora_nb.errors import ExecutionError, InputError
from dora_nb.executor.control.frames import SealedChannel, Wire, read_frame, write_frame

PROTOCOL: Literal["dora-nb control 1"] = "dora-nb control 1"

#: Longest message of someone who has not proved anything yet, in bytes, and the seconds they have in all.
STRANGER_LIMIT = 4096
STRANGER_S = 5.0

NONCE_BYTES = 32

_Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Kind = TypeVar("_Kind", bound=Record)


class Challenge(Record):
    """The coordinator's opening."""

    protocol: Literal["dora-nb control 1"]
    nonce: _Hex


class Proof(Record):
    """Who calls, and that they know the token."""

    protocol: Literal["dora-nb control 1"]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    nonce: _Hex
    proof: _Hex


class Welcome(Record):
    """That the coordinator knows the token."""

    proof: _Hex


class Met(NamedTuple):
    """Who is at the other end, and the channel to them."""

    name: str
    channel: SealedChannel


def meet_worker(wire: Wire, token: bytes) -> Met:
    """The coordinator's part.

    Raises
    ------
    ExecutionError
        If the caller says anything unexpected or does not know the token.
    OSError
        If the caller is too slow or gone.
    """
    deadline_s = time.monotonic() + STRANGER_S
    nonce = secrets.token_hex(NONCE_BYTES)
    _say(wire, Challenge(protocol=PROTOCOL, nonce=nonce), deadline_s)
    claim = _hear(wire, Proof, deadline_s)
    transcript = _transcript(nonce, claim.nonce, claim.name)
    if not hmac.compare_digest(claim.proof, _digest(token, "worker", transcript).hex()):
        raise ExecutionError("the caller does not know the token")
    _say(wire, Welcome(proof=_digest(token, "coordinator", transcript).hex()), deadline_s)
    return Met(claim.name, _channel(wire, token, transcript, coordinator=True))


def meet_coordinator(wire: Wire, token: bytes, name: str) -> Met:
    """The worker's part.

    Raises
    ------
    ExecutionError
        If who answers says anything unexpected or does not know the token.
    OSError
        If they are too slow or gone.
    """
    deadline_s = time.monotonic() + STRANGER_S
    challenge = _hear(wire, Challenge, deadline_s)
    nonce = secrets.token_hex(NONCE_BYTES)
    transcript = _transcript(challenge.nonce, nonce, name)
    proof = _digest(token, "worker", transcript).hex()
    _say(wire, Proof(protocol=PROTOCOL, name=name, nonce=nonce, proof=proof), deadline_s)
    welcome = _hear(wire, Welcome, deadline_s)
    if not hmac.compare_digest(welcome.proof, _digest(token, "coordinator", transcript).hex()):
        raise ExecutionError("who answers does not know the token")
    return Met("coordinator", _channel(wire, token, transcript, coordinator=False))


def _say(wire: Wire, message: Record, deadline_s: float) -> None:
    write_frame(wire, message.model_dump_json().encode(), deadline_s)


def _hear(wire: Wire, kind: type[_Kind], deadline_s: float) -> _Kind:
    frame = read_frame(wire, STRANGER_LIMIT, deadline_s)
    if frame is None:
        raise ExecutionError("the connection was closed during the handshake, as it is when the token is another one")
    try:
        return TypeAdapter(kind).validate_json(frame)
    except (ValidationError, InputError):
        raise ExecutionError(f"{frame[:80]!r} is not the {kind.__name__.lower()} of {PROTOCOL!r}") from None


def _transcript(coordinator_nonce: str, worker_nonce: str, name: str) -> bytes:
    """Everything both sides said; each part with its length, so that no two transcripts read alike."""
    parts = [PROTOCOL.encode(), bytes.fromhex(coordinator_nonce), bytes.fromhex(worker_nonce), name.encode()]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _digest(token: bytes, purpose: str, transcript: bytes) -> bytes:
    return hmac.digest(token, purpose.encode() + b"\0" + transcript, "sha256")


def _channel(wire: Wire, token: bytes, transcript: bytes, *, coordinator: bool) -> SealedChannel:
    to_worker, to_coordinator = (_digest(token, f"key to {side}", transcript) for side in ("worker", "coordinator"))
    return SealedChannel(
        wire,
        send_key=to_worker if coordinator else to_coordinator,
        receive_key=to_coordinator if coordinator else to_worker,
    )
