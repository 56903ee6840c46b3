"""The transfer program: start times and the order of transfers on every medium, for one plan, as a MILP.

A start time for every operation, a binary for every pair of transfers whose order is open, and

* ``start[j] >= start[i] + duration[i]`` where i comes before j;
* ``start[j] >= start[i] + held[i, j] - M (1 - before[i, j])`` and the same the other way round for pairs that share a
  medium, with M from the two windows;
* ``makespan >= start[i] + duration[i]``.

Job-shop scheduling with disjunctive constraints (Manne, "On the job-shop scheduling problem", 1960); what is decided
beforehand, and the windows, are described in :mod:`dora_nb.formulation.schedules.windows`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dora_nb.costs.operations import Operation
from dora_nb.costs.table import Floats
from dora_nb.formulation.rows import LinearProgram, Rows, over, single
from dora_nb.formulation.schedules.windows import Windows

#: The makespan to beat in the program's own unit of time: far above a solver's absolute tolerances.
_SCALE = 100.0

#: Schedules longer than the limit by this much relatively are let in as well, so that rounding excludes none.
_SLACK = 1e-7


@dataclass(frozen=True)
class TransferModel:
    """A transfer program.

    Attributes
    ----------
    model
        Minimises the makespan. Variables: ``start`` and ``makespan`` in units of ``unit_s``, ``before`` (binary).
    windows
        What it was built from.
    unit_s
        Seconds of one unit of time.
    """

    model: LinearProgram
    windows: Windows
    unit_s: float

    def order(self, start: Floats) -> tuple[Operation, ...]:
        """Transfers by start; the exact times follow from the order alone."""
        operations = self.windows.operations
        # Operations are in topological order, which settles ties of transfers that take no time.
        first_to_last = sorted(operations.transfers, key=lambda index: (round(float(start[index]), 6), index))
        return tuple(operations.operations[index] for index in first_to_last)


def transfer_model(windows: Windows, below_s: float) -> TransferModel:
    """Build the program for schedules that are not longer than a makespan.

    Parameters
    ----------
    windows
        After :meth:`Windows.decide` with the same makespan.
    below_s
        The makespan.
    """
    unit_s = below_s / _SCALE
    head, tail = windows.head_s / unit_s, windows.tail_s / unit_s
    longest = _SCALE * (1 + _SLACK)
    latest = np.maximum(longest - tail, head)
    rows = Rows()
    start = rows.variables("start", len(head), lower=head, upper=latest)
    makespan = rows.variables("makespan", lower=windows.path_s / unit_s, upper=longest)
    pairs = windows.undecided()
    before = rows.variables("before", len(pairs), kind="binary")
    decided = list(windows.decided())
    earlier, later = np.array([pair for *pair, _ in decided], dtype=int).reshape(-1, 2).T
    lag_s = np.array([seconds for *_, seconds in decided])
    rows.add("precedence", single(start[later]) - single(start[earlier]), ">=", lag_s / unit_s)
    for index, duration_s in windows.last():
        rows.add("makespan", over(makespan) - over(start[index]), ">=", duration_s / unit_s)
    for chosen in (True, False):
        ordered = [pair if chosen else pair[::-1] for pair in pairs]
        earlier, later = np.array(ordered, dtype=int).reshape(-1, 2).T
        held = np.array([windows.lag_s(*pair) for pair in ordered]) / unit_s
        enough = np.maximum(latest[earlier] + held - head[later], 0.0)
        # later - earlier >= held - enough x (1 if the other order was chosen)
        other = single(before, -enough if chosen else enough)
        rows.add("order", single(start[later]) - single(start[earlier]) + other, ">=", held - enough * chosen)
    return TransferModel(rows.build(over(makespan)), windows, unit_s)
