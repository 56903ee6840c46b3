"""Public planners' own cases: at least as good as their exact values by their own evaluator, like with like."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.planning.public_cases import CASES, GAP_OF_ANY_SETS, answer_case, is_contiguous, score

FILES = sorted(path for path in CASES.glob("*.json")) if CASES.is_dir() else []

#: Their printed values have six digits, their solvers a tolerance of 1e-6.
ROUNDING = 1e-6


def questions() -> list[tuple[Path, bool]]:
    """Every case with contiguous stages, and with any sets where a reference has these."""
    found = []
    for path in FILES:
        case = json.loads(path.read_text())
        kinds = {is_contiguous(case, reference) for reference in case["references"]}
        found.extend((path, kind) for kind in sorted(kinds, reverse=True))
    return found


@pytest.mark.skipif(not FILES, reason="the public cases are not at hand")
def test_there_are_cases_of_every_family() -> None:
    families = {json.loads(path.read_text())["family"] for path in FILES}
    assert families >= {"pipeedge", "pipedream_chain", "dag_maxload", "piper_tps"}


@pytest.mark.parametrize(
    ("path", "contiguous"),
    questions(),
    ids=lambda each: each.stem if isinstance(each, Path) else "contiguous" if each else "any",
)
def test_no_peer_is_better(path: Path, contiguous: bool) -> None:
    case = json.loads(path.read_text())
    answer, plan = answer_case(case, contiguous, gap=1e-4 if contiguous else GAP_OF_ANY_SETS)
    scored = score(path, plan)
    assert scored["feasible"], scored["problems"]
    assert scored["objective"] == pytest.approx(answer.value_s, rel=1e-9)
    assert answer.gap <= (1e-9 if contiguous else GAP_OF_ANY_SETS)
    peers = [
        reference.get("true_value", reference["objective"])
        for reference in case["references"]
        if is_contiguous(case, reference) == contiguous and reference.get("objective") is not None
    ]
    assert scored["objective"] <= min(peers) * (1 + ROUNDING)
    for peer in case["references"]:  # and no bound of ours is above a placement of theirs
        if peer.get("plan") and is_contiguous(case, peer) == contiguous:
            assert answer.bound_s <= score(path, peer["plan"])["objective"] * (1 + 1e-9)


@pytest.mark.skipif(not FILES, reason="the public cases are not at hand")
def test_the_report_is_json() -> None:
    command = [sys.executable, "-m", "tests.planning.public_cases", str(FILES[-1])]
    root = Path(__file__).parents[2]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root, timeout=120)
    told = json.loads(ran.stdout)
    assert told["value"] <= told["peer_value"] * (1 + ROUNDING)
    assert told["plan_s"] > 0
    assert told["runs"][0]["evaluator"]["feasible"]
