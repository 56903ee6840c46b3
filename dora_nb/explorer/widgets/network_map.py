"""The network as a widget: what every device does, what the media carry, devices to switch off and on."""

from __future__ import annotations

from typing import Any

import traitlets

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import EnergyAccounting
from dora_nb.domain.workload import Workload
from dora_nb.explorer.html.map import map_html
from dora_nb.explorer.views.map import MapView, map_view
from dora_nb.explorer.widgets.base import DrawnWidget, module_text, style_text


class NetworkMap(DrawnWidget):
    """Devices as cards, contention domains as bars, and the lines between them.

    A click, Enter or Space on a device switches it off or on. Cards and bars are dragged, or moved by the arrow keys
    with shift; arrow keys alone go from one to the next.

    Parameters
    ----------
    cluster
        What to show; None: what ``view`` holds.
    workload, plan
        What runs on it, with its prediction; None: nothing.
    accounting
        Whose energy counts.
    traits
        Any of the attributes.

    Attributes
    ----------
    view
        A :class:`~dora_nb.explorer.views.map.MapView` as ``model_dump(mode="json")``; empty: nothing is drawn.
    switched_off
        Ids of the devices that are switched off. One always stays on.
    positions
        Where cards and bars were moved to: middles as shares of the map's width and height, by id.
    """

    _esm = module_text("network_map.js")
    _css = style_text("network_map.css")

    view = traitlets.Dict().tag(sync=True)
    switched_off = traitlets.List(traitlets.Unicode()).tag(sync=True)
    positions = traitlets.Dict(
        key_trait=traitlets.Unicode(), value_trait=traitlets.List(traitlets.Float(), minlen=2, maxlen=2)
    ).tag(sync=True)

    def __init__(
        self,
        cluster: Cluster | None = None,
        workload: Workload | None = None,
        plan: Plan | None = None,
        *,
        accounting: EnergyAccounting = "participating",
        **traits: Any,
    ) -> None:
        if cluster is not None:
            off = traits.get("switched_off", ())
            shown = map_view(cluster, workload, plan, accounting=accounting, switched_off=off)
            traits = {"view": shown.model_dump(mode="json")} | traits
        super().__init__(**traits)

    def _static_html(self) -> str:
        return map_html(MapView(**self.view)) if self.view else ""

    def _static_text(self) -> str:
        return MapView(**self.view).title if self.view else ""
