"""Makes ``tests/builders.py`` importable from every test, finds the browser, shares the tests out to processes."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

sys.path.insert(0, str(Path(__file__).parent))

# Nothing is read from or left in the user's cache; notebooks find there what the tests computed.
_cache = tempfile.TemporaryDirectory()
os.environ["XDG_CACHE_HOME"] = _cache.name

# As many processes run tests as there are cores, and their kernels and workers come on top: more threads of a linear
# algebra library would only wait for each other, which takes longer. Read when numpy is imported.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

# Kernels, workers and commands that tests start compile the package once, not each of them anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The same examples on every machine and no time limit on a single one: a busy machine must not fail a test.
hypothesis.settings.register_profile("dora", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("dora")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Debian's chromium; playwright brings none."""
    pytest.importorskip("playwright.sync_api", reason="browser tests need playwright: pip install -e '.[test]'")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("browser tests need chromium in the path: apt-get install chromium (.ci/run does)")
    return path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Tests that share something costly run in the same process: workers, the reproduction, a module's fixtures.

    Not by marks: xdist 3.8 writes groups where pytest 9.2 does not read them, and says nothing.
    """
    return _ByWhatIsShared(config, log)


class _ByWhatIsShared(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return _scope(nodeid)


def _scope(nodeid: str) -> str:
    file, _, name = nodeid.partition("::")
    path = Path(file)
    if path.parts[:2] in (("tests", "executor"), ("tests", "browser")):
        return path.parts[1]
    if path.stem == "test_reproduce" or (path.stem, name[-17:]) == ("test_notebooks", "06_paper_results]"):
        return "reproduction"
    return f"notebook {name.partition('[')[2]}" if path.stem == "test_notebooks" else file


#: What takes longest, first to last. It starts first, so that at the end no process works alone.
_LONG = (
    "executor",
    "browser",
    "reproduction",
    "tests/test_cli.py",
    "notebook",
    "tests/sweeps/test_sweep.py",
    "tests/sweeps/test_dask.py",
    "tests/test_readme.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests in the order in which processes take them; xdist's own would be by their number."""
    rank = {name: place for place, name in enumerate(_LONG)}
    items.sort(key=lambda item: rank.get(_scope(item.nodeid).partition(" ")[0], len(_LONG)))
