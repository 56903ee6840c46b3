"""What a person says about the solver reaches both back ends in the same words."""

from __future__ import annotations

from pathlib import Path

import linopy
import pytest

from dora_nb.errors import InputError
from dora_nb.solvers import Options, SolverOptions, solve
from dora_nb.solvers.gurobi import _parameters
from dora_nb.solvers.highs import _options
from dora_nb.solvers.running import Watch


def small() -> linopy.Model:
    model = linopy.Model()
    x = model.add_variables(0, 4, coords=[range(3)], name="x", integer=True)
    model.add_constraints(x.sum() >= 5)
    model.add_objective((x * [3, 2, 4]).sum())
    return model


def test_a_name_alone_is_the_usual_options() -> None:
    assert SolverOptions.of("highs") == SolverOptions("highs")
    assert SolverOptions.of(SolverOptions(seed=3)) == SolverOptions(seed=3)
    assert SolverOptions().over(Options(seed=1, threads=2)) == Options(seed=1, threads=2)


def test_what_is_said_comes_before_what_a_solve_has(tmp_path: Path) -> None:
    said = SolverOptions(threads=1, seed=7, log=str(tmp_path / "log"))
    assert said.over(Options(mip_gap=0.1, seed=1)) == Options(mip_gap=0.1, threads=1, seed=7, log=tmp_path / "log")


def test_both_back_ends_get_every_option(tmp_path: Path) -> None:
    options = SolverOptions(threads=2, seed=5, log=tmp_path / "log").over(Options(time_limit_s=9, mip_gap=0.01))
    watch = Watch(None, None)
    highs, gurobi = _options(options, watch), _parameters(options, watch)
    assert (highs["threads"], highs["random_seed"], highs["mip_rel_gap"]) == (2, 5, 0.01)
    assert (gurobi["Threads"], gurobi["Seed"], gurobi["MIPGap"]) == (2, 5, 0.01)
    assert highs["time_limit"] == pytest.approx(gurobi["TimeLimit"], abs=1)
    assert highs["log_file"] == gurobi["LogFile"] == str(tmp_path / "log")
    assert not highs["log_to_console"]
    assert not gurobi["LogToConsole"]


@pytest.mark.parametrize("name", ["highs", "gurobi"])
def test_logs_are_appended_and_nothing_is_printed(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "solver.log"
    lengths = []
    for _ in range(2):
        outcome = solve(small(), Options(mip_gap=0), solver=SolverOptions(name, threads=1, seed=1, log=log))
        assert outcome.objective == pytest.approx(11)
        lengths.append(len(log.read_text()))
    assert lengths[1] > 1.5 * lengths[0] > 0
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"name": "cplex"}, "auto, gurobi, highs"),
        ({"threads": 0}, "threads: got 0"),
        ({"seed": -1}, "seed: got -1"),
        ({"log": "nowhere/at/all.log"}, "there is no nowhere/at"),
    ],
)
def test_what_cannot_be_is_refused(said: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SolverOptions(**said)  # type: ignore[arg-type]
