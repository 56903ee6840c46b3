"""Sweeps: a parametrised notebook at many points, on this machine or on a Dask cluster, and a report of what it gave.

Names are imported when they are first used: notebooks that hand over rows need neither papermill nor pyarrow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dora_nb.sweeps.figures import changes_figure, effort_figure, front_figure, heat_figure
    from dora_nb.sweeps.folder import read_table
    from dora_nb.sweeps.grid import Grid, Range, Sample, load_grid
    from dora_nb.sweeps.reporting import load_view, report
    from dora_nb.sweeps.rows import no_plan_row, plan_rows, record_rows
    from dora_nb.sweeps.run import Failure, Sweep, sweep

_HOMES = {
    "Failure": "run",
    "Grid": "grid",
    "Range": "grid",
    "Sample": "grid",
    "Sweep": "run",
    "changes_figure": "figures",
    "effort_figure": "figures",
    "front_figure": "figures",
    "heat_figure": "figures",
    "load_grid": "grid",
    "load_view": "reporting",
    "no_plan_row": "rows",
    "plan_rows": "rows",
    "read_table": "folder",
    "record_rows": "rows",
    "report": "reporting",
    "sweep": "run",
}

__all__ = [
    "Failure",
    "Grid",
    "Range",
    "Sample",
    "Sweep",
    "changes_figure",
    "effort_figure",
    "front_figure",
    "heat_figure",
    "load_grid",
    "load_view",
    "no_plan_row",
    "plan_rows",
    "read_table",
    "record_rows",
    "report",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dora_nb.sweeps' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"dora_nb.sweeps.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
