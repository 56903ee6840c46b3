"""What workers ask of the store and the private directory of the coordinator, and its answers."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from dora_nb.domain.record import Record


class Bytes(Record):
    """A record with fields of bytes, which travel as base64."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


class StoreRequest(Bytes):
    """Use the key-value store in which the processes of a group find each other; it lives in the coordinator."""

    kind: Literal["store-request"] = "store-request"
    request: int
    do: Literal["set", "get", "check", "wait", "add", "append", "compare-set", "delete", "count"]
    keys: tuple[str, ...] = ()
    values: tuple[bytes, ...] = ()
    amount: int = 0


class StoreAnswer(Bytes):
    """What a :class:`StoreRequest` gave: the values of its keys, a counter, or a problem."""

    kind: Literal["store-answer"] = "store-answer"
    request: int
    values: tuple[bytes, ...] = ()
    count: int = 0
    problem: str | None = None


class FileRequest(Record):
    """Read a part of a file in the coordinator's private directory."""

    kind: Literal["file-request"] = "file-request"
    request: int
    path: str
    offset: int = Field(ge=0)


class FilePart(Bytes):
    """A part of a file that was asked for, or what is wrong with it.

    Attributes
    ----------
    content, size
        The part, and bytes of the whole file.
    version
        Another one once the file was written again.
    entries
        Names in it, if it is a directory.
    """

    kind: Literal["file-part"] = "file-part"
    request: int
    content: bytes = b""
    size: int = 0
    version: str = ""
    entries: tuple[str, ...] | None = None
    problem: str | None = None


class FileDelivery(Bytes):
    """Put a part of a file into the coordinator's private directory; the last part makes it appear there."""

    kind: Literal["file-delivery"] = "file-delivery"
    request: int
    path: str
    offset: int = Field(ge=0)
    content: bytes
    last: bool
