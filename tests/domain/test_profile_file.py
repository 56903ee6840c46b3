"""Profile files read back to the last bit, or say what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import workload

from dora_nb.domain.profile import LayerProfile, Profile
from dora_nb.domain.profile_file import load_profile, save_profile
from dora_nb.errors import DocumentError

WORK = workload(2, mode="training")
LAYER = LayerProfile(forward_s={1: 0.1, 3: 1 / 3}, backward_s={1: 0.2, 3: 2 / 3}, step_s=1e-7, spread=0.02)
PROFILE = Profile(workload=WORK, layers=(LAYER, LAYER), machine="a phone")


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = save_profile(tmp_path / "profile.json", PROFILE)
    assert load_profile(path) == PROFILE
    assert [each.name for each in tmp_path.iterdir()] == ["profile.json"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": "dora-nb/plan"}, "is not a profile of dora_nb (its field 'format' is 'dora-nb/plan'"),
        ({"version": 2}, "reads version 1. Upgrade with"),
        ({"profile": {"workload": WORK.model_dump(), "layers": []}}, "profile.layers: got 0"),
        (
            {"profile": {"workload": WORK.model_dump(), "layers": [LAYER.model_dump() | {"backward_s": {1: 1}}] * 2}},
            "profile.layers[0].backward_s: got [1]; allowed: as many samples as forward_s",
        ),
    ],
)
def test_what_is_no_profile_says_so(change: dict[str, object], problem: str, tmp_path: Path) -> None:
    path = save_profile(tmp_path / "profile.json", PROFILE)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DocumentError) as refused:
        load_profile(path)
    assert problem in str(refused.value)


def test_what_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="there is no such file"):
        load_profile(tmp_path / "profile.json")
    with pytest.raises(DocumentError, match="is a folder, not a profile file"):
        load_profile(tmp_path)


def test_a_table_of_a_profile() -> None:
    """A row for every layer and number of samples: the bytes grow with the samples, an optimizer step does not."""
    table = PROFILE.to_frame()
    assert list(table["layer"]) == ["l0", "l0", "l1", "l1"]
    assert list(table["samples"]) == [1, 3, 1, 3]
    assert list(table["forward_s"]) == [0.1, 1 / 3] * 2
    assert list(table["backward_s"]) == [0.2, 2 / 3] * 2
    assert list(table["cut_bytes"]) == [1e6, 3e6] * 2
    assert set(table["step_s"]) == {1e-7}
