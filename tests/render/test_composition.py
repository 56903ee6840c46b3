"""A composition as a person meets it: frame, text and HTML say the same figures."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from builders import cluster, device, pipeline, workload

from dora_nb.domain.composition import Composition
from dora_nb.domain.conditions import Condition
from dora_nb.domain.qoe import QoE
from dora_nb.planning.composition.compose import compose


@pytest.fixture(scope="module")
def mix() -> Composition:
    """Half on a device of 8 s and 16 J, half on one of 4 s and 40 J; the second is away in one condition of two."""
    work = workload(2, mode="inference", batch=4)
    place = cluster([device("a", active_w=2.0), device("b", 2e9, active_w=10.0)])
    states = [
        Condition(name="calm & <bright>", probability=0.75),
        Condition(name="b away", probability=0.25, absent_devices=("b",)),
    ]
    plans = [pipeline((0, 2, {name: 4})).replace(label=f"all on {name}") for name in ("a", "b")]
    return compose(work, place, QoE(objective="latency", energy_j=30.0), states, restrict=plans, window=10)


def test_the_frame_has_a_row_for_every_plan_in_every_condition(mix: Composition) -> None:
    frame = mix.to_frame()
    assert len(frame) == len(mix.plans) * 2
    assert frame.groupby("condition")["weight"].sum().tolist() == [1.0, 1.0]
    assert {"makespan_s", "energy_j", "mean_s", "mean_j", "kept", "count", "probability"} <= set(frame.columns)
    expected = (frame.drop_duplicates("condition").eval("probability * mean_s")).sum()
    assert expected == pytest.approx(mix.certificate.value)


def test_text_and_html_say_the_same(mix: Composition) -> None:
    text, html = repr(mix), mix._repr_html_()
    for words in ("b away", "25 %", "gap 0.00 %", "kept on the mean of every condition"):
        assert words in text
        assert words in html
    assert "calm & <bright>" in text
    assert "<bright>" not in html
    ElementTree.fromstring(html.replace("<br>", "<br/>"))
