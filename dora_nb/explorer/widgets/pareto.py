"""The trade-off between latency and energy as a widget: plans to pick and compare, limits to drag."""

from __future__ import annotations

from typing import Any

import traitlets

from dora_nb.domain.plan_set import PlanSet
from dora_nb.explorer.views.front import front_view
from dora_nb.explorer.widgets.base import DrawnWidget, module_text, style_text
from dora_nb.render.front import front_svg


class ParetoPlot(DrawnWidget):
    """Latency against energy, in SVG.

    A click or the arrow keys pick a plan, with shift one to compare it with; a limit is dragged, or moved by the arrow
    keys where it has the focus, and the Delete key removes it.

    Parameters
    ----------
    plan_set
        What to show, at its best plan; None: what ``view`` holds.
    traits
        Any of the attributes.

    Attributes
    ----------
    view
        A :class:`~dora_nb.explorer.views.front.FrontView` as ``model_dump(mode="json")``; empty: nothing is drawn.
    selected, compared
        The plans picked, as places among the view's points; -1: none.
    latency_limit_s, energy_limit_j
        Where the limits are drawn; None: there is none. A view with other limits does not move them.
    bound, bound_words
        Of a solve under way: the line below which it has proven by now that there is no plan, as corners in s and J,
        and what it says; empty: nothing.
    """

    _esm = module_text("plot.js", "limit_line.js", "pareto.js")
    _css = style_text("pareto.css")

    view = traitlets.Dict().tag(sync=True)
    selected = traitlets.Int(-1).tag(sync=True)
    compared = traitlets.Int(-1).tag(sync=True)
    latency_limit_s = traitlets.Float(None, allow_none=True).tag(sync=True)
    energy_limit_j = traitlets.Float(None, allow_none=True).tag(sync=True)
    bound = traitlets.List(traitlets.List(traitlets.Float())).tag(sync=True)
    bound_words = traitlets.Unicode().tag(sync=True)

    def __init__(self, plan_set: PlanSet | None = None, **traits: Any) -> None:
        self._plan_set = plan_set
        if plan_set is not None:
            view = front_view(plan_set)
            best = next(index for index, plan in enumerate(plan_set.plans) if plan is plan_set.best)
            shown = {"view": view.model_dump(mode="json"), "selected": best}
            limits = {"latency_limit_s": view.latency_limit_s, "energy_limit_j": view.energy_limit_j}
            traits = shown | limits | traits
        super().__init__(**traits)

    def _static_html(self) -> str:
        return "" if self._plan_set is None else front_svg(self._plan_set)
