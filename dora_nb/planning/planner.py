"""A planner that remembers: the answers of :func:`~dora_nb.planning.plan.plan`, sooner from question to question."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dora_nb import solvers
from dora_nb.costs.table import CostTable
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InfeasibleError, UnknownNameError
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.ask import best
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.nearest import nearest
from dora_nb.planning.plan import check_effort, check_question, plan_question
from dora_nb.planning.question import Question
from dora_nb.units import counted


class Planner:
    """Plans for one workload on one cluster, asked again and again.

    Kept between questions are the stage columns, every plan found, the best partitions, and what is proven: a bound for
    one limit holds for every tighter one, on a slower network, and with fewer devices. :func:`dora_nb.plan` is such a
    planner used once.

    Parameters
    ----------
    workload, cluster, table, space, overlap, solver
        As for :func:`dora_nb.plan`.

    Raises
    ------
    InputError
        If they cannot be used together.
    """

    def __init__(
        self,
        workload: Workload,
        cluster: Cluster,
        *,
        table: CostTable | None = None,
        space: SearchSpace | None = None,
        overlap: bool = True,
        solver: solvers.SolverChoice = "auto",
    ) -> None:
        check_question(workload, cluster, QoE())
        check_effort(0.5, 1.0, solver)
        self._question = Question.of(workload, cluster, QoE(), table, space, overlap, solver)
        self._predicted: dict[Plan, Plan] = {}

    @property
    def workload(self) -> Workload:
        """What is planned."""
        return self._question.workload

    @property
    def cluster(self) -> Cluster:
        """The cluster that is planned for."""
        return self._question.cluster

    def plan(self, qoe: QoE | None = None, **options: Any) -> PlanSet:
        """The best plan for a QoE and a few that stand for all trade-offs; options as for :func:`dora_nb.plan`."""
        return plan_question(self._asked(qoe), **options)

    def best(
        self,
        qoe: QoE | None = None,
        *,
        gap: float = 1e-4,
        time_limit_s: float = 60.0,
        on_event: solvers.OnEvent | None = None,
        cancel: threading.Event | None = None,
    ) -> Plan:
        """The best plan for a QoE alone, with its certificate: no trade-offs, and no check by the partition program.

        Parameters
        ----------
        qoe, gap, time_limit_s, on_event, cancel
            As for :func:`dora_nb.plan`.

        Raises
        ------
        InfeasibleError
            If no plan keeps the limits, or none was found in time.
        """
        question = self._asked(qoe)
        check_question(question.workload, question.cluster, question.qoe)
        check_effort(gap, time_limit_s, question.solver)
        deadline = Deadline(time.monotonic() + time_limit_s, cancel)
        answer = best(question, gap=gap, deadline=deadline, on_event=on_event)
        if answer.plan is None:
            found = "is proven to keep" if answer.impossible else "was found in time that keeps"
            raise InfeasibleError(f"{self.workload.name} on {self.cluster.name}: no plan {found} {question.qoe!r}")
        return answer.plan

    def nearest(self, qoe: QoE | None = None) -> Plan | None:
        """The known plan that is best for a QoE, or breaks its limits least, at once; None where none is known.

        It carries its figures here, and no certificate; :meth:`bound` says what is proven.
        """
        question = self._asked(qoe)
        case = question.case
        fresh = [plan for decisions, plan in list(case.plans.items()) if decisions not in self._predicted]
        if fresh:
            fitting = {plan.decisions(): plan for plan in case.fitting(question.problem)}
            self._predicted.update(fitting)
        known = list(self._predicted.values())
        place = nearest(known, question.qoe)
        return None if place < 0 else known[place]

    def bound(self, qoe: QoE | None = None) -> float | None:
        """What is proven of a QoE's own objective by the questions so far, in s or J; None with prices on limits."""
        question = self._asked(qoe)
        terms, proven = question.problem.terms, question.case.proven(question.qoe)
        if not terms.is_plain:
            return None
        if question.qoe.objective == "latency":
            return proven.least_makespan_s(terms.energy_limit_j)
        return proven.least_energy_j(terms.makespan_limit_s)

    def having(
        self,
        *,
        bandwidth: float = 1.0,
        speeds: Mapping[str, float] | None = None,
        memory: Mapping[str, float] | None = None,
    ) -> Planner:
        """The planner for the same cluster with other rates, speeds or memory; it begins with what this one knows.

        Parameters
        ----------
        bandwidth
            What all rates of the network are multiplied by.
        speeds, memory
            By device: what its computing, or its memory, is multiplied by.

        Raises
        ------
        InputError
            If a device is not there, or a factor is not above 0.
        """
        cluster = self.cluster.scaled(rates=bandwidth, speeds=speeds, memory=memory)
        table = self._question.table
        if table is not None and speeds:
            slower = np.array([1 / speeds.get(name, 1.0) for name in cluster.device_ids])
            table = table.slower(slower)
        return self._on(replace(self._question, cluster=cluster, table=table))

    def without(self, *devices: str) -> Planner:
        """The planner for the cluster that some devices have left; it begins with what this one knows.

        Raises
        ------
        UnknownNameError
            If there is no such device.
        """
        for name in devices:
            if name not in self.cluster.device_ids:
                raise UnknownNameError("without", name, self.cluster.device_ids)
        return self._on(self._question.without(devices))

    def _on(self, question: Question) -> Planner:
        other = Planner.__new__(Planner)
        other._question, other._predicted = question, {}
        return other

    def _asked(self, qoe: QoE | None) -> Question:
        return self._question.with_qoe(QoE() if qoe is None else qoe)

    def __repr__(self) -> str:
        known = len(self._question.case.plans)
        return f"Planner: {self.workload.name} on {self.cluster.name}, {counted(known, 'plan')} known"
