"""Imports go down only, and what is heavy is imported in one room each and never by ``import dora_nb``."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dora_nb"

#: What each room may import at module level, itself and ``errors`` and ``units`` apart.
ALLOWED = {
    "errors": set(),
    "units": set(),
    "domain": set(),
    "costs": {"domain"},
    "solvers": set(),
    "catalog": {"domain"},
    "formulation": {"domain", "costs", "solvers"},
    "planning": {"domain", "costs", "solvers", "formulation"},
    "simulation": {"domain", "costs"},
    "adaptation": {"domain", "costs", "solvers", "formulation", "planning", "simulation"},
    "reproduction": {
        "domain", "costs", "solvers", "catalog", "formulation", "planning", "simulation", "adaptation",
    },
    "render": {"domain", "costs"},
    "executor": {"domain", "costs"},
    "explorer": {
        "domain", "costs", "solvers", "catalog", "formulation", "planning", "simulation", "adaptation", "render",
    },
}  # fmt: skip
ALLOWED["exporting"] = {"domain", "costs", "solvers", "formulation", "planning", "render", "executor"}
ALLOWED["sweeps"] = ALLOWED["explorer"] | {"explorer"}

#: Rooms that may import anything; nothing imports them.
TOPS = {"cli", "doctor", "__init__", "__main__"}

#: Imports inside functions that point upwards: methods that look up a room when called, file by file.
LAZY_UPWARDS = {
    "costs/evaluate.py": {"render"},
    "domain/accuracy.py": {"render"},
    "domain/certificate.py": {"render"},
    "domain/comparison.py": {"render"},
    "domain/cluster.py": {"render"},
    "domain/composition.py": {"render"},
    "domain/conditions.py": {"render"},
    "domain/dynamics.py": {"render"},
    "domain/placement.py": {"render"},
    "domain/plan_file.py": {"render"},
    "domain/prediction.py": {"render"},
    "domain/problem.py": {"render"},
    "domain/profile.py": {"render"},
    "domain/stream.py": {"render"},
    "domain/transfer.py": {"render"},
    "domain/plan.py": {"render"},
    "domain/explanation.py": {"render"},
    "domain/plan_set.py": {"render", "explorer", "executor", "planning"},
    "domain/qoe.py": {"render"},
    "domain/run_record.py": {"render", "costs"},
    "domain/solver_comparison.py": {"render"},
    "domain/serving.py": {"render"},
    "domain/sharing.py": {"render"},
    "domain/workload.py": {"render"},
    "errors.py": {"render"},
    "executor/run.py": {"render"},
    "explorer/running.py": {"executor"},
    "reproduction/run.py": {"render"},
    "simulation/record.py": {"render"},
    "simulation/world.py": {"render"},
}

#: Packages that are imported, at module level or in a function (type checking apart), in these rooms only.
ONE_ROOM = {
    "gurobipy": {"solvers"},
    "highspy": {"solvers"},
    "linopy": {"formulation"},
    "torch": {"executor"},
    "plotly": {"explorer"},
}

#: Never loaded by ``import dora_nb``, nor at module level by what a person imports to describe a problem.
HEAVY = ("linopy", "highspy", "gurobipy", "torch", "pandas", "plotly", "xarray", "scipy")

FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imported(node: ast.AST, path: Path) -> Iterator[str]:
    """Full names of the modules that an import statement loads."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = ("dora_nb", *path.relative_to(PACKAGE).parts[:-1])
            base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
        yield from (f"{base}.{alias.name}" for alias in node.names)


@functools.cache
def imports(path: Path) -> tuple[set[str], set[str]]:
    """Modules imported when the file is loaded, and those imported when a function is called."""
    at_once: set[str] = set()
    later: set[str] = set()

    def visit(node: ast.AST, into: set[str]) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                visit(child, into)
            return
        into.update(imported(node, path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            into = later
        for child in ast.iter_child_nodes(node):
            visit(child, into)

    visit(ast.parse(path.read_text(encoding="utf-8")), at_once)
    return at_once, later


def rooms(modules: set[str]) -> set[str]:
    inside = {module.split(".")[1] for module in modules if module.startswith("dora_nb.")}
    return inside - {"errors", "units", "__version__"}


def test_there_is_something_to_check() -> None:
    assert {"domain", "costs", "formulation", "planning", "solvers", "executor"} <= {room_of(path) for path in FILES}
    assert {room_of(path) for path in FILES} <= set(ALLOWED) | TOPS, "a new room needs a line in ALLOWED"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    room = room_of(path)
    if room in TOPS:
        return
    at_once, later = imports(path)
    allowed = ALLOWED[room] | {room}
    assert rooms(at_once) <= allowed, f"{room} imports upwards"
    lazily = LAZY_UPWARDS.get(str(path.relative_to(PACKAGE)), set())
    assert rooms(later) <= allowed | lazily, f"{room} imports upwards inside a function"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_heavy_package_is_imported_in_one_room(path: Path) -> None:
    at_once, later = imports(path)
    packages = {module.split(".")[0] for module in at_once | later}
    for package, allowed in ONE_ROOM.items():
        assert package not in packages or room_of(path) in allowed, f"{package} belongs into {allowed}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_rooms_without_torch_load_nothing_heavy(path: Path) -> None:
    at_once, _ = imports(path)
    packages = {module.split(".")[0] for module in at_once}
    allowed = {"executor": {"torch"}, "explorer": {"plotly", "pandas"}, "sweeps": {"pandas"}}.get(room_of(path), set())
    assert not (packages & set(HEAVY)) - allowed


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import dora_nb",
        "import dora_nb; dora_nb.load_workload, dora_nb.load_cluster, dora_nb.QoE, dora_nb.evaluate",
        "import dora_nb; dora_nb.plan",
        "import dora_nb.cli",
    ],
)
def test_importing_loads_nothing_heavy(statement: str) -> None:
    loaded = loaded_by(statement)
    assert "dora_nb" in loaded
    assert not loaded & set(HEAVY)


def test_import_dora_nb_loads_almost_nothing() -> None:
    assert not loaded_by("import dora_nb") & {"numpy", "pydantic"}


def test_every_exported_name_can_be_had() -> None:
    import dora_nb

    for name in dora_nb.__all__:
        assert getattr(dora_nb, name) is not None
        assert name in dir(dora_nb)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = dora_nb.nothing_like_it
