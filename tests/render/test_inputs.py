"""What a person gives, as text and HTML: clusters, devices, domains, workloads, qualities of experience, conditions."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import pytest

from dora_nb.catalog import load_cluster, load_conditions, load_device, load_workload
from dora_nb.domain.cluster import Cluster, ContentionDomain
from dora_nb.domain.conditions import Condition, Conditions
from dora_nb.domain.explanation import Change, Relaxation
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.errors import InfeasibleError

#: Text that would end a tag, an attribute, a line or an XML document.
NASTY = "<script>alert(\"1\")</script> & 'x'\n\x1b[31m ]]> \u2028"

DEPLOYMENTS = ("edge-cluster", "smart-home", "traffic-5g", "traffic-analytics", "wired-home")


def whole(html: str) -> ElementTree.Element:
    """A fragment, if its tags are closed in order."""
    return ElementTree.fromstring(html.replace("<br>", "<br/>"))


def rows(html: str) -> list[list[str]]:
    """Cells of every row of every table."""
    return [["".join(cell.itertext()) for cell in row] for row in whole(html).iter("tr")]


@pytest.fixture
def nasty() -> Cluster:
    """A cluster whose names have to be escaped."""
    member = load_device("rpi5-8g").replace(id=NASTY, name=NASTY)
    other = member.replace(id="other", name="")
    domain = ContentionDomain(id=f"{NASTY} net", kind="shared", rates_bytes_per_s={NASTY: 1e6, "other": 1e9})
    return Cluster(name=NASTY, description=NASTY, devices=(member, other), domains=(domain,))


# ---------------------------------------------------------------------------------------------- clusters


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_cluster_names_every_device_and_every_rate(name: str) -> None:
    cluster = load_cluster(name)
    text, html = repr(cluster), cluster._repr_html_()
    assert str(cluster) == text
    assert max(map(len, text.splitlines())) <= 110
    found = rows(html)
    for device in cluster.devices:
        assert any(line.startswith(device.id) for line in text.splitlines())
        assert any(row[0] == device.id and row[1] == (device.name or device.profile) for row in found)
    for domain in cluster.domains:
        assert any(row[0] == domain.id for row in found)
    assert "measured" in html


def test_a_cell_says_both_ways() -> None:
    html = load_cluster("traffic-5g")._repr_html_()
    assert "46 / 120 Mbit/s" in html
    assert "46 Mbit/s up, 120 Mbit/s down" in html


def test_links_of_their_own() -> None:
    home = load_cluster("smart-home").without(["tvbox", "hub"])
    links = {"phone": {"laptop": 1e6, "minipc": 2e6}, "laptop": {"minipc": 125e6}}
    mesh = home.replace(domains=(ContentionDomain(id="vpn", kind="links", links_bytes_per_s=links),))
    html = mesh._repr_html_()
    assert "8 - 16 Mbit/s" in html
    assert "0.008 - 1 Gbit/s" not in html
    assert "8 Mbit/s - 1 Gbit/s" in html


def test_a_single_device_needs_no_domain() -> None:
    alone = Cluster(name="alone", devices=(load_device("rpi5-8g"),))
    assert "alone: 1 device" in repr(alone)
    whole(alone._repr_html_())


def test_a_device_tells_every_number_and_its_source() -> None:
    device = load_cluster("smart-home").device("phone")
    html = device._repr_html_()
    found = {row[0]: row[1:] for row in rows(html)}
    assert found["matmul, fp64"] == ["57 GFLOP/s", "measured"]
    assert found["usable by a model"] == ["70 % (6.01 GB)", "assumed"]
    assert found["memory bandwidth"] == ["40.4 GB/s", "computed"]
    for field, source in device.sources.items():
        assert f"<dt>{field}</dt>" in html
        assert source.status in html
    assert repr(device).startswith("phone (MacBook Neo")
    assert "\n" not in repr(device)


def test_numbers_of_a_device_without_sources() -> None:
    device = load_device("rpi5-8g").replace(sources={}, flops_per_s={"conv": {"fp16": 2e9}})
    html = device._repr_html_()
    assert "Where the numbers come from" not in html
    assert ["conv, fp16", "2 GFLOP/s", "\u2013"] in rows(html)
    assert "2 GFLOP/s of matmul" not in repr(device)


def test_a_domain_alone() -> None:
    (domain,) = load_cluster("smart-home").domains
    assert repr(domain).splitlines()[0] == "wifi: shared, 2 ms a message"
    assert "one airtime for everybody" in domain._repr_html_()


def test_names_are_escaped(nasty: Cluster) -> None:
    for thing in (nasty, nasty.devices[0], nasty.domains[0]):
        html = thing._repr_html_()
        whole(html)
        assert "<script>" not in html
        assert "\x1b" not in repr(thing)
        assert "\u2028" not in repr(thing)


# ---------------------------------------------------------------------------------------------- workloads


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("qwen3-0.6b", {"mode": "training", "batch": 16}, ["block.0-27", "28", "15.7 million", "shared by the first"]),
        ("qwen3-0.6b", {"mode": "generate", "new_tokens": 8}, ["a new token", "8 new tokens"]),
        ("resnet-50", {"batch": 4, "source": "phone", "sink": "phone"}, ["inputs come from phone", "needed on phone"]),
        ("vit-b-16", {"mode": "stream", "requests_per_s": 4.0}, ["a request every 250 ms"]),
    ],
)
def test_workloads(name: str, options: dict[str, Any], said: list[str]) -> None:
    workload = load_workload(name, **options)
    html = workload._repr_html_()
    whole(html)
    for words in said:
        assert words in html
    assert repr(workload).startswith(f"{name}, {workload.mode}, batch {workload.batch}")
    assert len(repr(workload).splitlines()) <= 6
    assert ("Kept for backward" in html) == workload.trains


def test_layers_of_a_workload_are_counted_once() -> None:
    workload = load_workload("resnet-50")
    table = rows(workload._repr_html_())[1:]
    assert sum(int(row[1]) for row in table) == len(workload.layers)


# ---------------------------------------------------------------------------------------------- QoE


@pytest.mark.parametrize(
    ("qoe", "said"),
    [
        (QoE(), ["lowest latency", "No limits."]),
        (QoE(latency_s=30, objective="energy"), ["least energy", "30 s", "not allowed"]),
        (QoE(objective="price", joules_per_s=5), ["lowest price of energy and latency at 5 J/s"]),
        (QoE(latency_s=30, latency_price="2 s/s"), ["costs 2 s/s"]),
        (QoE(samples_per_s=2, throughput_price=3), ["2 samples/s", "at least", "costs 3 s/(samples/s)"]),
        (QoE(energy_j=2000, battery_j={"a<b": 300}), ["2,000 J", "battery of a&lt;b", "300 J"]),
        (QoE(headroom_fraction=0.1), ["10 % of usable memory"]),
        (QoE(headroom_bytes="1 GB", headroom_price="3 s/GB"), ["1 GB", "costs 3 s/GB"]),
        (QoE(energy_accounting="all-on"), ["counting every device of the cluster"]),
    ],
)
def test_qoe(qoe: QoE, said: list[str]) -> None:
    html = qoe._repr_html_()
    whole(html)
    for words in said:
        assert words in html
    assert repr(qoe).startswith("Asked for: ")
    assert "\n" not in repr(qoe)


# ---------------------------------------------------------------------------------------------- conditions


def test_conditions_say_what_is_different() -> None:
    conditions = load_conditions("smart-home-evening")
    found = {row[0]: row[1:] for row in rows(conditions._repr_html_())}
    assert found["calm"] == ["60 %", "as it is"]
    assert found["busy Wi-Fi"] == ["30 %", "wifi at 0.4 times its rates"]
    assert found["laptop away"] == ["10 %", "laptop away"]
    assert "busy Wi-Fi, 30 %: wifi at 0.4 times its rates" in repr(conditions)
    assert repr(conditions).startswith("smart-home-evening: 3 conditions, one at a time")


def test_a_condition_alone() -> None:
    slow = Condition(
        name=NASTY,
        probability=0.5,
        device_rate_factors={"a": 0.5},
        device_speed_factors={"b": 0.25},
        absent_devices=("c", "d"),
    )
    assert "a reached at 0.5 times its rates, b at 0.25 times its speed and c and d away" in repr(slow)
    for thing in (slow, Conditions(conditions=(slow.replace(probability=1.0),))):
        html = thing._repr_html_()
        whole(html)
        assert "<script>" not in html
        assert "\x1b" not in repr(thing)
    assert "as it is" in Condition(name="calm", probability=1.0)._repr_html_()


# ---------------------------------------------------------------------------------------------- infeasible


@pytest.fixture
def relaxation(plans: PlanSet) -> Relaxation:
    change = Change(limit="latency", unit="s", asked=1.0, needed=2.0, impossible=1.9)
    return Relaxation(changes=(change,), plan=plans.best)


def test_showing_an_error_does_not_plan(relaxation: Relaxation) -> None:
    asked: list[int] = []

    def relax() -> tuple[Relaxation, ...]:
        asked.append(1)
        return (relaxation,)

    error = InfeasibleError("1 s <is> impossible", relax)
    html = error._repr_html_()
    whole(html)
    assert "1 s &lt;is&gt; impossible" in html
    assert "relaxations" in html
    assert not asked
    assert error.relaxations
    assert "It becomes possible with a latency of 2 s instead of 1 s" in error._repr_html_()


@pytest.mark.parametrize("relax", [None, lambda: ()])
def test_an_error_without_relaxations(relax: Callable[[], tuple[Relaxation, ...]] | None) -> None:
    error = InfeasibleError("nothing to do", relax)
    assert error.relaxations == ()
    html = error._repr_html_()
    whole(html)
    assert ("No change was found" in html) == (relax is not None)
