"""Plans on networks of several domains are shown with all their media."""

from __future__ import annotations

import pytest
from builders import device, pipeline, workload

from dora_nb.costs import evaluate
from dora_nb.costs.operations import Shape
from dora_nb.costs.precedence import operations_of
from dora_nb.domain.cluster import Cluster, ContentionDomain
from dora_nb.domain.transfer import Transfer
from dora_nb.render.timeline import timeline_svg
from dora_nb.render.trace import trace_events
from dora_nb.render.words import network_words, shorten_middle

LEAVES = ("wifi-of-the-living-room-upstairs", "cell")


def place() -> Cluster:
    lan = ContentionDomain(id="lan", kind="switch", rates_bytes_per_s=dict.fromkeys((*LEAVES, "c"), 1e6))
    wifi = ContentionDomain(id=LEAVES[0], kind="shared", rates_bytes_per_s={"a": 1e6})
    cell = ContentionDomain(id=LEAVES[1], kind="cell", rates_bytes_per_s={"b": 1e6}, down_rates_bytes_per_s={"b": 1e7})
    return Cluster(name="tiny", devices=tuple(map(device, "abc")), domains=(wifi, lan, cell))


def test_the_network_in_words() -> None:
    assert network_words(place()) == f" on lan, with {LEAVES[0]} and cell behind it"
    assert network_words(Cluster(name="one", devices=(device("a"),))) == ""
    mesh = ContentionDomain(id="mesh", kind="links", links_bytes_per_s={"a": {"b": 1}})
    assert network_words(Cluster(name="two", devices=(device("a"), device("b")), domains=(mesh,))) == " on mesh"


@pytest.mark.parametrize("longest", [8, 9, 12])
def test_a_shortened_name_keeps_both_ends(longest: int) -> None:
    short = shorten_middle("lan/gateway-1/rx", longest)
    assert len(short) <= longest
    assert short.startswith("l")
    assert short.endswith("/rx")
    assert shorten_middle("short", 7) == "short"


def test_every_medium_has_a_lane_of_its_own() -> None:
    work = workload(2, batch=1, mode="inference")
    plan = pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1}))
    order = [
        operation for operation in operations_of(Shape.of(plan, work)).operations if operation.kind == "activation"
    ]
    transfers = tuple(Transfer(kind=each.kind, stage=each.stage, micro_batch=each.micro_batch) for each in order)
    evaluation = evaluate(plan.replace(transfer_order=transfers), work, place())
    media = {LEAVES[0], f"lan/{LEAVES[0]}/tx", "lan/cell/rx", "cell/down"}
    shown = timeline_svg(evaluation, plan)
    assert all(shorten_middle(name, 24) in shown for name in media)
    lanes = {
        each["args"]["name"] for each in trace_events(evaluation.timeline, "plan", 1) if each["name"] == "thread_name"
    }
    assert lanes == {"a", "b", *media}
