"""Finishing a plan: the order of its transfers, and what it is predicted to do."""

from __future__ import annotations

from dora_nb.costs.evaluate import evaluate, timing_of
from dora_nb.costs.operations import Shape, operations_of
from dora_nb.domain.fits import check_fits
from dora_nb.domain.plan import Plan
from dora_nb.formulation.list_schedule import list_schedule
from dora_nb.formulation.problem import Problem


def finish(plan: Plan, problem: Problem) -> Plan:
    """The plan with its transfers list-scheduled and its figures predicted.

    Raises
    ------
    InputError
        If the plan does not fit the problem's workload or cluster.
    """
    check_fits(plan, problem.workload, problem.cluster)
    timing = timing_of(plan, problem.workload, problem.cluster, problem.table)
    schedule = list_schedule(operations_of(Shape.of(plan, problem.workload)), timing)
    return predicted(plan.replace(transfer_order=schedule.transfers()), problem)


def predicted(plan: Plan, problem: Problem) -> Plan:
    """The plan, transfer order and all, with its figures predicted."""
    evaluation = evaluate(plan, problem.workload, problem.cluster, problem.table)
    return plan.replace(prediction=evaluation.prediction)


def fits_memory(plan: Plan) -> bool:
    """Whether every device of a predicted plan can hold what it must."""
    assert plan.prediction is not None, "predict the plan first"
    return all(device.memory_bytes <= device.usable_memory_bytes for device in plan.prediction.devices)
