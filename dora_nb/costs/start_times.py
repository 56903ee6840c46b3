"""When every operation of a plan starts: the exact event recurrence over the order of its transfers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from dora_nb.costs.operations import Operation, Operations, Timing
from dora_nb.costs.stream import Wait, steady_start_times, steady_waits
from dora_nb.domain.transfer import Transfer
from dora_nb.errors import InputError
from dora_nb.units import format_seconds


def start_times(
    operations: Operations,
    timing: Timing,
    order: Iterable[Transfer],
    not_before_s: Mapping[int, float] = MappingProxyType({}),
) -> list[float]:
    """Earliest start of every operation when transfers enter each medium in the order given.

    An operation starts when its predecessors are done; a transfer also when, on every medium it holds, the transfer
    before it in the order has let go; and those of ``not_before_s``, by index, not before these moments. The exact
    event recurrence: no event could be earlier.

    Returns
    -------
    list of seconds, in the order of ``operations.operations``

    Raises
    ------
    InputError
        If the order misses a transfer, names one twice or one that is not there, or contradicts the precedence.
    """
    waits_for = _waits_for(operations, timing, order)
    followers: list[list[int]] = [[] for _ in waits_for]
    for index, earlier in enumerate(waits_for):
        for each, _ in earlier:
            followers[each].append(index)
    open_waits = [len(earlier) for earlier in waits_for]
    able = [index for index, count in enumerate(open_waits) if count == 0]
    start_s = [0.0] * len(waits_for)
    for index in able:  # grows while it is walked
        ends_s = (start_s[each] + lag for each, lag in waits_for[index])
        start_s[index] = max((not_before_s.get(index, 0.0), *ends_s))
        for follower in followers[index]:
            open_waits[follower] -= 1
            if open_waits[follower] == 0:
                able.append(follower)
    if len(able) < len(start_s):
        stuck = next(operations.operations[i] for i in operations.transfers if open_waits[i] > 0)
        raise InputError("transfer_order", tuple(stuck), "an order in which no transfer waits for one behind it")
    return start_s


def stream_start_times(
    operations: Operations, timing: Timing, order: Iterable[Transfer], period_s: float
) -> list[float]:
    """Starts of a request's operations where one arrives every period; see :mod:`dora_nb.costs.stream`.

    Raises
    ------
    InputError
        If the order misses a transfer, names one twice or one that is not there, or cannot repeat every period.
    """
    order = tuple(order)
    start_s = steady_start_times(operations, timing, _turns(operations, order), period_s)
    if start_s is None:
        allowed = f"an order and lags that can repeat every {format_seconds(period_s)}"
        raise InputError("transfer_order", [transfer.lag for transfer in order], allowed)
    return start_s


def waits_of(
    operations: Operations, timing: Timing, order: Iterable[Transfer], period_s: float | None = None
) -> list[Wait]:
    """What waits for what, by precedence and on the media; with a period those of a stream."""
    if period_s is not None:
        return steady_waits(operations, timing, _turns(operations, tuple(order)), period_s)
    waits_for = _waits_for(operations, timing, order)
    return [(earlier, later, seconds) for later, before in enumerate(waits_for) for earlier, seconds in before]


def _waits_for(operations: Operations, timing: Timing, order: Iterable[Transfer]) -> list[list[tuple[int, float]]]:
    """For each operation, those it waits for, and from whose start on how long."""
    waits_for: list[list[tuple[int, float]]] = [
        [(earlier, timing.duration_s[operations.classes[earlier]]) for earlier in before]
        for before in operations.predecessors
    ]
    last_on: dict[str, tuple[int, float]] = {}
    for transfer in _sequence(operations, order):
        for resource, seconds in timing.holds[operations.classes[transfer]].seconds.items():
            if resource in last_on:
                waits_for[transfer].append(last_on[resource])
            last_on[resource] = (transfer, seconds)
    return waits_for


def _turns(operations: Operations, order: tuple[Transfer, ...]) -> list[tuple[int, int]]:
    """Transfers as (position, lag)."""
    return [(index, transfer.lag) for index, transfer in zip(_sequence(operations, order), order, strict=True)]


def _sequence(operations: Operations, order: Iterable[Transfer]) -> list[int]:
    sequence: list[int] = []
    expected = set(operations.transfers)
    for transfer in order:
        key = Operation(transfer.kind, transfer.stage, transfer.micro_batch, transfer.part)
        index = operations.index.get(key)
        if index is None or index not in expected:
            raise InputError("transfer_order", tuple(key), "each transfer of the plan once, and no other")
        expected.remove(index)
        sequence.append(index)
    if expected:
        missing = operations.operations[min(expected)]
        raise InputError("transfer_order", None, f"each transfer of the plan once; {tuple(missing)} is missing")
    return sequence
