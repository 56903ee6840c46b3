"""Run files read back to the last bit, or say what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import made_up_run

from dora_nb.domain.run_file import load_run, save_run
from dora_nb.errors import DocumentError

RUN = made_up_run({"a": 1.1, "b": 1.3, "c": 0.7})


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = save_run(tmp_path / "run.json", RUN)
    assert load_run(path) == RUN
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": "dora-nb/plan"}, "is not a run of dora_nb (its field 'format' is 'dora-nb/plan'"),
        ({"version": 2}, "reads version 1. Upgrade with"),
        ({"run": RUN.model_dump(mode="json") | {"steps": -1}}, "run.steps: got -1"),
    ],
)
def test_what_is_no_run_says_so(change: dict[str, object], problem: str, tmp_path: Path) -> None:
    path = save_run(tmp_path / "run.json", RUN)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DocumentError) as refused:
        load_run(path)
    assert problem in str(refused.value)
