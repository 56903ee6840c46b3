"""Clusters that cannot be used are refused, and the message says why."""

from __future__ import annotations

from typing import Any

import pytest
from builders import device

from dora_nb.domain.cluster import Cluster, ContentionDomain, Provenance
from dora_nb.errors import InputError, UnknownNameError


def domain(name: str, kind: str = "switch", members: str = "", **fields: Any) -> ContentionDomain:
    if members:
        fields["rates_bytes_per_s"] = dict.fromkeys(members.split(), 1e6)
    return ContentionDomain(id=name, kind=kind, **fields)


def cluster(*domains: ContentionDomain, devices: str = "abc") -> Cluster:
    return Cluster(name="tiny", devices=tuple(map(device, devices)), domains=domains)


def test_a_tree_of_domains_has_one_top() -> None:
    wifi, lan = domain("wifi", "shared", "a b"), domain("lan", members="wifi cell c")
    place = cluster(wifi, lan, domain("cell", "cell", "d", down_rates_bytes_per_s={"d": 5}), devices="abcd")
    assert place.domain is place.domains[1]
    assert place.domains[1].members == ("wifi", "cell", "c")
    assert Cluster(name="one", devices=(device("a"),)).domain is None


@pytest.mark.parametrize(
    ("domains", "field", "message"),
    [
        ((), "domains", "at least one contention domain"),
        (("lan:a b",), "domains[0].rates_bytes_per_s", "a rate for every device"),
        (("lan:a b c d",), "domains[0].rates_bytes_per_s", "a, b, c, lan"),
        (("lan:a b c", "lan:a"), "domains[0].id", "a name that no device or other domain has"),
        (("a:a b c",), "domains[0].id", "a name that no device or other domain has"),
        (("lan:a b c wifi", "wifi:c"), "domains[1].rates_bytes_per_s", "it is in lan too"),
        (("lan:a b wifi", "wifi:"), "rates_bytes_per_s", "a rate for every member"),
        (("lan:a b x", "x:y", "y:x"), "domains[2].rates_bytes_per_s", "it is in lan too"),
        (("lan:a b c", "x:y", "y:x"), "domains", "in a circle"),
        (("lan:a b c lan",), "domains[0].rates_bytes_per_s", "other than the domain itself"),
        (("lan:a b", "wifi:c"), "domains", "all of these but one must be members of another"),
        (("lan:a wifi", "wifi:b"), "domains", "every device in one domain"),
    ],
)
def test_a_cluster_that_does_not_hang_together_is_refused(domains: tuple[str, ...], field: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        cluster(*(domain(each.split(":")[0], members=each.split(":")[1]) for each in domains))
    assert caught.value.field == field
    assert message in str(caught.value)


def test_a_member_that_does_not_exist_is_named() -> None:
    with pytest.raises(InputError, match=r"got 'wfi'; allowed: a, b, c, lan, wifi \(did you mean 'wifi'"):
        cluster(domain("lan", members="a b wfi"), domain("wifi", "shared", "c"))


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"kind": "shared"}, "rates_bytes_per_s", "a rate for every member of a domain of kind shared"),
        ({"kind": "links", "members": "a"}, "rates_bytes_per_s", "nothing: a domain of kind links has none"),
        ({"kind": "cell", "members": "a"}, "down_rates_bytes_per_s", "a rate for every member"),
        (
            {"kind": "cell", "members": "a b", "down_rates_bytes_per_s": {"a": 1}},
            "down_rates_bytes_per_s",
            "the same members",
        ),
        ({"kind": "links", "links_bytes_per_s": {"a": {"b": 1, "c": 1}}}, "links_bytes_per_s.b.c", "every pair"),
        ({"kind": "links", "links_bytes_per_s": {"a": {"b": 1, "a": 1}}}, "links_bytes_per_s.a.a", "to another"),
        ({"kind": "switch", "members": "a", "links_bytes_per_s": {"a": {"b": 1}}}, "links_bytes_per_s", "nothing"),
    ],
)
def test_rates_that_do_not_fit_the_kind_are_refused(fields: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        domain("net", **fields)
    assert caught.value.field == field
    assert message in str(caught.value)


def test_links_are_only_at_the_top() -> None:
    mesh = ContentionDomain(id="mesh", kind="links", links_bytes_per_s={"b": {"c": 1}})
    with pytest.raises(InputError, match=r"domains\[1\].kind: got 'links'; allowed: links only at the top"):
        cluster(domain("lan", members="a mesh"), mesh)


def test_links_go_both_ways_unless_both_are_given() -> None:
    mesh = ContentionDomain(
        id="mesh", kind="links", links_bytes_per_s={"a": {"b": 1, "c": 2}, "b": {"c": 3}, "c": {"a": 9}}
    )
    assert mesh.members == ("a", "b", "c")
    assert (mesh.link_bytes_per_s("a", "b"), mesh.link_bytes_per_s("b", "a")) == (1, 1)
    assert (mesh.link_bytes_per_s("a", "c"), mesh.link_bytes_per_s("c", "a")) == (2, 9)


def test_devices_leave_a_cluster_with_what_only_they_used() -> None:
    place = cluster(domain("wifi", "shared", "a b lan"), domain("lan", members="c"))
    left = place.without({"c"})
    assert left.device_ids == ("a", "b")
    assert [each.members for each in left.domains] == [("a", "b")]
    assert place.without({"nobody"}) == place


def test_a_device_that_leaves_a_pair_of_links_leaves_the_other_in_their_place() -> None:
    mesh = ContentionDomain(id="mesh", kind="links", links_bytes_per_s={"wifi": {"c": 5}})
    place = cluster(mesh, domain("wifi", "shared", "a b"))
    assert [each.id for each in place.without({"c"}).domains] == ["wifi"]
    assert place.without({"c"}).device_ids == ("a", "b")
    # The medium that nobody uses any more leaves the links too, and c needs no network.
    assert place.without({"a", "b"}).domains == ()
    three = ContentionDomain(id="mesh", kind="links", links_bytes_per_s={"a": {"b": 1, "c": 2}, "b": {"c": 3}})
    (left,) = cluster(three).without({"a"}).domains
    assert left.links_bytes_per_s == {"b": {"c": 3}}


def test_devices_are_told_apart_and_found_by_their_ids() -> None:
    place = cluster(domain("lan", members="a b c"))
    assert place.device("b") is place.devices[1]
    with pytest.raises(UnknownNameError, match="got 'z'; allowed: a, b, c"):
        place.device("z")
    with pytest.raises(InputError, match="devices: got 'a'; allowed: every device once"):
        cluster(domain("lan", members="a b"), devices="aba")
    with pytest.raises(InputError, match=r"active_w: got 2.0; allowed: at least idle_w \(5.0\)"):
        device("a", idle_w=5.0, active_w=2.0)


def test_a_scaled_cluster_by_hand() -> None:
    """Rates of every kind of domain, speeds and memory by device; what was measured is then an assumption."""
    known = Provenance(status="measured", source="a bench", note="twice")
    cell = domain("cell", "cell", "a", down_rates_bytes_per_s={"a": 4e6}, latency_s=0.5)
    mesh = ContentionDomain(id="mesh", kind="links", links_bytes_per_s={"cell": {"b": 8e6}})
    devices = (
        device("a", 1e9, memory_bytes=6e9, layer_overhead_s=0.3, sources={"flops_per_s.matmul.fp32": known}),
        device("b", memory_bytes=2e9),
    )
    place = Cluster(name="two", devices=devices, domains=(cell, mesh))
    found = place.scaled(rates=0.5, speeds={"a": 3.0}, memory={"b": 2.0})
    fast, roomy = found.devices
    assert fast.flops_per_s["matmul"]["fp32"] == 3e9
    assert fast.memory_bytes_per_s == 3 * devices[0].memory_bytes_per_s
    assert fast.layer_overhead_s == pytest.approx(0.1)
    assert (fast.memory_bytes, fast.idle_w, fast.active_w) == (6e9, devices[0].idle_w, devices[0].active_w)
    assert fast.sources["flops_per_s.matmul.fp32"] == Provenance(
        status="assumed", source="3 times a number that is measured (a bench)", note="twice"
    )
    assert roomy == devices[1].replace(memory_bytes=4e9)
    assert found.domains[0].rates_bytes_per_s == {"a": 0.5e6}
    assert found.domains[0].down_rates_bytes_per_s == {"a": 2e6}
    assert found.domains[0].latency_s == 0.5
    assert found.domains[1].links_bytes_per_s == {"cell": {"b": 4e6}}
    assert place.scaled() == place


@pytest.mark.parametrize(
    ("factors", "field"),
    [
        ({"speeds": {"z": 2.0}}, "speeds"),
        ({"memory": {"a": 0.0}}, "memory.a"),
        ({"speeds": {"a": float("inf")}}, "speeds.a"),
        ({"rates": -1.0}, "rates"),
    ],
)
def test_a_factor_that_means_nothing_is_refused(factors: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        cluster(domain("lan", members="a b c")).scaled(**factors)
    assert caught.value.field == field
