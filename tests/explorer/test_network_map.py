"""The network as a widget, without a browser: what it sends, and how it reads where there is no kernel."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

pytest.importorskip("anywidget")

import traitlets
from builders import cluster, pipeline, workload
from worlds import scheduled

from dora_nb.explorer import NetworkMap
from dora_nb.explorer.views.map import CARD_PX, map_view
from dora_nb.explorer.widgets.base import static_text


def shown(**traits: object) -> NetworkMap:
    work, place = workload(3), cluster(3)
    plan = scheduled(work, place, pipeline((0, 2, {"a": 4}), (2, 3, {"b": 4})))
    return NetworkMap(place, work, plan.replace(label="first"), **traits)


def test_it_sends_the_view() -> None:
    place = cluster(2)
    widget = NetworkMap(place)
    assert widget.view == map_view(place).model_dump(mode="json")
    assert widget.switched_off == []
    assert widget.positions == {}
    sent = widget.get_state(["view", "switched_off", "positions"])
    assert sent == {"view": widget.view, "switched_off": [], "positions": {}}


def test_devices_switched_off_from_the_start() -> None:
    widget = shown(switched_off=["c"])
    assert [card["on"] for card in widget.view["devices"]] == [True, True, False]


def test_positions_are_pairs_of_numbers() -> None:
    widget = shown()
    widget.positions = {"a": [0.25, 0.5]}
    for wrong in ({"a": [0.25]}, {"a": [0.1, 0.2, 0.3]}, {"a": ["x", "y"]}):
        with pytest.raises(traitlets.TraitError):
            widget.positions = wrong
    with pytest.raises(traitlets.TraitError):
        widget.switched_off = [3]


def test_it_reads_well_without_a_kernel() -> None:
    widget = shown()
    html = widget._repr_html_()
    ElementTree.fromstring(html.replace("<br>", "<br/>"))
    assert "first on tiny: 3 devices on net" in html
    for words in ("stage 0", "l0-1", "not in this plan", "Predicted", "8 Mbit/s", "airtime"):
        assert words in html
    assert "<script" not in html
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
    assert widget._static_text() == widget.view["title"]


def test_an_empty_widget_shows_nothing() -> None:
    widget = NetworkMap()
    assert widget.view == {}
    assert widget._static_html() == ""
    assert widget._static_text() == ""


def test_its_stylesheet_draws_cards_of_the_height_the_layout_was_made_for() -> None:
    assert f"  height: {CARD_PX}px;\n" in static_text("network_map.css")


def test_its_module_stands_alone() -> None:
    module = NetworkMap._esm
    assert "export default { render };" in str(module)
    assert "import " not in static_text("network_map.js")
