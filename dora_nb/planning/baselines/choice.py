"""A baseline's own alternatives, and the best of them."""

from __future__ import annotations

from collections.abc import Iterable

from dora_nb.domain.plan import Plan
from dora_nb.domain.prediction import Prediction
from dora_nb.domain.qoe import QoE
from dora_nb.domain.rating import qoe_value
from dora_nb.formulation.problem import Problem
from dora_nb.planning.scheduling import finish_all, fits_memory


def fitting(plans: Iterable[Plan], problem: Problem) -> list[Plan]:
    """The alternatives that fit in memory and keep up with a stream, each once, finished like our own plans."""
    return [plan for plan in finish_all(dict.fromkeys(plans), problem) if fits_memory(plan)]


def best_of(plans: Iterable[Plan], qoe: QoE) -> Plan | None:
    """The best of finished alternatives; None if there is none.

    One that keeps the QoE limits goes before one that does not; then the objective decides.
    """
    return min(plans, key=lambda plan: _rank(plan.prediction, qoe), default=None)


def _rank(prediction: Prediction | None, qoe: QoE) -> tuple[bool, float, float]:
    assert prediction is not None, "a finished plan carries its prediction"
    rating = qoe_value(prediction, qoe)
    other = prediction.energy_j(qoe.energy_accounting) if qoe.objective == "latency" else prediction.makespan_s
    return not rating.keeps_hard, rating.value, other
