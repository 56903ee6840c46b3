"""What time it is on other hosts, so that events of all of them fit on one time line."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from dora_nb.executor.control.orders import ClockQuestion
from dora_nb.executor.control.replies import Clock
from dora_nb.executor.pool import WorkerPool

#: Longest wait for an answer, in seconds.
ANSWER_S = 30.0


class ClockOffset(NamedTuple):
    """How a worker's ``time.perf_counter`` differs from the coordinator's.

    Attributes
    ----------
    offset_s
        Subtract it from the worker's times to have the coordinator's.
    round_trip_s
        Of the question that tells most: the offset is off by half of it at most.
    """

    offset_s: float
    round_trip_s: float


def clock_offsets(pool: WorkerPool, workers: Sequence[int], trips: int = 8) -> dict[int, ClockOffset]:
    """Ask each worker a few times what time it is, and believe the quickest answer.

    The worker read its clock at some moment between question and answer; the middle is the best guess (Cristian 1989,
    "Probabilistic clock synchronization").

    Parameters
    ----------
    pool
        Open, its workers idle.
    workers
        Whom to ask, by number.
    trips
        Questions to each.

    Raises
    ------
    WorkerLostError
        If a worker ends or falls silent; the pool stays open.
    """
    offsets = {}
    for index in workers:
        tries = []
        for _ in range(trips):
            asked_s = time.perf_counter()
            answers = pool.ask(
                {index: ClockQuestion()}, Clock, doing="asking for the time", timeout_s=ANSWER_S, tolerant=True
            )
            told_s = time.perf_counter()
            tries.append(ClockOffset(answers[index].now_s - (asked_s + told_s) / 2, told_s - asked_s))
        offsets[index] = min(tries, key=lambda each: each.round_trip_s)
    return offsets
