"""The probe on networks imitated in threads: what is measured gives the network back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from builders import cluster, device

from dora_nb.costs.link_probe import measured_network
from dora_nb.costs.network import Network
from dora_nb.domain.cluster import Cluster, ContentionDomain
from dora_nb.errors import ExecutionError, InputError
from dora_nb.executor.control.orders import NetworkUse
from dora_nb.executor.device.medium import EmulatedTransport, Medium
from dora_nb.executor.measuring.probe import MOST_TOGETHER, Heard, Ping, Streams, measure_links, take_part
from dora_nb.executor.measuring.survey import probe_network


def imitated(lab, place: Cluster, path):
    """Asks threads, each of which is a device on a network imitated in user space."""
    network = Network.of(place)
    medium = Medium(path, tuple(sorted(network.domain_of)))

    def ask(rounds: Sequence[Ping | Streams]) -> dict[str, tuple[Heard, ...]]:
        heard = {}

        def work(name: str, local) -> None:
            heard[name] = take_part(rounds, name, EmulatedTransport(local, name, network, medium))

        assert lab.in_threads(place.device_ids, work).left_over == 0
        return heard

    return ask


def test_threads_find_a_switch_again(lab, tmp_path) -> None:
    """Threads of a busy machine wake up late, so a probe may try three times."""
    place = cluster(3, [8e6, 4e6, 2e6], "switch", latency_s=4e-3)
    expected = pytest.approx([4e6, 4e6, 2e6], rel=0.3)
    for attempt in range(3):
        ask = imitated(lab, place, tmp_path / f"medium{attempt}")
        found = measured_network(place, measure_links("abc", ask, "here", lasts_s=0.1))
        (domain,) = found.cluster.domains
        if found.kind == "switch" and list(domain.rates_bytes_per_s.values()) == expected:
            break
    assert found.kind == "switch"
    assert list(domain.rates_bytes_per_s.values()) == expected
    assert domain.latency_s >= 4e-3
    assert domain.sources["latency_s"].source == "here"


def test_workers_find_a_shared_medium_again(pool) -> None:
    rates = [8e6, 4e6, 2e6]
    place = cluster(3, rates, "shared", latency_s=4e-3)
    expected = pytest.approx(rates, rel=0.3)
    for attempt in range(3):
        network = NetworkUse(cluster=place, medium=str(pool.directory / f"probed{attempt}"))
        found = probe_network(place, workers=pool, network=network, lasts_s=0.1)
        (domain,) = found.cluster.domains
        if found.kind == "shared" and list(domain.rates_bytes_per_s.values()) == expected:
            break
    assert found.kind == "shared"
    assert list(domain.rates_bytes_per_s.values()) == expected
    assert domain.latency_s >= 4e-3
    assert "probe from" in domain.sources["latency_s"].source


def test_what_cannot_be_probed_is_refused(pool) -> None:
    with pytest.raises(InputError, match="at least two devices"):
        probe_network(cluster(1), workers=pool)
    with pytest.raises(InputError, match="at least 6 workers"):
        probe_network(cluster(6), workers=pool)


def calm(rates: Mapping[tuple[str, str], float], asked: list[Streams]):
    """Answers as a network would on which nothing disturbs anything."""

    def ask(rounds: Sequence[Ping | Streams]) -> dict[str, list[Heard]]:
        heard: dict[str, list[Heard]] = {name: [] for name in sorted({name for pair in rates for name in pair})}
        for each in rounds:
            said = {each.first: Heard(seconds=(1e-3, 3e-3, 2e-3))} if isinstance(each, Ping) else {}
            if isinstance(each, Streams):
                asked.append(each)
                for stream in each.streams:
                    every_s = stream.size_bytes / rates[stream.sender, stream.receiver]
                    arrivals = tuple(0.5 + every_s * (index + 1) for index in range(stream.messages))
                    said[stream.receiver] = Heard(seconds=arrivals)
            for name in heard:
                heard[name].append(said.get(name, Heard()))
        return heard

    return ask


def test_rates_need_no_common_clock_and_contain_no_delay() -> None:
    rates = {(a, b): 1e6 * (2 + "abcde".index(a)) for a in "abcde" for b in "abcde" if a != b}
    asked: list[Streams] = []
    found = measure_links("abcde", calm(rates, asked), "nowhere")
    assert {(each.sender, each.receiver): each.bytes_per_s for each in found.alone} == pytest.approx(rates)
    assert len(found.delays) == 10
    assert {each.latency_s for each in found.delays} == {2e-3}
    assert len(found.together) == MOST_TOGETHER
    for streams in found.together:
        for each in streams:
            assert each.bytes_per_s == pytest.approx(rates[each.sender, each.receiver])
        assert len({each.sender for each in streams}) == len({each.receiver for each in streams}) == len(streams)
    # Messages are as large as the trial says that they may be: a stream lasts 0.4 s.
    last = asked[-1].streams[0]
    assert last.messages * last.size_bytes == pytest.approx(0.4 * rates[last.sender, last.receiver], rel=0.01)
    devices = [device(name) for name in "abcde"]
    domain = ContentionDomain(id="net", kind="switch", rates_bytes_per_s=dict.fromkeys("abcde", 1.0))
    assert measured_network(Cluster(name="n", devices=devices, domains=[domain]), found).disturbed == pytest.approx(0)


def test_two_devices_send_both_ways_three_times() -> None:
    found = measure_links("ab", calm({("a", "b"): 1e6, ("b", "a"): 3e6}, []), "nowhere")
    both = [{(each.sender, each.receiver) for each in streams} for streams in found.together]
    assert both == [{("a", "b"), ("b", "a")}] * 3


def test_a_device_that_heard_too_little_is_named() -> None:
    rates = {("a", "b"): 1e6, ("b", "a"): 1e6}
    answers = calm(rates, [])

    def short(rounds: Sequence[Ping | Streams]) -> dict[str, list[Heard]]:
        heard = answers(rounds)
        return heard | {"b": [each.replace(seconds=each.seconds[:-1]) for each in heard["b"]]}

    with pytest.raises(ExecutionError, match="b heard 5 of 6 messages of a"):
        measure_links("ab", short, "nowhere")
    with pytest.raises(ExecutionError, match="b took part in 4 of"):
        measure_links("ab", lambda rounds: answers(rounds) | {"b": [Heard()] * 4}, "nowhere")
