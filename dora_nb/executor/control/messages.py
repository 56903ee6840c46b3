"""What the coordinator and its workers say to each other: one JSON record per message of the control channel.

Messages are capped in length and checked against these records before anything is done with them. Tensors go as
safetensors files; nothing is pickled.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from dora_nb.domain.record import Record
from dora_nb.errors import ExecutionError, InputError
from dora_nb.executor.control.orders import Order
from dora_nb.executor.control.replies import Reply


class OrderLetter(Record):
    """An order and its number; 0 when it has no answer."""

    number: int
    order: Order


class ReplyLetter(Record):
    """A reply and the number of the order it answers, so that a late answer is not taken for another one."""

    number: int
    reply: Reply


ORDERS: TypeAdapter[OrderLetter] = TypeAdapter(OrderLetter)
REPLIES: TypeAdapter[ReplyLetter] = TypeAdapter(ReplyLetter)

_Message = TypeVar("_Message")


def encode(message: Record) -> bytes:
    """The record as one line of JSON."""
    return message.model_dump_json().encode()


def decode(message: bytes, messages: TypeAdapter[_Message]) -> _Message:
    """The record that a message holds.

    Raises
    ------
    ExecutionError
        If it is none of the records expected.
    """
    try:
        return messages.validate_json(message)
    except (ValidationError, InputError) as error:
        raise ExecutionError(f"control channel: {message[:200]!r} is not an expected message: {error}") from error
