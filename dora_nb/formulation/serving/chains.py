"""All chains of stages with so many slots and groups, from the one whose requests take least at least.

What a request takes at least of a chain (:mod:`dora_nb.costs.serving.service`) is a sum, or a largest, over its stages
and hand-overs. So the least that any completion of a beginning can add is known from a recursion over the devices that
are left (Held and Karp's, 1962), and chains come in the order of the whole (A*; Hart, Nilsson and Raphael, 1968).
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.memory import MemoryModel
from dora_nb.costs.network import Network
from dora_nb.costs.serving.bound import Limited
from dora_nb.costs.serving.limits import ROUNDING, Least
from dora_nb.costs.serving.service import Hop, Service, hop_between, least_s, least_share_s, serving_plan
from dora_nb.costs.table import CostTable
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.serving import Joining, ServingGoal
from dora_nb.domain.workload import Workload
from dora_nb.formulation.serving.rates import Rates

Floats = NDArray[np.float64]

#: What is counted, in this order: of the objective, what is limited, and what a prompt adds to a round.
_KEY, _FIRST, _TOKEN, _LATENCY, _GROUP, _JOINER = range(6)

#: Behind these come the rows of :class:`~dora_nb.formulation.serving.rates.Rates`.
_COUNTED = 6


class Chain(NamedTuple):
    """A plan to serve with.

    Attributes
    ----------
    least
        Of the objective no request takes less: seconds, joules, or for a rate the seconds between requests.
    plan, service
        The plan, and what it takes.
    by_joining
        The least for each way of joining, where that is told apart.
    """

    least: float
    plan: Plan
    service: Service
    by_joining: Mapping[Joining | None, float] = {}

    def least_of(self, joining: Joining) -> float:
        """The least where requests join so."""
        return self.by_joining.get(joining, self.least)


class _Begun(NamedTuple):
    """A beginning of a chain: layers before ``layer`` are placed, the last of them on ``last``."""

    layer: int
    used: int
    last: int
    stages: tuple[tuple[int, int, str], ...]
    taken: Floats


#: By what is taken at least, by how few layers are left, and by a number that tells equals apart.
_Heap = list[tuple[float, int, int, "_Begun | Chain"]]


@dataclass(frozen=True)
class Chains:
    """Chains with so many slots and groups that fit in memory and may keep the limits.

    Attributes
    ----------
    workload, cluster, table
        One request, what serves it, and compute times of up to as many samples as there are slots.
    goal
        Objective and limits.
    slots, groups
        Of every plan.
    ways
        In which requests may join; None stands for any.
    """

    workload: Workload
    cluster: Cluster
    table: CostTable
    goal: ServingGoal
    slots: int
    groups: int
    ways: tuple[Joining | None, ...] = (None,)

    def in_order(
        self, most_stages: int | None = None, *, by_capacity: bool = False
    ) -> Iterator[tuple[float, Chain | None]]:
        """What no chain from here on takes less than, and the next chain; None where none was completed yet.

        Parameters
        ----------
        most_stages
            Chains of more are left out; None: as many as there are devices.
        by_capacity
            Where the rate is looked for: in the order of the largest rate without limits, of those chains that may keep
            them.
        """
        ticket, heap = itertools.count(), list[tuple[float, int, int, _Begun | Chain]]()
        grow = functools.partial(self._grow, heap, ticket, by_capacity)
        grow(self._starts, 0, 0, ())
        while heap:
            least, _, _, top = heapq.heappop(heap)
            if isinstance(top, Chain):
                yield least, top
                continue
            yield least, None
            if top.layer < len(self.workload.layers):
                if most_stages is None or len(top.stages) < most_stages:
                    ways = self._hops[:, top.last, :, top.layer]
                    grow(self._joined(top.taken[:, None], ways), top.layer, top.used, top.stages)
            elif (chain := self._chain(top)) is not None:
                own = 1.0 / chain.service.capacity_per_s if by_capacity else chain.least
                heapq.heappush(heap, (max(own, least), 0, next(ticket), chain))

    def of(self, stages: list[tuple[int, int, str]]) -> Chain | None:
        """The chain with these stages; None if it does not fit in memory, or is sure to break a limit.

        Parameters
        ----------
        stages
            First layer, stop layer and device of each.
        """
        taken, used, last = np.zeros(len(self._limits)), 0, -1
        for first, stop, name in stages:
            device = self.cluster.device_ids.index(name)
            way = self._starts[:, device] if last < 0 else self._hops[:, last, device, first]
            taken = self._joined(self._joined(taken, way), self._stages[:, device, first, stop])
            used, last = used | 1 << device, device
        if math.isinf(taken[_KEY]) or np.any(taken > self._limits):
            return None
        return self._chain(_Begun(len(self.workload.layers), used, last, tuple(stages), taken))

    def _grow(
        self,
        heap: _Heap,
        ticket: Iterator[int],
        by_capacity: bool,
        handed: Floats,
        layer: int,
        used: int,
        stages: tuple[tuple[int, int, str], ...],
    ) -> None:
        """Keep all beginnings with one stage more that may keep the limits, from what is taken until it begins.

        Of equally good ones the longest has its turn first.
        """
        devices = np.array([each for each in range(len(self.cluster.devices)) if not used >> each & 1], dtype=int)
        begun = self._joined(handed[:, devices, None], self._stages[:, devices, layer])
        whole = self._joined(begun, self._left[:, used | 1 << devices, devices])
        places, stops = np.nonzero((whole[_KEY] < math.inf) & np.all(whole <= self._limits[:, None, None], axis=0))
        least = whole[_KEY, places, stops]
        if self.goal.objective == "rate":
            least = self._least_between_s(whole[:, places, stops], by_capacity)
        for place, stop, each in zip(places.tolist(), stops.tolist(), least.tolist(), strict=True):
            if each < math.inf:
                device = int(devices[place])
                stage = layer, stop, self.cluster.device_ids[device]
                one = _Begun(stop, used | 1 << device, device, (*stages, stage), begun[:, place, stop])
                heapq.heappush(heap, (each, -stop, next(ticket), one))

    def _least_between_s(self, whole: Floats, by_capacity: bool) -> Floats:
        """Seconds between requests at least: all groups together are as busy as stages and media may be.

        With what limits cost, and infinite where they are not kept; where it is the capacity that is wanted, only
        infinite where groups cannot be filled, if they must be: else hardly any chain is left out so.
        """
        least = np.maximum(whole[_KEY], whole[_GROUP] / self.groups)
        if by_capacity and not self._rates.must_fill_groups:
            return np.asarray(least)
        taken = Least(whole[_FIRST, :, None], whole[_TOKEN], whole[_JOINER])
        limited = self._rates.least_between_s(whole[_COUNTED:], taken, whole[_LATENCY], least)
        return np.asarray(np.where(np.isinf(limited), math.inf, least) if by_capacity else limited)

    def _chain(self, begun: _Begun) -> Chain | None:
        """A completed chain with what is only known at its end: the way back of tokens, and every medium's load."""
        plan, goal = serving_plan(list(begun.stages), self.slots, self.groups), self.goal
        service = Service(plan, self.workload, self.cluster, self.table)
        rate = goal.requests_per_s
        limits = (
            (service.first_token_alone_s, goal.first_token_s),
            (service.token_alone_s, goal.token_s),
            (service.alone_s, goal.latency_s),
            (1.0 / service.capacity_per_s, None if rate is None else 1.0 / rate),
        )
        if any(limit is not None and value > limit * (1 + ROUNDING) for value, limit in limits):
            return None
        if goal.objective == "latency":
            return Chain(service.alone_s, plan, service)
        if goal.objective == "rate":
            limited = Limited(service, goal)
            by_joining = {way: limited.least_between_s(way) for way in self.ways}
            between_s = min(by_joining.values())
            return Chain(between_s, plan, service, by_joining) if between_s < math.inf else None
        end = self._joined(begun.taken, self._ends[:, begun.last])
        return Chain(float(end[_KEY]) + self._sent_j(service.back), plan, service)

    # ------------------------------------------------------------------ what is taken

    @cached_property
    def _limits(self) -> Floats:
        goal = self.goal
        group_s = None if goal.requests_per_s is None else self.groups / goal.requests_per_s
        limits = (None, goal.first_token_s, goal.token_s, goal.latency_s, group_s)
        most = np.full(self._counted, math.inf)
        most[: len(limits)] = [math.inf if each is None else each * (1 + ROUNDING) for each in limits]
        return most

    @cached_property
    def _rates(self) -> Rates:
        return Rates(self.goal, self.workload, self.slots, self.groups, self.ways)

    @cached_property
    def _counted(self) -> int:
        return _COUNTED + self._rates.count

    @cached_property
    def together(self) -> int:
        """Requests of a group that are in its slots at once, at most.

        No more than there are slots. Where every request ends within a limit, at any moment only those are there that
        have arrived within that time: of evenly spaced ones the limit times the rate, rounded down, and one.
        """
        goal = self.goal
        if goal.requests_per_s is None or goal.latency_s is None:
            return self.slots
        return min(self.slots, math.floor(goal.latency_s * goal.requests_per_s * (1 + ROUNDING)) + 1)

    def _joined(self, one: Floats, other: Floats) -> Floats:
        """Taken by both; rates are limited by what is busiest."""
        both = one + other
        if self.goal.objective == "rate":
            both[_KEY] = np.maximum(one[_KEY], other[_KEY])
            self._rates.join(both[_COUNTED:], one[_COUNTED:], other[_COUNTED:])
        return np.asarray(both)

    def _of_hop(self, hop: Hop) -> list[float]:
        """What a hand-over takes."""
        further, tokens = self.workload.decode_steps, self.workload.new_tokens
        size = hop.size_bytes(1, further)
        first_s, token_s = hop.alone_s(1, 0), hop.alone_s(0, 1) if further else 0.0
        held_s, latency_s = size * hop.slowest_s_per_byte, first_s + further * token_s
        key = {"latency": latency_s, "rate": held_s, "energy": self._sent_j(hop)}[self.goal.objective]
        group_s, joiner_s = held_s + tokens * hop.latency_s / self.slots, hop.prompt_bytes * hop.slowest_s_per_byte
        return [key, first_s, token_s, latency_s, group_s, joiner_s, *self._rates.of_hop(hop)]

    def _sent_j(self, hop: Hop) -> float:
        return hop.size_bytes(1, self.workload.decode_steps) * hop.energy_j_per_byte

    @cached_property
    def _network(self) -> Network:
        return Network.of(self.cluster)

    @cached_property
    def _starts(self) -> Floats:
        """What a request's input takes, which no group waits for, by device: shape (counted, devices)."""
        goal, rows = self.goal, []
        for name in self.cluster.device_ids:
            hop = hop_between(self._network, self.workload.source, name, self.workload.input_bytes, 0.0)
            key, first_s, *_ = self._of_hop(hop)
            key = first_s if goal.objective == "latency" else key
            rows.append([key, first_s, 0.0, first_s, 0.0, 0.0, *self._rates.of_input(first_s)])
        starts = np.array(rows).T
        if goal.objective == "energy" and goal.energy_accounting == "all-on":
            assert goal.requests_per_s is not None, "joules of a request depend on how often one arrives"
            starts[_KEY] += sum(each.idle_w for each in self.cluster.devices) / goal.requests_per_s
        return starts

    @cached_property
    def _ends(self) -> Floats:
        """What a request's output takes, by device."""
        size, rows = self.workload.new_tokens * self.workload.output_bytes, []
        for name in self.cluster.device_ids:
            hop = hop_between(self._network, name, self.workload.sink, size, 0.0)
            key, sent_s, *_ = self._of_hop(hop)
            key = sent_s if self.goal.objective == "latency" else key
            rows.append([key, 0.0, 0.0, sent_s, 0.0, 0.0, *self._rates.of_input(0.0)])
        return np.array(rows).T

    @cached_property
    def _hops(self) -> Floats:
        """What a hand-over takes, from device to device at every cut: shape (counted, devices, devices, layers + 1)."""
        names, layers = self.cluster.device_ids, len(self.workload.layers)
        taken = np.zeros((self._counted, len(names), len(names), layers + 1))
        for (a, one), (b, other) in itertools.permutations(enumerate(names), 2):
            for cut in range(1, layers):
                size, token = self.workload.cut_bytes(cut), self.workload.token_bytes(cut)
                taken[:, a, b, cut] = self._of_hop(hop_between(self._network, one, other, size, token))
        return taken

    @cached_property
    def _stages(self) -> Floats:
        """What a stage takes, by device and layers [first, stop): shape (counted, devices, layers + 1, layers + 1)."""
        goal, further = self.goal, self.workload.decode_steps
        samples = slice(0, self.together + 1)
        assert self.table.token_s is not None, "a workload that generates has times of further tokens"
        prompt_s, token_s = (_of_stages(each[..., samples]) for each in (self.table.forward_s, self.table.token_s))
        first_s, each_s = least_s(prompt_s), least_s(token_s) * (further > 0)
        busy_s = least_share_s(prompt_s) + further * least_share_s(token_s)
        latency_s = first_s + further * each_s
        key = {"latency": latency_s, "rate": busy_s, "energy": self._joules(busy_s)}[goal.objective]
        own = self._rates.of_stages(prompt_s, token_s)
        taken = np.array([key, first_s, each_s, latency_s, busy_s, least_share_s(prompt_s), *own])
        possible = self._fits
        if goal.requests_per_s is not None:
            possible = possible & (busy_s * goal.requests_per_s <= 1 + ROUNDING)
        return np.where(possible, taken, math.inf)

    def _joules(self, busy_s: Floats) -> Floats:
        goal, devices = self.goal, self.cluster.devices
        extra_w = np.array([each.active_w - each.idle_w for each in devices])[:, None, None]
        if goal.requests_per_s is None or goal.energy_accounting == "all-on":
            return extra_w * busy_s
        idle_w = np.array([each.idle_w for each in devices])[:, None, None]
        return np.asarray(extra_w * busy_s + idle_w / goal.requests_per_s)

    @cached_property
    def _fits(self) -> NDArray[np.bool_]:
        """Whether layers [first, stop) fit on each device, with all its slots."""
        layers = len(self.workload.layers)
        first, stop = np.meshgrid(np.arange(layers + 1), np.arange(layers + 1), indexing="ij")
        some = stop > first
        needed = np.full(first.shape, math.inf)
        needed[some] = MemoryModel(self.workload).replica_bytes(
            first[some],
            stop[some],
            samples=float(self.slots),
            in_flight=self.groups,
            micro_batches=self.groups,
            replicated=False,
        )
        usable = np.array([each.usable_memory_bytes for each in self.cluster.devices])
        return np.asarray(needed <= usable[:, None, None])

    @cached_property
    def _left(self) -> Floats:
        """The least that is still to be taken: shape (counted, sets of used devices, last device, layers + 1)."""
        devices, layers = len(self.cluster.devices), len(self.workload.layers)
        left = np.full((self._counted, 1 << devices, devices, layers + 1), math.inf)
        left[:, :, :, layers] = self._ends[:, None, :]
        for used in range((1 << devices) - 2, 0, -1):
            following = np.full((self._counted, devices, layers + 1), math.inf)
            for device in (each for each in range(devices) if not used >> each & 1):
                rest = left[:, used | 1 << device, device]
                whole = self._joined(self._stages[:, device], rest[:, None, :])
                following[:, device] = whole.min(axis=-1)
            for last in (each for each in range(devices) if used >> each & 1):
                least = self._joined(self._hops[:, last], following).min(axis=1)
                left[:, used, last, 1:layers] = least[:, 1:layers]
        return left


def _of_stages(seconds: Floats) -> Floats:
    """Seconds of layers [first, stop), from those of each: shape (devices, layers + 1, layers + 1, samples)."""
    until = np.concatenate([np.zeros((1, *seconds.shape[1:])), np.cumsum(seconds, axis=0)])
    return np.moveaxis(until[None, :] - until[:, None], 2, 0)
