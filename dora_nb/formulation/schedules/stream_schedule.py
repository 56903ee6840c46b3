"""Schedules of a stream: transfers placed so that they never meet modulo the period.

First greedily, each transfer at the earliest time at which its media are free in every period. Then, if that is later
than a single request alone would be, exactly: a small mixed-integer program with an integer for every two transfers
that share a medium, the number of periods between them (a periodic event scheduling problem, Serafini and Ukovich
1989). Its times are not used: only the order and the lags they mean, from which the times follow.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dora_nb.costs.operations import Operations, Timing
from dora_nb.costs.start_times import start_times
from dora_nb.costs.stream import Wait, passes_by_stage, steady_start_times, waits_within
from dora_nb.domain.qoe import ROUNDING
from dora_nb.domain.transfer import Transfer
from dora_nb.formulation.rows import LinearProgram, Rows, over, single
from dora_nb.formulation.schedules.list_schedule import list_schedule

#: Largest number of integers in an exact program; beyond, the greedy schedule stands.
MOST_PAIRS = 400


@dataclass(frozen=True)
class StreamSchedule:
    """A schedule that repeats every period.

    Attributes
    ----------
    latency_s
        From a request's arrival to its last output.
    turns
        Transfers (position, lag) in the order in which they enter the network within a period.
    """

    latency_s: float
    turns: tuple[tuple[int, int], ...]

    def transfers(self, operations: Operations) -> tuple[Transfer, ...]:
        """The order as a plan carries it."""
        named = ((operations.operations[index], lag) for index, lag in self.turns)
        return tuple(Transfer(**each._asdict(), lag=lag) for each, lag in named)


def greedy_stream(operations: Operations, timing: Timing, period_s: float) -> StreamSchedule | None:
    """The best of three greedy schedules; None if none of them fits into a period.

    Operations are placed in the order of a single request's list schedule, by micro-batch, or by stage.
    """
    names = operations.operations
    alone_s = start_times(operations, timing, list_schedule(operations, timing).transfers())
    everything = range(len(names))
    orders = (
        sorted(everything, key=lambda index: (alone_s[index], index)),
        _topological(operations, [(name.micro_batch, name.stage) for name in names]),
        _topological(operations, [(name.stage, name.micro_batch) for name in names]),
    )
    found = (_Placement(operations, timing, period_s).place(order) for order in orders)
    schedules = [schedule_of(operations, timing, period_s, start_s) for start_s in found if start_s is not None]
    return min((each for each in schedules if each is not None), key=lambda each: each.latency_s, default=None)


def schedule_of(
    operations: Operations, timing: Timing, period_s: float, start_s: Sequence[float]
) -> StreamSchedule | None:
    """The order and the lags that some start times mean, with the earliest times these allow.

    None if the times do not repeat every period, as a solver's rounding may have it.
    """
    turns = []
    for index in operations.transfers:
        lag = math.floor(start_s[index] / period_s + ROUNDING)
        turns.append((start_s[index] - lag * period_s, index, lag))
    order = tuple((index, lag) for _, index, lag in sorted(turns))
    earliest_s = steady_start_times(operations, timing, order, period_s)
    if earliest_s is None:
        return None
    ends = (start + timing.duration_s[kind] for start, kind in zip(earliest_s, operations.classes, strict=True))
    return StreamSchedule(max(ends), order)


def _topological(operations: Operations, keys: Sequence[tuple[int, int]]) -> list[int]:
    """An order that respects the precedence, smallest key first among what may come next."""
    waiting = [len(before) for before in operations.predecessors]
    able = [index for index, count in enumerate(waiting) if not count]
    order = []
    while able:
        index = min(able, key=lambda each: keys[each])
        able.remove(index)
        order.append(index)
        for later in operations.successors[index]:
            waiting[later] -= 1
            if not waiting[later]:
                able.append(later)
    return order


class _Placement:
    """Places operations one by one at the earliest time at which their media are free in every period."""

    def __init__(self, operations: Operations, timing: Timing, period_s: float) -> None:
        self.operations, self.timing, self.period_s = operations, timing, period_s
        self.passes = passes_by_stage(operations)

    def place(self, order: Sequence[int]) -> list[float] | None:
        """Start times, or None if the operations do not fit."""
        not_before_s = [0.0] * len(order)
        # A stage whose last pass comes too late for its first one in the next period begins later.
        for _ in order:
            start_s = self._once(order, not_before_s)
            if start_s is None:
                return None
            late = False
            for passes in self.passes.values():
                last = self.operations.sums_behind(passes[-1])
                last_s = self.timing.duration_s[self.operations.classes[last]]
                over_s = start_s[last] + last_s - start_s[passes[0]] - self.period_s
                if over_s > ROUNDING * self.period_s:
                    not_before_s[passes[0]] = start_s[passes[0]] + over_s
                    late = True
            if not late:
                return start_s
        return None

    def _once(self, order: Sequence[int], not_before_s: Sequence[float]) -> list[float] | None:
        start_s = list(not_before_s)
        taken: dict[str, list[tuple[float, float]]] = {}  # medium: (start, seconds held)
        for index in order:
            kind = self.operations.classes[index]
            for earlier in self.operations.predecessors[index]:
                done_s = start_s[earlier] + self.timing.duration_s[self.operations.classes[earlier]]
                start_s[index] = max(start_s[index], done_s)
            if kind not in self.timing.holds:
                continue
            held = self.timing.holds[kind].seconds
            free_s = free_from(start_s[index], held, taken, self.period_s)
            if free_s is None:
                return None
            start_s[index] = free_s
            for resource, seconds in held.items():
                taken.setdefault(resource, []).append((free_s, seconds))
        return start_s


def free_from(
    ready_s: float, held: Mapping[str, float], taken: Mapping[str, Sequence[tuple[float, float]]], period_s: float
) -> float | None:
    """The earliest time from which everything held is free for as long as it will be held, in every period.

    Parameters
    ----------
    ready_s
        Not before.
    held
        Seconds, by what is held.
    taken
        By what is held: start and seconds of those that hold it every period.
    period_s
        After which everything repeats.
    """
    slack = ROUNDING * period_s
    at_s = ready_s
    while at_s <= ready_s + period_s + slack:
        for resource, seconds in held.items():
            for other_s, other_seconds in taken.get(resource, ()):
                into_s = (at_s - other_s) % period_s  # since the other one last began
                if into_s + slack >= period_s:
                    into_s = 0.0
                if into_s < other_seconds - slack or into_s + seconds > period_s + slack:
                    break
            else:
                continue
            wait_s = other_seconds - into_s if into_s < other_seconds - slack else period_s - into_s
            at_s += wait_s
            break
        else:
            return at_s
    return None


def media_s(operations: Operations, timing: Timing) -> dict[str, float]:
    """Seconds that one request holds every medium."""
    held: dict[str, float] = {}
    for index in operations.transfers:
        for resource, seconds in timing.holds[operations.classes[index]].seconds.items():
            held[resource] = held.get(resource, 0.0) + seconds
    return held


def pairs_on_media(operations: Operations, timing: Timing) -> list[tuple[int, int, float, float]]:
    """Every two transfers that share a medium, with the seconds each keeps the other away."""
    pairs = []
    for one, other in itertools.combinations(operations.transfers, 2):
        held, held_other = (timing.holds[operations.classes[index]].seconds for index in (one, other))
        common = held.keys() & held_other.keys()
        if common:
            pairs.append((one, other, max(held[r] for r in common), max(held_other[r] for r in common)))
    return pairs


def stream_model(operations: Operations, timing: Timing, period_s: float, latest_s: float) -> LinearProgram:
    """The least latency of one plan, times in periods. Variables: ``start`` of every operation, ``latency``.

    Two transfers i and j that share a medium are an integer number k of periods apart, up to the time they hold it:
    ``held_i <= start_j - start_i + k period <= period - held_j``.

    Parameters
    ----------
    operations, timing, period_s
        One request, and the time between requests.
    latest_s
        No operation ends later.
    """
    count, latest = len(operations.operations), latest_s / period_s
    seconds = np.array([timing.duration_s[kind] for kind in operations.classes])
    pairs = pairs_on_media(operations, timing)
    rows = Rows()
    start = rows.variables("start", count, upper=latest)
    latency = rows.variables("latency", upper=latest)

    waits: list[Wait] = [wait for wait in waits_within(operations, timing, period_s) if wait[0] != wait[1]]
    if waits:
        earlier, later, least_s = (np.array(column) for column in zip(*waits, strict=True))
        rows.add("waits", single(start[later]) - single(start[earlier]), ">=", least_s / period_s)
    rows.add("ends", single(np.repeat(latency, count)) - single(start), ">=", seconds / period_s)
    if pairs:
        ones, others, held, held_other = (np.array(column) for column in zip(*pairs, strict=True))
        most = math.ceil(latest)
        apart = rows.variables("apart", len(pairs), lower=-most, upper=most, kind="integer")
        between = single(start[others]) - single(start[ones]) + single(apart)
        rows.add("first", between, ">=", held / period_s)
        rows.add("second", between, "<=", 1 - held_other / period_s)
    return rows.build(over(latency))
