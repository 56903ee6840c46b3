"""Makes ``tests/builders.py`` importable from every test, and shares the tests out to processes."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent))

# Nothing is read from or left in the user's cache; notebooks find there what the tests computed.
_cache = tempfile.TemporaryDirectory()
os.environ["XDG_CACHE_HOME"] = _cache.name

# The same examples on every machine and no time limit on a single one: a busy machine must not fail a test.
hypothesis.settings.register_profile("dora", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("dora")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share something costly run in the same process: workers, the reproduction, a module's fixtures."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group_of(item)))


def _group_of(item: pytest.Item) -> str:
    path = item.path.relative_to(item.config.rootpath)
    if path.parts[:2] in (("tests", "executor"), ("tests", "browser")):
        return path.parts[1]
    if path.stem == "test_reproduce" or "06_paper_results" in item.name:
        return "reproduction"
    return item.name.partition("[")[2] if path.stem == "test_notebooks" else str(path)
