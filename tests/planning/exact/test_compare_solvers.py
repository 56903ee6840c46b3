"""Both solvers side by side: the same options, the same programs, and what is too large says so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from builders import cluster, device, layer, workload

from dora_nb.domain.conditions import Condition, Conditions
from dora_nb.domain.qoe import QoE
from dora_nb.domain.solver_comparison import SolverComparison, SolverRow
from dora_nb.errors import InputError
from dora_nb.planning.composition.compose import compose
from dora_nb.planning.exact import compare_solvers as room
from dora_nb.planning.exact.compare_solvers import compare_solvers
from dora_nb.planning.plan import plan
from dora_nb.solvers import Options, SolverOptions, gurobi
from dora_nb.solvers.highs import HighsBackend

WORK = workload([layer(f"l{n}", flops=(n + 1) * 1e9) for n in range(4)], batch=4)
HOME = cluster([device("a", 1e9), device("b", 2e9)], rates=4e6)


def test_both_solve_the_same_programs_and_agree() -> None:
    said: list[str] = []
    found = compare_solvers(WORK, HOME, gap=1e-6, threads=1, seed=3, on_progress=said.append)
    assert [row.program for row in found.rows] == ["joint", "joint", "partition", "partition", "transfers", "transfers"]
    assert {row.solver.split()[0] for row in found.rows} == {"HiGHS", "Gurobi"}
    assert set(found.agreement.values()) == {True}
    assert found.left_out == ()
    for row in found.rows:
        assert row.status == "optimal"
        assert row.bound <= row.value * (1 + 1e-9)
        assert row.wall_s > 0
        assert row.nodes >= 0
    assert "the transfers program with gurobi" in said


def test_options_reach_both_solvers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = room.solvers.solve

    def watched(model, options, *, solver, cancel):
        seen.append((solver, options.time_limit_s, options.mip_gap))
        return real(model, options, solver=solver, cancel=cancel)

    monkeypatch.setattr(room.solvers, "solve", watched)
    compare_solvers(WORK, HOME, programs=["partition"], gap=0.01, time_limit_s=5, threads=1, seed=9)
    own = [each for each in seen if isinstance(each[0], SolverOptions)]
    assert own == [(SolverOptions(name, threads=1, seed=9), 5, 0.01) for name in ("highs", "gurobi")]


def test_what_is_too_large_for_the_licence_says_so_in_its_row() -> None:
    """The bundled licence allows 2,000 variables; with a full one the row has an answer instead."""
    many = workload([layer(f"l{n}", flops=1e9) for n in range(50)], batch=2, mode="inference")
    place = cluster([device(name, rate) for name, rate in zip("abcd", (1e9, 1.1e9, 1.2e9, 1.3e9), strict=True)])
    found = compare_solvers(many, place, programs=["partition"], time_limit_s=1, gap=0.5)
    highs, other = found.rows
    assert highs.variables > gurobi.BUNDLED_LIMIT
    assert highs.status != "not solved"  # how far it comes in the time is the machine's business
    if gurobi.licence().bundled:
        assert other.status == "not solved"
        assert "licence is too small" in other.note
        assert "licence is too small" in repr(found)
        assert found.agreement == {"partition": None}


def test_text_html_and_frame_hold_every_row() -> None:
    found = compare_solvers(WORK, HOME, programs=["transfers"])
    text, html, frame = repr(found), found._repr_html_(), found.to_frame()
    assert list(frame["solver"]) == [row.solver for row in found.rows]
    assert list(frame["agree"]) == [True, True]
    for row in found.rows:
        assert row.solver in text
        assert row.solver in html
    assert "transfers: the solvers agree" in text
    assert "<script" not in html
    assert json.loads(found.model_dump_json())["rows"][0]["program"] == "transfers"


def row(**figures: object) -> SolverRow:
    usual = {"program": "p", "variables": 1, "constraints": 1, "unit": "s", "solver": "S", "status": "optimal"}
    return SolverRow(**(usual | figures))


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([row(value=2.0, bound=2.0), row(value=2.0, bound=1.9999)], True),
        ([row(value=2.0, bound=2.0), row(value=2.1, bound=2.05)], False),
        ([row(value=2.0, bound=2.0), row(status="infeasible")], False),
        ([row(status="infeasible"), row(status="infeasible")], True),
        ([row(value=2.0, bound=2.0), row(status="not solved", note="too large")], None),
        ([row(value=2.0, bound=2.0), row(status="feasible", value=3.0, bound=1.0)], None),
    ],
)
def test_when_solvers_agree(rows: list[SolverRow], verdict: bool | None) -> None:
    found = SolverComparison(question="q", label="", rows=rows)
    assert found.agreement == {"p": verdict}
    assert ("THE SOLVERS DISAGREE" in repr(found)) is (verdict is False)


def test_programs_that_do_not_apply_are_left_out_with_the_reason() -> None:
    stream = workload(WORK.layers, batch=2, mode="stream", requests_per_s=0.01)
    found = compare_solvers(stream, HOME)
    assert [each.program for each in found.rows] == ["partition", "partition"]
    assert [re.split(";", each)[0] for each in found.left_out] == ["joint", "transfers"]
    with pytest.raises(InputError, match="joint, partition, transfers"):
        compare_solvers(WORK, HOME, programs=["dual"])  # type: ignore[list-item]


def test_threads_seed_and_log_reach_every_solve_of_plan_and_compose(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Options] = []
    real = HighsBackend.solve

    def watched(self, model, options, *rest):
        seen.append(options)
        return real(self, model, options, *rest)

    monkeypatch.setattr(HighsBackend, "solve", watched)
    said = SolverOptions("highs", threads=1, seed=5, log=tmp_path / "solver.log")
    batch = WORK.replace(mode="inference")
    plan(batch, HOME, most_plans=2, solver=said)
    planned = len(seen)
    assert planned > 0
    calm = Condition(name="calm", probability=0.5)
    busy = Condition(name="busy", probability=0.5, domain_rate_factors={"net": 0.5})
    compose(batch, HOME, QoE(objective="energy"), Conditions(name="c", conditions=(calm, busy)), solver=said)
    assert len(seen) > planned
    assert {(each.threads, each.seed, each.log) for each in seen} == {(1, 5, tmp_path / "solver.log")}
    assert (tmp_path / "solver.log").stat().st_size > 0
