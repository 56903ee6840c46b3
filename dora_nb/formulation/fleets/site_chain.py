"""The best order of sites and cuts between them, when each site is one device that runs an interval of layers.

A *site* is a part of the cluster with a network of its own, below the top of the tree of domains. Of a batch in M
micro-batches, let ``T`` be what a site's devices take at least for an interval of layers and all M, ``l`` what they
take for one, and ``h`` what a micro-batch takes from one site to the next. In every pipeline of sites k, each entered
once,

    makespan >= sum of l + sum of h + max over k of (T_k - l_k):

the first micro-batch reaches site k no sooner than along the shortest ways of the sites before it, all M take it
``T_k`` from then on, and behind that the last one still has the shortest ways of the sites after it. With ``g`` the
seconds that a hand-over holds what all ways between two sites have in common, ``sum of l + sum of h + (M - 1) g`` in
the same way. The least of this over all orders and cuts bounds every such plan, also with bounds in place of ``T`` and
``l``. A request of a stream takes no less among others than alone; ``T`` and ``l`` are then those of devices that keep
up with the rate, and what sites hand over for one request must be over when the next one comes. Our own design; sites
that are devices of a next level are as in PipeDream (SOSP 2019), whose levels are all alike and replicated.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dora_nb.costs.network import Network
from dora_nb.costs.table import CostTable, Floats
from dora_nb.domain.qoe import ROUNDING


class Leg(NamedTuple):
    """A site and its interval of layers."""

    site: int
    first: int
    stop: int


class Least(NamedTuple):
    """The least bound of all pipelines of sites, and the one that has it; no legs where none is below a limit."""

    bound_s: float
    legs: tuple[Leg, ...]


class Crossing(NamedTuple):
    """What transfers between devices of two sites take at least: seconds per byte, and per message."""

    byte_s: float
    message_s: float

    def of(self, size_bytes: Floats | float, batches: int, period_s: float = np.inf) -> Floats:
        """``h`` of one of so many transfers of some bytes, and ``(M - 1) g`` of the others; nothing of no bytes.

        Both are infinite where all of them take longer than a period, after which a stream's next ones come.
        """
        held_s = self.byte_s * np.asarray(size_bytes)
        both_s = np.stack([np.where(held_s > 0, held_s + self.message_s, 0.0), (batches - 1) * held_s])
        return np.where(batches * held_s > period_s * (1 + ROUNDING), np.inf, both_s)


def crossing(network: Network, senders: Sequence[str], receivers: Sequence[str]) -> Crossing:
    """What all ways from one of the senders to one of the receivers have in common.

    Whoever sends, and to how many, every byte passes the resources that are on all of these ways.
    """
    if set(senders) & set(receivers):
        return Crossing(0.0, 0.0)
    routes = [network.route(a, b) for a in senders for b in receivers]
    by_resource: list[dict[str, float]] = [{} for _ in routes]
    for found, route in zip(by_resource, routes, strict=True):
        for resource, bytes_per_s in route.hops:
            found[resource] = found.get(resource, 0.0) + 1.0 / bytes_per_s
    common = set.intersection(*(set(found) for found in by_resource))
    byte_s = max((min(found[name] for found in by_resource) for name in common), default=0.0)
    return Crossing(byte_s, min(route.latency_s for route in routes))


def work_bound(table: CostTable, samples: int, micro_batch: int) -> Floats:
    """Seconds that some devices take at least for so many samples of the layers [first, stop), however shared out.

    A device needs at least its best time per sample for each; weighted by any positive unit of work per layer, the work
    of an interval takes at least its sum over the sum of the devices' best speeds in the interval. The unit is the
    layer's time on all devices together.

    Returns
    -------
    array of shape (layers + 1, layers + 1)
    """
    each_s = _best_s(table, micro_batch)
    unit = 1.0 / (1.0 / each_s).sum(axis=1)
    layers = len(unit)
    found = np.zeros((layers + 1, layers + 1))
    for first in range(layers):
        speeds = np.maximum.accumulate(unit[first:, None] / each_s[first:], axis=0).sum(axis=1)
        found[first, first + 1 :] = samples * np.cumsum(unit[first:]) / speeds
    return found


def path_bound(table: CostTable, micro_batch: int, most_replicas: int) -> Floats:
    """Seconds that one micro-batch takes at least through the layers [first, stop), one after the other.

    A stage whose devices take shares of a micro-batch is at least as slow as if they could divide the work of every
    layer anew: the harmonic sum of sums is at least the sum of harmonic sums.

    Returns
    -------
    array of shape (layers + 1, layers + 1)
    """
    speeds = np.sort(1.0 / _best_s(table, micro_batch), axis=1)[:, ::-1]
    until = np.concatenate([[0.0], np.cumsum(micro_batch / speeds[:, :most_replicas].sum(axis=1))])
    return np.asarray(np.maximum(until[None, :] - until[:, None], 0.0))


def _best_s(table: CostTable, micro_batch: int) -> Floats:
    """Best seconds per sample of every layer on every device, a moment at least; with up to so many samples at once."""
    counts = np.arange(1, micro_batch + 1)
    return np.asarray(np.maximum((table.least.forward_s[:, :, 1 : micro_batch + 1] / counts).min(axis=2), 1e-12))


@dataclass(frozen=True)
class SiteChain:
    """What every site and every hand-over takes at least, for one number of micro-batches.

    Attributes
    ----------
    all_s, one_s
        ``T`` and ``l`` by site. Shape (sites, layers + 1, layers + 1); infinite where it is known that a site cannot.
    enter_s, leave_s
        ``h``, and ``(M - 1) g``, from the source to the first site, and from the last site to the sink. Shape
        (2, sites).
    hop_s
        ``h``, and ``(M - 1) g``, from site to site at every cut. Shape (2, sites, sites, layers + 1).
    """

    all_s: Floats
    one_s: Floats
    enter_s: Floats
    leave_s: Floats
    hop_s: Floats

    def best(self, below_s: float, gap: float) -> Least:
        """The pipeline of sites with the least bound, to a relative gap.

        The sum is least for every limit on the maximum by dynamic programming over sets of sites; intervals of limits
        are halved, the one that may hold the least first. For a limit above ``most_s`` the bound is the sum plus the
        lower end.

        Parameters
        ----------
        below_s
            Nothing at or above it is of interest.
        gap
            Relative; the bound that is returned is valid in any case.
        """
        found = Least(below_s, ())
        heap = [(0.0, 0.0, np.inf)]
        while heap:
            known_s, low_s, high_s = heapq.heappop(heap)
            if known_s >= found.bound_s * (1 - gap):
                return found._replace(bound_s=min(known_s, found.bound_s))
            sum_s, most_s, legs = self._least_sum(high_s)
            if sum_s + low_s >= found.bound_s:
                continue
            if sum_s + most_s < found.bound_s:
                found = Least(sum_s + most_s, legs)
            if most_s > low_s:  # whatever has less at most, has it in one of the two halves
                middle_s = (low_s + most_s) / 2
                heapq.heappush(heap, (sum_s + middle_s, middle_s, np.nextafter(most_s, 0.0)))
                heapq.heappush(heap, (sum_s + low_s, low_s, middle_s))
        return found

    def _least_sum(self, limit_s: float) -> tuple[float, float, tuple[Leg, ...]]:
        """The least sum of ways and hand-overs whose maximum keeps a limit, that maximum, and the pipeline."""
        sites, cuts = len(self.all_s), self.all_s.shape[1]
        able = np.isfinite(self.all_s)
        more_s = np.maximum(self.all_s - np.where(able, self.one_s, 0.0), 0.0)
        way_s = np.where(able & (more_s <= limit_s), self.one_s, np.inf)
        way_s[:, *np.tril_indices(cuts)] = np.inf  # at least one layer
        hop_s, enter_s, leave_s = (
            np.where(held_s <= limit_s, way, np.inf) for way, held_s in (self.hop_s, self.enter_s, self.leave_s)
        )
        until = np.full((1 << sites, sites, cuts), np.inf)  # by sites used and the last of them
        came = np.zeros((1 << sites, sites, cuts), dtype=np.int64)  # (cut before) x (sites + 1) + site before
        for site in range(sites):
            until[1 << site, site] = enter_s[site] + way_s[site, 0]
            came[1 << site, site] = sites
        for used in range(1, 1 << sites):
            for site in (each for each in range(sites) if used >> each & 1 and used != 1 << each):
                before = used & ~(1 << site)
                for last in (each for each in range(sites) if before >> each & 1):
                    reached = (until[before, last] + hop_s[last, site])[:, None] + way_s[site]
                    cut = reached.argmin(axis=0)
                    least = reached[cut, np.arange(cuts)]
                    better = least < until[used, site]
                    until[used, site][better] = least[better]
                    came[used, site][better] = (cut * (sites + 1) + last)[better]
        whole = until[:, :, -1] + leave_s
        used, site = divmod(int(whole.argmin()), sites)
        if not np.isfinite(whole[used, site]):
            return np.inf, 0.0, ()
        sum_s, most_s, stop, legs = float(whole[used, site]), float(self.leave_s[1, site]), cuts - 1, []
        while site < sites:
            first, before = divmod(int(came[used, site, stop]), sites + 1)
            legs.append(Leg(site, first, stop))
            most_s = max(most_s, float(more_s[site, first, stop]))
            held_s = self.enter_s[1, site] if before == sites else self.hop_s[1, before, site, first]
            most_s = max(most_s, float(held_s))
            used, site, stop = used & ~(1 << site), before, first
        return sum_s, most_s, tuple(reversed(legs))
