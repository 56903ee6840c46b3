"""Transfer orders by list scheduling: whenever a medium is free, the most urgent transfer that is ready starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import heappop, heappush

from dora_nb.costs.operations import Operation, Operations, Timing
from dora_nb.domain.transfer import Transfer


@dataclass(frozen=True)
class ListSchedule:
    """An order of transfers with the makespan it gives.

    Attributes
    ----------
    makespan_s
        As the scheduler's own clock saw it; :func:`dora_nb.costs.evaluate` recomputes it from the order alone.
    order
        Transfers as they enter the network.
    """

    makespan_s: float
    order: tuple[Operation, ...]

    def transfers(self) -> tuple[Transfer, ...]:
        """The order as a plan carries it."""
        return tuple(map(_transfer, self.order))


@lru_cache(maxsize=1 << 16)
def _transfer(operation: Operation) -> Transfer:
    """Plans of one shape have the same transfers, in one order or another."""
    kind, stage, micro_batch, part = operation
    return Transfer(kind=kind, stage=stage, micro_batch=micro_batch, part=part)


def list_schedule(operations: Operations, timing: Timing) -> ListSchedule:
    """The better of two list schedules: by critical path, and first come first served.

    Neither rule is better on every pipeline, and both take well under a millisecond per hundred operations.
    """
    simulation = _Simulation(operations, timing)
    by_path = simulation.whole(simulation.by_path)
    return simulation.run(simulation.by_arrival, by_path.makespan_s) or by_path


def by_critical_path(operations: Operations, timing: Timing) -> ListSchedule:
    """Whenever a medium is free, the transfer with the longest chain of work behind it starts.

    Graham's list scheduling with the critical-path priority.
    """
    simulation = _Simulation(operations, timing)
    return simulation.whole(simulation.by_path)


def as_ready(operations: Operations, timing: Timing) -> ListSchedule:
    """First come, first served: transfers in the order in which they could start."""
    simulation = _Simulation(operations, timing)
    return simulation.whole(simulation.by_arrival)


class _Simulation:
    """The operations of one plan, to be scheduled by one rule or another."""

    def __init__(self, operations: Operations, timing: Timing) -> None:
        self.operations = operations
        self.duration_s = timing.seconds_of(operations)
        places: dict[str, int] = {}
        by_kind = []
        for kind in operations.kinds:
            held_s = timing.holds[kind].seconds if kind in timing.holds else {}
            by_kind.append([(places.setdefault(name, len(places)), seconds) for name, seconds in held_s.items()])
        # Media that each operation holds, and for how long; none for a transfer already where it is needed.
        self.holds = [by_kind[kind] for kind in operations.kind_of]
        self.media = len(places)
        self.is_transfer = [kind in timing.holds for kind in operations.classes]
        self.remaining_s = self._remaining_s()
        self.by_path = [-seconds for seconds in self.remaining_s]
        self.by_arrival = [0.0] * len(self.holds)

    def _remaining_s(self) -> list[float]:
        """Seconds of the longest chain of work from the start of each operation to the end of the iteration."""
        remaining_s = list(self.duration_s)
        for index in range(len(remaining_s) - 1, -1, -1):
            remaining_s[index] += max([remaining_s[later] for later in self.operations.successors[index]], default=0.0)
        return remaining_s

    def whole(self, urgency: Sequence[float]) -> ListSchedule:
        """The schedule, however long."""
        schedule = self.run(urgency)
        assert schedule is not None, "every makespan is below infinity"
        return schedule

    def run(self, urgency: Sequence[float], below_s: float = math.inf) -> ListSchedule | None:
        """Simulate; the smallest urgency goes first, ties by arrival. None as soon as the makespan cannot be below."""
        duration_s, holds, successors = self.duration_s, self.holds, self.operations.successors
        waiting = [len(before) for before in self.operations.predecessors]
        ready = [index for index, count in enumerate(waiting) if count == 0]
        free_at = [0.0] * self.media
        events: list[tuple[float, int]] = []  # (time, operation that ends; -1: a medium became free)
        queue: list[tuple[float, int, int]] = []  # (urgency, arrival, transfer)
        order: list[int] = []
        arrivals, now = 0, 0.0
        while True:
            while ready or (events and events[0][0] <= now):
                for index in ready:
                    if holds[index]:
                        arrivals += 1
                        heappush(queue, (urgency[index], arrivals, index))
                        continue
                    if self.is_transfer[index]:
                        order.append(index)
                    if now + self.remaining_s[index] >= below_s:
                        return None
                    heappush(events, (now + duration_s[index], index))
                ready = []
                if events and events[0][0] <= now:
                    _, ended = heappop(events)
                    for follower in successors[ended] if ended >= 0 else ():
                        waiting[follower] -= 1
                        if waiting[follower] == 0:
                            ready.append(follower)
            blocked = []
            while queue and (self.media > 1 or free_at[0] <= now):
                entry = heappop(queue)
                index = entry[2]
                if any(free_at[medium] > now for medium, _ in holds[index]):
                    blocked.append(entry)
                    continue
                if now + self.remaining_s[index] >= below_s:
                    return None
                order.append(index)
                heappush(events, (now + duration_s[index], index))
                for medium, seconds in holds[index]:
                    free_at[medium] = now + seconds
                    heappush(events, (now + seconds, -1))
                if self.media == 1:
                    break  # taken now: nobody else can start
            for entry in blocked:
                heappush(queue, entry)
            if not events:
                return ListSchedule(now, tuple(self.operations.operations[index] for index in order))
            now = events[0][0]
