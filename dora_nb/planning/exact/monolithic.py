"""The joint program solved as it stands: every stage column, every transfer order, one MILP per skeleton.

For small questions, and to hold the decomposition against: where both finish they prove the same optimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dora_nb import solvers
from dora_nb.costs.operations import Shape
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.timing import timing_of
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import ROUNDING
from dora_nb.domain.rating import qoe_value
from dora_nb.domain.transfer import Transfer
from dora_nb.errors import InputError
from dora_nb.formulation.columns import Columns, build_columns
from dora_nb.formulation.decode import decode
from dora_nb.formulation.hand_overs import beyond_columns_j
from dora_nb.formulation.joint.program import JointModel, joint_model
from dora_nb.formulation.joint.skeleton import Skeleton, skeletons
from dora_nb.formulation.problem import Problem
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.scheduling import AGREEMENT, predicted, settle
from dora_nb.solvers import SolverChoice

#: Stage columns times operations of the largest skeleton: more than this and a program takes minutes.
MOST_SIZE = 200_000


@dataclass
class JointAnswer:
    """The best plan for one question, and what is proven about all others.

    Attributes
    ----------
    value, plan
        Makespan or energy of the best plan; infinity and None without one.
    bound
        No plan of the space that keeps the limits is below.
    solver, reason
        Which solver, and why that one.
    programs
        How many were solved.
    """

    value: float = np.inf
    plan: Plan | None = None
    bound: float = np.inf
    solver: str = ""
    reason: str = ""
    programs: int = 0

    @property
    def proven(self) -> float:
        """The bound, never above the value."""
        return min(self.bound, self.value)


def all_columns(problem: Problem) -> Columns:
    """Every stage column of a problem.

    Raises
    ------
    InputError
        If there are too many for a program to be solved as it stands.
    """
    columns = build_columns(problem, problem.space.most_devices)
    operations = 2 * problem.workload.batch * min(len(problem.cluster.devices), len(problem.workload.layers))
    if len(columns) * operations > MOST_SIZE:
        raise InputError(
            "algorithm",
            "monolithic",
            f"'decomposed' or 'auto' for this question: its {len(columns):,} stage columns times about {operations:,} "
            f"operations are more than the {MOST_SIZE:,} that one program can take",
        )
    return columns


def solve_jointly(
    problem: Problem,
    columns: Columns,
    objective: Literal["latency", "energy"],
    *,
    latency_limit_s: float,
    energy_limit_j: float,
    gap: float,
    solver: SolverChoice,
    deadline: Deadline,
) -> JointAnswer:
    """The best plan for one question: every skeleton in turn, each to beat what the ones before found.

    Parameters
    ----------
    problem, columns
        What is planned, from which columns.
    objective
        What is minimised.
    latency_limit_s, energy_limit_j
        Limits, infinite where there is none.
    gap
        Relative gap that is good enough.
    solver, deadline
        Who solves the programs, until when.
    """
    question = _Question(problem, columns, objective, latency_limit_s, energy_limit_j, gap, solver, deadline)
    for skeleton in skeletons(problem):
        question.solve(skeleton)
    return question.answer


@dataclass
class _Question:
    problem: Problem
    columns: Columns
    objective: Literal["latency", "energy"]
    latency_limit_s: float
    energy_limit_j: float
    gap: float
    solver: SolverChoice
    deadline: Deadline

    def __post_init__(self) -> None:
        self.answer = JointAnswer()

    def solve(self, skeleton: Skeleton) -> None:
        """The best plan of a skeleton that beats the answer so far."""
        ruled_out: list[Sequence[int]] = []
        while self.answer.value > 0:  # nothing takes less than nothing
            to_beat = self.answer.value * (1 - self.gap)
            model = joint_model(
                self.problem,
                self.columns,
                skeleton,
                self.objective,
                below_s=min(self.latency_limit_s, to_beat if self.objective == "latency" else np.inf),
                energy_limit_j=min(self.energy_limit_j, to_beat if self.objective == "energy" else np.inf),
                ruled_out=ruled_out,
            )
            if model is None:
                return
            outcome = self._solve(model)
            if outcome.status is solvers.Status.INFEASIBLE:
                self._bound(to_beat)
                return
            least = (outcome.bound or 0.0) * model.unit
            if not outcome.status.has_incumbent:
                self._bound(min(least, to_beat))
                return
            assert outcome.objective is not None, "an incumbent has an objective"
            chosen = model.chosen(outcome.values)
            value = self._take(skeleton, chosen, model, outcome)
            if value <= outcome.objective * model.unit * (1 + AGREEMENT) or self.deadline.passed:
                self._bound(min(least, to_beat))
                return
            ruled_out.append(chosen)
        self._bound(0.0)

    def _solve(self, model: JointModel) -> solvers.Outcome:
        options = solvers.Options(time_limit_s=self.deadline.remaining_s, mip_gap=min(self.gap, AGREEMENT) / 10)
        outcome = solvers.solve(model.model, options, solver=self.solver, cancel=self.deadline.cancel)
        self.answer.solver, self.answer.reason = outcome.solver, outcome.reason
        self.answer.programs += 1
        return outcome

    def _take(self, skeleton: Skeleton, chosen: Sequence[int], model: JointModel, outcome: solvers.Outcome) -> float:
        """Offer the partition with its exact schedule; returns its value, and bounds it where the program did not."""
        assert outcome.objective is not None, "an incumbent has an objective"
        plan = decode(self.columns, chosen, skeleton.in_flight, self.problem)
        value = self._offer(self._scheduled(plan, model, outcome))
        if value <= outcome.objective * model.unit * (1 + AGREEMENT):
            return value
        dynamic_j, idle_w = self._joules(plan, chosen)
        longest_s = self._longest_s(chosen, dynamic_j, idle_w)
        settled = settle(
            plan,
            self.problem,
            below_s=longest_s * (1 + 2 * self.gap),  # within the gap of the longest a bound would prove nothing
            gap=self.gap,
            solver=self.solver,
            deadline=self.deadline,
        )
        if settled.plan is not None:
            value = min(value, self._offer(settled.plan))
        if settled.bound_s <= longest_s * (1 + ROUNDING):  # else no schedule of the partition keeps the limits
            bound_j = self.problem.energy_j(np.array(dynamic_j), np.array(idle_w), np.array(settled.bound_s))
            self._bound(settled.bound_s if self.objective == "latency" else float(bound_j))
        return value

    def _joules(self, plan: Plan, chosen: Sequence[int]) -> tuple[float, float]:
        """Joules above idling and idle draw of a partition, hand-overs between its own devices included."""
        dynamic_j, idle_w = (float(getattr(self.columns, name)[list(chosen)].sum()) for name in ("energy_j", "idle_w"))
        timing = timing_of(plan, self.problem.workload, self.problem.cluster, self.problem.table)
        return dynamic_j + beyond_columns_j(plan, timing, self.problem), idle_w

    def _longest_s(self, chosen: Sequence[int], dynamic_j: float, idle_w: float) -> float:
        """Longest makespan at which a partition keeps the limits."""
        watts = idle_w if self.problem.idle_all_w is None else self.problem.idle_all_w
        left_j = self.energy_limit_j - dynamic_j
        within_s = left_j / watts if watts > 0 else np.inf if left_j >= 0 else 0.0
        return max(0.0, min(self.latency_limit_s, float(self.columns.cap_s[list(chosen)].min()), within_s))

    def _scheduled(self, plan: Plan, model: JointModel, outcome: solvers.Outcome) -> Plan:
        """The plan with the program's own order of the transfers it has."""
        plan = plan.replace(chunks=self.problem.space.most_chunks)
        own = operations_of(Shape.of(plan, self.problem.workload))
        order = []
        for transfer in model.order(outcome.values["start"]):
            whole = transfer._replace(part=0)  # the only bucket of a stage of one layer
            if transfer in own.index:
                order.append(transfer)
            elif transfer.part == 1 and whole in own.index:
                order.append(whole)
        return plan.replace(
            transfer_order=tuple(
                Transfer(kind=kind, stage=stage, micro_batch=micro_batch, part=part)
                for kind, stage, micro_batch, part in order
            )
        )

    def _offer(self, plan: Plan) -> float:
        prediction = predicted(plan, self.problem).prediction
        assert prediction is not None, "a predicted plan carries its prediction"
        energy_j = prediction.energy_j("participating" if self.problem.idle_all_w is None else "all-on")
        value = prediction.makespan_s if self.objective == "latency" else energy_j
        kept = (
            prediction.makespan_s <= self.latency_limit_s * (1 + ROUNDING)
            and energy_j <= self.energy_limit_j * (1 + ROUNDING)
            and qoe_value(prediction, self.problem.terms.qoe).keeps_hard
        )
        if not kept:
            return np.inf
        if value < self.answer.value:
            self.answer.value, self.answer.plan = value, plan
        return value

    def _bound(self, bound: float) -> None:
        self.answer.bound = min(self.answer.bound, bound)
