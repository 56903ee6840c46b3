"""The checks on a model before a solver sees it."""

from __future__ import annotations

import linopy
import numpy as np
import pytest

from dora_nb.errors import InputError, SolverError
from dora_nb.solvers import Options, lineardata, relative_gap


def model_with(coefficients: list[float], rhs: list[float], cost: list[float]) -> linopy.Model:
    model = linopy.Model()
    x = model.add_variables(0, 1, coords=[range(2)], name="x")
    model.add_constraints(np.array(coefficients) * x <= np.array(rhs))
    model.add_objective((np.array(cost) * x).sum())
    return model


@pytest.mark.parametrize(
    ("coefficients", "rhs", "cost", "what"),
    [
        ([1, 2e12], [1, 1], [1, 1], "constraint matrix"),
        ([1, 1], [1e-7, 1e6], [1, 1], "right-hand side"),
        ([1, 1], [1, 1], [-1e-9, 1e4], "objective"),
    ],
)
def test_too_wide_a_span_is_refused(coefficients: list[float], rhs: list[float], cost: list[float], what: str) -> None:
    with pytest.raises(SolverError, match=f"magnitudes in the {what} run from .* could not be trusted"):
        lineardata.read(model_with(coefficients, rhs, cost))


@pytest.mark.parametrize(
    ("coefficients", "rhs", "cost", "what"),
    [
        ([1, np.inf], [1, 1], [1, 1], "constraint matrix"),
        ([1, 1], [1, np.inf], [1, 1], "right-hand side"),
        ([1, 1], [1, 1], [1, -np.inf], "objective"),
    ],
)
def test_what_is_not_a_number_is_refused(
    coefficients: list[float], rhs: list[float], cost: list[float], what: str
) -> None:
    with pytest.raises(SolverError, match=f"{what} holds a coefficient that is not a finite number"):
        lineardata.read(model_with(coefficients, rhs, cost))


def test_a_wide_span_between_kinds_and_zeros_are_fine() -> None:
    data = lineardata.read(model_with([0, 1e-9], [1e9, 0], [0, 0]))
    assert list(data.cost) == [0, 0]


def test_indicators_and_semi_continuous_columns_are_refused() -> None:
    model = linopy.Model()
    model.add_variables(1, 2, name="x", semi_continuous=True)
    with pytest.raises(SolverError, match="only plain rows and columns"):
        lineardata.read(model)


@pytest.mark.parametrize(
    "wrong", [{"time_limit_s": -1}, {"time_limit_s": float("nan")}, {"mip_gap": -0.1}, {"threads": 0}, {"seed": -1}]
)
def test_options_are_checked_at_birth(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Options(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("incumbent", "bound", "gap"),
    [(10.0, 9.0, 0.1), (-10.0, -11.0, 0.1), (0.0, 0.0, 0.0), (0.0, -1.0, None), (None, 1.0, None), (1.0, None, None)],
)
def test_relative_gap(incumbent: float | None, bound: float | None, gap: float | None) -> None:
    assert relative_gap(incumbent, bound) == (gap if gap is None else pytest.approx(gap))
