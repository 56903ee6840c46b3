"""One program solved by several solvers: what each says, and whether they agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from dora_nb.domain.qoe import Unit
from dora_nb.domain.record import Record

if TYPE_CHECKING:
    import pandas as pd

#: Relative disagreement that the tolerances of the solvers explain.
AGREEMENT = 1e-5


class SolverRow(Record):
    """What one solver says of one program.

    Attributes
    ----------
    program
        ``joint``, ``partition`` or ``transfers``, see :class:`~dora_nb.planning.exact.programs.Program`.
    variables, constraints
        Its size.
    unit
        What it minimises is counted in.
    solver
        Name and version.
    status
        ``optimal``, ``feasible``, ``infeasible``, ``no incumbent``, or ``not solved``.
    value, bound
        Of the best solution, and what is proven of every solution; None where there is none.
    gap
        ``(value - bound) / value``; None without both.
    wall_s
        Seconds of the solve.
    nodes
        Nodes of the search tree; 0 where presolving was enough.
    note
        Why it was not solved; empty if it was.
    """

    program: str
    variables: int = Field(ge=0)
    constraints: int = Field(ge=0)
    unit: Unit
    solver: str
    status: str
    value: float | None = None
    bound: float | None = None
    gap: float | None = None
    wall_s: float | None = None
    nodes: int | None = None
    note: str = ""

    @property
    def settled(self) -> bool:
        """Whether nothing is left open."""
        return self.status in ("optimal", "infeasible")


class SolverComparison(Record):
    """Programs that several solvers solved, side by side.

    Attributes
    ----------
    question
        Workload, cluster and objective in words.
    label
        The plan in hand, whose question the programs ask.
    rows
        Program by program, solver by solver.
    left_out
        Programs that could not be asked, and why.
    """

    question: str
    label: str
    rows: tuple[SolverRow, ...]
    left_out: tuple[str, ...] = ()

    @property
    def agreement(self) -> dict[str, bool | None]:
        """Whether the solvers agree, by program: None where fewer than two settled it and nothing contradicts."""
        return {name: self._agree(name) for name in dict.fromkeys(row.program for row in self.rows)}

    def _agree(self, program: str) -> bool | None:
        rows = [row for row in self.rows if row.program == program]
        values = [row.value for row in rows if row.value is not None]
        bounds = [row.bound for row in rows if row.bound is not None]
        if values and any(row.status == "infeasible" for row in rows):
            return False
        if values and bounds and max(bounds) > min(values) + AGREEMENT * abs(min(values)):
            return False  # what one has found, another says cannot be
        return True if sum(row.settled for row in rows) > 1 else None

    def to_frame(self) -> pd.DataFrame:
        """One row for every program and solver; ``value`` and ``bound`` in the program's ``unit``."""
        from dora_nb.render.solvers import solver_frame  # a method that looks up a room: imported when called

        return solver_frame(self)

    def __repr__(self) -> str:
        from dora_nb.render.solvers import solver_text

        return solver_text(self)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from dora_nb.render.solvers import solver_html

        return solver_html(self)
