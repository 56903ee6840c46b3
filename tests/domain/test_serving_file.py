"""Serving files keep all that was planned, and others are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from served import two_layers

import dora_nb as dora
from dora_nb.errors import DocumentError


def test_a_serving_is_read_as_it_was_saved(tmp_path: Path) -> None:
    case = two_layers()
    goal = dora.ServingGoal(requests_per_s="12 /min", latency_s="9 s")
    found = dora.serve(case.work, case.place, goal, slots=(1, 2), groups=(1,), requests=12, table=case.table)
    path = dora.save_serving(tmp_path / "serving.json", found)
    assert dora.load_serving(path) == found
    path.write_text(path.read_text().replace('"batching": "continuous"', '"batching": "none"'))
    with pytest.raises(DocumentError, match="batching"):
        dora.load_serving(path)
