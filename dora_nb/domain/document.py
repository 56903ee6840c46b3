"""Files of this package: written whole or not at all, and read with messages that say what is wrong with them."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from dora_nb.domain.record import Record
from dora_nb.errors import DocumentError, InputError, MissingDependencyError, shortened

_Made = TypeVar("_Made")

#: Files above this size are refused before they are read.
LARGEST_BYTES = 64 * 2**20

#: How the names of YAML files end.
YAML = (".yaml", ".yml")

# YAML 1.1, as PyYAML reads it, has no number without a dot and a signed exponent: 1e9 would be text.
_POWER_OF_TEN = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")


def release() -> str:
    """Name and version of this package, as a file records it."""
    try:
        return f"dora-nb {metadata.version('dora-nb')}"
    except metadata.PackageNotFoundError:  # run from a folder without being installed
        return "dora-nb, version unknown"


def write_whole(path: str | Path, content: str | bytes) -> Path:
    """Write a file as a whole or not at all.

    Parameters
    ----------
    path
        Where to; an existing file is replaced once the new one is complete.
    content
        Bytes, or text, which is written as UTF-8.

    Raises
    ------
    DocumentError
        If it cannot be written; nothing is left behind and an existing file is as it was.
    """
    path = Path(path)
    draft = path.parent / f".dora-nb-{secrets.token_hex(6)}.tmp"
    try:
        try:
            with draft.open("xb") as file:
                file.write(content.encode("utf-8") if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except BaseException:  # an interrupt must not leave the draft either
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DocumentError(path, f"cannot be written: {error.strerror or error}") from None
    return path


def read_document(path: str | Path, what: str) -> dict[str, Any]:
    """The JSON object in a file.

    Parameters
    ----------
    path
        Where it is.
    what
        What it should be, e.g. ``plan``.

    Raises
    ------
    DocumentError
        If there is none.
    """
    path = Path(path)
    try:
        text = read_text(path, what)
        document = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise DocumentError(path, f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise DocumentError(path, f"is not a {what} of dora_nb: its JSON is nested too deeply") from None
    except ValueError as error:
        raise DocumentError(path, f"is not JSON that a {what} file may hold: {error}") from None
    if not isinstance(document, dict):
        raise DocumentError(path, f"is not a {what} of dora_nb: it holds JSON, but not an object in braces")
    return document


def read_fields(path: str | Path, what: str) -> dict[str, Any]:
    """The fields by name in a JSON file, or in a YAML one (``.yaml``, ``.yml``).

    Parameters
    ----------
    path
        Where it is.
    what
        What it should be, e.g. ``problem``.

    Raises
    ------
    DocumentError
        If there are none.
    MissingDependencyError
        For YAML without the package pyyaml.
    """
    path = Path(path)
    if path.suffix.lower() not in YAML:
        return read_document(path, what)
    try:
        import yaml  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise MissingDependencyError("pyyaml", f"a YAML {what} file", "yaml") from None

    class Loader(yaml.SafeLoader):  # type: ignore[misc, unused-ignore]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            _without_repeats([(key.value, None) for key, _ in node.value if isinstance(key.value, str)])
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _POWER_OF_TEN, list("-+.0123456789"))
    try:
        document = yaml.load(read_text(path, what), Loader)  # a safe loader: plain values alone
    except yaml.YAMLError as error:
        raise DocumentError(path, f"is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise DocumentError(path, f"is not a {what} of dora_nb: its YAML is nested too deeply") from None
    except ValueError as error:
        raise DocumentError(path, f"is not YAML that a {what} file may hold: {error}") from None
    if not isinstance(document, dict):
        raise DocumentError(path, f"is not a {what} of dora_nb: it holds {type(document).__name__}, not fields by name")
    return document


def check_format(path: str | Path, document: dict[str, Any], what: str, version: int) -> None:
    """Check what a document says it is, and of which version.

    Parameters
    ----------
    path
        Where it was.
    document
        As :func:`read_document` gave it.
    what
        What it should be, e.g. ``plan``, whose field ``format`` says ``dora-nb/plan``.
    version
        What its field ``version`` says then: what this release writes and reads.

    Raises
    ------
    DocumentError
        If it says something else, or nothing.
    """
    name = format_name(what)
    if document.get("format") != name:
        given = (
            f"its field 'format' is {shortened(document.get('format'))}"
            if "format" in document
            else "no field 'format'"
        )
        raise DocumentError(path, f"is not a {what} of dora_nb ({given}; a {what} file says {name!r})")
    said = document.get("version")
    if type(said) is not int or said != version:
        newer = type(said) is int and said > version
        raise DocumentError(
            path,
            f"is a {what} file of version {shortened(said)}; this release ({release()}) reads version {version}"
            + (". Upgrade with: pip install --upgrade dora-nb" if newer else ""),
        )


def from_fields(path: str | Path, make: Callable[..., _Made], fields: dict[str, Any]) -> _Made:
    """What the fields of a document make.

    Parameters
    ----------
    path
        Where they were.
    make
        A record, which checks them.
    fields
        By name.

    Raises
    ------
    DocumentError
        If one cannot be used; the message names it, what stands there and what is allowed.
    """
    try:
        return make(**fields)
    except InputError as error:
        value = f"got {shortened(error.value)}; allowed: {error.allowed}"
        raise DocumentError(path, f"has a field that cannot be used: {error.field}: {value}") from None


#: What a file says of itself, beside the fields of what it holds.
_ABOUT = ("format", "version", "created_by")


def write_json(path: str | Path, content: dict[str, Any], indent: int | None = 1) -> Path:
    """Write an object to a JSON file, as a whole or not at all.

    Parameters
    ----------
    path
        Where to; an existing file is replaced once the new one is complete.
    content
        What to write: no NaN and no infinity.
    indent
        Blanks a level; None: all on one line.

    Raises
    ------
    DocumentError
        If the file cannot be written.
    """
    separators = (",", ":") if indent is None else None
    text = json.dumps(content, indent=indent, separators=separators, ensure_ascii=False, allow_nan=False)
    return write_whole(path, text + "\n")


def write_record(path: str | Path, record: Record, what: str, version: int, indent: int | None = 1) -> Path:
    """Write a record to a JSON file that says what it is, as a whole or not at all; the reverse of :func:`read_record`.

    Parameters
    ----------
    path
        Where to; an existing file is replaced once the new one is complete.
    record
        What to write.
    what, version
        What the file is, e.g. ``sharing``, and of which version.
    indent
        As for :func:`write_json`.

    Returns
    -------
    Path
        Where it is now.

    Raises
    ------
    DocumentError
        If the file cannot be written.
    """
    about = dict(zip(_ABOUT, (format_name(what), version, release()), strict=True))
    return write_json(path, about | record.model_dump(mode="json"), indent)


def read_record(path: str | Path, what: str, make: Callable[..., _Made], version: int) -> _Made:
    """Read a file of :func:`write_record`.

    Parameters
    ----------
    path
        Where it is.
    what
        What it should be, e.g. ``sharing``.
    make
        The record.
    version
        Of which version it must be.

    Raises
    ------
    DocumentError
        If there is no such file, it is something else, or a field of it cannot be used.
    """
    path = Path(path)
    document = read_document(path, what)
    check_format(path, document, what, version)
    return from_fields(path, make, {key: value for key, value in document.items() if key not in _ABOUT})


def format_name(what: str) -> str:
    """What the field ``format`` of a file says."""
    return f"dora-nb/{what}"


def schema_of(holds: type[Record], what: str, version: int, description: str) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a file.

    Parameters
    ----------
    holds
        A record with all of its fields, ``format`` and ``version`` among them.
    what, version
        What the file is, e.g. ``plan``, and of which version.
    description
        For who reads the schema.
    """
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"dora-nb {what} file, version {version}",
        "description": description,
    }
    return head | {key: value for key, value in holds.model_json_schema().items() if key not in head}


def read_text(path: Path, what: str) -> str:
    """The text of a file, or why there is none.

    Raises
    ------
    DocumentError
        If it is no file, too large, cannot be read, or is not UTF-8.
    """
    try:
        if path.is_dir():
            raise DocumentError(path, f"is a folder, not a {what} file")
        if path.exists() and not path.is_file():
            raise DocumentError(path, "is not a regular file")
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            raise DocumentError(path, f"is too large for a {what} file: {size:,} bytes, at most {LARGEST_BYTES:,}")
        return path.read_text(encoding="utf-8-sig")  # some editors put a byte order mark in front
    except FileNotFoundError:
        raise DocumentError(path, "there is no such file") from None
    except OSError as error:
        raise DocumentError(path, f"cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        language = "YAML" if path.suffix.lower() in YAML else "JSON"
        raise DocumentError(path, f"is not {language}: not UTF-8 text (byte {error.start})") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python would silently keep the last of two equal keys."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {repeated!r} stands twice in one object")
    return entries


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
