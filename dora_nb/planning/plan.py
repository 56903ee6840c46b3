"""From a question to a small set of proven plans."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dora_nb.costs.table import CostTable, Floats
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.fits import check_ends
from dora_nb.domain.plan import Certificate, Plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import (
    InfeasibleError,
    InputError,
    ObjectiveMismatchError,
    SolverError,
    SolverUnavailableError,
)
from dora_nb.formulation.columns import build_columns
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.baselines import best_of, even_splits, single_devices
from dora_nb.planning.certify import AGREEMENT, check_by_program
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.scheduling import predicted
from dora_nb.planning.search import Candidates, Search, screen
from dora_nb.planning.targets import ROUNDING, Targets
from dora_nb.units import format_joules, format_seconds

Progress = Callable[[str], None]

StoppedBy = Literal["time limit", "cancelled"]

#: Labels per micro-batch size and number of stages: few to find good plans fast, many to prove them.
_FEW_LABELS, _MANY_LABELS = 1_000, 100_000

#: Partitions whose transfers are scheduled in one search.
_FEW_SCHEDULES, _MANY_SCHEDULES = 100, 2_000

SOLVERS = ("auto", "gurobi", "highs")

#: Modes that can be planned.
PLANNED_MODES = ("training", "inference")


def plan(
    workload: Workload,
    cluster: Cluster,
    qoe: QoE | None = None,
    *,
    trade_offs: int = 3,
    gap: float = 1e-4,
    time_limit_s: float = 60.0,
    solver: str = "auto",
    table: CostTable | None = None,
    space: SearchSpace | None = None,
    on_progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> PlanSet:
    """Find the fastest plan, the thriftiest within the latency limit, and trade-offs between them.

    First valid bounds and good plans (a search over partitions), then the partition program as a second computation,
    then the exact evaluation of every plan. Transfers are list-scheduled; the gap on every plan is therefore between
    its own exact makespan or energy and what no plan of the search space can beat.

    Parameters
    ----------
    workload, cluster
        What to run, and on what.
    qoe
        Limits and objective; None: no limits, lowest latency.
    trade_offs
        How many latency limits to place between the fastest and the thriftiest plan.
    gap
        Relative gap at which an answer is good enough.
    time_limit_s
        Seconds after which the best plans so far are returned with their true gaps.
    solver
        ``auto`` (Gurobi where it is installed and licensed for the size, else HiGHS), ``gurobi`` or ``highs``.
    table
        Measured compute times; None: the roofline estimate.
    space
        Plans to consider; None: :meth:`SearchSpace.default`.
    on_progress
        Called with a sentence about each step.
    cancel
        Set from another thread to stop: the best plans so far are returned with their true gaps.

    Returns
    -------
    PlanSet

    Raises
    ------
    InputError
        If something given cannot be used.
    InfeasibleError
        If no plan keeps the limits; it says what can be reached.
    """
    started = time.monotonic()
    qoe = QoE() if qoe is None else qoe
    _check(workload, cluster, trade_offs, gap, time_limit_s, solver)
    say = on_progress or (lambda _: None)
    problem = Problem.of(workload, cluster, qoe.energy_accounting, table=table, space=space)
    hunt = _Hunt(problem, qoe, gap, Deadline(started + time_limit_s, cancel), say)
    hunt.find_fast_plans()
    hunt.find_thrifty_plans(trade_offs)
    hunt.prove()
    hunt.check_by_program(solver)
    answers = hunt.answers()
    say("comparing with simpler planners")
    return PlanSet(workload, cluster, qoe, answers, _baselines(problem, qoe), time.monotonic() - started)


def _baselines(problem: Problem, qoe: QoE) -> tuple[Plan, ...]:
    """What simpler planners reach, each at its best for latency and at its best for energy."""
    found: dict[Plan, Plan] = {}
    for alternatives in (single_devices(problem), even_splits(problem)):
        for objective in ("latency", "energy"):
            each = best_of(alternatives, qoe.replace(objective=objective, latency_s=None, energy_j=None))
            if each is not None and each.decisions() not in found:
                found[each.decisions()] = each.replace(label=f"{each.label}, {objective}")
    return tuple(found.values())


def _check(workload: Workload, cluster: Cluster, trade_offs: int, gap: float, time_limit_s: float, solver: str) -> None:
    if workload.mode not in PLANNED_MODES:
        raise InputError("mode", workload.mode, f"{' or '.join(PLANNED_MODES)}; other modes cannot be planned yet")
    check_ends(workload, cluster)
    if trade_offs < 0:
        raise InputError("trade_offs", trade_offs, "0 or more")
    if not 0 < gap < 1:
        raise InputError("gap", gap, "above 0 and below 1")
    if not time_limit_s > 0:
        raise InputError("time_limit_s", time_limit_s, "more than 0 seconds")
    if solver not in SOLVERS:
        raise InputError("solver", solver, ", ".join(SOLVERS))


@dataclass
class _Hunt:
    """The steps of :func:`plan`, in the order they are taken."""

    problem: Problem
    qoe: QoE
    gap: float
    deadline: Deadline
    say: Progress

    def __post_init__(self) -> None:
        self.energy_limit_j = np.inf if self.qoe.energy_j is None else self.qoe.energy_j
        self.latency_limit_s = np.inf if self.qoe.latency_s is None else self.qoe.latency_s
        # Without a latency limit as well: how slow the thriftiest plan is says where trade-offs lie.
        self.targets = self._targets(np.unique([self.latency_limit_s, np.inf]))
        self.candidates: list[Candidates] = []
        self.solved_by, self.reason = "bounding search", "no partition was left to check by a program"
        self.stopped: StoppedBy | None = None

    def _targets(self, limits_s: Floats) -> Targets:
        return Targets(limits_s, energy_limit_j=self.energy_limit_j, tolerance=self.gap)

    def find_fast_plans(self) -> None:
        """Good plans first: they are what bounds prune against."""
        self.say("looking for good plans with one device a stage")
        self._search(most_replicas=1, most_labels=_FEW_LABELS, schedules=_FEW_SCHEDULES)

    def find_thrifty_plans(self, trade_offs: int) -> None:
        """Latency limits between the fastest and the thriftiest plan found, and good plans for each."""
        known = [each for each in (self.targets.latency_plan, *self.targets.energy_plans) if each is not None]
        limits_s = np.array([self.latency_limit_s])
        thriftiest = self.targets.energy_plans[-1]
        if thriftiest is not None and trade_offs:
            slowest_s = min(_figures(predicted(thriftiest, self.problem), self.qoe)[0], self.latency_limit_s)
            if slowest_s > self.targets.best_latency_s:
                between = np.geomspace(self.targets.best_latency_s, slowest_s, trade_offs + 2)[1:-1]
                limits_s = np.append(between, limits_s)
        self.targets = self._targets(limits_s)
        self._offer(known)
        self.say("looking for plans that take less energy")
        self._search(most_replicas=1, most_labels=_FEW_LABELS, schedules=_FEW_SCHEDULES)

    def prove(self) -> None:
        """The whole search space: better plans where there are any, and true bounds."""
        self.say("bounding every partition, replicas included")
        # Bounds of the searches above hold for one device a stage only.
        self.targets.latency_floor_s = np.inf
        self.targets.energy_floor_j[:] = np.inf
        most = self.problem.space.most_replicas
        self._search(most_replicas=most, most_labels=_MANY_LABELS, schedules=_MANY_SCHEDULES)

    def _search(self, most_replicas: int, most_labels: int, schedules: int) -> None:
        # The first search is quick and finds the plan to return when there is no time for more.
        deadline = self.deadline if self.targets.latency_plan is not None else None
        columns = build_columns(self.problem, most_replicas, screen(self.problem, self.targets, deadline))
        search = Search(self.problem, columns, self.targets, most_labels, self.deadline, schedules)
        report = search.run()
        self.candidates.extend(search.candidates)
        if self.deadline.passed:
            self.stopped = "cancelled" if self.deadline.cancelled else "time limit"
        self.say(
            f"{len(columns):,} stage columns, {report.labels:,} partial and {report.partitions:,} complete pipelines, "
            f"{report.schedules:,} schedules"
        )

    def _offer(self, plans: list[Plan]) -> None:
        for each in plans:
            self.targets.offer(*_figures(predicted(each, self.problem), self.qoe), each)

    def check_by_program(self, solver: str) -> None:
        """The partition program for every question, over the partitions that bounds left; its plans count too."""
        questions: list[tuple[str, float]] = [("latency", np.inf)]
        questions += [("energy", float(limit)) for limit in self.targets.latency_limits_s]
        self.say(f"checking {len(questions)} answers with the partition program")
        for objective, limit_s in questions:
            try:
                verdict = check_by_program(
                    self.problem,
                    self.candidates,
                    objective,
                    latency_limit_s=limit_s,
                    energy_limit_j=self.energy_limit_j,
                    solver=solver,
                    deadline=self.deadline,
                )
            except SolverUnavailableError:
                raise
            except SolverError as error:  # the search's own bounds stand; the person is told that they are unchecked
                self.reason = f"the check by the partition program failed: {error}"
                return
            if verdict is not None:
                self._offer(list(verdict.plans))
                self.solved_by, self.reason = f"bounding search, checked by {verdict.solver}", verdict.reason

    def answers(self) -> tuple[Plan, ...]:
        """Every answer once, by ascending makespan, with its certificate.

        Raises
        ------
        InfeasibleError
            If no plan keeps the limits.
        """
        targets = self.targets
        if targets.latency_plan is None or targets.best_latency_s > self.latency_limit_s * (1 + ROUNDING):
            raise InfeasibleError(self._why_infeasible())
        limits = [float(limit) for limit in targets.latency_limits_s]
        energy_optimal = ("energy-optimal", "energy", limits[-1], float(targets.energy_bounds_j[-1]))
        questions = [("latency-optimal", "latency", np.inf, targets.latency_bound_s), energy_optimal]
        for limit, bound_j in zip(limits[:-1], targets.energy_bounds_j.tolist(), strict=False):
            questions.append((f"least energy within {format_seconds(limit)}", "energy", limit, bound_j))
        # A plan may answer several questions; it carries the certificate of the most important one.
        questions.sort(key=lambda question: question[1] != self.qoe.objective)
        known = [each for each in (targets.latency_plan, *targets.energy_plans) if each is not None]
        plans = [predicted(each, self.problem) for each in known]
        found: dict[Plan, Plan] = {}
        for label, objective, limit, bound in questions:
            each = self._best_of(plans, objective, limit)
            decisions = each.decisions()
            if decisions not in found:
                found[decisions] = self._certified(each, label, objective, bound, limit)
            elif {label, found[decisions].label} == {"latency-optimal", "energy-optimal"}:
                found[decisions] = found[decisions].replace(label="latency- and energy-optimal")
        return _not_dominated(list(found.values()), self.qoe)

    def _best_of(self, plans: list[Plan], objective: str, limit_s: float) -> Plan:
        """The best plan for a question; of equally good ones the one that is better at the other figure."""
        within = [each for each in plans if _figures(each, self.qoe)[0] <= limit_s * (1 + ROUNDING)]
        place = 0 if objective == "latency" else 1
        best = min(_figures(each, self.qoe)[place] for each in within)
        equal = [each for each in within if _figures(each, self.qoe)[place] <= best * (1 + ROUNDING)]
        return min(equal, key=lambda each: _figures(each, self.qoe)[1 - place])

    def _certified(self, each: Plan, label: str, objective: str, bound: float, limit_s: float) -> Plan:
        value = _figures(each, self.qoe)[0 if objective == "latency" else 1]
        if bound > value * (1 + AGREEMENT):
            raise ObjectiveMismatchError(f"{label}: the bound {bound:.9g} is above the plan's own {value:.9g}")
        gap = max(0.0, (value - bound) / value)
        status = "optimal" if gap <= self.gap * (1 + 1e-9) else self.stopped or "feasible"
        return each.replace(
            label=label,
            certificate=Certificate(
                objective=objective,
                unit="s" if objective == "latency" else "J",
                latency_limit_s=limit_s if np.isfinite(limit_s) else None,
                energy_limit_j=self.qoe.energy_j,
                value=value,
                bound=min(bound, value),
                gap=gap,
                status=status,
                scope=self.problem.space.describe(),
                solver=self.solved_by,
                solver_reason=self.reason,
            ),
        )

    def _why_infeasible(self) -> str:
        """What was asked, what can be reached, and what is proven impossible."""
        targets, parts = self.targets, []
        if targets.latency_plan is not None:
            within = f" within {format_joules(self.energy_limit_j)}" if np.isfinite(self.energy_limit_j) else ""
            proven = "impossible" if targets.latency_bound_s > self.latency_limit_s else "not found"
            parts.append(
                f"a latency of {format_seconds(self.latency_limit_s)}{within} is {proven}: the best plan takes "
                f"{format_seconds(targets.best_latency_s)}, and none can take less than "
                f"{format_seconds(targets.latency_bound_s)}"
            )
        elif np.isfinite(self.energy_limit_j):
            freed = _Hunt(self.problem, self.qoe.replace(energy_j=None), self.gap, self.deadline, self.say)
            freed.find_fast_plans()
            freed.prove()
            if freed.targets.best_latency_s > self.latency_limit_s * (1 + ROUNDING):
                return freed._why_infeasible()  # the latency alone is out of reach
            least_j, bound_j = freed.targets.best_energy_j[0], freed.targets.energy_bounds_j[0]
            if np.isfinite(least_j):
                within = f" within {format_seconds(self.latency_limit_s)}" if np.isfinite(self.latency_limit_s) else ""
                proven = "impossible" if bound_j > self.energy_limit_j else "not found"
                parts.append(
                    f"an energy of {format_joules(self.energy_limit_j)}{within} is {proven}: the thriftiest plan takes "
                    f"{format_joules(least_j)}, and none can take less than {format_joules(bound_j)}"
                )
        if not parts and self.stopped:
            parts.append(f"no plan was found before planning was stopped ({self.stopped})")
        if not parts:
            parts.append(
                "the network does not fit the devices' memory in any partition that was tried; "
                "use a smaller batch, a lower precision, or more devices"
            )
        return f"{self.problem.workload.name} on {self.problem.cluster.name}: {'; '.join(parts)}"


def _figures(each: Plan, qoe: QoE) -> tuple[float, float]:
    """Makespan in seconds and energy in joules of a predicted plan."""
    assert each.prediction is not None, "answers are predicted"
    return each.prediction.makespan_s, each.prediction.energy_j(qoe.energy_accounting)


def _not_dominated(plans: list[Plan], qoe: QoE) -> tuple[Plan, ...]:
    """By ascending makespan, without those that another matches or beats in both figures."""
    kept: list[Plan] = []
    for each in sorted(plans, key=lambda plan: _figures(plan, qoe)):
        if not kept or _figures(each, qoe)[1] < _figures(kept[-1], qoe)[1] * (1 - ROUNDING):
            kept.append(each)
    return tuple(kept)
