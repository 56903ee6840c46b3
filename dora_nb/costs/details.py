"""What a timeline shows beside its times: for how long each place is busy, and which operations are critical."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dora_nb.costs.operations import TOKEN_KINDS, Operation, OperationClass, Operations, Timing
from dora_nb.costs.stream import Wait
from dora_nb.costs.timeline import TimelineEntry
from dora_nb.domain.qoe import ROUNDING


@dataclass(frozen=True)
class TimelineDetails:
    """Figures of the operations of a timeline, in its order.

    Attributes
    ----------
    busy_s
        For how long, from its start on, each operation keeps each of its places: a replica computes its own share,
        which is over before the operation is where another replica is slower; a medium is held for the transfer's
        airtime, which is over before the bytes have arrived.
    slack_s
        By how much each operation alone could start later without a later end of the whole; 0 on the critical path.
    """

    busy_s: tuple[tuple[float, ...], ...]
    slack_s: tuple[float, ...]


def details_of(
    timeline: Iterable[TimelineEntry],
    operations: Operations,
    timing: Timing,
    start_s: Sequence[float],
    waits: Iterable[Wait],
    own_s: Mapping[OperationClass, Mapping[str, float]],
    decode_steps: int,
    late_in_rounds_s: Mapping[Operation, float],
) -> TimelineDetails:
    """The details of a timeline.

    Parameters
    ----------
    timeline
        What they are asked for.
    operations, timing, start_s
        What it was made from.
    waits
        What waits for what: the precedence, and the order on every medium.
    own_s
        Seconds of every computing class on each device that takes part.
    decode_steps
        Steps after the first token, each of which takes its share of an operation that stands for all of them. They
        follow one another, so they share its slack.
    late_in_rounds_s
        Where groups follow each other while tokens are generated: by how much each of their operations could start
        later without a later end of these; empty elsewhere.
    """
    held_s = {kind: hold.seconds for kind, hold in timing.holds.items()} | dict(own_s)
    late_s = slack_of(operations, timing, start_s, waits)
    busy_s: list[tuple[float, ...]] = []
    slack_s: list[float] = []
    known: dict[tuple[OperationClass, int], tuple[float, ...]] = {}  # tokens by the thousand are of a few classes
    for entry in timeline:
        together = decode_steps if entry.kind in TOKEN_KINDS else 1
        number = 0 if entry.kind in TOKEN_KINDS else entry.micro_batch
        operation = Operation(entry.kind, entry.stage, number, entry.part)
        key = operation.cls, together
        if key not in known:
            known[key] = tuple(held_s[operation.cls][place] / together for place in entry.places)
        busy_s.append(known[key])
        own_late_s = late_in_rounds_s.get(Operation(entry.kind, entry.stage, entry.micro_batch, entry.part), 0.0)
        slack_s.append(late_s[operations.index[operation]] + own_late_s)
    return TimelineDetails(tuple(busy_s), tuple(slack_s))


def slack_of(operations: Operations, timing: Timing, start_s: Sequence[float], waits: Iterable[Wait]) -> list[float]:
    """By how much each operation alone could start later without a later end of the whole.

    The latest start times that keep the end and all waits, less the earliest ones (the total float of the critical
    path method). In a stream the waits form rounds: an operation also delays itself, one request later.

    Parameters
    ----------
    operations, timing
        What is done, and how long each takes.
    start_s
        When each operation starts at the earliest, in seconds.
    waits
        What waits for what, as :func:`~dora_nb.costs.start_times.waits_of` gives it.

    Returns
    -------
    list of seconds in the order of ``operations.operations``; exactly 0 on the critical path
    """
    seconds = [timing.duration_s[kind] for kind in operations.classes]
    end_s = max((start + each for start, each in zip(start_s, seconds, strict=True)), default=0.0)
    rounding_s = ROUNDING * end_s
    latest_s = [end_s - each for each in seconds]
    last_first = sorted(waits, key=lambda wait: start_s[wait[1]], reverse=True)
    changed = True
    while changed:  # once, and once to see that it is done, but for rounds and for operations that take no time
        changed = False
        for earlier, later, wait_s in last_first:
            if latest_s[later] - wait_s < latest_s[earlier]:
                changed |= latest_s[later] - wait_s < latest_s[earlier] - rounding_s
                latest_s[earlier] = latest_s[later] - wait_s
    slack_s = (latest - start for latest, start in zip(latest_s, start_s, strict=True))
    return [each if each > rounding_s else 0.0 for each in slack_s]
