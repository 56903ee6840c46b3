"""The files of the catalogue, and others of the same form."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from dora_nb.domain.document import YAML, read_fields
from dora_nb.errors import DocumentError, InputError, UnknownNameError

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
    what = kind if kind in ("conditions", "dynamics", "streams") else kind.removesuffix("s")
    path = _own_file(name_or_path)
    if path is None:
        known = names(kind)
        if name_or_path not in known:
            raise UnknownNameError(what, str(name_or_path), known, "or the path of a JSON or YAML file")
        path = data_dir() / kind / f"{name_or_path}.json"
    return read_fields(path, what)


@contextlib.contextmanager
def naming_file(name_or_path: str | Path) -> Iterator[None]:
    """Let errors about a value say in which file of the person's it stands."""
    try:
        yield
    except InputError as error:
        error.path = error.path or _own_file(name_or_path)
        raise


def _own_file(name_or_path: str | Path) -> Path | None:
    """The path, where it is one rather than a name in the catalogue."""
    text = str(name_or_path)
    is_path = isinstance(name_or_path, Path) or text.endswith((".json", *YAML)) or "/" in text or "\\" in text
    return Path(name_or_path) if is_path else None
