"""Small linear programs that grow a column at a time: HiGHS keeps its basis between solutions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dora_nb.errors import SolverError
from dora_nb.solvers.highs import quiet_highs

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: What a unit of a broken row costs, in units of the objective.
BROKEN = 5.0


class Mixing:
    """The least ``z`` for which some mix of columns stays within ``z`` times the capacities and within the limits.

    ``sum over columns of share x used <= z x capacity``, ``sum of share x values <= limit``, shares that sum to 1. Rows
    of the second kind may be broken at a price, so that there always is an answer. Its dual values price capacities
    and rows (the master program of column generation, Dantzig and Wolfe 1960).

    Parameters
    ----------
    capacity
        Of what the columns share, shape (n,).
    limits
        Of the other rows, shape (m,).
    """

    def __init__(self, capacity: NDArray[np.float64], limits: NDArray[np.float64]) -> None:
        self._solver: Any = quiet_highs()
        self._count, self._rows = len(capacity), len(capacity) + len(limits)
        infinity = self._solver.inf
        for most in (*np.zeros(len(capacity)), *limits):
            self._solver.addRow(-infinity, float(most), 0, np.array([], dtype=np.int32), np.array([]))
        self._solver.addRow(1.0, 1.0, 0, np.array([], dtype=np.int32), np.array([]))
        self._column(1.0, np.arange(self._count), -np.asarray(capacity, dtype=float))
        for row in range(self._count, self._rows):
            self._column(BROKEN, np.array([row]), np.array([-1.0]))

    def _column(self, cost: float, rows: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        self._solver.addCol(cost, 0.0, self._solver.inf, len(rows), rows.astype(np.int32), values)

    def add(self, used: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """One more column."""
        self.add_all(used[None], values[None])

    def add_all(self, used: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Several more columns, shapes (columns, n) and (columns, m)."""
        every = np.column_stack([used, values, np.ones(len(used))])
        column, row = np.nonzero(every)
        begin = np.searchsorted(column, np.arange(len(every)))
        zeros, most = np.zeros(len(every)), np.full(len(every), self._solver.inf)
        self._solver.addCols(
            len(every), zeros, zeros, most, len(row), begin.astype(np.int32), row.astype(np.int32), every[column, row]
        )

    def solve(self) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        """``z`` with the price of each capacity and of each other row, none negative; at least one column is there.

        Raises
        ------
        SolverError
            If HiGHS finds no optimum.
        """
        self._solver.run()
        if not self._is_optimal:  # many like columns can lead the basis kept astray: once more from none
            self._solver.clearSolver()
            self._solver.run()
        if not self._is_optimal:
            raise SolverError(f"HiGHS ended a small linear program with {self._solver.getModelStatus()}")
        dual = np.maximum(0.0, -np.array(self._solver.getSolution().row_dual))
        value = float(self._solver.getInfo().objective_function_value)
        return value, dual[: self._count], dual[self._count : self._rows]

    @property
    def _is_optimal(self) -> bool:
        return str(self._solver.getModelStatus()).rpartition(".")[2] == "kOptimal"
