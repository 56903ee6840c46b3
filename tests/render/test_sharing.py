"""How a sharing is shown."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from builders import cluster, device, layer, workload

import dora_nb as dora
from dora_nb.domain.sharing import Sharing


@pytest.fixture(scope="module")
def sharing() -> Sharing:
    place = cluster([device("a"), device("b"), device("spare", 1e7)], 1e7, "switch")
    heavy = workload([layer("l0", 3e8), layer("l1", 3e8)], mode="stream", batch=1, requests_per_s=1.0, source="b")
    heavy = heavy.replace(input_bytes=1e5)
    light = workload([layer("m0", 1e8)], mode="stream", batch=1, requests_per_s=2.0)
    return dora.share(
        [
            dora.Stream(name="<gate>", workload=heavy, count=2, deadline_s=2.0),
            dora.Stream(name="door", workload=light),
        ],
        place,
    )


def test_the_text_has_every_camera_and_what_is_proven(sharing: Sharing) -> None:
    text = repr(sharing)
    assert "3 cameras on tiny" in text
    assert f"gap {100 * sharing.gap:.2f} % ({sharing.status})" in text
    assert re.search(r"^door 1 +[ab] 1-1 +\d+ ms +\d+ ms +", text, re.MULTILINE)
    assert "not needed: spare" in text
    assert "busiest on the network: net/" in text
    assert str(sharing) == text


def test_the_page_shows_the_timetable_of_a_round(sharing: Sharing) -> None:
    page = sharing._repr_html_()
    assert "<gate>" not in page
    (figure,) = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    bars = [each for each in ElementTree.fromstring(figure).iter() if each.tag.endswith("title")]
    tips = [each.text or "" for each in bars]
    assert any(tip.startswith("forward, stage 0, <gate>-1, request 1:") for tip in tips)
    assert any("door-1, request 2" in tip for tip in tips)
    computing = [tip for tip in tips if tip.startswith("forward")]
    assert len(computing) >= sum(len(each.plan.stages) * len(each.latencies_s) for each in sharing.cameras)
