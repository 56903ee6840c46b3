"""Seconds on the medium by hand: one shared airtime, or a transmit and a receive port per device."""

from __future__ import annotations

import pytest
from builders import cluster

from dora_nb.costs.network import Flow, Network
from dora_nb.domain.plan import AllReduce

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


def test_the_best_all_reduce_is_the_faster_one_led_by_the_best_connected() -> None:
    net = network("switch", 1, 2, 4)
    for size in (0.01, 1, 6, 100):
        best = net.best_all_reduce("abc", size)
        durations = {
            name: net.all_reduce("abc", size, AllReduce(algorithm=name, leader="c")).duration_s
            for name in ("ring", "star")
        }
        assert best.leader == "c"
        assert durations[best.algorithm] == min(durations.values())
    assert net.best_all_reduce("abc", 0.01).algorithm == "star"  # two rounds against four
    assert net.best_all_reduce("abc", 100).algorithm == "ring"  # a third of the bytes at a time
