"""What computed results depend on besides their question: this package's code, its data, other packages' versions."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

import dora_nb

#: Packages whose version may change a result.
PACKAGES = ("numpy", "linopy", "highspy", "gurobipy")


@cache
def code_digest(without: Collection[str] = ()) -> str:
    """SHA-256 of this package's source.

    Parameters
    ----------
    without
        Rooms and modules that results do not depend on.
    """
    root = Path(dora_nb.__file__).parent
    return files_digest(root, (path for path in root.rglob("*.py") if path.relative_to(root).parts[0] not in without))


def files_digest(root: Path, paths: Iterable[Path]) -> str:
    """SHA-256 of files' places below a folder and of what they hold."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def package_versions() -> dict[str, str]:
    """Versions of :data:`PACKAGES`; ``none`` where one is not installed."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"
