"""Which solver is taken, and what is said about it."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from typing import Any

import linopy
import numpy as np
import pytest
import xarray as xr

from dora_nb.errors import InputError, SolverError, SolverUnavailableError
from dora_nb.solvers import ENVIRONMENT_VARIABLE, Backend, Status, available, solve
from dora_nb.solvers import gurobi as gurobi_module


@pytest.fixture(autouse=True)
def no_choice_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)


@pytest.fixture
def no_gurobipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gurobipy", None)


@pytest.fixture
def bundled(gurobi: Backend) -> None:
    if not gurobi_module.licence().bundled:
        pytest.skip("Gurobi's licence here is not limited in size")


def cover(n: int) -> linopy.Model:
    """Choose at least one of n."""
    model = linopy.Model()
    x = model.add_variables(binary=True, coords=[range(n)], name="x")
    model.add_constraints(x.sum() >= 1)
    model.add_objective(x.sum())
    return model


def tall(n_rows: int) -> linopy.Model:
    """One variable under many lower limits."""
    model = linopy.Model()
    x = model.add_variables(lower=0, name="x")
    y = model.add_variables(lower=0, name="y")
    model.add_constraints(x + y >= xr.DataArray(np.arange(1.0, n_rows + 1), dims=["row"]))
    model.add_objective(x + y)
    return model


def refusing(errno: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Gurobi fail on every environment, as it does without a valid licence."""
    gurobipy = pytest.importorskip("gurobipy")

    def fail(**_: Any) -> None:
        raise gurobipy.GurobiError(errno, "told by the test")

    monkeypatch.setattr(gurobipy, "Env", fail)
    gurobi_module._licence.cache_clear()


def test_auto_takes_gurobi_for_a_small_model(bundled: None) -> None:
    outcome = solve(cover(481))
    assert outcome.objective == pytest.approx(1)
    assert outcome.solver.startswith("Gurobi")
    assert outcome.reason == "Gurobi: installed, bundled licence large enough (481 variables)"


def test_auto_takes_highs_without_gurobipy(no_gurobipy: None) -> None:
    outcome = solve(cover(3))
    assert outcome.objective == pytest.approx(1)
    assert outcome.solver.startswith("HiGHS")
    assert outcome.reason == "HiGHS: gurobipy is not installed"


def test_auto_takes_highs_for_a_large_model(bundled: None) -> None:
    outcome = solve(cover(2341))
    assert outcome.status is Status.OPTIMAL
    assert outcome.solver.startswith("HiGHS")
    assert outcome.reason == "HiGHS: Gurobi's licence is too small for 2,341 variables (limit 2,000)"


@pytest.mark.parametrize("errno", [10009, 10022])
def test_auto_takes_highs_without_a_licence(errno: int, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(errno, monkeypatch)
    outcome = solve(cover(3))
    assert outcome.solver.startswith("HiGHS")
    assert outcome.reason.startswith("HiGHS: Gurobi found no valid licence")
    assert [info.usable for info in available()] == [False, True]


def test_any_other_failure_of_gurobi_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(10001, monkeypatch)
    with pytest.raises(SolverError, match=r"Gurobi failed \(error 10001\)") as caught:
        solve(cover(3))
    assert not isinstance(caught.value, SolverUnavailableError)


def test_asked_for_and_not_there(no_gurobipy: None) -> None:
    with pytest.raises(SolverUnavailableError, match="gurobipy is not installed"):
        solve(cover(3), solver="gurobi")


def test_asked_for_and_too_large(bundled: None) -> None:
    with pytest.raises(SolverUnavailableError, match="too small for 2,341 variables"):
        solve(cover(2341), solver="gurobi")
    with pytest.raises(SolverUnavailableError, match=r"too small for 2,001 constraints \(limit 2,000\)"):
        solve(tall(2001), solver="gurobi")
    assert solve(tall(2000), solver="gurobi").objective == pytest.approx(2000)


def test_a_model_within_the_known_limits_is_told_in_both() -> None:
    assert gurobi_module._size(10, 20) == "10 variables and 20 constraints"


@pytest.mark.parametrize("name", ["highs", "gurobi"])
def test_asked_for(name: Any, highs: Backend, gurobi: Backend) -> None:
    outcome = solve(cover(3), solver=name)
    assert outcome.reason == f"{ {'highs': 'HiGHS', 'gurobi': 'Gurobi'}[name] }: asked for"


def test_the_environment_decides_for_auto(monkeypatch: pytest.MonkeyPatch, gurobi: Backend) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "HiGHS")
    assert solve(cover(3)).reason == "HiGHS: asked for by DORA_NB_SOLVER"
    assert solve(cover(3), solver="gurobi").solver.startswith("Gurobi")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "gurobi")
    monkeypatch.setitem(sys.modules, "gurobipy", None)
    with pytest.raises(SolverUnavailableError, match="not installed"):
        solve(cover(3))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "cplex")
    with pytest.raises(InputError, match=r"DORA_NB_SOLVER: got 'cplex'; allowed: auto, gurobi, highs"):
        solve(cover(3))


def test_unknown_solver() -> None:
    with pytest.raises(InputError, match="solver: got 'cplex'"):
        solve(cover(3), solver="cplex")  # type: ignore[arg-type]


def test_available_tells_the_licence(bundled: None) -> None:
    gurobi_info, highs_info = available()
    assert gurobi_info.usable
    assert gurobi_info.version[0].isdigit()
    assert "bundled, up to 2,000 variables" in gurobi_info.detail
    assert "expires 20" in gurobi_info.detail
    assert (highs_info.name, highs_info.usable) == ("HiGHS", True)


def test_available_without_gurobipy(no_gurobipy: None) -> None:
    gurobi_info, _ = available()
    assert (gurobi_info.usable, gurobi_info.version) == (False, "")
    assert "not installed" in gurobi_info.detail


def test_a_full_licence_in_words() -> None:
    assert str(gurobi_module.Licence(False, None)) == "licence: full, no expiry"
    assert str(gurobi_module.Licence(False, date(2030, 1, 2))) == "licence: full, expires 2030-01-02"


def test_importing_the_room_imports_no_solver() -> None:
    code = "import sys, dora_nb.solvers; print(sorted({'linopy', 'highspy', 'gurobipy', 'xarray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
