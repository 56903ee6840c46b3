"""Start times of a stream: every request does the same, one period after the request before it.

A schedule of one request repeats every period, so two operations on one device or medium must not meet modulo the
period, whichever requests they belong to. A transfer's *lag* counts the requests that have arrived since its own when
it starts; order and lags of the transfers fix a schedule, and its times follow from them alone (a system of difference
constraints, whose least solution is the earliest schedule; periodic scheduling as in Serafini and Ukovich, "A
mathematical model for periodic scheduling problems", 1989).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from dora_nb.costs.operations import Operations, Timing
from dora_nb.domain.qoe import ROUNDING

#: ``later`` starts at least ``seconds`` after ``earlier`` of the same request: (earlier, later, seconds).
Wait = tuple[int, int, float]


def waits_within(operations: Operations, timing: Timing, period_s: float) -> list[Wait]:
    """What must wait for what, apart from the media: precedence, and stages that must be free for the next request.

    A stage runs all passes of one request, and the sums behind them, before the first of the next one.
    """
    seconds = [timing.duration_s[kind] for kind in operations.classes]
    waits = [(each, later, seconds[each]) for later, before in enumerate(operations.predecessors) for each in before]
    stages = passes_by_stage(operations).values()
    for passes in stages:
        last = operations.sums_behind(passes[-1])
        waits.append((last, passes[0], seconds[last] - period_s))
    return waits


def passes_by_stage(operations: Operations) -> dict[int, list[int]]:
    """The positions of every stage's passes, in the order in which it computes them."""
    passes: dict[int, list[int]] = {}
    for index in sorted(range(len(operations.operations)), key=lambda index: operations.operations[index].micro_batch):
        if operations.operations[index].kind == "forward":
            passes.setdefault(operations.operations[index].stage, []).append(index)
    return passes


def waits_in_turn(
    held: Mapping[int, Mapping[str, float]], order: Sequence[tuple[int, int]], period_s: float
) -> Iterable[Wait]:
    """The waits that an order (position, lag) within a period means for everything that is held by one at a time.

    Parameters
    ----------
    held
        Of each position: seconds from its start, by what it holds.
    order
        By start within the period.
    period_s
        After which everything repeats.
    """
    on: dict[str, list[tuple[int, int, float]]] = {}
    for index, lag in order:
        for resource, held_s in held[index].items():
            on.setdefault(resource, []).append((index, lag, held_s))
    for turns in on.values():
        for (earlier, lag, held_s), (later, later_lag, _) in itertools.pairwise(turns):
            yield earlier, later, held_s + (later_lag - lag) * period_s
        (first, first_lag, _), (last, lag, held_s) = turns[0], turns[-1]
        yield last, first, held_s + (first_lag - lag - 1) * period_s


def waits_on_media(
    operations: Operations, timing: Timing, order: Sequence[tuple[int, int]], period_s: float
) -> Iterable[Wait]:
    """The waits that an order of transfers (position, lag) within a period means for each medium."""
    held = {index: timing.holds[operations.classes[index]].seconds for index, _ in order}
    return waits_in_turn(held, order, period_s)


def steady_waits(
    operations: Operations, timing: Timing, order: Sequence[tuple[int, int]], period_s: float
) -> list[Wait]:
    """All waits of a stream whose transfers (position, lag) enter the network in this order within a period."""
    return [*waits_within(operations, timing, period_s), *waits_on_media(operations, timing, order, period_s)]


def earliest(count: int, waits: Iterable[Wait], period_s: float) -> list[float] | None:
    """The least start times from 0 that keep all waits, or None if none do (Bellman and Ford)."""
    start_s = [0.0] * count
    pending = [wait for wait in waits if wait[0] != wait[1] or wait[2] > ROUNDING * period_s]
    for _ in range(count + 1):
        changed = False
        for earlier, later, seconds in pending:
            if start_s[earlier] + seconds > start_s[later]:
                changed |= start_s[earlier] + seconds > start_s[later] + ROUNDING * period_s
                start_s[later] = start_s[earlier] + seconds
        if not changed:
            return start_s
    return None


def steady_start_times(
    operations: Operations, timing: Timing, order: Sequence[tuple[int, int]], period_s: float
) -> list[float] | None:
    """Earliest start of every operation after its request's arrival, every request alike.

    Parameters
    ----------
    operations, timing
        One request.
    order
        Transfers (position, lag) in the order in which they enter the network within a period.
    period_s
        Seconds between requests.

    Returns
    -------
    list of seconds in the order of ``operations.operations``, or None if the order cannot repeat every period
    """
    waits = steady_waits(operations, timing, order, period_s)
    return earliest(len(operations.operations), waits, period_s)
