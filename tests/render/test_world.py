"""A world as HTML: its lanes agree with its traces, names are escaped, and size is bounded."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from builders import cluster, device

from dora_nb.render.world import world_html, world_svg
from dora_nb.simulation import Trace, World

SVG = "{http://www.w3.org/2000/svg}"
NASTY = '<b onload="x()">&\'\n\x1b[31m ]]>'

HALF = Trace.steps([(0.0, 1.0), (30.0, 0.5)], end_s=60.0, origin="generated", source="a chain, seed 3")
AWAY = Trace.steps([(0.0, 1.0), (15.0, 0.0), (45.0, 1.0)], end_s=60.0)
WORLD = World(cluster(2)).having("domain rate", "net", HALF).having("presence", "a", AWAY)


def tips(world: World) -> dict[str, ET.Element]:
    """Marks by what their tooltip says."""
    root = ET.fromstring(world_svg(world))
    return {tip.text or "": mark for mark in root.iter() if (tip := mark.find(f"{SVG}title")) is not None}


def test_every_step_of_a_trace_is_told_at_its_place() -> None:
    found = tips(WORLD)
    assert list(found) == [
        "net from 0 s to 30 s: 1 times its rates",
        "net from 30 s to 60 s: 0.5 times its rates",
        "a there from 0 s to 15 s",
        "a away from 15 s to 45 s",
        "a there from 45 s to 60 s",
    ]
    wide = {tip: float(mark.get("width", "nan")) for tip, mark in found.items()}
    assert wide["a away from 15 s to 45 s"] == pytest.approx(2 * wide["a there from 0 s to 15 s"], abs=0.02)
    drawn = [float(mark.get("x", "nan")) + float(mark.get("width", "nan")) for mark in found.values()]
    assert max(drawn) == pytest.approx(960 - 14, abs=0.02)


def test_it_says_where_traces_come_from() -> None:
    text = re.sub("<[^>]*>", "\n", world_html(WORLD))
    assert "tiny, with 2 influences: 3 changes in 60 s" in text
    assert "net, rates: generated (a chain, seed 3)" in text
    assert "a, there: assumed" in text
    assert repr(WORLD) == "World(tiny: domain rate of net, presence of a)"


def test_a_world_without_influences_or_without_an_end_is_shown() -> None:
    assert "tiny, where nothing changes" in world_html(World(cluster(2)))
    endless = World(cluster(2)).having("device speed", "b", Trace.steps([(0.0, 1.0), (10.0, 2.0)]))
    assert "b from 10 s to 11 s: 2 times its speed" in tips(endless)
    ET.fromstring(world_svg(World(cluster(2)).having("device speed", "b", Trace.constant(0.5))))


def test_names_cannot_break_out_and_long_traces_stay_small() -> None:
    place = cluster([device(NASTY), device("b")])
    values = np.random.default_rng(1).random(20_000)
    world = World(place).having("device speed", NASTY, Trace(np.arange(20_000.0), values, 20_000.0, source=NASTY))
    shown = world_html(world)
    assert "<b " not in shown
    assert len(shown) < 1_000_000
    ET.fromstring(world_svg(world))
