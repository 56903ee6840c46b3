"""A parametrised notebook: what it says, which parameters it has, and the hash of a point of it."""

from __future__ import annotations

import ast
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dora_nb import catalog
from dora_nb.domain.document import read_document
from dora_nb.domain.fingerprint import code_digest, files_digest, package_versions
from dora_nb.errors import DocumentError, UnknownNameError
from dora_nb.sweeps.grid import Point

#: The tag by which papermill finds the cell with the parameters.
TAG = "parameters"

#: Parts of the package that no point depends on.
_IRRELEVANT = ("cli", "doctor.py", "__main__.py")


@dataclass(frozen=True)
class Notebook:
    """A notebook that a sweep runs.

    Attributes
    ----------
    path
        Where it was read; points run in this folder.
    text
        Its JSON without outputs.
    kernel
        Name of the kernel it asks for.
    defaults
        Its parameters with the values they have unless a point sets them; None where that is no literal.
    digest
        SHA-256 of what its cells say.
    """

    path: Path
    text: str
    kernel: str
    defaults: Point
    digest: str

    def check_names(self, names: tuple[str, ...]) -> None:
        """Refuse parameters that the notebook does not have.

        Raises
        ------
        UnknownNameError
            Naming the first of them, and what there is.
        """
        for name in names:
            if name not in self.defaults:
                raise UnknownNameError(f"parameter of {self.path.name}", name, self.defaults)

    def key(self, point: Point) -> str:
        """SHA-256 of everything a point depends on.

        That is its parameters, files that they name, the notebook, this package's code and data, and the versions of
        numpy and the solvers.
        """
        files = {name: _file_digest(self.path.parent, value) for name, value in point.items()}
        parts = {
            "parameters": point,
            "files": {name: digest for name, digest in files.items() if digest},
            "notebook": self.digest,
            "code": points_code(),
            "data": _data_digest(),
            "packages": package_versions(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_notebook(path: str | Path) -> Notebook:
    """Read a notebook that has a cell tagged ``parameters``.

    Raises
    ------
    DocumentError
        If there is none, or its parameters cannot be read.
    """
    path = Path(path)
    document = read_document(path, "notebook")
    cells = document.get("cells")
    if document.get("nbformat") != 4 or not isinstance(cells, list):
        raise DocumentError(path, "is not a notebook of format 4")
    for cell in cells:
        if cell.get("cell_type") == "code":
            cell["outputs"], cell["execution_count"] = [], None
    said = [[cell.get("cell_type"), _tags(cell), _source(cell)] for cell in cells]
    return Notebook(
        path=path.resolve(),
        text=json.dumps(document),
        kernel=document.get("metadata", {}).get("kernelspec", {}).get("name", "python3"),
        defaults=_defaults(path, cells),
        digest=hashlib.sha256(json.dumps(said).encode()).hexdigest(),
    )


def points_code() -> str:
    """SHA-256 of the code that a point may run."""
    return code_digest(_IRRELEVANT)


def _defaults(path: Path, cells: list[dict[str, Any]]) -> Point:
    tagged = [cell for cell in cells if TAG in _tags(cell)]
    if len(tagged) != 1:
        raise DocumentError(
            path, f"has {len(tagged)} cells tagged {TAG!r}; a sweep needs exactly one, which assigns every parameter"
        )
    try:
        statements = ast.parse(_source(tagged[0])).body
    except SyntaxError as error:
        raise DocumentError(path, f"has a cell of parameters that is not Python: {error.msg}") from None
    found: Point = {}
    for statement in statements:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        for target in targets:
            if isinstance(target, ast.Name) and isinstance(statement, ast.Assign | ast.AnnAssign):
                found[target.id] = _literal(statement.value)
    return found


def _literal(value: ast.expr | None) -> Any:
    try:
        return None if value is None else ast.literal_eval(value)
    except ValueError:
        return None


def _tags(cell: dict[str, Any]) -> list[str]:
    return list(cell.get("metadata", {}).get("tags", ()))


def _source(cell: dict[str, Any]) -> str:
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def _file_digest(folder: Path, value: Any) -> str | None:
    """Of the file that a value names, where it names one."""
    if not isinstance(value, str) or not value or len(value) > 255 or "\0" in value:
        return None
    path = folder / value
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


@cache
def _data_digest() -> str:
    root = catalog.data_dir()
    return files_digest(root, (path for path in root.rglob("*") if path.suffix in (".json", ".csv")))
