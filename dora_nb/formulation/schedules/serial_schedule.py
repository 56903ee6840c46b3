"""Transfer orders by serial scheduling, refined forwards and backwards.

A list schedule never lets a medium idle while a transfer is ready, which can be just wrong: an urgent transfer may be
about to come. A serial schedule takes operations by priority and gives each the first gap that is long enough, so a
later but more urgent transfer keeps its place; some priority always gives an optimal schedule.

Source: serial schedule generation and forward-backward improvement, Tormos and Lova, "A competitive heuristic solution
technique for resource-constrained project scheduling" (2001); random priorities around the best found are our own.
"""

from __future__ import annotations

import bisect
import heapq
import math
import random
from collections.abc import Callable, Iterable, Sequence

from dora_nb.costs.operations import Operation, Operations, Timing
from dora_nb.formulation.schedules.list_schedule import ListSchedule


def improved(
    schedule: ListSchedule,
    operations: Operations,
    timing: Timing,
    *,
    enough_s: float,
    rounds: int,
    stop: Callable[[], bool] = lambda: False,
    seed: int = 0,
) -> ListSchedule:
    """A schedule at least as good as the one given.

    Parameters
    ----------
    schedule
        Where to start.
    operations, timing
        What is scheduled.
    enough_s
        A makespan that need not be improved further, such as a lower bound.
    rounds
        Pairs of a backward and a forward pass.
    stop
        Asked before every round.
    seed
        Of the random priorities; the result depends on nothing else.
    """
    forwards, backwards = _Direction(operations, timing), _Direction(operations, timing, reverse=True)
    start_s = forwards.starts_of(schedule.order)
    best, makespan_s = start_s, forwards.makespan_s(start_s)
    noise = random.Random(seed)
    for turn in range(rounds):
        if makespan_s <= enough_s or stop():
            break
        # Every few rounds without success start again from the best, shaken a little more.
        shake_s = makespan_s * 0.05 * (turn % 8) / 8
        ends = [best[i] + forwards.duration_s[i] + noise.uniform(-shake_s, shake_s) for i in range(len(best))]
        late_s = backwards.serial([makespan_s - end for end in ends])
        latest_s = backwards.makespan_s(late_s)
        early = [latest_s - late_s[i] - forwards.duration_s[i] for i in range(len(best))]
        shorter = forwards.serial_below(early, makespan_s)
        if shorter is not None and forwards.makespan_s(shorter) < makespan_s:
            best, makespan_s = shorter, forwards.makespan_s(shorter)
    return min(schedule, forwards.schedule(best), key=lambda each: each.makespan_s)


def by_head(operations: Operations, timing: Timing) -> ListSchedule:
    """A serial schedule by how early each operation could start if no medium were ever taken.

    Often worse than a list schedule, but improved it ends elsewhere.
    """
    remaining_s = _Direction(operations, timing, reverse=True).remaining_s
    forwards = _Direction(operations, timing)
    head_s = [each - own for each, own in zip(remaining_s, forwards.duration_s, strict=True)]
    return forwards.schedule(forwards.serial(head_s))


class _Direction:
    """Serial scheduling of an iteration, from its start to its end or the other way round."""

    def __init__(self, operations: Operations, timing: Timing, reverse: bool = False) -> None:
        self.operations = operations
        self.before: Sequence[Sequence[int]] = operations.successors if reverse else operations.predecessors
        self.after: Sequence[Sequence[int]] = operations.predecessors if reverse else operations.successors
        self.duration_s = timing.seconds_of(operations)
        media: dict[str, int] = {}
        # (medium, from when on after the operation's start it is held, until when). Backwards, the latency that holds
        # nothing comes first.
        by_kind: list[list[tuple[int, float, float]]] = []
        for kind in operations.kinds:
            duration_s = timing.duration_s[kind]
            held = timing.holds[kind].seconds.items() if kind in timing.holds else ()
            places = [(media.setdefault(name, len(media)), s) for name, s in held if s > 0]
            by_kind.append([(place, duration_s - s, duration_s) if reverse else (place, 0.0, s) for place, s in places])
        self.holds = [by_kind[kind] for kind in operations.kind_of]
        self.media = len(media)
        self.remaining_s = self._remaining_s(range(len(self.holds)) if reverse else range(len(self.holds) - 1, -1, -1))

    def _remaining_s(self, last_first: Iterable[int]) -> list[float]:
        """Seconds from an operation's start to the end of the longest chain that follows."""
        remaining_s = list(self.duration_s)
        for index in last_first:
            remaining_s[index] += max([remaining_s[later] for later in self.after[index]], default=0.0)
        return remaining_s

    def makespan_s(self, start_s: Sequence[float]) -> float:
        """When the last operation is over."""
        return max(start + duration for start, duration in zip(start_s, self.duration_s, strict=True))

    def schedule(self, start_s: Sequence[float]) -> ListSchedule:
        """The transfers by their starts."""
        order = sorted(self.operations.transfers, key=lambda index: (start_s[index], index))
        return ListSchedule(self.makespan_s(start_s), tuple(self.operations.operations[index] for index in order))

    def starts_of(self, order: Sequence[Operation]) -> list[float]:
        """Earliest starts when transfers enter the media in an order."""
        place = {self.operations.index[operation]: position for position, operation in enumerate(order)}
        count = len(self.operations.operations)
        # A computation goes as soon as it can: before any transfer that is not yet allowed to.
        return self.serial([float(place.get(index, -1)) for index in range(count)])

    def serial(self, priority: Sequence[float]) -> list[float]:
        """Start of every operation, taken by ascending priority among those whose predecessors are placed."""
        start_s = self.serial_below(priority, math.inf)
        assert start_s is not None, "every makespan is below infinity"
        return start_s

    def serial_below(self, priority: Sequence[float], below_s: float) -> list[float] | None:
        """What :meth:`serial` gives; None as soon as the makespan cannot be below."""
        waiting = [len(before) for before in self.before]
        queue = [(priority[index], index) for index, count in enumerate(waiting) if count == 0]
        heapq.heapify(queue)
        busy: list[list[tuple[float, float]]] = [[] for _ in range(self.media)]
        start_s, ready_s = [0.0] * len(waiting), [0.0] * len(waiting)
        while queue:
            _, index = heapq.heappop(queue)
            start, holds = ready_s[index], self.holds[index]
            if holds:
                start = _first_gap(start, holds, busy)
                for medium, since, until in holds:
                    bisect.insort(busy[medium], (start + since, start + until))
            if start + self.remaining_s[index] >= below_s:
                return None
            start_s[index] = start
            end = start + self.duration_s[index]
            for later in self.after[index]:
                if end > ready_s[later]:
                    ready_s[later] = end
                waiting[later] -= 1
                if waiting[later] == 0:
                    heapq.heappush(queue, (priority[later], later))
        return start_s


def _first_gap(
    ready: float, holds: Sequence[tuple[int, float, float]], busy: Sequence[Sequence[tuple[float, float]]]
) -> float:
    """The earliest start from ``ready`` on at which every medium is free for as long as it is held."""
    start, settled = ready, False
    while not settled:
        settled = True
        for medium, since, until in holds:
            spans = busy[medium]
            for place in range(max(bisect.bisect_right(spans, (start + since, math.inf)) - 1, 0), len(spans)):
                begin, end = spans[place]
                rounding_s = 1e-12 * (1 + end)
                if begin >= start + until - rounding_s:
                    break
                if end > start + since + rounding_s:
                    start, settled = end - since, len(holds) == 1  # of one medium the later spans come next
    return start
