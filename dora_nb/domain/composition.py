"""A composition: a few resident plans, and how often each is used in which condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dora_nb.domain.certificate import Certificate
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.conditions import Conditions
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload

if TYPE_CHECKING:
    import pandas as pd

#: How limits are kept in a condition. ``mean``: latency and energy on average over its requests. ``tail``: request by
#: request, but for a small share of them.
Keep = Literal["mean", "tail"]

#: Relative excess over a limit that rounding explains.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class ConditionFigures:
    """What a composition does in one condition.

    Attributes
    ----------
    counts
        Requests (iterations) of a window that each plan takes, by plan.
    makespan_s, energy_j
        Of each plan in this condition, by plan; None where it cannot run.
    switch_s, switch_j
        Seconds and joules that changing plans costs in an average window; 0 in inference.
    mean_s, mean_j
        Expected seconds and joules of a request, changes of plans included.
    missed_share
        Share of the requests that exceed a limit.
    kept
        Whether the limits are kept here.
    bound
        What no composition can fall below in this condition, in the objective's unit.
    order
        The plans of one window, request by request.
    """

    counts: tuple[int, ...]
    makespan_s: tuple[float | None, ...]
    energy_j: tuple[float | None, ...]
    switch_s: float
    switch_j: float
    mean_s: float
    mean_j: float
    missed_share: float
    kept: bool
    bound: float
    order: tuple[int, ...]

    @property
    def weights(self) -> tuple[float, ...]:
        """Share of the requests that each plan takes."""
        return tuple(count / sum(self.counts) for count in self.counts)


@dataclass(frozen=True)
class Composition:
    """Which plans are resident, and which share of the requests each takes in which condition.

    Attributes
    ----------
    workload, cluster, qoe, conditions
        What was asked.
    keep, missed_share
        How limits are kept; with ``tail``, which share of a condition's requests may exceed them.
    window
        Requests (training: iterations) over which the counts are whole numbers.
    plans
        The resident plans, each with its prediction on the cluster without any condition.
    figures
        What happens in each condition, in the order of ``conditions``.
    certificate
        How good the expected latency or energy is proven to be.
    single
        The best of the plans considered that keeps the limits alone in every condition; None if there is none.
    single_value
        Its expected latency or energy.
    resident_bytes, usable_bytes
        Bytes that each device holds of all plans, shared layers once, and how many it may.
    wall_s
        Seconds the composing took.
    """

    workload: Workload
    cluster: Cluster
    qoe: QoE
    conditions: Conditions
    keep: Keep
    missed_share: float
    window: int
    plans: tuple[Plan, ...]
    figures: tuple[ConditionFigures, ...]
    certificate: Certificate
    single: Plan | None
    single_value: float | None
    resident_bytes: dict[str, float]
    usable_bytes: dict[str, float]
    wall_s: float

    @property
    def expected_s(self) -> float:
        """Expected seconds of a request over all conditions."""
        return self._expected([each.mean_s for each in self.figures])

    @property
    def expected_j(self) -> float:
        """Expected joules of a request over all conditions, under the QoE's accounting."""
        return self._expected([each.mean_j for each in self.figures])

    def _expected(self, values: Sequence[float]) -> float:
        return sum(p * value for p, value in zip(self.conditions.probabilities, values, strict=True))

    def in_condition(self, name: str) -> ConditionFigures:
        """What happens in the condition of a name."""
        return self.figures[self.conditions.names.index(name)]

    def __len__(self) -> int:
        return len(self.plans)

    def to_frame(self) -> pd.DataFrame:
        """One row for every plan in every condition, units in the column names."""
        from dora_nb.render.composition import composition_frame  # a method that looks up a room: imported when called

        return composition_frame(self)

    def __repr__(self) -> str:
        from dora_nb.render.composition import composition_text

        return composition_text(self)

    def _repr_html_(self) -> str:
        from dora_nb.render.composition import composition_html

        return composition_html(self)


def evenly(counts: Sequence[int]) -> tuple[int, ...]:
    """The plans of one window as evenly spread as whole numbers allow: smooth weighted round robin.

    Every plan earns its count each turn; the richest takes the turn and pays the sum of all counts (the rule of
    nginx's upstream balancer).
    """
    total, credit, order = sum(counts), [0] * len(counts), []
    for _ in range(total):
        credit = [have + count for have, count in zip(credit, counts, strict=True)]
        richest = max(range(len(counts)), key=lambda plan: credit[plan])
        credit[richest] -= total
        order.append(richest)
    return tuple(order)


def in_runs(counts: Sequence[int], home: int) -> tuple[int, ...]:
    """The plans of one window in contiguous runs, the home plan first; the next window starts with it again."""
    others = [plan for plan in range(len(counts)) if plan != home]
    return tuple(plan for plan in (home, *others) for _ in range(counts[plan]))


def keeps(mean_s: float, mean_j: float, missed: float, qoe: QoE, keep: Keep, missed_share: float) -> bool:
    """Whether a condition's figures keep the limits.

    Parameters
    ----------
    mean_s, mean_j
        Mean latency and energy of a request.
    missed
        Share of the requests that are slower than the latency limit.
    qoe
        The limits.
    keep, missed_share
        What is kept: the means, or the share that may be slower.
    """
    if keep == "tail":
        return missed <= missed_share + _ROUNDING
    return qoe.keeps_means(mean_s, mean_j, _ROUNDING)
