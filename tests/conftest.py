"""Makes ``tests/builders.py`` importable from every test, whatever pytest was started with."""

from __future__ import annotations

import sys
from pathlib import Path

import hypothesis

sys.path.insert(0, str(Path(__file__).parent))

# The same examples on every machine and no time limit on a single one: a busy machine must not fail a test.
hypothesis.settings.register_profile("dora", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("dora")
