"""The base of every validated, frozen object of the domain."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from dora_nb.errors import InputError


def _path(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def input_error(error: ValidationError) -> InputError:
    """The first problem of a pydantic error as an :class:`~dora_nb.errors.InputError`."""
    problem = error.errors(include_url=False)[0]
    field = _path(problem["loc"])
    cause = problem.get("ctx", {}).get("error")
    value: object = problem["input"]
    allowed = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if isinstance(cause, InputError):  # raised while a nested record was built: its path continues ours
        field = f"{field}.{cause.field}" if field and cause.field else field or cause.field
        value, allowed = cause.value, cause.allowed
    elif problem["type"] == "missing":
        value, allowed = None, "this field is required"
    elif problem["type"] == "extra_forbidden":
        allowed = "no such field"
    elif problem["type"] == "too_short":
        least = problem["ctx"]["min_length"]
        allowed = f"at least {least} {'item' if least == 1 else 'items'}"
    return InputError(field or "value", value, allowed)


def is_one(number: int) -> bool:
    """Whether a count is what it is unless somebody says otherwise: such a field is left out of files."""
    return number == 1


class Record(BaseModel):
    """A frozen record: checked when it is built, unknown fields refused, hashable by content."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise input_error(error) from None

    def replace(self, **changes: Any) -> Self:
        """A checked copy with some fields changed."""
        return type(self)(**({name: getattr(self, name) for name in type(self).model_fields} | changes))

    def digest(self) -> str:
        """SHA-256 of the record's canonical JSON, so that two equal records have one digest."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
