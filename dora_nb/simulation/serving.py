"""Plays requests that want tokens event by event: groups as processes that ask for stages and media, in turn.

The same rules as :mod:`dora_nb.costs.serving.rounds`, worked out in another way: nothing is known ahead of time. A
place is given to who has asked first, once it is free; a process goes on when all it holds has been given and its time
is over. Requests may arrive whenever they like.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.serving.service import Leg, Service, check_joining
from dora_nb.costs.table import CostTable, cost_table
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.serving import Batching, Joining
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.units import format_seconds

Floats = NDArray[np.float64]
Process = Iterator[Leg]


@dataclass(frozen=True)
class ServedRequests:
    """When what happened to each request, in seconds, in the order of their arrival.

    Attributes
    ----------
    arrival_s
        When it came.
    first_token_at_s, last_token_at_s
        When it had these tokens, at the last stage.
    end_s
        When all of them were at the sink; as ``last_token_at_s`` if there is none.
    """

    arrival_s: Floats
    first_token_at_s: Floats
    last_token_at_s: Floats
    end_s: Floats

    @cached_property
    def first_token_s(self) -> Floats:
        """From arrival to the first token."""
        return self.first_token_at_s - self.arrival_s

    @cached_property
    def latency_s(self) -> Floats:
        """From arrival to the end."""
        return self.end_s - self.arrival_s

    def __repr__(self) -> str:
        first_s, latency_s = np.quantile(self.first_token_s, (0.5, 0.95)), np.quantile(self.latency_s, (0.5, 0.95))
        return (
            f"ServedRequests, {len(self.arrival_s)}: first token after {format_seconds(first_s[0])} (median) and "
            f"{format_seconds(first_s[1])} (95 %), last after {format_seconds(latency_s[0])} and "
            f"{format_seconds(latency_s[1])}"
        )


def poisson_arrivals(requests_per_s: float, requests: int, seed: int = 0) -> list[float]:
    """When so many requests arrive at a mean rate, each independent of the others; the first at 0.

    Parameters
    ----------
    requests_per_s
        The mean rate.
    requests
        How many.
    seed
        Of the random numbers.
    """
    between_s = np.random.default_rng(seed).exponential(1.0 / requests_per_s, requests - 1)
    return [0.0, *np.cumsum(between_s).tolist()]


def play(
    plan: Plan,
    workload: Workload,
    cluster: Cluster,
    arrivals_s: Sequence[float],
    *,
    batching: Batching = "continuous",
    wave: int = 1,
    table: CostTable | None = None,
) -> ServedRequests:
    """Simulate requests that arrive at these times, from an empty cluster until all have their tokens.

    Parameters
    ----------
    plan
        With slots, e.g. that of a :class:`~dora_nb.domain.serving.Serving`.
    workload, cluster
        One request, and what serves it.
    arrivals_s
        Ascending, e.g. :func:`poisson_arrivals`.
    batching, wave
        Who joins when, and of continuous batching how many together at least: e.g. those of a
        :class:`~dora_nb.domain.serving.Serving`.
    table
        Compute times; the roofline estimate when None.

    Raises
    ------
    InputError
        If the plan cannot serve such requests or have such a wave, or there is no arrival, or one before another.
    """
    if len(arrivals_s) == 0 or arrivals_s[0] < 0 or any(np.diff(arrivals_s) < 0):
        raise InputError("arrivals_s", list(arrivals_s)[:5], "at least one time, from 0 on, in order")
    if table is None:
        table = cost_table(workload.replace(batch=plan.micro_batch), cluster)
    check_joining(Joining(batching, wave), plan)
    return _Cluster(Service(plan, workload, cluster, table), arrivals_s, batching, wave).run()


class _Place:
    """A stage, a medium or a port: who has it, and who has asked for it, in order."""

    def __init__(self) -> None:
        self.is_free, self.asked = True, deque[_Ask]()


@dataclass(eq=False)
class _Ask:
    """A leg that a process wants to do, and as whom it then goes on."""

    leg: Leg
    process: Process
    name: tuple[int, int]


class _Cluster:
    #: At one time places are let go first, then requests come to wait, inputs are sent, groups go on, outputs leave.
    FREE, WAIT, INPUT, GROUP, OUTPUT = range(5)

    def __init__(self, service: Service, arrivals_s: Sequence[float], batching: Batching, wave: int) -> None:
        self.service, self.is_static, self.wave = service, batching == "static", wave
        self.to_join = 0  # of a wave that has begun
        self.taken = 0  # slots
        self.now = 0
        self.events: list[tuple[int, int, int, Process | _Place]] = []
        self.places: dict[str, _Place] = {}
        self.queue: deque[int] = deque()
        self.outside = len(arrivals_s)
        self.groups: dict[int, Process] = {}
        self.resting = list(range(service.groups))
        ticks = [round(each / service.tick_s) for each in arrivals_s]
        self.arrived = np.array(ticks, dtype=float)
        self.first, self.last, self.ended = (np.zeros(len(ticks), dtype=float) for _ in range(3))
        self.outputs = self.frees = 0
        for number, at in enumerate(ticks):
            is_sent = bool(service.input.seconds_per_byte)
            self._at(at, (self.INPUT if is_sent else self.WAIT, number), self._request(number, is_sent))

    def run(self) -> ServedRequests:
        """Until nothing happens any more."""
        while self.events:
            self.now, kind, number, what = heapq.heappop(self.events)
            if isinstance(what, _Place):
                what.is_free = True
                self._serve(what)
            else:
                self._go_on(what, (kind, number))
        tick_s = self.service.tick_s
        return ServedRequests(tick_s * self.arrived, tick_s * self.first, tick_s * self.last, tick_s * self.ended)

    def _at(self, when: int, name: tuple[int, int], what: Process | _Place) -> None:
        heapq.heappush(self.events, (when, *name, what))

    def _go_on(self, process: Process, name: tuple[int, int]) -> None:
        """Let a process go on until it wants to do something."""
        leg = next(process, None)
        if leg is None:
            return
        if name[0] == self.INPUT:
            name = self.WAIT, name[1]  # once it is there
        ask, places = _Ask(leg, process, name), [self.places.setdefault(each, _Place()) for each in leg.held]
        for place in places:
            place.asked.append(ask)
        if not places:
            self._at(self.now + leg.duration, name, process)
        elif all(place.asked[0] is ask and place.is_free for place in places):
            self._begin(ask)

    def _serve(self, place: _Place) -> None:
        """A place is free: who is first may begin if it has all else as well."""
        if place.asked:
            ask = place.asked[0]
            if all(self.places[each].asked[0] is ask and self.places[each].is_free for each in ask.leg.held):
                self._begin(ask)

    def _begin(self, ask: _Ask) -> None:
        for name, ticks in ask.leg.held.items():
            place = self.places[name]
            place.asked.popleft()
            place.is_free = False
            self.frees += 1
            self._at(self.now + ticks, (self.FREE, self.frees), place)
        self._at(self.now + ask.leg.duration, ask.name, ask.process)

    # ------------------------------------------------------------------ processes

    def _request(self, number: int, is_sent: bool) -> Process:
        """Its input is sent, and it waits."""
        if is_sent:
            yield self.service.carry(self.service.input, 1, 0)
        self.queue.append(number)
        self.outside -= 1
        self._call()

    def _call(self) -> None:
        """Wake the first resting group if it could go."""
        if self.resting and self._could_go():
            number = self.resting.pop(0)
            self._at(self.now, (self.GROUP, number), self._group(number))

    def _could_go(self) -> bool:
        if self.wave > 1:
            if self.to_join == 0:
                able = min(len(self.queue), self.service.groups * self.service.slots - self.taken)
                self.to_join = able if able >= self.wave or not self.outside else 0
            return self.to_join > 0
        wanted = self.service.slots if self.is_static and self.outside else 1
        return len(self.queue) >= wanted

    def _boarding(self, had: int) -> list[int]:
        """Who joins a group that has so many."""
        room = self.service.slots - had
        if self.wave > 1:
            room = 1 if room and self._could_go() else 0
            self.to_join -= room
        elif self.is_static and (had or not self._could_go()):
            room = 0
        new = [self.queue.popleft() for _ in range(min(room, len(self.queue)))]
        self.taken += len(new)
        return new

    def _group(self, number: int) -> Process:
        """Rounds until nobody is left."""
        service, last = self.service, len(self.service.devices) - 1
        had: dict[int, int] = {}  # tokens of everybody in a slot
        while True:
            new = self._boarding(len(had))
            if not had and not new:
                self.resting = sorted([*self.resting, number])
                return
            if new or self.queue:
                self._call()
            for stage in range(last + 1):
                yield service.compute(stage, len(new), len(had))
                if stage < last:
                    yield service.carry(service.hops[stage], len(new), len(had))
            self.first[new] = self.now
            had |= dict.fromkeys(new, 0)
            had = {request: tokens + 1 for request, tokens in had.items()}
            done = [request for request, tokens in had.items() if tokens == service.tokens]
            if done:
                self.last[done] = self.now
                self.outputs += 1
                self._at(self.now, (self.OUTPUT, self.outputs), self._output(done))
                had = {request: tokens for request, tokens in had.items() if tokens < service.tokens}
            if had and last:
                yield service.carry(service.back, 0, len(had))
            self.taken -= len(done)

    def _output(self, requests: list[int]) -> Process:
        """What they have got is sent to the sink."""
        if self.service.output.seconds_per_byte:
            yield self.service.carry(self.service.output, len(requests), 0)
        self.ended[requests] = self.now
