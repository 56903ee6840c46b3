"""Transfer orders by list scheduling: whenever a medium is free, the most urgent transfer that is ready starts."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

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
        return tuple(
            Transfer(kind=op.kind, stage=op.stage, micro_batch=op.micro_batch, part=op.part) for op in self.order
        )


def list_schedule(operations: Operations, timing: Timing) -> ListSchedule:
    """The better of two list schedules: by critical path, and first come first served.

    Neither rule is better on every pipeline, and both take well under a millisecond per hundred operations.
    """
    both = by_critical_path(operations, timing), as_ready(operations, timing)
    return min(both, key=lambda schedule: schedule.makespan_s)


def by_critical_path(operations: Operations, timing: Timing) -> ListSchedule:
    """Whenever a medium is free, the transfer with the longest chain of work behind it starts.

    Graham's list scheduling with the critical-path priority.
    """
    return _run(operations, timing, [-seconds for seconds in _remaining(operations, timing)])


def as_ready(operations: Operations, timing: Timing) -> ListSchedule:
    """First come, first served: transfers in the order in which they could start."""
    return _run(operations, timing, [0.0] * len(operations.operations))


def _remaining(operations: Operations, timing: Timing) -> list[float]:
    """Seconds of the longest chain of work from the start of each operation to the end of the iteration."""
    duration_s = [timing.duration_s[kind] for kind in operations.classes]
    remaining = list(duration_s)
    for index in range(len(remaining) - 1, -1, -1):
        for earlier in operations.predecessors[index]:
            remaining[earlier] = max(remaining[earlier], duration_s[earlier] + remaining[index])
    return remaining


def _run(operations: Operations, timing: Timing, urgency: Sequence[float]) -> ListSchedule:
    """Simulate; the smallest urgency goes first, ties by arrival."""
    kinds = operations.classes
    holds = timing.holds
    duration_s = [timing.duration_s[kind] for kind in kinds]
    waiting = [len(before) for before in operations.predecessors]
    free_at = {resource: 0.0 for hold in holds.values() for resource in hold.seconds}
    events: list[tuple[float, int]] = []  # (time, operation that ends; -1: a medium became free)
    queue: list[tuple[float, int, int]] = []  # (urgency, arrival, transfer)
    order: list[int] = []
    arrivals = 0
    now = 0.0

    def release(index: int) -> None:
        nonlocal arrivals
        if kinds[index] in holds and not holds[kinds[index]].seconds:  # already where it is needed
            order.append(index)
            heapq.heappush(events, (now + duration_s[index], index))
        elif kinds[index] in holds:
            arrivals += 1
            heapq.heappush(queue, (urgency[index], arrivals, index))
        else:
            heapq.heappush(events, (now + duration_s[index], index))

    for index, count in enumerate(waiting):
        if count == 0:
            release(index)
    while True:
        blocked = []
        while queue:
            entry = heapq.heappop(queue)
            hold = holds[kinds[entry[2]]].seconds
            if all(free_at[resource] <= now for resource in hold):
                order.append(entry[2])
                heapq.heappush(events, (now + duration_s[entry[2]], entry[2]))
                for resource, seconds in hold.items():
                    free_at[resource] = now + seconds
                    heapq.heappush(events, (now + seconds, -1))
                if hold and len(free_at) == 1:
                    break  # one medium, now taken: nobody else can start
            else:
                blocked.append(entry)
        for entry in blocked:
            heapq.heappush(queue, entry)
        if not events:
            return ListSchedule(now, tuple(operations.operations[index] for index in order))
        now = events[0][0]
        while events and events[0][0] <= now:
            _, ended = heapq.heappop(events)
            for follower in operations.successors[ended] if ended >= 0 else ():
                waiting[follower] -= 1
                if waiting[follower] == 0:
                    release(follower)
