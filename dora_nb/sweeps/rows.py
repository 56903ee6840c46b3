"""What a notebook hands to the sweep that runs it: rows, by an output of its own kind in the executed notebook.

A notebook that is opened by a person shows what it would hand over, and nothing else happens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.errors import InputError
from dora_nb.render.words import NOTHING, one_line, shorten
from dora_nb.units import counted

#: A cell of a row: what a column of a Parquet file holds.
Cell = str | int | float | bool | None

#: One row, by column.
Row = dict[str, Cell]

#: The kind of output that holds rows.
MIME = "application/vnd.dora-nb.rows+json"

#: Rows that are shown side by side, and characters of a cell.
_MOST_SHOWN, _LONGEST_CELL = 5, 32

_COLUMN = re.compile(r"[a-z][a-z0-9_]*")


class Rows:
    """Rows for a sweep, and how long getting them took.

    Parameters
    ----------
    rows
        By column.
    timings
        Seconds, by column.
    """

    def __init__(self, rows: Sequence[Row], timings: Mapping[str, float]) -> None:
        self.rows = tuple(rows)
        self.timings = dict(timings)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {MIME: {"rows": list(self.rows), "timings": self.timings}, "text/plain": repr(self)}

    def __repr__(self) -> str:
        return "\n".join([f"{counted(len(self.rows), 'row')} for the sweep", *self._lines()])

    def _lines(self) -> Iterator[str]:
        """A line for every column that has a value, the rows side by side, each as wide as its longest cell."""
        columns = [name for name in self._columns() if any(row.get(name) is not None for row in self.rows)]
        side = [[_cell_words(row.get(name)) for name in columns] for row in self.rows[:_MOST_SHOWN]]
        widths = [max(map(len, cells), default=0) for cells in (columns, *side)]
        for line in zip(columns, *side, strict=True):
            yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        if len(self.rows) > _MOST_SHOWN:
            yield f"  and {counted(len(self.rows) - _MOST_SHOWN, 'more row')}"

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row))


def _cell_words(cell: Cell) -> str:
    if cell is None:
        return NOTHING
    return f"{cell:.4g}" if isinstance(cell, float) else shorten(one_line(str(cell)), _LONGEST_CELL)


def record_rows(rows: Iterable[Mapping[str, Cell]], **timings: float) -> None:
    """Hand rows to the sweep that runs this notebook; in a notebook opened by a person, show them.

    May be called several times: rows add up.

    Parameters
    ----------
    rows
        By column: text, whole numbers, finite numbers, true, false or None. Names are in small letters with the unit
        at their end (``makespan_s``). A column that is a parameter too takes the parameter's place in the results.
        Nothing that varies from run to run belongs in them.
    timings
        Seconds that something took, such as ``planning_wall_s=plans.wall_s``: these go to the sweep's timings.

    Raises
    ------
    InputError
        If a column or a value of it cannot be used.
    """
    checked = [_checked(f"rows[{index}]", row) for index, row in enumerate(rows)]
    took = _checked("timings", timings)
    if not all(isinstance(seconds, float | int) for seconds in took.values()):
        raise InputError("timings", timings, "seconds by name")
    from IPython.display import display  # rows are for notebooks, which have it

    display(Rows(checked, {name: float(seconds or 0.0) for name, seconds in took.items()}))  # type: ignore[no-untyped-call]


def plan_rows(plans: PlanSet) -> list[Row]:
    """One row a plan of a set: its figures under both accountings, what is proven of it, and who runs which layers.

    Nothing in them depends on how long planning took.
    """
    return [_plan_row(plan, plan is plans.best, plans) for plan in plans.plans]


def no_plan_row(reason: str) -> Row:
    """The row of a point whose limits no plan keeps."""
    return {"plan": None, "is_best": True, "status": "infeasible", "note": reason}


def stage_text(plan: Plan) -> str:
    """Who runs which layers, in a form that two equal placements share.

    Stages in order, as ``first-last:devices``; layers from 0, both ends inclusive; replicas with their samples of a
    micro-batch: ``0-11:laptop*3+phone*1|12-27:hub``; shards with their parts: ``0-27:laptop*5/8+hub*3/8``.
    """
    parts = []
    for stage in plan.stages:
        devices = "+".join(
            f"{each.device}*{each.samples}" if len(stage.replicas) > 1 else each.device for each in stage.replicas
        )
        if stage.shards:
            both = zip(stage.devices, stage.shards, strict=True)
            devices = "+".join(f"{name}*{parts}/{sum(stage.shards)}" for name, parts in both)
        parts.append(f"{stage.first_layer}-{stage.stop_layer - 1}:{devices}")
    return "|".join(parts)


def rows_of(notebook: Mapping[str, Any]) -> tuple[list[Row], dict[str, float]] | None:
    """Rows and timings that an executed notebook handed over, in the order it did; None if it never did.

    Raises
    ------
    InputError
        If an output that should hold rows holds something else.
    """
    found = [
        output["data"][MIME]
        for cell in notebook.get("cells", ())
        for output in cell.get("outputs", ())
        if MIME in output.get("data", ())
    ]
    if not found:
        return None
    rows: list[Row] = []
    timings: dict[str, float] = {}
    for handed in found:
        if not isinstance(handed, dict) or not isinstance(handed.get("rows"), list):
            raise InputError("rows", handed, "what record_rows hands over")
        rows += [_checked(f"rows[{index}]", row) for index, row in enumerate(handed["rows"])]
        timings |= {name: float(seconds or 0.0) for name, seconds in _checked("timings", handed["timings"]).items()}
    return rows, timings


def _checked(where: str, row: Any) -> Row:
    if not isinstance(row, Mapping):
        raise InputError(where, row, "values by column")
    for name, value in row.items():
        if not isinstance(name, str) or not _COLUMN.fullmatch(name):
            raise InputError(where, name, "columns named in small letters, digits and underscores")
        usable = value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
        if not usable:
            raise InputError(f"{where}.{name}", value, "text, a finite number, true, false or None")
    return dict(row)


def _plan_row(plan: Plan, is_best: bool, plans: PlanSet) -> Row:
    assert plan.prediction is not None, "planned plans carry their prediction"
    predicted, proof = plan.prediction, plan.certificate
    return {
        "plan": plan.label,
        "is_best": is_best,
        "makespan_s": predicted.makespan_s,
        "period_s": predicted.period_s,
        "samples_per_s": predicted.samples_per_s,
        "first_token_s": predicted.first_token_s,
        "token_s": predicted.token_s,
        "energy_participating_j": predicted.energy_participating_j,
        "energy_all_on_j": predicted.energy_all_on_j,
        "energy_j": predicted.energy_j(plans.qoe.energy_accounting),
        "network_bytes": predicted.network_bytes,
        "airtime_s": predicted.airtime_s,
        "memory_bytes": max((each.memory_bytes for each in predicted.devices), default=0.0),
        "devices": len(plan.devices),
        "stages": len(plan.stages),
        "micro_batch": plan.micro_batch,
        "micro_batches": plan.micro_batches,
        "placement": stage_text(plan),
        "minimised": None if proof is None else proof.objective,
        "value": None if proof is None else proof.value,
        "value_unit": None if proof is None else proof.unit,
        "bound": None if proof is None else proof.bound,
        "gap": None if proof is None else proof.gap,
        "status": None if proof is None else proof.status,
        "proven_by": None if proof is None else proof.solver,
        "note": None,
    }
