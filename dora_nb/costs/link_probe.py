"""From a probe of the network to a measured cluster: which kind of medium it is, and how fast each device reaches it.

Two questions. Do streams with different senders and different receivers disturb each other? On one medium they share
the airtime, so each keeps half of its rate (:func:`~dora_nb.costs.airtime.equal_airtime`); a switch or links of their
own leave them alone. And which rates of the devices explain the rates of the pairs? The kinds of a
:class:`~dora_nb.domain.cluster.ContentionDomain` that share or do not share are fitted, and the simpler one is taken
unless the other one is clearly closer (our own choice).
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dora_nb.costs.airtime import equal_airtime
from dora_nb.costs.network import Network
from dora_nb.domain.cluster import Cluster, ContentionDomain, DomainKind, Provenance
from dora_nb.domain.links import LinkMeasurements, StreamRate
from dora_nb.errors import InputError

#: A fit whose rates are all within this share of what was measured is good enough.
CLOSE = 0.15

#: A device so much faster than the fastest rate measured leaves no trace in the rates: nothing faster is claimed.
FASTEST = 100.0

Rates = Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class MeasuredNetwork:
    """A cluster whose network was measured.

    Attributes
    ----------
    cluster
        The devices as they were given, on one domain with measured rates and latency.
    disturbed
        Share of what one medium would take away that streams at once took from each other: 1 on one medium, 0 on a
        switch. The median over what was tried.
    misfit
        Largest relative difference between a rate as measured alone and as the domain has it.
    notes
        What a reader should know of the fit, in words.
    """

    cluster: Cluster
    disturbed: float
    misfit: float
    notes: tuple[str, ...]

    @property
    def kind(self) -> DomainKind:
        """Of the domain."""
        domain = self.cluster.domain
        assert domain is not None, "a measured network has a domain"
        return domain.kind


def measured_network(cluster: Cluster, measurements: LinkMeasurements) -> MeasuredNetwork:
    """Replace the network of a cluster by what was measured.

    Parameters
    ----------
    cluster
        Its devices are kept, and the joules per byte of its network, which a probe does not see.
    measurements
        Between all of its devices.

    Raises
    ------
    InputError
        If other devices were probed, or too little to tell a medium from a switch.
    """
    if set(measurements.devices) != set(cluster.device_ids):
        raise InputError("measurements", sorted(measurements.devices), f"the cluster's devices {cluster.device_ids}")
    alone: Rates = {(each.sender, each.receiver): each.bytes_per_s for each in measurements.alone}
    missing = [pair for pair in itertools.permutations(cluster.device_ids, 2) if pair not in alone]
    if missing:
        raise InputError("measurements.alone", missing, "a rate for every pair of devices")
    disturbances = [_disturbed(streams, alone) for streams in measurements.together if _could_pass(streams)]
    if not disturbances:
        raise InputError(
            "measurements.together", len(measurements.together), "streams at once with unlike senders and receivers"
        )
    disturbed = statistics.median(disturbances)
    fit = _best_fit(cluster.device_ids, alone, shares=disturbed > 0.5)
    notes = [
        f"streams at once lost {100 * disturbed:.0f} % of what sharing one medium would take (median of "
        f"{len(disturbances)})",
        f"{fit.kind}: rates within {100 * fit.misfit:.0f} % of those measured",
    ]
    if min(disturbances) < 0.5 < max(disturbances):
        notes.append("some streams disturbed each other and some did not: there may be more than one medium")
    if len(cluster.devices) == 2 and fit.kind == "shared":
        notes.append("two devices show only the sum of their airtimes, which is shared out equally here")
    domain = _domain(cluster, measurements, fit, notes)
    return MeasuredNetwork(cluster.replace(domains=(domain,)), disturbed, fit.misfit, tuple(notes))


def _could_pass(streams: Sequence[StreamRate]) -> bool:
    """Whether a switch would let all of them pass undisturbed: no port is used twice in one direction."""
    ends = ([each.sender for each in streams], [each.receiver for each in streams])
    return len(streams) > 1 and all(len(set(each)) == len(streams) for each in ends)


def _disturbed(streams: Sequence[StreamRate], alone: Rates) -> float:
    """How far streams at once came down from their rates alone towards equal airtime: 0 not at all, 1 all the way.

    Logarithms of rates are compared, so that a fast stream counts as much as a slow one.
    """
    free = [alone[each.sender, each.receiver] for each in streams]
    lost = sum(math.log(rate / each.bytes_per_s) for rate, each in zip(free, streams, strict=True))
    return lost / sum(math.log(rate / shared) for rate, shared in zip(free, equal_airtime(free), strict=True))


@dataclass(frozen=True)
class _Fit:
    """A kind of domain with rates, and how far it is from what was measured."""

    kind: DomainKind
    fields: dict[str, Any]
    misfit: float


def _best_fit(devices: Sequence[str], alone: Rates, *, shares: bool) -> _Fit:
    """The simpler of two kinds, unless it is off and the other one is closer by half."""
    fitters = (_shared, _cell) if shares else (_switch, _links)
    simple, other = (fitter(devices, alone) for fitter in fitters)
    return other if simple.misfit > CLOSE and other.misfit < simple.misfit / 2 else simple


def _shared(devices: Sequence[str], alone: Rates) -> _Fit:
    """Both hops take airtime: the seconds a byte takes from u to v are the sum of one figure of each."""
    pairs = list(alone)
    place = {device: index for index, device in enumerate(devices)}
    hops = np.zeros((len(pairs), len(devices)))
    for row, pair in enumerate(pairs):
        hops[row, [place[device] for device in pair]] = alone[pair]  # relative errors count
    least_s = 1 / (FASTEST * max(alone.values()))
    per_byte_s = np.full(len(devices), least_s)
    free = np.ones(len(devices), dtype=bool)
    while free.any():
        rest = 1 - hops[:, ~free] @ per_byte_s[~free]
        per_byte_s[free] = np.linalg.lstsq(hops[:, free], rest, rcond=None)[0]
        below = free & (per_byte_s < least_s)
        if not below.any():
            break
        per_byte_s[below], free = least_s, free & ~below
    rates = {device: float(1 / per_byte_s[place[device]]) for device in devices}
    return _fit("shared", {"rates_bytes_per_s": rates}, alone, lambda a, b: 1 / (1 / rates[a] + 1 / rates[b]))


def _switch(devices: Sequence[str], alone: Rates) -> _Fit:
    """The slower of two ports decides, so a device is as fast as its fastest pair."""
    both = {(a, b): math.sqrt(alone[a, b] * alone[b, a]) for a, b in alone}
    rates = {device: max(rate for pair, rate in both.items() if device in pair) for device in devices}
    return _fit("switch", {"rates_bytes_per_s": rates}, alone, lambda a, b: min(rates[a], rates[b]))


def _cell(devices: Sequence[str], alone: Rates) -> _Fit:
    """One airtime up and one down: the slower of the sender's way up and the receiver's way down decides."""
    up = {device: max(rate for (sender, _), rate in alone.items() if sender == device) for device in devices}
    down = {device: max(rate for (_, receiver), rate in alone.items() if receiver == device) for device in devices}
    fields = {"rates_bytes_per_s": up, "down_rates_bytes_per_s": down}
    return _fit("cell", fields, alone, lambda a, b: min(up[a], down[b]))


def _links(devices: Sequence[str], alone: Rates) -> _Fit:
    """Every pair has its own link in each direction: as measured."""
    rates = {a: {b: alone[a, b] for b in devices if b != a} for a in devices}
    return _fit("links", {"links_bytes_per_s": rates}, alone, lambda a, b: alone[a, b])


def _fit(kind: DomainKind, fields: dict[str, Any], alone: Rates, rate: Callable[[str, str], float]) -> _Fit:
    return _Fit(kind, fields, max(abs(rate(*pair) / measured - 1) for pair, measured in alone.items()))


def _domain(cluster: Cluster, measurements: LinkMeasurements, fit: _Fit, notes: Sequence[str]) -> ContentionDomain:
    """The fitted domain, every number with its source."""
    measured = Provenance(status="measured", source=measurements.source, note="; ".join(notes))
    energy_j_per_byte, energy_source = _energy(cluster)
    sources = {"energy_j_per_byte": energy_source}
    for name, rates in fit.fields.items():
        for device, rate in rates.items():
            paths = [f"{name}.{device}.{other}" for other in rate] if isinstance(rate, dict) else [f"{name}.{device}"]
            sources |= dict.fromkeys(paths, measured)
    sources["latency_s"] = measured.replace(note="median of the pairs, one way: half of a round trip")
    return ContentionDomain(
        id=cluster.domains[0].id if len(cluster.domains) == 1 else "network",
        kind=fit.kind,
        latency_s=statistics.median(each.latency_s for each in measurements.delays),
        energy_j_per_byte=energy_j_per_byte,
        sources=sources,
        **fit.fields,
    )


def _energy(cluster: Cluster) -> tuple[float, Provenance]:
    """Joules per byte as the cluster has them: of its domain, or on average over its pairs."""
    not_given = Provenance(status="assumed", source="not measured; the cluster gives no source")
    if len(cluster.domains) == 1:
        domain = cluster.domains[0]
        return domain.energy_j_per_byte, domain.sources.get("energy_j_per_byte", not_given)
    if not cluster.domains:
        return 0.0, not_given
    routes = [route.energy_j_per_byte for route in Network.of(cluster).routes()]
    source = f"mean over the pairs of the network given with {cluster.name}; not measured"
    return statistics.fmean(routes), Provenance(status="computed", source=source)
