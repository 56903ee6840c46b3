"""Makes ``tests/builders.py`` importable from every test, whatever pytest was started with."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import hypothesis

sys.path.insert(0, str(Path(__file__).parent))

# Nothing is read from or left in the user's cache; notebooks find there what the tests computed.
_cache = tempfile.TemporaryDirectory()
os.environ["XDG_CACHE_HOME"] = _cache.name

# The same examples on every machine and no time limit on a single one: a busy machine must not fail a test.
hypothesis.settings.register_profile("dora", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("dora")
