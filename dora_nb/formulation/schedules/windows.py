"""When transfers can start: windows from precedence, from the media, and from a makespan to beat.

The order of two transfers on one medium is open until something decides it: precedence, a rule that loses nothing, or
a window too small for one of the two orders. Windows get smaller by what is decided, and by whole sets of transfers
that one must wait for (:mod:`dora_nb.formulation.schedules.edge_finding`). What stays open is the transfer program's to
decide (:mod:`dora_nb.formulation.schedules.transfers`).

Sources: heads and tails as in Carlier, "The one-machine sequencing problem" (1982); disjunctions decided by windows as
in Carlier and Pinson, "An algorithm for solving the job-shop problem" (1989), which call it immediate selection.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.operations import Operations, Timing
from dora_nb.costs.table import Floats
from dora_nb.domain.qoe import ROUNDING
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.schedules.edge_finding import least_heads_s

#: Transfers on one medium up to which sets of them are looked at: time and memory grow with the square of their number.
_MOST_TOGETHER = 600


@dataclass
class Windows:
    """Earliest starts and what must follow, for one plan's operations.

    Attributes
    ----------
    operations, timing
        Of the plan.
    head_s, tail_s
        Seconds from the iteration's start to an operation's earliest start, and from its start to the iteration's
        earliest end; once :meth:`decide` was asked, in iterations no longer than its makespan.
    """

    operations: Operations
    timing: Timing
    head_s: Floats = field(init=False)
    tail_s: Floats = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.operations.operations)
        self._after: list[dict[int, float]] = [{} for _ in range(count)]  # what follows, and how long after the start
        self._duration_s = [self.timing.duration_s[kind] for kind in self.operations.classes]
        self._least_head_s, self._least_tail_s = [0.0] * count, list(self._duration_s)  # whatever paths say
        for index, before in enumerate(self.operations.predecessors):
            for earlier in before:
                self._after[earlier][index] = self._duration_s[earlier]
        self.held_s = {
            index: dict(self.timing.holds[self.operations.classes[index]].seconds)
            for index in self.operations.transfers
        }
        self._transfers = np.array(list(self.held_s), dtype=np.int64)
        self._place = {index: place for place, index in enumerate(self.held_s)}
        self._shares, self._lag_s = self._together()
        self._order_alike()
        self._measure()

    def _together(self) -> tuple[NDArray[np.bool_], Floats]:
        """Which two transfers share a medium, and how long after the first the second may start. Each (all, all)."""
        shares = np.zeros((len(self.held_s), len(self.held_s)), dtype=bool)
        lag_s = np.zeros(shares.shape)
        for name in self.media:
            on = np.array([name in held for held in self.held_s.values()])
            seconds = np.array([held.get(name, 0.0) for held in self.held_s.values()])
            both = on[:, None] & on[None]
            shares |= both
            lag_s = np.maximum(lag_s, np.where(both, seconds[:, None], 0.0))
        return shares, lag_s

    def _order_alike(self) -> None:
        """Transfers of one class go in the order of their micro-batches and chunks.

        That loses nothing: they hold the same for equally long, the earlier one is ready no later and is needed no
        later, so two in the other order can change places.
        """
        alike: dict[object, list[int]] = {}
        for index in self.operations.transfers:
            operation = self.operations.operations[index]
            if operation.kind != "all-reduce":  # buckets differ in size
                alike.setdefault((operation.kind, operation.stage), []).append(index)
        for members in alike.values():
            members.sort(key=lambda index: self.operations.operations[index][2:])
            for earlier, later in itertools.pairwise(members):
                self._put(earlier, later)

    def _put(self, earlier: int, later: int) -> None:
        """Decide that one transfer enters the media they share before another."""
        lag_s = self.lag_s(earlier, later)
        self._after[earlier][later] = max(self._after[earlier].get(later, 0.0), lag_s)

    def lag_s(self, earlier: int, later: int) -> float:
        """Seconds until the second of two transfers may start behind the first."""
        return float(self._lag_s[self._place[earlier], self._place[later]])

    def _measure(self) -> None:
        """Longest paths along everything decided so far, and who follows whom."""
        count = len(self._after)
        waiting = [0] * count
        for after in self._after:
            for later in after:
                waiting[later] += 1
        order = [index for index in range(count) if waiting[index] == 0]
        head_s = list(self._least_head_s)
        for index in order:  # grows while it is walked
            for later, lag_s in self._after[index].items():
                head_s[later] = max(head_s[later], head_s[index] + lag_s)
                waiting[later] -= 1
                if waiting[later] == 0:
                    order.append(later)
        assert len(order) == count, "decided orders never contradict each other"
        tail_s = list(self._least_tail_s)
        for index in reversed(order):
            for later, lag_s in self._after[index].items():
                tail_s[index] = max(tail_s[index], lag_s + tail_s[later])
        self._later = _bits(followers(self._after, order), self._transfers)
        self.head_s, self.tail_s = np.array(head_s), np.array(tail_s)

    @property
    def path_s(self) -> float:
        """The longest path: no schedule is shorter."""
        return float((self.head_s + self.tail_s).max())

    @property
    def media(self) -> list[str]:
        """Every medium or port that a transfer holds."""
        return sorted({resource for held in self.held_s.values() for resource in held})

    def medium_bound_s(self) -> float:
        """No schedule is shorter than any one medium allows when its transfers may even be interrupted.

        Jackson's preemptive schedule: at every moment the transfer with the longest tail of those that are ready. It
        holds for whole transfers and for any number of chunks.
        """
        bounds = [self._preemptive_s([i for i, held in self.held_s.items() if r in held], r) for r in self.media]
        return max([self.path_s, *bounds])

    def _preemptive_s(self, members: Sequence[int], resource: str) -> float:
        held_s = {index: self.held_s[index][resource] for index in members}
        ready = sorted(members, key=lambda index: self.head_s[index])
        left_s = dict(held_s)
        queue: list[tuple[float, int]] = []
        now = bound_s = 0.0
        position = 0
        while position < len(ready) or queue:
            if not queue:
                now = max(now, float(self.head_s[ready[position]]))
            while position < len(ready) and self.head_s[ready[position]] <= now:
                after_s = float(self.tail_s[ready[position]]) - held_s[ready[position]]
                heapq.heappush(queue, (-after_s, ready[position]))
                position += 1
            after_s, index = queue[0]
            until = now + left_s[index]
            if position < len(ready) and self.head_s[ready[position]] < until:
                until = float(self.head_s[ready[position]])
                left_s[index] -= until - now
            else:
                heapq.heappop(queue)
                bound_s = max(bound_s, until - after_s)
            now = until
        return bound_s

    def undecided(self) -> list[tuple[int, int]]:
        """Pairs of transfers that share a medium and whose order nothing decides yet."""
        first, second = self._open()
        return list(zip(self._transfers[first].tolist(), self._transfers[second].tolist(), strict=True))

    def _open(self) -> tuple[Ints, Ints]:
        """The :meth:`undecided` pairs as places among the transfers."""
        first, second = np.nonzero(np.triu(self._shares & ~(self._later | self._later.T), 1))
        return first, second

    def decided(self) -> Iterator[tuple[int, int, float]]:
        """What comes before what, and the seconds between their starts at least."""
        for earlier, after in enumerate(self._after):
            for later, lag_s in after.items():
                yield earlier, later, lag_s

    def last(self) -> Iterator[tuple[int, float]]:
        """Operations after which nothing else need come, and their seconds."""
        for index, after in enumerate(self.operations.successors):
            if not after:
                yield index, self._duration_s[index]

    def decide(self, below_s: float) -> bool:
        """Decide every pair of which only one order can end before a makespan.

        Returns
        -------
        whether any schedule can
        """
        limit_s = below_s * (1 + ROUNDING)
        while self.path_s <= limit_s:
            first, second = self._open()
            head_s, tail_s = self.head_s[self._transfers], self.tail_s[self._transfers]
            forth = head_s[first] + self._lag_s[first, second] + tail_s[second] <= limit_s
            back = head_s[second] + self._lag_s[second, first] + tail_s[first] <= limit_s
            if not (forth | back).all():
                return False
            decided = forth != back
            if decided.any():
                earlier, later = np.where(forth, first, second)[decided], np.where(forth, second, first)[decided]
                for pair in zip(self._transfers[earlier].tolist(), self._transfers[later].tolist(), strict=True):
                    self._put(*pair)
            elif not self._raise(limit_s):
                return True
            self._measure()
        return False

    def _raise(self, limit_s: float) -> bool:
        """Raise heads and tails by sets of transfers that one must wait for; whether any rose."""
        head_s, tail_s = np.array(self.head_s), np.array(self.tail_s)
        for name in self.media:
            on = np.array([index for index, held in self.held_s.items() if name in held])
            if len(on) > _MOST_TOGETHER:
                continue
            held_s = np.array([self.held_s[index][name] for index in on.tolist()])
            head_s[on] = least_heads_s(head_s[on], limit_s - tail_s[on] + held_s, held_s)
            # The same from the end backwards, where a medium is free for as long as the latency lasts.
            tail_s[on] = held_s + least_heads_s(tail_s[on] - held_s, limit_s - head_s[on], held_s)
        rose = (head_s > self.head_s + ROUNDING * limit_s).any() or (tail_s > self.tail_s + ROUNDING * limit_s).any()
        self._least_head_s, self._least_tail_s = head_s.tolist(), tail_s.tolist()
        return bool(rose)


def _bits(numbers: Sequence[int], places: Ints) -> NDArray[np.bool_]:
    """Bits at some places of the numbers at the same places."""
    width = len(numbers) // 8 + 1
    packed = b"".join(numbers[place].to_bytes(width, "little") for place in places.tolist())
    rows = np.frombuffer(packed, dtype=np.uint8).reshape(len(places), width)
    return np.asarray(np.unpackbits(rows, axis=1, bitorder="little")[:, places] != 0)


def followers(after: Sequence[Iterable[int]], order: Sequence[int] | None = None) -> list[int]:
    """For each operation a number whose bit j says that operation j comes later.

    Parameters
    ----------
    after
        What comes later than each operation, at least what comes next.
    order
        A topological order; None: the operations' own.
    """
    found = [0] * len(after)
    for index in reversed(range(len(after)) if order is None else order):
        for later in after[index]:
            found[index] |= found[later] | (1 << later)
    return found
