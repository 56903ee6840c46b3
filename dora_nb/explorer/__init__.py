"""Look at plans: trade-offs, timelines and networks, with widgets in a notebook and figures to take away.

Names are imported when they are first used: figures need plotly, widgets ipywidgets and anywidget.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dora_nb.errors import MissingDependencyError

if TYPE_CHECKING:
    from dora_nb.explorer.figures import composition_figure, figure_html, pareto_figure
    from dora_nb.explorer.screen import Explorer, explore
    from dora_nb.explorer.state import ExplorerState
    from dora_nb.explorer.widgets.gantt import Gantt
    from dora_nb.explorer.widgets.network_map import NetworkMap
    from dora_nb.explorer.widgets.pareto import ParetoPlot

_HOMES = {
    "Explorer": "screen",
    "ExplorerState": "state",
    "Gantt": "widgets.gantt",
    "NetworkMap": "widgets.network_map",
    "ParetoPlot": "widgets.pareto",
    "composition_figure": "figures",
    "explore": "screen",
    "figure_html": "figures",
    "pareto_figure": "figures",
}

#: What the extra ``explore`` installs and this room imports.
_PACKAGES = ("anywidget", "ipywidgets", "plotly", "traitlets")

__all__ = [
    "Explorer",
    "ExplorerState",
    "Gantt",
    "NetworkMap",
    "ParetoPlot",
    "composition_figure",
    "explore",
    "figure_html",
    "pareto_figure",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dora_nb.explorer' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"dora_nb.explorer.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in _PACKAGES:
            raise
        raise MissingDependencyError(package, f"dora_nb.explorer.{name}", "explore") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
