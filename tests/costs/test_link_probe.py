"""Networks measured in thought: the kind and the rates that made the measurements are found again."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from builders import cluster, device

from dora_nb.catalog import load_cluster
from dora_nb.costs.link_probe import measured_network
from dora_nb.costs.network import Flow, Network
from dora_nb.domain.cluster import Cluster, ContentionDomain, Provenance
from dora_nb.domain.cluster_file import save_cluster
from dora_nb.domain.links import Delay, LinkMeasurements, StreamRate
from dora_nb.errors import InputError

GIVEN = cluster(4).replace(
    domains=(
        ContentionDomain(
            id="home",
            kind="shared",
            rates_bytes_per_s=dict.fromkeys("abcd", 1.0),
            energy_j_per_byte=5e-9,
            sources={"energy_j_per_byte": Provenance(status="datasheet", source="the router's")},
        ),
    )
)


def streams_at_once(devices: Sequence[str]) -> Iterator[list[tuple[str, str]]]:
    yield from ([(a, b), (b, a)] for a, b in itertools.combinations(devices, 2))
    if len(devices) >= 4:
        yield [(devices[0], devices[1]), (devices[2], devices[3])]
        yield [(devices[0], devices[2]), (devices[3], devices[1])]


def measured(place: Cluster, noise: float = 0.0, seed: int = 0) -> LinkMeasurements:
    """What a perfect probe of a network would find, and noise of that relative size on it."""
    network, dice = Network.of(place), random.Random(seed)

    def noisy(value: float) -> float:
        return value * (1 + dice.uniform(-noise, noise))

    def held_s(pair: tuple[str, str]) -> dict[str, float]:
        seconds: dict[str, float] = {}
        for resource, rate in network.route(*pair).hops:
            seconds[resource] = seconds.get(resource, 0.0) + 1 / rate
        return seconds

    pairs = list(itertools.permutations(place.device_ids, 2))
    alone = {pair: 1 / max(held_s(pair).values()) for pair in pairs}
    together = []
    for streams in streams_at_once(place.device_ids):
        # Streams that hold a resource in common share its time evenly.
        users: dict[str, int] = {}
        for pair in streams:
            for resource in held_s(pair):
                users[resource] = users.get(resource, 0) + 1
        rates = [1 / max(users[name] * seconds for name, seconds in held_s(pair).items()) for pair in streams]
        together.append(
            [StreamRate(sender=a, receiver=b, bytes_per_s=noisy(r)) for (a, b), r in zip(streams, rates, strict=True)]
        )
    return LinkMeasurements(
        delays=[
            Delay(first=a, second=b, latency_s=noisy(network.route(a, b).latency_s))
            for a, b in itertools.combinations(place.device_ids, 2)
        ],
        alone=[StreamRate(sender=a, receiver=b, bytes_per_s=noisy(alone[a, b])) for a, b in pairs],
        together=together,
        source="a test",
    )


def medium(kind: str, rates: Sequence[float], **fields: object) -> Cluster:
    reached = named(rates)
    domain = ContentionDomain(id="x", kind=kind, rates_bytes_per_s=reached, latency_s=2e-3, **fields)
    return Cluster(name="true", devices=[device(name) for name in reached], domains=[domain])


def named(rates: Sequence[float]) -> dict[str, float]:
    return {"abcd"[index]: rate for index, rate in enumerate(rates)}


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_one_medium_is_recognised_and_its_rates_are_found(noise: float) -> None:
    true = [160e6, 125e6, 60e6, 23e6]
    found = measured_network(GIVEN, measured(medium("shared", true), noise))
    (domain,) = found.cluster.domains
    assert found.kind == "shared"
    assert found.disturbed == pytest.approx(1.0, abs=0.2)
    assert list(domain.rates_bytes_per_s.values()) == pytest.approx(true, rel=1e-6 if noise == 0 else 0.25)
    assert domain.latency_s == pytest.approx(2e-3, rel=0.06)
    assert found.cluster.devices == GIVEN.devices


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_switch_is_recognised_and_its_ports_are_found(noise: float) -> None:
    true = [118e6, 118e6, 40e6, 12e6]
    found = measured_network(GIVEN, measured(medium("switch", true), noise))
    (domain,) = found.cluster.domains
    assert found.kind == "switch"
    assert found.disturbed == pytest.approx(0.0, abs=0.2)
    assert list(domain.rates_bytes_per_s.values()) == pytest.approx(true, rel=1e-6 if noise == 0 else 0.1)


def test_a_cell_is_slower_upwards() -> None:
    up = [5e6, 8e6, 6e6, 5e6]
    place = medium("cell", up, down_rates_bytes_per_s=named([40e6, 3e6, 40e6, 60e6]))
    found = measured_network(GIVEN, measured(place))
    (domain,) = found.cluster.domains
    assert found.kind == "cell"
    assert domain.rates_bytes_per_s == pytest.approx(named(up))
    assert found.misfit == pytest.approx(0.0)
    assert domain.down_rates_bytes_per_s["b"] == pytest.approx(3e6)


def test_pairs_that_no_ports_explain_have_links_of_their_own() -> None:
    rates = {(a, b): 1e6 * (1 + 3 * i) for i, (a, b) in enumerate(itertools.permutations("abcd", 2))}
    links = {a: {b: rates[a, b] for b in "abcd" if b != a} for a in "abcd"}
    place = GIVEN.replace(domains=(ContentionDomain(id="x", kind="links", links_bytes_per_s=links, latency_s=1e-3),))
    found = measured_network(GIVEN, measured(place))
    assert found.kind == "links"
    for name, rates_from in found.cluster.domains[0].links_bytes_per_s.items():
        assert rates_from == pytest.approx(links[name])


@pytest.mark.parametrize(("kind", "alone"), [("shared", 5e6), ("switch", 10e6)])
def test_two_devices(kind: str, alone: float) -> None:
    given = GIVEN.replace(devices=GIVEN.devices[:2], domains=(medium("shared", [1, 1]).domains[0],))
    found = measured_network(given, measured(medium(kind, [10e6, 10e6])))
    assert found.kind == kind
    seconds = Network.of(found.cluster).exchange([Flow("a", "b", alone)]).duration_s
    assert seconds == pytest.approx(1 + 2e-3), "what passes in a second alone takes one"
    assert list(found.cluster.domains[0].rates_bytes_per_s.values()) == pytest.approx([10e6, 10e6])
    assert ("two devices" in " ".join(found.notes)) == (kind == "shared")


def test_a_device_too_fast_to_tell_gets_no_rate_beyond_belief() -> None:
    """Noise can make a pair faster than its slower end alone allows."""
    alone = {("a", "b"): 10e6, ("a", "c"): 10e6, ("b", "c"): 4e6}
    rates = [
        StreamRate(sender=a, receiver=b, bytes_per_s=r) for pair, r in alone.items() for a, b in (pair, pair[::-1])
    ]
    halved = [[each.replace(bytes_per_s=each.bytes_per_s / 2) for each in rates[:2]]]
    given = GIVEN.replace(devices=GIVEN.devices[:3], domains=(medium("shared", [1, 1, 1]).domains[0],))
    delays = [Delay(first="a", second="b", latency_s=1e-3)]
    found = measured_network(given, LinkMeasurements(delays=delays, alone=rates, together=halved, source="x"))
    assert found.kind == "shared"
    assert max(found.cluster.domains[0].rates_bytes_per_s.values()) <= 100 * 10e6 * (1 + 1e-9)


def test_a_network_of_two_media_is_not_passed_off_as_one() -> None:
    wifi = ContentionDomain(id="wifi", kind="shared", rates_bytes_per_s={"a": 20e6, "b": 20e6, "lan": 20e6})
    lan = ContentionDomain(id="lan", kind="switch", rates_bytes_per_s={"c": 100e6, "d": 100e6})
    true = GIVEN.replace(domains=(wifi, lan))
    found = measured_network(true, measured(true))
    assert any("more than one medium" in note for note in found.notes)
    (domain,) = found.cluster.domains
    assert domain.id == "network"
    assert domain.sources["energy_j_per_byte"].status == "computed"


def test_every_number_says_where_it_is_from_and_the_file_loads(tmp_path: Path) -> None:
    found = measured_network(GIVEN, measured(medium("shared", [160e6, 125e6, 60e6, 23e6])))
    (domain,) = found.cluster.domains
    assert domain.id == "home"
    assert {domain.sources[f"rates_bytes_per_s.{name}"].status for name in "abcd"} == {"measured"}
    assert domain.sources["latency_s"].source == "a test"
    assert domain.energy_j_per_byte == 5e-9
    assert domain.sources["energy_j_per_byte"].status == "datasheet"
    loaded = load_cluster(save_cluster(tmp_path / "measured.json", found.cluster))
    assert loaded.domains == found.cluster.domains


def test_measurements_that_do_not_fit_the_cluster_are_refused() -> None:
    good = measured(medium("shared", [1e6, 2e6, 3e6, 4e6]))
    with pytest.raises(InputError, match="the cluster's devices"):
        measured_network(GIVEN.replace(devices=GIVEN.devices[:2], domains=(medium("shared", [1, 1]).domains[0],)), good)
    with pytest.raises(InputError, match="together"):
        measured_network(GIVEN, good.replace(together=()))
    only = [each for each in good.alone if {each.sender, each.receiver} != {"a", "b"}]
    with pytest.raises(InputError, match="a rate for every pair"):
        measured_network(GIVEN, good.replace(alone=only, together=good.together[-1:]))
    with pytest.raises(InputError, match="the other direction"):
        good.replace(alone=good.alone[1:])
