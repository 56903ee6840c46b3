"""Seconds that transfers hold the media between devices.

A flow from one device to another climbs from domain to domain up to the lowest one that both are under, and descends
to the other; in every domain on the way it makes a hop onto the medium, off it, or both. A transfer is one or several
flows that start together. It has *holds*, the seconds it keeps each resource busy from its start on, and a
*duration*: the longest hold plus the latencies of the domains crossed. That a transfer holds everything on its way
from its start (cut-through, no buffering at gateways) is our assumption.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from dora_nb.domain.cluster import Cluster, ContentionDomain
from dora_nb.domain.plan import Algorithm, AllReduce

#: A flow of less than this part of its transfer is rounding.
_ROUNDING = 1e-12


class Flow(NamedTuple):
    """Bytes that one device sends to another."""

    sender: str
    receiver: str
    size_bytes: float


class Hop(NamedTuple):
    """One resource on the way of a flow, and the rate at which it is passed."""

    resource: str
    bytes_per_s: float


class Route(NamedTuple):
    """What a flow between two devices meets.

    Attributes
    ----------
    hops
        In the order in which they are passed; a resource may be passed twice.
    latency_s
        Seconds per message, all domains on the way together.
    energy_j_per_byte
        Joules per byte, all domains on the way together.
    """

    hops: tuple[Hop, ...]
    latency_s: float
    energy_j_per_byte: float


@dataclass(frozen=True)
class Hold:
    """What one transfer does to the network.

    Attributes
    ----------
    seconds
        Seconds each resource is held, by resource name.
    duration_s
        From start to arrival.
    size_bytes
        Bytes carried.
    energy_j
        Joules of carrying them.
    """

    seconds: Mapping[str, float]
    duration_s: float
    size_bytes: float
    energy_j: float

    def times(self, count: int) -> Hold:
        """The hold so many times, one after the other."""
        held = {resource: count * seconds for resource, seconds in self.seconds.items()}
        return Hold(held, count * self.duration_s, count * self.size_bytes, count * self.energy_j)


_NOTHING = Hold({}, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Network:
    """Transfers between devices that hang in a tree of contention domains.

    Attributes
    ----------
    domains
        The tree.
    devices
        Its leaves.
    """

    domains: tuple[ContentionDomain, ...]
    devices: tuple[str, ...]
    _routes: dict[tuple[str, str], Route] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, cluster: Cluster) -> Network:
        """The network of a cluster."""
        return cls(cluster.domains, cluster.device_ids)

    # ------------------------------------------------------------------ the tree

    @cached_property
    def _home(self) -> dict[str, ContentionDomain]:
        """The domain that each device and each domain is a member of."""
        return {name: domain for domain in self.domains for name in domain.members}

    @property
    def single(self) -> ContentionDomain | None:
        """The one medium or switch that all devices share, if the network is no more than that."""
        if len(self.domains) == 1 and self.domains[0].kind in ("shared", "switch"):
            return self.domains[0]
        return None

    @property
    def one_medium(self) -> bool:
        """Whether all transfers hold one and the same medium (or there are none)."""
        return not self.domains or (self.single is not None and self.single.kind == "shared")

    def home(self, device: str) -> ContentionDomain:
        """The domain that a device is a member of."""
        return self._home[device]

    def rate(self, device: str) -> float:
        """Bytes per second at which a device sends or receives at most, whichever is more, to whomever."""
        domain = self.home(device)
        if domain.kind == "links":
            others = [name for name in domain.members if name != device]
            sending = sum(domain.link_bytes_per_s(device, name) or 0.0 for name in others)
            return max(sending, sum(domain.link_bytes_per_s(name, device) or 0.0 for name in others))
        return max(domain.rates_bytes_per_s[device], domain.down_rates_bytes_per_s.get(device, 0.0))

    def medium(self, device: str) -> str:
        """What devices that take turns at sending have in common: their domain, or nothing but themselves."""
        domain = self.home(device)
        return domain.id if domain.kind in ("shared", "cell") else device

    def own_hops(self, device: str) -> tuple[Hop, ...]:
        """The hops that everything a device sends makes, and everything it receives; none with links of its own."""
        domain = self.home(device)
        return () if domain.kind == "links" else (_up(domain, device), _down(domain, device))

    @cached_property
    def contended(self) -> tuple[str, ...]:
        """Resources that transfers of several devices may hold: media, and the gateways between domains."""
        names: list[str] = []
        gateways = {domain.id for domain in self.domains}
        for domain in self.domains:
            if domain.kind == "links":
                pairs = itertools.permutations(domain.members, 2)
                names.extend(_across(domain, a, b).resource for a, b in pairs if {a, b} & gateways)
            else:
                members = [name for name in domain.members if domain.kind != "switch" or name in gateways]
                names.extend(hop(domain, name).resource for name in members for hop in (_up, _down))
        return tuple(dict.fromkeys(names))

    @cached_property
    def domain_of(self) -> dict[str, str]:
        """The domain that every resource belongs to."""
        found: dict[str, str] = {}
        for domain in self.domains:
            if domain.kind == "links":
                hops = [_across(domain, a, b) for a, b in itertools.permutations(domain.members, 2)]
            else:
                hops = [hop(domain, name) for name in domain.members for hop in (_up, _down)]
            found |= dict.fromkeys((hop.resource for hop in hops), domain.id)
        return found

    def alike(self, a: str, b: str) -> bool:
        """Whether swapping two devices would change nothing on the network."""
        domain = self._home.get(a)
        if domain is None or domain is not self._home.get(b):
            return domain is self._home.get(b)
        if domain.kind == "links":
            link, others = domain.link_bytes_per_s, set(domain.members) - {a, b}
            away = all(link(a, x) == link(b, x) and link(x, a) == link(x, b) for x in others)
            return away and link(a, b) == link(b, a)
        both = (domain.rates_bytes_per_s, domain.down_rates_bytes_per_s)
        return all(rates.get(a) == rates.get(b) for rates in both)

    def route(self, sender: str, receiver: str) -> Route:
        """The way from one device to another."""
        key = sender, receiver
        if key not in self._routes:
            self._routes[key] = self._find(sender, receiver)
        return self._routes[key]

    def routes(self) -> Iterator[Route]:
        """The way between every two devices."""
        return (self.route(a, b) for a, b in itertools.permutations(self.devices, 2))

    def _find(self, sender: str, receiver: str) -> Route:
        up, down = self._climb(sender), self._climb(receiver)
        while len(up) > 1 and len(down) > 1 and up[-2][0] is down[-2][0]:  # they meet below the top
            up.pop()
            down.pop()
        (top, entering), (_, leaving) = up.pop(), down.pop()
        hops = [_up(domain, member) for domain, member in up]
        hops += [_across(top, entering, leaving)] if top.kind == "links" else [_up(top, entering), _down(top, leaving)]
        hops += [_down(domain, member) for domain, member in reversed(down)]
        crossed = [top, *(domain for domain, _ in up + down)]
        return Route(
            tuple(hops),
            sum(domain.latency_s for domain in crossed),
            sum(domain.energy_j_per_byte for domain in crossed),
        )

    def _climb(self, device: str) -> list[tuple[ContentionDomain, str]]:
        """The domains above a device, each with its member on the way, up to the top."""
        steps, member = [], device
        while member in self._home:
            steps.append((self._home[member], member))
            member = self._home[member].id
        return steps

    # ------------------------------------------------------------------ transfers

    def fan_out(self, sender: str, receivers: Mapping[str, float]) -> Hold:
        """One device sends to several, at the same time; what it sends to itself costs nothing."""
        return self.exchange([Flow(sender, to, size) for to, size in receivers.items()])

    def fan_in(self, senders: Mapping[str, float], receiver: str) -> Hold:
        """Several devices send to one, at the same time; what it sends to itself costs nothing."""
        return self.exchange([Flow(sender, receiver, size) for sender, size in senders.items()])

    def hand_over(self, senders: Mapping[str, float], receivers: Mapping[str, float]) -> Hold:
        """A micro-batch moves from the replicas of one stage to those of another, as one transfer.

        Replicas take consecutive sample intervals in the order given, so who sends how much to whom is the overlap of
        their intervals. The groups are disjoint: every byte crosses the network.
        """
        return self.exchange(_overlaps(senders, receivers))

    def exchange(self, flows: Iterable[Flow]) -> Hold:
        """Flows that belong to one transfer and start together."""
        flows = [flow for flow in flows if flow.sender != flow.receiver and flow.size_bytes > 0]
        return self._hold(flows) if flows else _NOTHING

    def _hold(self, flows: Sequence[Flow]) -> Hold:
        seconds: dict[str, float] = defaultdict(float)
        latency_s = energy_j = size_bytes = 0.0
        for sender, receiver, size in flows:
            route = self.route(sender, receiver)
            for resource, bytes_per_s in route.hops:
                seconds[resource] += size / bytes_per_s
            latency_s = max(latency_s, route.latency_s)
            energy_j += size * route.energy_j_per_byte
            size_bytes += size
        return Hold(dict(seconds), max(seconds.values()) + latency_s, size_bytes, energy_j)

    # ------------------------------------------------------------------ sums

    def all_reduce(self, devices: Sequence[str], size_bytes: float, choice: AllReduce) -> Hold:
        """The sum of a tensor over replicas by the algorithm chosen.

        Ring: 2 (k - 1) rounds in which every replica sends a part of 1 / k to the next. Star: all send to the leader,
        then the leader sends to all. Rounds follow one another, so what one of them uses is held through all of them.
        """
        if choice.algorithm == "ring":
            following = [*devices[1:], devices[0]]
            part = size_bytes / len(devices)
            one_round = self.exchange([Flow(a, b, part) for a, b in zip(devices, following, strict=True)])
            return in_turn([one_round] * (2 * (len(devices) - 1)))
        everyone = dict.fromkeys(devices, size_bytes)
        return in_turn([self.fan_in(everyone, choice.leader), self.fan_out(choice.leader, everyone)])

    @property
    def all_reduce_algorithms(self) -> tuple[Algorithm, ...]:
        """Algorithms that can be best; on one medium or switch the one that holds the network least is first.

        On a shared medium a star through the best-connected device never takes longer than a ring: with a = the sum of
        1 / rate over k devices and 1 / rate of the leader at most a / k, the star holds 2 a + 2 (k - 2) / rate, the
        ring 4 a (k - 1) / k, and it needs more rounds.
        """
        return ("star",) if self.one_medium else ("ring", "star")

    def best_leader(self, devices: Sequence[str]) -> str:
        """The best-connected device of a group, which leads it.

        On one medium or switch the one with the highest rate, else the one through which a star holds least.
        """
        if self.single is not None:
            return max(devices, key=self.rate)
        stars = {name: self.all_reduce(devices, 1.0, AllReduce(algorithm="star", leader=name)) for name in devices}
        return min(devices, key=lambda name: max(stars[name].seconds.values()))


def _up(domain: ContentionDomain, member: str) -> Hop:
    """From a member onto the medium."""
    resource = {"shared": domain.id, "switch": f"{domain.id}/{member}/tx", "cell": f"{domain.id}/up"}[domain.kind]
    return Hop(resource, domain.rates_bytes_per_s[member])


def _down(domain: ContentionDomain, member: str) -> Hop:
    """From the medium to a member."""
    resource = {"shared": domain.id, "switch": f"{domain.id}/{member}/rx", "cell": f"{domain.id}/down"}[domain.kind]
    return Hop(resource, domain.down_rates_bytes_per_s.get(member) or domain.rates_bytes_per_s[member])


def _across(domain: ContentionDomain, sender: str, receiver: str) -> Hop:
    """Over the link between two members."""
    rate = domain.link_bytes_per_s(sender, receiver)
    assert rate is not None, "every pair of members has a link"
    return Hop(f"{domain.id}/{sender}>{receiver}", rate)


def _overlaps(senders: Mapping[str, float], receivers: Mapping[str, float]) -> Iterator[Flow]:
    """Flows between two ways of dividing the same bytes into consecutive intervals."""
    least = _ROUNDING * sum(senders.values())
    until = list(itertools.accumulate(receivers.values(), initial=0.0))
    start = 0.0
    for sender, size in senders.items():
        for receiver, (first, stop) in zip(receivers, itertools.pairwise(until), strict=True):
            overlap = min(start + size, stop) - max(start, first)
            if overlap > least:
                yield Flow(sender, receiver, overlap)
        start += size


def in_turn(rounds: Sequence[Hold]) -> Hold:
    """Rounds of one transfer that follow one another, each as slow as its slowest part."""
    held_s = sum(max(each.seconds.values(), default=0.0) for each in rounds)
    return Hold(
        seconds=dict.fromkeys((name for each in rounds for name in each.seconds), held_s),
        duration_s=sum(each.duration_s for each in rounds),
        size_bytes=sum(each.size_bytes for each in rounds),
        energy_j=sum(each.energy_j for each in rounds),
    )
