"""What must come after a whole set of transfers on one medium, and so cannot start before the set is over.

If a set of transfers and one more cannot all fit between the earliest start of any of them and the latest end of the
set, the one more ends last, and starts when the set is over at the earliest. Comparing two transfers at a time, as
:mod:`dora_nb.formulation.schedules.windows` does, never sees that.

Source: edge finding, Carlier and Pinson, "An algorithm for solving the job-shop problem" (1989); sets of all transfers
that are ready no earlier and due no later than given times suffice, as in Vilim, "Global constraints in scheduling"
(2007). Looking at all pairs of such times at once, as arrays, is our own.
"""

from __future__ import annotations

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.domain.qoe import ROUNDING


def least_heads_s(head_s: Floats, due_s: Floats, held_s: Floats) -> Floats:
    """Earliest starts of transfers that hold one medium, one after another.

    Parameters
    ----------
    head_s
        Earliest starts known so far. Shape: (transfers,).
    due_s
        When each must have left the medium at the latest. Shape: (transfers,).
    held_s
        How long each holds the medium. Shape: (transfers,).

    Returns
    -------
    Earliest starts, at least ``head_s``; infinity, all of them, if the transfers do not fit. Shape: (transfers,).
    """
    ready_s, since = np.unique(head_s, return_inverse=True)
    ends_s, until = np.unique(due_s, return_inverse=True)
    # Seconds held by the transfers that are due by ends_s[i] and ready from ready_s[j] on. Shape: (ends, ready).
    load_s = np.zeros((len(ends_s), len(ready_s)))
    np.add.at(load_s, (until, since), held_s)
    load_s = np.cumsum(np.cumsum(load_s[:, ::-1], axis=1)[:, ::-1], axis=0)
    rounding_s = ROUNDING * float(ends_s[-1])
    over_s = np.where(load_s > 0, ready_s + load_s, -np.inf)  # the set is over then at the earliest
    if (over_s > ends_s[:, None] + rounding_s).any():
        return np.full(len(head_s), np.inf)
    over_s = np.maximum.accumulate(over_s[:, ::-1], axis=1)[:, ::-1]  # as late as any of its parts says
    room_s = np.minimum.accumulate(ends_s[:, None] - np.where(load_s > 0, ready_s + load_s, -np.inf), axis=1)
    outside = ends_s[:, None] < due_s  # the set does not hold the transfer itself. Shape: (ends, transfers)

    raised_s = np.array(head_s)
    # Sets that begin no later than the transfer is ready: of those without room for it, the one that begins first.
    end, transfer = np.nonzero(outside & (room_s[:, since] < held_s - rounding_s))
    first, last = np.zeros(len(end), dtype=np.int64), since[transfer]
    while (first < last).any():
        middle = (first + last) // 2
        full = room_s[end, middle] < held_s[transfer] - rounding_s
        first, last = np.where(full, first, middle + 1), np.where(full, middle, last)
    np.maximum.at(raised_s, transfer, over_s[end, first])
    # Sets that begin later than the transfer is ready: the largest of them.
    after = np.minimum(since + 1, len(ready_s) - 1)
    full = outside & (since + 1 < len(ready_s)) & (load_s[:, after] > 0)
    full &= head_s + load_s[:, after] + held_s > ends_s[:, None] + rounding_s
    end, transfer = np.nonzero(full)
    np.maximum.at(raised_s, transfer, over_s[end, after[transfer]])
    return raised_s
