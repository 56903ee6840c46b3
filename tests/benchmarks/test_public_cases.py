"""How long public planners' own cases take beside the planners they come from.

``pytest tests/benchmarks/test_public_cases.py -o addopts='--import-mode=importlib' -s`` prints a table. Medians of
five; times of the peers as the cases state them (other machine, other load: for the order of magnitude).
"""

from __future__ import annotations

import json
import statistics

import pytest

from tests.planning.public_cases import CASES, GAP_OF_ANY_SETS, answer_case, is_contiguous, score
from tests.planning.test_public_cases import questions

RUNS = 5


@pytest.mark.skipif(not CASES.is_dir(), reason="the public cases are not at hand")
def test_public_cases() -> None:
    rows = []
    for path, contiguous in questions():
        case = json.loads(path.read_text())
        gap = 1e-4 if contiguous else GAP_OF_ANY_SETS
        answers = [answer_case(case, contiguous, gap=gap) for _ in range(RUNS)]
        ours_s = statistics.median(answer.wall_s for answer, _ in answers)
        answer, plan = answers[0]
        assert len({repr(each) for _, each in answers}) == 1, "the same question has the same answer"
        peers = [each for each in case["references"] if is_contiguous(case, each) == contiguous]
        value = min(each["objective"] for each in peers if each.get("objective") is not None)
        peer_s = min(each["plan_s"] for each in peers if each.get("plan_s") is not None)
        rows.append((path.stem, contiguous, score(path, plan)["objective"], value, answer.gap, ours_s, peer_s))
        assert ours_s <= max(1.0, peer_s)
    print(f"\n{'case':<42}{'sets':<12}{'ours':>13}{'peer':>13}{'gap':>9}{'ours s':>9}{'peer s':>9}")
    for name, contiguous, ours, peer, gap, ours_s, peer_s in rows:
        sets = "contiguous" if contiguous else "any"
        print(f"{name:<42}{sets:<12}{ours:>13.8g}{peer:>13.8g}{gap:>9.2%}{ours_s:>9.3f}{peer_s:>9.3f}")
