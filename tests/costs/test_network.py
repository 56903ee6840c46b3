"""Seconds on the medium by hand: one shared airtime, ports of a switch, links, cells, and domains behind domains."""

from __future__ import annotations

import itertools
import random

import pytest
from builders import cluster, device, examples, workload
from hypothesis import given, settings
from hypothesis import strategies as st

from dora_nb.costs import network as network_module
from dora_nb.costs.network import Flow, Network
from dora_nb.costs.table import cost_table
from dora_nb.domain.cluster import Cluster, ContentionDomain
from dora_nb.domain.plan import AllReduce
from dora_nb.formulation.fleet import Fleet

LATENCY = 0.5


def network(kind: str, *rates: float) -> Network:
    return Network.of(cluster(len(rates), rates, kind, latency_s=LATENCY))


def test_a_transfer_holds_the_shared_medium_for_both_hops() -> None:
    hold = network("shared", 2, 5).hand_over({"a": 10}, {"b": 10})
    assert hold.seconds == {"net": pytest.approx(10 / 2 + 10 / 5)}
    assert hold.duration_s == pytest.approx(7 + LATENCY)
    assert hold.size_bytes == 10


def test_a_transfer_holds_one_port_at_each_end_of_a_switch() -> None:
    hold = network("switch", 2, 5).hand_over({"a": 10}, {"b": 10})
    assert hold.seconds == pytest.approx({"net/a/tx": 5, "net/b/rx": 2})
    assert hold.duration_s == pytest.approx(5 + LATENCY)


def test_a_hand_over_is_linear_in_the_shares() -> None:
    shared, switch = network("shared", 1, 2, 4, 8), network("switch", 1, 2, 4, 8)
    hold = shared.hand_over({"a": 3, "b": 1}, {"c": 2, "d": 2})
    assert hold.seconds == {"net": pytest.approx(3 / 1 + 1 / 2 + 2 / 4 + 2 / 8)}
    assert hold.size_bytes == 4
    hold = switch.hand_over({"a": 3, "b": 1}, {"c": 2, "d": 2})
    assert hold.seconds == pytest.approx({"net/a/tx": 3, "net/b/tx": 0.5, "net/c/rx": 0.5, "net/d/rx": 0.25})
    assert hold.duration_s == pytest.approx(3 + LATENCY)
    assert hold.size_bytes == 4


@pytest.mark.parametrize("kind", ["shared", "switch"])
def test_what_stays_on_a_device_costs_nothing(kind: str) -> None:
    net = network(kind, 1, 2)
    for hold in (net.fan_out("a", {"a": 10}), net.fan_in({"a": 10}, "a"), net.fan_out("a", {"b": 0})):
        assert (hold.seconds, hold.duration_s, hold.size_bytes) == ({}, 0, 0)


def test_fan_out_and_fan_in_skip_the_device_itself() -> None:
    out = network("shared", 1, 2, 4).fan_out("a", {"a": 100, "b": 6, "c": 8})
    assert out.seconds == {"net": pytest.approx(6 / 1 + 6 / 2 + 8 / 1 + 8 / 4)}
    assert out.size_bytes == 14
    into = network("switch", 1, 2, 4).fan_in({"a": 100, "b": 6, "c": 8}, "a")
    assert into.seconds == pytest.approx({"net/b/tx": 3, "net/c/tx": 2, "net/a/rx": 14})
    assert into.duration_s == pytest.approx(14 + LATENCY)


def test_an_exchange_uses_both_directions_of_a_switch_at_once() -> None:
    flows = [Flow("a", "b", 10), Flow("b", "a", 10)]
    assert network("shared", 2, 5).exchange(flows).seconds == {"net": pytest.approx(2 * (5 + 2))}
    hold = network("switch", 2, 5).exchange(flows)
    assert hold.seconds == pytest.approx({"net/a/tx": 5, "net/b/rx": 2, "net/b/tx": 2, "net/a/rx": 5})
    assert hold.duration_s == pytest.approx(5 + LATENCY)
    assert hold.size_bytes == 20


def test_star_on_a_shared_medium() -> None:
    hold = network("shared", 1, 2, 4).all_reduce("abc", 8, AllReduce(algorithm="star", leader="c"))
    one_way = (8 / 1 + 8 / 4) + (8 / 2 + 8 / 4)
    assert hold.seconds == {"net": pytest.approx(2 * one_way)}
    assert hold.duration_s == pytest.approx(2 * (one_way + LATENCY))
    assert hold.size_bytes == 2 * 2 * 8


def test_ring_on_a_shared_medium() -> None:
    hold = network("shared", 1, 2, 4).all_reduce("abc", 6, AllReduce(algorithm="ring", leader="c"))
    one_round = 2 * 2 * (1 + 1 / 2 + 1 / 4)  # every device sends and receives a third, 2 bytes
    assert hold.seconds == {"net": pytest.approx(4 * one_round)}
    assert hold.duration_s == pytest.approx(4 * (one_round + LATENCY))
    assert hold.size_bytes == 4 * 6


def test_star_on_a_switch_holds_every_port_through_both_rounds() -> None:
    hold = network("switch", 1, 2, 4).all_reduce("abc", 8, AllReduce(algorithm="star", leader="c"))
    one_way = max(8 / 1, 8 / 2, 16 / 4)  # the slowest sender, or the leader's one port for two
    ports = {f"net/{name}/{way}" for name in "abc" for way in ("tx", "rx")}
    assert hold.seconds == pytest.approx(dict.fromkeys(ports, 2 * one_way))
    assert hold.duration_s == pytest.approx(2 * (one_way + LATENCY))


def test_ring_on_a_switch_goes_at_the_pace_of_the_slowest_port() -> None:
    hold = network("switch", 1, 2, 4).all_reduce("abc", 6, AllReduce(algorithm="ring", leader="c"))
    assert set(hold.seconds.values()) == {4 * 2 / 1}
    assert len(hold.seconds) == 6
    assert hold.duration_s == pytest.approx(4 * (2 + LATENCY))
    assert hold.size_bytes == 4 * 6


@pytest.mark.parametrize("algorithm", ["ring", "star"])
@pytest.mark.parametrize("kind", ["shared", "switch"])
def test_nothing_to_sum_costs_nothing(kind: str, algorithm: str) -> None:
    hold = network(kind, 1, 2).all_reduce("ab", 0, AllReduce(algorithm=algorithm, leader="a"))
    assert (hold.seconds, hold.duration_s, hold.size_bytes) == ({}, 0, 0)


def test_on_a_shared_medium_no_ring_beats_a_star_through_the_best_connected() -> None:
    for rates in ((1, 1), (1, 2, 4), (5, 5, 5), (1, 1, 1, 9), (3, 2, 2, 1, 1)):
        net, devices = network("shared", *rates), "abcde"[: len(rates)]
        assert net.all_reduce_algorithms == ("star",)
        star, ring = (
            net.all_reduce(devices, 60, AllReduce(algorithm=name, leader=net.best_leader(devices)))
            for name in ("star", "ring")
        )
        assert rates["abcde".index(net.best_leader(devices))] == max(rates)
        assert star.duration_s <= ring.duration_s + 1e-12
        assert max(star.seconds.values()) <= max(ring.seconds.values()) + 1e-12


def test_on_a_switch_a_ring_holds_least_and_a_star_may_end_sooner() -> None:
    net = network("switch", 1, 2, 4)
    assert net.all_reduce_algorithms == ("ring", "star")
    for size, sooner in ((0.01, "star"), (100, "ring")):  # two rounds against four; a third of the bytes at a time
        ring, star = (
            net.all_reduce("abc", size, AllReduce(algorithm=name, leader=net.best_leader("abc")))
            for name in net.all_reduce_algorithms
        )
        assert max(ring.seconds.values()) <= max(star.seconds.values())
        assert (ring.duration_s < star.duration_s) == (sooner == "ring")


# ------------------------------------------------------------------------------------------ links, cells, mixtures


def mixture() -> Network:
    """Wi-Fi (a, b) and a cell (d) behind a switch, on which c is as well."""
    domains = (
        ContentionDomain(
            id="lan",
            kind="switch",
            rates_bytes_per_s={"wifi": 10, "cell": 20, "c": 40},
            latency_s=1,
            energy_j_per_byte=1,
        ),
        ContentionDomain(
            id="wifi", kind="shared", rates_bytes_per_s={"a": 2, "b": 5}, latency_s=2, energy_j_per_byte=2
        ),
        ContentionDomain(
            id="cell",
            kind="cell",
            rates_bytes_per_s={"d": 1},
            down_rates_bytes_per_s={"d": 4},
            latency_s=4,
            energy_j_per_byte=4,
        ),
    )
    return Network.of(Cluster(name="mixture", devices=tuple(map(device, "abcd")), domains=domains))


def test_inside_a_leaf_nothing_of_the_rest_is_held() -> None:
    hold = mixture().hand_over({"a": 10}, {"b": 10})
    assert hold.seconds == {"wifi": pytest.approx(10 / 2 + 10 / 5)}
    assert (hold.duration_s, hold.size_bytes, hold.energy_j) == (7 + 2, 10, 20)


def test_a_flow_between_leaves_climbs_and_descends() -> None:
    net = mixture()
    hold = net.hand_over({"a": 10}, {"d": 10})
    assert hold.seconds == {"wifi": 10 / 2, "lan/wifi/tx": 10 / 10, "lan/cell/rx": 10 / 20, "cell/down": 10 / 4}
    assert (hold.duration_s, hold.energy_j) == (5 + 7, 70)
    back = net.hand_over({"d": 10}, {"a": 10})
    assert back.seconds == {"cell/up": 10 / 1, "lan/cell/tx": 10 / 20, "lan/wifi/rx": 10 / 10, "wifi": 10 / 2}
    assert back.duration_s == 10 + 7


def test_one_hand_over_may_hold_several_leaves() -> None:
    """c takes two of a's three bytes, d the third and that of b."""
    hold = mixture().hand_over({"a": 3, "b": 1}, {"c": 2, "d": 2})
    assert hold.seconds == pytest.approx(
        {"wifi": 3 / 2 + 1 / 5, "lan/wifi/tx": 4 / 10, "lan/c/rx": 2 / 40, "lan/cell/rx": 2 / 20, "cell/down": 2 / 4}
    )
    assert hold.duration_s == pytest.approx(1.7 + 7)
    assert hold.energy_j == pytest.approx(2 * 3 + 2 * 7)


def test_two_stations_of_a_cell_share_each_direction() -> None:
    cell = ContentionDomain(
        id="cell", kind="cell", rates_bytes_per_s={"a": 1, "b": 2}, down_rates_bytes_per_s={"a": 10, "b": 20}
    )
    net = Network.of(Cluster(name="cell", devices=(device("a"), device("b")), domains=(cell,)))
    assert net.hand_over({"a": 10}, {"b": 10}).seconds == {"cell/up": 10, "cell/down": 0.5}
    both = net.exchange([Flow("a", "b", 10), Flow("b", "a", 10)])
    assert both.seconds == {"cell/up": 10 / 1 + 10 / 2, "cell/down": 10 / 20 + 10 / 10}
    star = net.all_reduce("ab", 10, AllReduce(algorithm="star", leader="b"))
    assert star.seconds == dict.fromkeys(("cell/up", "cell/down"), 10 / 1 + 10 / 2)  # there, then back


def test_links_of_a_pair_do_not_contend() -> None:
    links = {"a": {"b": 1, "c": 2}, "b": {"c": 4}, "c": {"a": 8}}
    mesh = ContentionDomain(id="mesh", kind="links", links_bytes_per_s=links, latency_s=LATENCY)
    net = Network.of(Cluster(name="mesh", devices=tuple(map(device, "abc")), domains=(mesh,)))
    hold = net.fan_out("a", {"b": 3, "c": 4})
    assert (hold.seconds, hold.duration_s) == ({"mesh/a>b": 3, "mesh/a>c": 2}, 3 + LATENCY)
    assert net.fan_in({"b": 3, "c": 4}, "a").seconds == {"mesh/b>a": 3, "mesh/c>a": 0.5}
    assert (net.rate("a"), net.rate("c")) == (9, 12)  # the faster of all it sends and all it receives
    ring = net.all_reduce("abc", 6, AllReduce(algorithm="ring", leader="c"))
    assert ring.seconds == dict.fromkeys(("mesh/a>b", "mesh/b>c", "mesh/c>a"), 4 * 2)


def test_what_is_contended_and_what_is_a_devices_own() -> None:
    assert network("shared", 1, 2).contended == ("net",)
    assert network("switch", 1, 2).contended == ()
    ports = ("lan/wifi/tx", "lan/wifi/rx", "lan/cell/tx", "lan/cell/rx")
    assert mixture().contended == (*ports, "wifi", "cell/up", "cell/down")


@settings(max_examples=examples(30))
@given(st.integers(1, 4), st.integers(1, 4), st.integers(4, 12), st.randoms(use_true_random=False))
def test_flows_of_a_hand_over_add_up_to_what_each_has(
    senders: int, receivers: int, samples: int, dice: random.Random
) -> None:
    def parts(count: int) -> list[int]:
        cuts = [0, *sorted(dice.sample(range(1, samples), count - 1)), samples]
        return [b - a for a, b in itertools.pairwise(cuts)]

    size = dice.choice((1, 0.1, 12_345.678))
    sent = dict(zip("abcd", [size * part for part in parts(senders)], strict=False))
    received = dict(zip("efgh", [size * part for part in parts(receivers)], strict=False))
    flows = list(network_module._overlaps(sent, received))
    assert len(flows) <= senders + receivers - 1
    for name, total in (sent | received).items():
        assert sum(flow.size_bytes for flow in flows if name in flow[:2]) == pytest.approx(total)


@pytest.mark.parametrize(
    ("links", "alike"),
    [
        ({"a": {"b": 1, "c": 2}, "b": {"c": 2}}, True),
        ({"a": {"b": 1, "c": 2}, "b": {"c": 3}}, False),
        ({"a": {"b": 1, "c": 2}, "b": {"c": 2}, "c": {"a": 9}}, False),
        ({"a": {"b": 1, "c": 2}, "b": {"a": 5, "c": 2}}, False),
    ],
)
def test_devices_are_alike_if_swapping_them_changes_no_rate(links: dict[str, dict[str, float]], alike: bool) -> None:
    mesh = ContentionDomain(id="mesh", kind="links", links_bytes_per_s=links)
    place = Cluster(name="mesh", devices=tuple(map(device, "abc")), domains=(mesh,))
    assert Network.of(place).alike("a", "b") == alike
    work = workload(1, batch=2)
    types = Fleet.of(work, place, cost_table(work, place)).types
    assert ((0, 1) in types) == alike


def test_devices_of_two_domains_are_not_alike() -> None:
    net = mixture()
    assert not net.alike("a", "c")
    assert not net.alike("a", "b")
