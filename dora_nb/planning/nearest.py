"""The known plan that comes closest to a QoE, without any search."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dora_nb.domain.limit import Limit
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.rating import qoe_value


def nearest(plans: Sequence[Plan], qoe: QoE) -> int:
    """The plan that is best at the objective within the hard limits; where none is, the one that breaks them least.

    Parameters
    ----------
    plans
        Predicted.

    Returns
    -------
    int
        Its place; -1 where there is no plan.
    """
    ranks = [_rank(plan, qoe) for plan in plans]
    return min(range(len(plans)), key=lambda place: ranks[place], default=-1)


def _rank(plan: Plan, qoe: QoE) -> tuple[float, float]:
    assert plan.prediction is not None, "known plans are predicted"
    rating = qoe_value(plan.prediction, qoe)
    broken = [_beyond(limit) for limit in rating.broken if limit.price is None]
    return max(broken, default=0.0), rating.value


def _beyond(limit: Limit) -> float:
    """By what share of a limit a plan breaks it."""
    reached, allowed = limit.value, limit.limit
    if limit.term == "throughput":
        reached, allowed = allowed, reached
    return reached / allowed - 1 if allowed > 0 else math.inf
