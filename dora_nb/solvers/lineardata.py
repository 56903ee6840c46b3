"""A linopy model as plain arrays: read once, checked once, handed to whichever solver.

The arrays come from linopy's matrices, so column i is label ``matrices.vlabels[i]``. They are read here and not by
linopy's own hand-over (``to_highspy``), because with HiGHS 1.16 that prints a banner before output can be switched off,
and because the checks below need the very arrays that the solver gets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from dora_nb.errors import SolverError
from dora_nb.solvers.contract import FloatArray

if TYPE_CHECKING:
    import linopy

#: A double has 16 digits and a solver needs about four of them for its tolerances.
MAX_SPAN = 1e12


@dataclass(frozen=True, slots=True)
class LinearData:
    """Optimise ``cost @ x + offset`` over ``matrix @ x (sense) rhs``, ``lower <= x <= upper``, some x integer.

    Parameters
    ----------
    cost, offset, maximise
        The objective.
    lower, upper, integer
        Bounds (infinite where there is none) and integrality of the columns.
    matrix, sense, rhs
        Rows: a scipy CSR array (None without rows), one of ``<``, ``>``, ``=`` for each row, right-hand sides.
    columns
        For each variable the column of every entry, in the variable's shape; -1 where it is masked.
    column_scale
        A column is this factor times the variable's value.
    """

    cost: FloatArray
    offset: float
    maximise: bool
    lower: FloatArray
    upper: FloatArray
    integer: npt.NDArray[np.bool_]
    matrix: Any
    sense: npt.NDArray[np.str_]
    rhs: FloatArray
    columns: dict[str, npt.NDArray[np.int64]]
    column_scale: FloatArray

    @property
    def is_mip(self) -> bool:
        """Whether any column is integer."""
        return bool(self.integer.any())

    def without_objective(self) -> LinearData:
        """The constraints with nothing to optimise."""
        return replace(self, cost=np.zeros_like(self.cost), offset=0.0)

    def unpack(self, x: FloatArray) -> dict[str, FloatArray]:
        """A solver's column values as one array per variable, NaN where the variable is masked."""
        # The NaN behind the last column is what index -1, a masked entry, picks.
        padded = np.append(x / self.column_scale, np.nan)
        return {name: padded[columns] for name, columns in self.columns.items()}


@runtime_checkable
class Readable(Protocol):
    """What says itself how a solver takes it."""

    @property
    def nvars(self) -> int:
        """Number of variables."""

    def linear_data(self) -> LinearData:
        """Its arrays."""


def read(model: linopy.Model | Readable) -> LinearData:
    """Read a model and refuse what could not be answered reliably.

    Raises
    ------
    SolverError
        The model is not linear with continuous, integer or binary variables; a coefficient is not a finite number; or
        the magnitudes of one kind of coefficient span more than :data:`MAX_SPAN`.
    """
    data = model.linear_data() if isinstance(model, Readable) else _of_linopy(model)
    _check(data)
    return data


def _of_linopy(model: linopy.Model) -> LinearData:
    if model.is_quadratic or model.variables.sos:
        raise SolverError("only linear models are solved; this one has quadratic terms or special ordered sets")
    matrices = model.matrices
    if matrices.indicator_A is not None or "S" in matrices.vtypes:
        raise SolverError("only plain rows and columns are solved; this model has indicators or semi-continuous ones")

    return LinearData(
        # linopy scales the objective and the columns on request; the caller wants the numbers as he wrote them.
        cost=matrices.c / model.objective.scaling,
        offset=float(model.objective.expression.const),
        maximise=model.objective.sense == "max",
        lower=matrices.lb,
        upper=matrices.ub,
        integer=np.isin(matrices.vtypes, ("B", "I")),
        matrix=matrices.A,
        sense=np.asarray(matrices.sense, dtype="U1"),
        rhs=np.asarray(matrices.b, dtype=np.float64),
        columns=_columns(model, matrices.vlabels),
        column_scale=matrices.var_scaling,
    )


def _columns(model: linopy.Model, labels: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
    """The column of every entry of every variable; a masked entry has label -1 and gets column -1."""
    column_of = np.full(int(labels.max(initial=-1)) + 2, -1, dtype=np.int64)
    column_of[labels] = np.arange(len(labels))
    return {str(name): column_of[variable.labels.values] for name, variable in model.variables.items()}


def _check(data: LinearData) -> None:
    for what, coefficients in (
        ("constraint matrix", np.empty(0) if data.matrix is None else data.matrix.data),
        ("right-hand side", data.rhs),
        ("objective", data.cost),
    ):
        if not np.isfinite(coefficients).all():
            raise SolverError(f"the {what} holds a coefficient that is not a finite number; check the input data")
        magnitudes = np.abs(coefficients[coefficients != 0])
        if magnitudes.size and magnitudes.max() > MAX_SPAN * magnitudes.min():
            raise SolverError(
                f"the magnitudes in the {what} run from {magnitudes.min():.3g} to {magnitudes.max():.3g}; more than "
                f"a factor of {MAX_SPAN:.0e} and the answer could not be trusted. Use units that bring them together"
            )
    if not math.isfinite(data.offset):
        raise SolverError("the objective's constant is not a finite number; check the input data")
    if np.isnan(data.lower).any() or np.isnan(data.upper).any():
        raise SolverError("the bounds of a variable hold a NaN; check the input data")
