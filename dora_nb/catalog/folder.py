"""The files of the catalogue, and others of the same form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

from dora_nb.errors import DocumentError, UnknownNameError

Kind = Literal["devices", "models", "deployments", "streams", "conditions", "dynamics"]


def data_dir() -> Path:
    """The folder of the catalogue: inside an installed package, beside it in a clone.

    Raises
    ------
    DocumentError
        If neither exists, as in a damaged installation.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "data", package.parent / "data"):
        if (folder / "devices").is_dir():
            return folder
    raise DocumentError(package / "data", "the catalogue is missing; install dora-nb again")


def names(kind: Kind) -> tuple[str, ...]:
    """Names in the catalogue, sorted.

    Parameters
    ----------
    kind
        ``devices``, ``models``, ``deployments``, ``streams``, ``conditions`` or ``dynamics``.

    Raises
    ------
    UnknownNameError
        If there is no such kind.
    """
    if kind not in get_args(Kind):
        raise UnknownNameError("kind", kind, get_args(Kind))
    return tuple(sorted(path.stem for path in (data_dir() / kind).glob("*.json")))


def load_document(kind: Kind, name_or_path: str | Path) -> dict[str, Any]:
    """The object in a catalogue file, or in a file the person points to."""
    known = names(kind)
    text = str(name_or_path)
    if isinstance(name_or_path, str) and text in known:
        path = data_dir() / kind / f"{text}.json"
    elif isinstance(name_or_path, Path) or text.endswith(".json") or "/" in text or "\\" in text:
        path = Path(name_or_path)
    else:
        raise UnknownNameError(
            kind if kind in ("conditions", "dynamics", "streams") else kind.removesuffix("s"), text, known
        )
    return _read(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_repeats)
    except OSError as error:
        raise DocumentError(path, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DocumentError(path, f"is not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise DocumentError(path, f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except _RepeatedKeyError as error:
        raise DocumentError(path, f"has the key {error.args[0]!r} twice in one object") from None
    if not isinstance(document, dict):
        raise DocumentError(path, f"holds a JSON {type(document).__name__}, not an object, at line 1, column 1")
    return document


class _RepeatedKeyError(Exception):
    """A key stands twice in one JSON object, where Python would silently keep the last."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise _RepeatedKeyError(key)
    return dict(pairs)
