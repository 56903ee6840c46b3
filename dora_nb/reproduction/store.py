"""Cells that were computed before, one file a setting, found again by the hash of everything they depend on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from dora_nb.domain.document import write_whole
from dora_nb.domain.fingerprint import code_digest, package_versions
from dora_nb.errors import DocumentError, DoraError
from dora_nb.reproduction.cell import Cell
from dora_nb.reproduction.grid import Setting

#: Rooms that cells do not depend on.
_IRRELEVANT = ("render", "explorer", "executor", "sweeps", "cli", "doctor.py", "__main__.py")


def default_folder() -> Path:
    """Where computed cells are kept unless somebody says otherwise."""
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(home) if home else Path.home() / ".cache") / "dora_nb" / "reproduce"


class Store:
    """A folder of computed cells.

    Parameters
    ----------
    folder
        Made if it is not there.

    Raises
    ------
    DocumentError
        If there cannot be such a folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DocumentError(folder, f"cannot be a folder: {error.strerror or error}") from None

    def key(self, setting: Setting, seeds: Sequence[int], solver: str) -> str:
        """SHA-256 of what a setting's cells depend on: its documents, the seeds, the solver and this package's code."""
        parts = {
            "setting": str(setting),
            "workload": setting.workload.digest(),
            "cluster": setting.cluster.digest(),
            "conditions": setting.conditions.digest(),
            "seeds": list(seeds),
            "solver": solver,
            "code": code_digest(_IRRELEVANT),
            "packages": package_versions(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def load(self, key: str) -> list[Cell] | None:
        """Cells kept under a key; None if there are none, or if their file cannot be used."""
        try:
            document = json.loads(self._path(key).read_text(encoding="utf-8"))
            return [Cell(**each) for each in document]
        except (OSError, ValueError, TypeError, DoraError):
            return None  # computed anew, and the file replaced

    def keep(self, key: str, cells: Sequence[Cell]) -> None:
        """Keep cells; the file is whole or not there.

        Raises
        ------
        DocumentError
            If it cannot be written.
        """
        write_whole(self._path(key), json.dumps([each.model_dump(mode="json") for each in cells]) + "\n")

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"
