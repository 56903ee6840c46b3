"""A baseline's own alternatives, and the best of them."""

from __future__ import annotations

from collections.abc import Iterable

from dora_nb.domain.plan import Plan, Prediction
from dora_nb.domain.qoe import QoE
from dora_nb.formulation.problem import Problem
from dora_nb.planning.scheduling import finish, fits_memory


def fitting(plans: Iterable[Plan], problem: Problem) -> list[Plan]:
    """The alternatives that fit in memory, finished like our own plans."""
    return [plan for plan in (finish(plan, problem) for plan in plans) if fits_memory(plan)]


def best_of(plans: Iterable[Plan], qoe: QoE) -> Plan | None:
    """The best of finished alternatives; None if there is none.

    One that keeps the QoE limits goes before one that does not; then the objective decides.
    """
    return min(plans, key=lambda plan: _rank(plan.prediction, qoe), default=None)


def _rank(prediction: Prediction | None, qoe: QoE) -> tuple[bool, float, float]:
    assert prediction is not None, "a finished plan carries its prediction"
    energy_j = prediction.energy_j(qoe.energy_accounting)
    late = qoe.latency_s is not None and prediction.makespan_s > qoe.latency_s
    costly = qoe.energy_j is not None and energy_j > qoe.energy_j
    figures = (prediction.makespan_s, energy_j)
    return (late or costly, *(figures if qoe.objective == "latency" else figures[::-1]))
