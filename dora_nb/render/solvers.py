"""A comparison of solvers as a frame, as plain text and as HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dora_nb.domain.solver_comparison import SolverComparison, SolverRow
from dora_nb.render import words
from dora_nb.render.html import fragment
from dora_nb.render.markup import head, items, table
from dora_nb.units import format_seconds

if TYPE_CHECKING:
    import pandas as pd

_HEADING = ("program", "size", "solver", "status", "value", "bound", "gap", "time", "nodes")


def solver_frame(comparison: SolverComparison) -> pd.DataFrame:
    """One row for every program and solver, and whether the solvers agree on the program."""
    import pandas as pd

    agreement = comparison.agreement
    rows = [row.model_dump() | {"agree": agreement[row.program]} for row in comparison.rows]
    return pd.DataFrame(rows, columns=[*SolverRow.model_fields, "agree"])


def solver_text(comparison: SolverComparison) -> str:
    """A comparison as plain text."""
    cells = [_HEADING, *map(_cells, comparison.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join([words.one_line(_title(comparison)), "", *lines, "", *map(words.one_line, _said(comparison))])


def solver_html(comparison: SolverComparison) -> str:
    """A comparison as a fragment of HTML."""
    rows = map(_cells, comparison.rows)
    title = _title(comparison)
    return fragment([head(title), table(_HEADING, rows, left=(0, 1, 2, 3)), items(_said(comparison))])


def _title(comparison: SolverComparison) -> str:
    return f"Solvers side by side: {comparison.question}; plan in hand: {comparison.label or 'given'}"


def _cells(row: SolverRow) -> tuple[str, ...]:
    def figure(value: float | None) -> str:
        return words.NOTHING if value is None else f"{value:.6g} {row.unit}"

    return (
        row.program,
        f"{row.variables:,} x {row.constraints:,}",
        row.solver,
        row.status,
        figure(row.value),
        figure(row.bound),
        words.NOTHING if row.gap is None else f"{100 * row.gap:.2f} %",
        words.NOTHING if row.wall_s is None else format_seconds(row.wall_s),
        words.NOTHING if row.nodes is None else f"{row.nodes:,}",
    )


def _said(comparison: SolverComparison) -> list[str]:
    """What the table does not say."""
    verdicts = {True: "the solvers agree", False: "THE SOLVERS DISAGREE", None: "not both settled it"}
    lines = [f"{program}: {verdicts[agree]}" for program, agree in comparison.agreement.items()]
    lines += [f"{row.program}, {row.solver}: {row.note}" for row in comparison.rows if row.note]
    return [*lines, *(f"left out: {each}" for each in comparison.left_out), "Size: variables x constraints."]
