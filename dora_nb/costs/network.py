"""Seconds that transfers hold the medium between devices.

Written for one contention domain that every device reaches. A transfer has *holds*, the seconds it keeps each
resource busy from its start on, and a *duration*, the longest hold plus the messages' latency. Resources are the one
medium of a ``shared`` domain, or the transmit and receive ports of a ``switch``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dora_nb.domain.cluster import Cluster, ContentionDomain
from dora_nb.domain.plan import AllReduce


class Flow(NamedTuple):
    """Bytes that one device sends to another."""

    sender: str
    receiver: str
    size_bytes: float


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
    """

    seconds: Mapping[str, float]
    duration_s: float
    size_bytes: float


_NOTHING = Hold({}, 0.0, 0.0)


@dataclass(frozen=True)
class Network:
    """Transfers on one contention domain."""

    domain: ContentionDomain | None

    @classmethod
    def of(cls, cluster: Cluster) -> Network:
        """The network of a cluster."""
        return cls(cluster.domain)

    def rate(self, device: str) -> float:
        """Bytes per second at which a device reaches the medium."""
        return self._domain.rates_bytes_per_s[device]

    @property
    def _domain(self) -> ContentionDomain:
        assert self.domain is not None, "a cluster of one device has no transfers"
        return self.domain

    def fan_out(self, sender: str, receivers: Mapping[str, float]) -> Hold:
        """One device sends to several, at the same time; what it sends to itself costs nothing."""
        return self.exchange([Flow(sender, to, size) for to, size in receivers.items()])

    def fan_in(self, senders: Mapping[str, float], receiver: str) -> Hold:
        """Several devices send to one, at the same time; what it sends to itself costs nothing."""
        return self.exchange([Flow(sender, receiver, size) for sender, size in senders.items()])

    def hand_over(self, senders: Mapping[str, float], receivers: Mapping[str, float]) -> Hold:
        """A micro-batch moves from the replicas of one stage to those of another, as one transfer.

        Its airtime is the senders' part plus the receivers' part (linear in the sample shares). The groups are
        disjoint, so every byte crosses the network.
        """
        sent = [(self._transmit(device), size / self.rate(device)) for device, size in senders.items()]
        received = [(self._receive(device), size / self.rate(device)) for device, size in receivers.items()]
        return self._hold(_merged(sent + received), sum(senders.values()))

    def exchange(self, flows: Iterable[Flow]) -> Hold:
        """Flows that belong to one transfer and start together."""
        flows = [flow for flow in flows if flow.sender != flow.receiver and flow.size_bytes > 0]
        if not flows:
            return _NOTHING
        parts = []
        for flow in flows:
            parts.append((self._transmit(flow.sender), flow.size_bytes / self.rate(flow.sender)))
            parts.append((self._receive(flow.receiver), flow.size_bytes / self.rate(flow.receiver)))
        return self._hold(_merged(parts), sum(flow.size_bytes for flow in flows))

    def all_reduce(self, devices: Sequence[str], size_bytes: float, choice: AllReduce) -> Hold:
        """The sum of a tensor over replicas by the algorithm chosen.

        Ring: 2 (k - 1) rounds in which every replica sends a part of 1 / k to the next. Star: all send to the leader,
        then the leader sends to all. Rounds follow one another, so a port is held through all of them.
        """
        if choice.algorithm == "ring":
            following = [*devices[1:], devices[0]]
            part = size_bytes / len(devices)
            one_round = self.exchange([Flow(a, b, part) for a, b in zip(devices, following, strict=True)])
            return self._repeated(one_round, rounds=2 * (len(devices) - 1))
        return self._repeated(self.fan_in(dict.fromkeys(devices, size_bytes), choice.leader), rounds=2)

    def best_all_reduce(self, devices: Sequence[str], size_bytes: float) -> AllReduce:
        """The faster algorithm for a group; the best-connected device leads."""
        leader = max(devices, key=self.rate)
        choices = [AllReduce(algorithm="star", leader=leader), AllReduce(algorithm="ring", leader=leader)]
        return min(choices, key=lambda choice: self.all_reduce(devices, size_bytes, choice).duration_s)

    def _repeated(self, one_round: Hold, rounds: int) -> Hold:
        if not one_round.seconds:
            return _NOTHING
        bottleneck_s = max(one_round.seconds.values())
        both_ways = set(one_round.seconds)
        if self._domain.kind == "switch":  # the second half of a star runs the other way round
            both_ways |= {_opposite(port) for port in one_round.seconds}
        return Hold(
            seconds=dict.fromkeys(both_ways, rounds * bottleneck_s),
            duration_s=rounds * one_round.duration_s,
            size_bytes=rounds * one_round.size_bytes,
        )

    def _hold(self, seconds: Mapping[str, float], size_bytes: float) -> Hold:
        return Hold(seconds, max(seconds.values()) + self._domain.latency_s, size_bytes)

    def _transmit(self, device: str) -> str:
        return self._domain.id if self._domain.kind == "shared" else f"{self._domain.id}/{device}/tx"

    def _receive(self, device: str) -> str:
        return self._domain.id if self._domain.kind == "shared" else f"{self._domain.id}/{device}/rx"


def _opposite(port: str) -> str:
    stem, direction = port.rsplit("/", 1)
    return f"{stem}/{'rx' if direction == 'tx' else 'tx'}"


def _merged(parts: Iterable[tuple[str, float]]) -> dict[str, float]:
    seconds: dict[str, float] = defaultdict(float)
    for resource, part in parts:
        seconds[resource] += part
    return dict(seconds)
