"""From a question to a small set of proven plans."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, get_args

import numpy as np

from dora_nb import solvers
from dora_nb.costs.table import CostTable, Floats
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.coverage import Coverage, Front
from dora_nb.domain.fits import check_ends
from dora_nb.domain.plan import Certificate, Plan, Prediction, SecondSolve
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import ROUNDING, Objective, QoE
from dora_nb.domain.rating import Rating, qoe_value
from dora_nb.domain.workload import Workload
from dora_nb.errors import (
    InfeasibleError,
    InputError,
    ObjectiveMismatchError,
    SolverError,
    SolverUnavailableError,
    UnknownNameError,
)
from dora_nb.formulation.columns import build_columns
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.certify import AGREEMENT, check_by_program
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.large import is_large, plan_large
from dora_nb.planning.monolithic import all_columns, solve_jointly
from dora_nb.planning.question import Question
from dora_nb.planning.scheduling import predicted, scheduled
from dora_nb.planning.search import Candidates, Open, Search, larger_groups, screen
from dora_nb.planning.settle import settle_all
from dora_nb.planning.targets import Figure, Ladder, Targets, least_possible
from dora_nb.solvers import SolverChoice, SolverOptions
from dora_nb.units import format_joules, format_rate, format_seconds

Progress = Callable[[str], None]

Algorithm = Literal["auto", "decomposed", "monolithic"]

StoppedBy = Literal["time limit", "cancelled"]

#: Labels per micro-batch size and number of stages: few to find good plans fast, many to prove them.
_FEW_LABELS, _MANY_LABELS = 300, 100_000

#: Partitions whose transfers are scheduled in one search.
_FEW_SCHEDULES, _MANY_SCHEDULES = 100, 2_000

#: Latency limits tried for every plan wanted, and rounds of more where coverage is loosest.
_LIMITS_PER_PLAN, _ROUNDS = 3, 1

#: A set that covers all trade-offs this well is not refined further.
_GOOD_DELTA = 0.01


def plan(
    workload: Workload,
    cluster: Cluster,
    qoe: QoE | None = None,
    *,
    most_plans: int = 5,
    gap: float = 1e-4,
    time_limit_s: float = 60.0,
    solver: SolverChoice = "auto",
    algorithm: Algorithm = "auto",
    overlap: bool = True,
    table: CostTable | None = None,
    space: SearchSpace | None = None,
    on_progress: Progress | None = None,
    on_event: solvers.OnEvent | None = None,
    cancel: threading.Event | None = None,
) -> PlanSet:
    """Find the best plan for the objective within the limits, and a few that stand for all trade-offs.

    First valid bounds and good plans (a search over partitions), then the exact transfer schedules of what bounds left
    open, then the partition program as a second computation, then a second solve for each plan (of equally good ones
    the best at the other figure), then the exact evaluation of every plan. The gap on every plan is between its own
    exact figure and what no plan of the search space can beat. A stream's latency is that of a request in the steady
    state, a generating workload's the time until the last token.

    Parameters
    ----------
    workload, cluster
        What to run, and on what.
    qoe
        Limits and objective; None: no limits, lowest latency.
    most_plans
        How many plans the answer may have. The best at the objective is always one of them, the fastest and the
        thriftiest are if there is room; the others are those that cover the trade-offs between them best, see
        :attr:`PlanSet.coverage <dora_nb.domain.plan_set.PlanSet.coverage>`.
    gap
        Relative gap at which an answer is good enough.
    time_limit_s
        Seconds after which the best plans so far are returned with their true gaps.
    solver
        ``auto`` (Gurobi where it is installed and licensed for the size, else HiGHS), ``gurobi`` or ``highs``; with
        threads, seed and log: a :class:`~dora_nb.solvers.SolverOptions`.
    algorithm
        ``decomposed``: bounds first, as described. ``monolithic``: the joint program of columns, start times and
        transfer orders as it stands, for small questions with hard limits. ``auto``: decomposed, which proves the same
        optimum wherever the other finishes, and sooner.
    overlap
        Whether stages compute while they send; if not, a stage waits until what it sent has arrived.
    table
        Measured compute times; None: the roofline estimate.
    space
        Plans to consider; None: :meth:`SearchSpace.default`.
    on_progress
        Called with a sentence about each step.
    on_event
        Called with incumbent, bound, gap and nodes of the question that the objective asks, as they change.
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
    _check(workload, cluster, qoe, most_plans, gap, time_limit_s, solver)
    if algorithm not in get_args(Algorithm):
        raise InputError("algorithm", algorithm, ", ".join(get_args(Algorithm)))
    say = on_progress or (lambda _: None)
    problem = Problem.of(workload, cluster, qoe.energy_accounting, qoe=qoe, table=table, space=space, overlap=overlap)
    deadline = Deadline(started + time_limit_s, cancel)
    if is_large(problem):
        best = plan_large(problem, gap, deadline, say, on_event)
        options = {"table": table, "space": problem.space, "overlap": problem.overlap, "gap": gap, "solver": solver}
        return PlanSet(
            workload,
            cluster,
            qoe,
            (best,),
            None,
            time.monotonic() - started,
            Coverage(None, most_plans),
            options=options,
        )
    hunt = _Hunt(problem, qoe, gap, deadline, say, most_plans, solver, algorithm == "monolithic", on_event, started)
    hunt.find_fast_plans()
    hunt.find_thrifty_plans()
    if hunt.monolithic:
        hunt.solve_jointly()
        hunt.choose()
    else:
        hunt.prove()
        hunt.settle_schedules()
        hunt.refine()
        hunt.choose()
        hunt.check_by_program()
    hunt.break_ties()
    hunt.tell()
    try:
        answers, coverage = hunt.answers()
    except InfeasibleError as error:
        from dora_nb.planning.explain import relaxations  # explanations are made of plans: imported when needed

        question = Question(workload, cluster, qoe, table, problem.space, problem.overlap, solver)
        raise InfeasibleError(str(error), partial(relaxations, question, gap, time_limit_s, cancel)) from None
    return PlanSet(
        workload,
        cluster,
        qoe,
        answers,
        None,
        time.monotonic() - started,
        coverage,
        options={"table": table, "space": problem.space, "overlap": problem.overlap, "gap": gap, "solver": solver},
    )


def _check(
    workload: Workload,
    cluster: Cluster,
    qoe: QoE,
    most_plans: int,
    gap: float,
    time_limit_s: float,
    solver: SolverChoice,
) -> None:
    check_question(workload, cluster, qoe)
    if most_plans < 1:
        raise InputError("most_plans", most_plans, "1 or more")
    check_effort(gap, time_limit_s, solver)


def check_question(workload: Workload, cluster: Cluster, qoe: QoE) -> None:
    """Refuse what cannot be asked together.

    Raises
    ------
    InputError
        Naming the field, the value and what is allowed.
    """
    if workload.mode == "stream" and qoe.samples_per_s is not None:
        raise InputError("samples_per_s", qoe.samples_per_s, "nothing in mode 'stream', where the rate is given")
    if workload.mode == "stream" and qoe.battery_j:
        raise InputError("battery_j", qoe.battery_j, "nothing in mode 'stream', whose batteries cannot be limited yet")
    check_ends(workload, cluster)
    for name in qoe.battery_j:
        if name not in cluster.device_ids:
            raise UnknownNameError("battery_j", name, cluster.device_ids)


def check_effort(gap: float, time_limit_s: float, solver: SolverChoice) -> None:
    """Refuse gaps, time limits and solvers that cannot be.

    Raises
    ------
    InputError
        Naming the one that cannot be used.
    """
    if not 0 < gap < 1:
        raise InputError("gap", gap, "above 0 and below 1")
    if not time_limit_s > 0:
        raise InputError("time_limit_s", time_limit_s, "more than 0 seconds")
    SolverOptions.of(solver)


@dataclass(frozen=True)
class _Question:
    """One of the questions that the answers belong to.

    Attributes
    ----------
    label
        What the plan is best at.
    objective
        What is minimised; with prices on soft limits if ``priced``.
    latency_limit_s
        Within which makespan.
    """

    label: str
    objective: Objective
    latency_limit_s: float = np.inf
    priced: bool = False

    @property
    def figure(self) -> Figure:
        """The figure that is minimised."""
        return "value" if self.priced else "makespan_s" if self.objective == "latency" else "energy_j"

    @property
    def other(self) -> Figure:
        """The figure that breaks ties."""
        return "energy_j" if self.objective == "latency" else "makespan_s"


@dataclass(frozen=True)
class _Answer:
    """A question with the best plan for it and what is proven: for the question, and for its tie-break."""

    question: _Question
    plan: Plan
    bound: float
    tie_bound: float | None = None


@dataclass
class _Hunt:
    """The steps of :func:`plan`, in the order they are taken."""

    problem: Problem
    qoe: QoE
    gap: float
    deadline: Deadline
    say: Progress
    most_plans: int = 1
    solver: SolverChoice = "auto"
    monolithic: bool = False
    on_event: solvers.OnEvent | None = None
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        terms = self.problem.terms
        self.energy_limit_j, self.latency_limit_s = terms.energy_limit_j, terms.makespan_limit_s
        # Without a latency limit as well: how slow the thriftiest plan is says where trade-offs lie.
        self.targets = self._targets(np.unique([self.latency_limit_s, np.inf]))
        self.candidates: list[Candidates] = []
        self.open: list[Open] = []
        self.questions: list[_Question] = []
        self.ties: Targets | None = None
        self.solved_by, self.reason = "bounding search", "no partition was left to check by a program"
        self.stopped: StoppedBy | None = None
        self.nodes, self.proven = 0, False
        self._finished: dict[int, tuple[Plan, Plan]] = {}
        if self.monolithic and not self.problem.terms.is_plain:
            raise InputError(
                "algorithm", "monolithic", "'decomposed' or 'auto' where limits or the objective have prices"
            )

    def _targets(self, limits_s: Floats, new: bool = True) -> Targets:
        """Questions after the least energy within limits and, if ``new``, the fastest plan and the best value."""
        value = (Ladder("value", "makespan_s", np.array([self.latency_limit_s])),)
        return Targets(
            limits_s,
            energy_limit_j=self.energy_limit_j,
            tolerance=self.gap,
            seek_latency=new,
            further=() if self.problem.terms.is_plain or not new else value,
        )

    def find_fast_plans(self) -> None:
        """Good plans first: they are what bounds prune against."""
        self.say("looking for good plans with one device a stage")
        self._search(self.targets, most_replicas=1, most_labels=_FEW_LABELS, schedules=_FEW_SCHEDULES)

    def find_thrifty_plans(self) -> None:
        """Latency limits between the fastest and the thriftiest plan found, and good plans for each."""
        known = self.targets.plans
        limits_s = np.array([self.latency_limit_s])
        thriftiest = self.targets.energy_plans[-1]
        if thriftiest is not None and self.most_plans > 1:
            slowest_s = min(self._figures(self._predicted(thriftiest))[0], self.latency_limit_s)
            if slowest_s > self.targets.best_latency_s:
                more = self.most_plans if self.monolithic else _LIMITS_PER_PLAN * self.most_plans
                between = np.geomspace(self.targets.best_latency_s, slowest_s, more + 2)[1:]
                limits_s = np.unique(np.append(between, limits_s))
        self.targets = self._targets(limits_s if self._asks_energy else np.zeros(0))
        self._offer(self.targets, known)
        if not self._asks_energy:
            return
        self.say("looking for plans that take less energy")
        self._search(self.targets, most_replicas=1, most_labels=_FEW_LABELS, schedules=_FEW_SCHEDULES)

    @property
    def _asks_energy(self) -> bool:
        """Whether a plan of least energy is among the answers."""
        return self.most_plans > 1 or self.qoe.objective != "latency"

    def solve_jointly(self) -> None:
        """The joint program as it stands, for every question, in place of search and schedules."""
        self.columns = all_columns(self.problem)
        self.targets.forget_bounds()
        for ladder in self.targets.asked:
            self._solve_jointly(self.targets, ladder)
        self.proven = True
        self.tell()
        self._note_stop()

    def _solve_jointly(self, targets: Targets, ladder: Ladder) -> None:
        for place, limit in enumerate(ladder.limits.tolist()):
            objective: Literal["latency", "energy"] = "latency" if ladder.least == "makespan_s" else "energy"
            self.say(f"solving joint programs for the least {objective}")
            answer = solve_jointly(
                self.problem,
                self.columns,
                objective,
                latency_limit_s=min(self.latency_limit_s, limit if ladder.within == "makespan_s" else np.inf),
                energy_limit_j=min(self.energy_limit_j, limit if ladder.within == "energy_j" else np.inf),
                gap=self.gap,
                solver=self.solver,
                deadline=self.deadline,
            )
            if answer.plan is not None:
                self._offer(targets, [answer.plan])
            proven = max(answer.proven, least_possible(self.problem, self.qoe, ladder.least))
            ladder.floor[place] = min(proven, float(ladder.best[place]))
            self.solved_by, self.reason = f"joint program, {answer.solver}", answer.reason
            self.nodes += answer.programs
            self.tell()

    def tell(self) -> None:
        """Incumbent and bound of the question that the objective asks."""
        if self.on_event is None:
            return
        ladder = {"latency": self.targets.latency, "energy": self.targets.energy}.get(self.qoe.objective)
        if ladder is None or not self.problem.terms.is_plain:
            ladder = self.targets.further[0]
        limit_s = self.latency_limit_s if ladder.within == "makespan_s" else np.inf
        place = int(np.flatnonzero(ladder.limits == limit_s)[0])
        incumbent = float(ladder.best[place]) if np.isfinite(ladder.best[place]) else None
        proven = self.proven and np.isfinite(ladder.bounds[place])
        bound = float(ladder.bounds[place]) if proven else least_possible(self.problem, self.qoe, ladder.least)
        if incumbent is not None:
            bound = min(bound, incumbent)
        gap = solvers.relative_gap(incumbent, bound)
        self.on_event(solvers.Event(time.monotonic() - self.started, incumbent, bound, gap, self.nodes))

    def prove(self) -> None:
        """The whole search space: better plans where there are any, and true bounds."""
        for most in larger_groups(self.problem.space):
            self.say(f"looking for good plans with up to {most} replicas")
            self._search(self.targets, most_replicas=most, most_labels=_FEW_LABELS, schedules=_FEW_SCHEDULES)
        self.say("bounding every partition, replicas included")
        self.targets.forget_bounds()  # those of the searches above hold for a part of the partitions only
        self._search_all(self.targets)
        self.proven = not self.open

    def settle_schedules(self) -> None:
        """The best transfer schedule of every plan that is still open."""
        self._settle(self.targets)
        self.proven = True
        self.tell()

    def _settle(self, targets: Targets) -> None:
        self.say(f"settling the transfer schedules of {len(self.open)} plans")
        done = settle_all(self.problem, targets, self.open, solver=self.solver, deadline=self.deadline)
        self.say(f"{done.schedules} schedules settled, {done.programs} of them by the transfer program")
        self._note_stop()

    def _note_stop(self) -> None:
        if self.deadline.passed:
            self.stopped = "cancelled" if self.deadline.cancelled else "time limit"

    def refine(self) -> None:
        """More latency limits where the plans to be shown cover the trade-offs least."""
        for _ in range(_ROUNDS if self.most_plans > 1 else 0):
            if self.deadline.passed or not self._feasible:
                return
            self.choose()
            limits_s = self._loose_limits()
            if not len(limits_s):
                return
            self.say(f"bounding {len(limits_s)} more latency limits")
            more = self._targets(limits_s, new=False)
            self._offer(more, self.targets.plans)
            self._search_all(more)
            self._settle(more)
            self.targets.add_limits(more.energy)

    def _loose_limits(self) -> Floats:
        """Limits inside the steps that the chosen plans cover least: their middles, and just below their own plans.

        Where no plan lies between two neighbours, the limit just below the slower one proves it.
        """
        front = self._front()
        shown = [self._figures(self._predicted(self._incumbent(question))) for question in self.questions]
        ratios = np.array([front.ratios(*each) for each in shown]).min(axis=0)
        limits_s: list[float] = []
        for step in np.argsort(-ratios)[: self.most_plans].tolist():
            plan = self.targets.energy_plans[step]
            if ratios[step] <= 1 + _GOOD_DELTA or plan is None:
                continue
            lower_s, upper_s = front.edges_s[step], self._figures(self._predicted(plan))[0]
            inner = (math.sqrt(lower_s * upper_s), upper_s * (1 - 2 * self.gap))
            limits_s.extend(limit for limit in inner if limit > lower_s * (1 + self.gap))
        return np.unique(limits_s)

    def choose(self) -> None:
        """The questions whose plans are shown: the objective's own, the two ends, and those that cover the most."""
        if not self._feasible:
            return
        self.questions = self._ends()
        if not self._asks_energy:
            return
        limits = self.targets.latency_limits_s.tolist()
        between = [
            _Question(f"least energy within {format_seconds(limit)}", "energy", limit)
            for limit, found in zip(limits[:-1], self.targets.energy_plans, strict=False)
            if found is not None
        ]
        every = [*self.questions, *between]
        figures = [self._figures(self._predicted(self._incumbent(question))) for question in every]
        chosen = self._front().choose(figures, range(len(self.questions)), self.most_plans)
        self.questions = [every[place] for place in chosen]

    @property
    def _feasible(self) -> bool:
        """Whether a plan within the limits was found."""
        found = self.targets.latency_plan is not None
        return found and self.targets.best_latency_s <= self.latency_limit_s * (1 + ROUNDING)

    def _ends(self) -> list[_Question]:
        fastest = _Question("latency-optimal", "latency")
        thriftiest = _Question("energy-optimal", "energy", self.latency_limit_s)
        if not self.problem.terms.is_plain:
            name = f"{self.qoe.objective}-optimal" + (", soft limits priced" if self.problem.terms.is_soft else "")
            objective = self.qoe.objective
            ends = [_Question(name, objective, self.latency_limit_s, priced=True), fastest, thriftiest]
        else:
            ends = [fastest, thriftiest] if self.qoe.objective == "latency" else [thriftiest, fastest]
        return ends[: self.most_plans]

    def _front(self) -> Front:
        """What is proven about every plan within the limits."""
        energy = self.targets.energy
        floors_j = np.maximum.accumulate(energy.bounds[::-1])[::-1]
        return Front((self.targets.latency_bound_s, *energy.limits.tolist()), tuple(floors_j.tolist()))

    def _ladder(self, question: _Question) -> tuple[Ladder, int]:
        """Where a question stands in the targets."""
        if question.priced:
            return self.targets.further[0], 0
        if question.objective == "latency":
            return self.targets.latency, 0
        ladder = self.targets.energy
        return ladder, int(np.flatnonzero(ladder.limits == question.latency_limit_s)[0])

    def _incumbent(self, question: _Question) -> Plan:
        ladder, place = self._ladder(question)
        found = ladder.plans[place]
        assert found is not None, "chosen questions have a plan"
        return found

    def _equal(self, question: _Question) -> float:
        """Up to where a plan is as good as the best for a question, within the gap."""
        ladder, place = self._ladder(question)
        return max(float(ladder.best[place]), float(ladder.bounds[place]) / (1 - self.gap))

    def check_by_program(self) -> None:
        """The partition program for every question, over the partitions that bounds left; its plans count too."""
        self.say(f"checking {len(self.questions)} answers with the partition program")
        for question in self.questions:
            if self.deadline.cancelled:
                self.reason = "cancelled before the check by the partition program was over"
                return
            try:
                verdict = check_by_program(
                    self.problem,
                    self.candidates,
                    question.figure,
                    latency_limit_s=question.latency_limit_s,
                    energy_limit_j=self.energy_limit_j,
                    solver=self.solver,
                    deadline=self.deadline,
                )
            except SolverUnavailableError:
                raise
            except SolverError as error:  # the search's own bounds stand; the person is told that they are unchecked
                self.reason = f"the check by the partition program failed: {error}"
                return
            if verdict is not None:
                self._offer(self.targets, list(verdict.plans))
                self.solved_by, self.reason = f"bounding search, checked by {verdict.solver}", verdict.reason

    def break_ties(self) -> None:
        """The second solve: of the plans as good as each answer, within the gap, the best at the other figure."""
        if self.deadline.passed or not self.questions:
            return
        self.say("breaking ties by the other figure")
        by_pair: dict[tuple[Figure, Figure], list[float]] = {}
        for question in self.questions:
            by_pair.setdefault((question.other, question.figure), []).append(self._equal(question))
        ladders = tuple(Ladder(*pair, np.unique(equal)) for pair, equal in by_pair.items())
        self.ties = Targets(
            np.zeros(0),
            energy_limit_j=self.energy_limit_j,
            makespan_limit_s=self.latency_limit_s,
            tolerance=self.gap,
            seek_latency=False,
            further=ladders,
        )
        self._offer(self.ties, self.targets.plans)
        if self.monolithic:
            for ladder in self.ties.asked:
                self._solve_jointly(self.ties, ladder)
            return
        self._search_all(self.ties)
        self._settle(self.ties)

    def _search_all(self, targets: Targets) -> None:
        most = self.problem.space.most_replicas
        self._search(targets, most_replicas=most, most_labels=_MANY_LABELS, schedules=_MANY_SCHEDULES)

    def _search(self, targets: Targets, most_replicas: int, most_labels: int, schedules: int) -> None:
        # The first search is quick and finds the plan to return when there is no time for more.
        deadline = self.deadline if targets.plans else None
        columns = build_columns(self.problem, most_replicas, screen(self.problem, targets, deadline))
        few = most_labels == _FEW_LABELS
        search = Search(self.problem, columns, targets, most_labels, self.deadline, schedules, every_cut=few)
        report = search.run()
        self.candidates.extend(search.candidates)
        self.open = search.open
        self.nodes += report.labels
        self._note_stop()
        if targets is self.targets:
            self.tell()
        self.say(
            f"{len(columns):,} stage columns, {report.labels:,} partial and {report.partitions:,} complete pipelines, "
            f"{report.schedules:,} schedules"
        )

    def _offer(self, targets: Targets, plans: list[Plan]) -> None:
        for each in plans:
            finished = self._predicted(each)
            rating = self._rating(finished)
            own = [limit for limit in rating.limits if limit.term in ("battery", "headroom") and limit.price is None]
            if all(limit.kept for limit in own):
                targets.offer(*self._figures(finished), each, rating.value)

    def _predicted(self, each: Plan) -> Plan:
        """The plan with its figures predicted, once; it is kept beside them, so that its id stays its own."""
        if id(each) not in self._finished:
            self._finished[id(each)] = (each, predicted(each, self.problem))
        return self._finished[id(each)][1]

    def _figures(self, each: Plan) -> tuple[float, float]:
        """Makespan in seconds and energy in joules of a predicted plan."""
        prediction = _prediction(each)
        return prediction.makespan_s, prediction.energy_j(self.qoe.energy_accounting)

    def _rating(self, each: Plan) -> Rating:
        return qoe_value(_prediction(each), self.qoe)

    def _figure(self, each: Plan, figure: Figure) -> float:
        makespan_s, energy_j = self._figures(each)
        return self._rating(each).value if figure == "value" else makespan_s if figure == "makespan_s" else energy_j

    def answers(self) -> tuple[tuple[Plan, ...], Coverage]:
        """Every answer once, by ascending makespan, with its certificate; and what they cover.

        Raises
        ------
        InfeasibleError
            If no plan keeps the limits.
        """
        if not self._feasible:
            raise InfeasibleError(self._why_infeasible())
        # A plan may answer several questions; it carries the certificate of the most important one.
        found: dict[Plan, Plan] = {}
        for question in self.questions:
            answer = self._answer(question)
            decisions = answer.plan.decisions()
            if decisions not in found:
                found[decisions] = self._certified(answer)
            elif {question.label, found[decisions].label} == {"latency-optimal", "energy-optimal"}:
                found[decisions] = found[decisions].replace(label="latency- and energy-optimal")
        best, *others = found.values()
        plans = self._not_dominated(best, others)
        delta = self._front().delta([self._figures(each) for each in plans]) if self._asks_energy else np.inf
        return plans, Coverage(delta if np.isfinite(delta) else None, self.most_plans)

    def _answer(self, question: _Question) -> _Answer:
        """The best plan for a question; of equally good ones the one that is better at the other figure."""
        ladder, place = self._ladder(question)
        bound = float(ladder.bounds[place])
        equal, tie_bound = self._equal(question), None
        self._check_incumbent(question)
        offered = self.targets.plans if self.ties is None else [*self.targets.plans, *self.ties.plans]
        known = [self._predicted(each) for each in offered]
        if self.ties is not None:
            ties = next(e for e in self.ties.further if (e.least, e.within) == (question.other, question.figure))
            tie_bound = float(ties.bounds[np.flatnonzero(ties.limits == equal)[0]])
        limit_s = min(question.latency_limit_s, self.latency_limit_s) * (1 + ROUNDING)
        within = [
            each
            for each in known
            if self._figures(each)[0] <= limit_s
            and self._rating(each).keeps_hard
            and self._figure(each, question.figure) <= equal * (1 + ROUNDING)
        ]
        chosen = min(within, key=lambda each: (self._figure(each, question.other), self._figure(each, question.figure)))
        return _Answer(question, chosen, bound, tie_bound)

    def _check_incumbent(self, question: _Question) -> None:
        """What the search says of a plan must be what its prediction alone says.

        Raises
        ------
        ObjectiveMismatchError
            If it is not.
        """
        ladder, place = self._ladder(question)
        plan = self._predicted(self._incumbent(question))
        claimed, computed = float(ladder.best[place]), self._figure(plan, question.figure)
        if abs(claimed - computed) > AGREEMENT * max(abs(computed), AGREEMENT):
            raise ObjectiveMismatchError(f"{question.label}: the search says {claimed:.9g}, the plan {computed:.9g}")
        broken = [limit for limit in self._rating(plan).broken if limit.price is None]
        if broken:
            raise ObjectiveMismatchError(f"{question.label}: the plan breaks its {broken[0].term} limit: {broken[0]!r}")

    def _certified(self, answer: _Answer) -> Plan:
        question, each, bound = answer.question, answer.plan, answer.bound
        value = self._figure(each, question.figure)
        if bound > value * (1 + AGREEMENT):
            raise ObjectiveMismatchError(f"{question.label}: the bound {bound:.9g} is above the plan's own {value:.9g}")
        gap = _gap(value, bound)
        status = "optimal" if gap <= self.gap * (1 + 1e-6) else self.stopped or "feasible"
        limit_s = question.latency_limit_s
        then = None
        if answer.tie_bound is not None:
            other = self._figure(each, question.other)
            then = SecondSolve(
                objective="energy" if question.other == "energy_j" else "latency",
                unit="J" if question.other == "energy_j" else "s",
                value=other,
                bound=min(answer.tie_bound, other),
                gap=_gap(other, answer.tie_bound),
            )
        return scheduled(each, self.problem).replace(
            label=question.label,
            certificate=Certificate(
                objective=question.objective,
                unit="s" if question.objective == "latency" else "J",
                latency_limit_s=limit_s if np.isfinite(limit_s) else None,
                energy_limit_j=self.energy_limit_j if np.isfinite(self.energy_limit_j) else None,
                limits=self._rating(each).limits,
                with_prices=question.priced and self.problem.terms.is_soft,
                value=value,
                bound=min(bound, value),
                gap=gap,
                status=status,
                scope=self.problem.space.describe(),
                algorithm="monolithic" if self.monolithic else "decomposed",
                solver=self.solved_by,
                solver_reason=self.reason,
                then=then,
            ),
        )

    def _not_dominated(self, best: Plan, others: list[Plan]) -> tuple[Plan, ...]:
        """By ascending makespan, without those that another matches or beats in both figures.

        The best at the objective stays; what is better at it by less than the gap counts as equal and goes.
        """
        at_best = self._rating(best).value
        rivals = [each for each in others if self._rating(each).value > at_best]
        kept: list[Plan] = []
        for each in sorted([best, *rivals], key=self._figures):
            beaten = kept and self._figures(each)[1] >= min(self._figures(one)[1] for one in kept) * (1 - ROUNDING)
            if each is best or not beaten:
                kept.append(each)
        if self.problem.terms.is_plain:  # then the best plan is at an end, and may beat one that was kept before it
            kept = [each for each in kept if each is best or not self._beats(best, each)]
        return tuple(kept)

    def _beats(self, one: Plan, other: Plan) -> bool:
        mine, theirs = self._figures(one), self._figures(other)
        return all(a <= b * (1 + ROUNDING) for a, b in zip(mine, theirs, strict=True))

    def _why_infeasible(self) -> str:
        """What was asked, what can be reached, and what is proven impossible."""
        targets, parts = self.targets, []
        if targets.latency_plan is not None:
            within = f" within {format_joules(self.energy_limit_j)}" if np.isfinite(self.energy_limit_j) else ""
            proven = "impossible" if targets.latency_bound_s > self.latency_limit_s else "not found"
            parts.append(
                f"{self._asked_latency()}{within} is {proven}: the best plan takes "
                f"{format_seconds(targets.best_latency_s)}, and none can take less than "
                f"{format_seconds(targets.latency_bound_s)}"
            )
        elif self._own_limits():
            kept = {name: getattr(self.qoe, name) for name in ("latency_s", "samples_per_s", "energy_j")}
            freed = self._freed(**kept)
            if freed.targets.latency_plan is None:
                return freed._why_infeasible()  # the limits on the whole plan alone are out of reach
            best_s = freed.targets.best_latency_s
            proven = "not found" if self.stopped else "impossible"
            parts.append(
                f"a plan that keeps {' and '.join(self._own_limits())} is {proven}; without that the best plan takes "
                f"{format_seconds(best_s)}"
            )
        elif np.isfinite(self.energy_limit_j):
            freed = self._freed(latency_s=self.qoe.latency_s, samples_per_s=self.qoe.samples_per_s)
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
        arrival_s = self.problem.workload.arrival_s
        if not parts and arrival_s is not None:
            least_s = self.problem.workload.batch * float(self.problem.completion.load_s[0, -1])
            parts.append(
                f"no plan was found that fits the devices' memory and keeps up with a request every "
                f"{format_seconds(arrival_s)}; none can keep up with one every {format_seconds(least_s)} or less, and "
                "dora_nb.fastest_stream finds the largest rate"
            )
        if not parts:
            parts.append(
                "the network does not fit the devices' memory in any partition that was tried; "
                "use a smaller batch, a lower precision, or more devices"
            )
        return f"{self.problem.workload.name} on {self.problem.cluster.name}: {'; '.join(parts)}"

    def _freed(self, **limits: float | None) -> _Hunt:
        """The same with no hard limits but these, searched."""
        qoe, problem = self.qoe.without_limits.replace(**limits), self.problem
        freed = Problem.of(
            problem.workload,
            problem.cluster,
            qoe.energy_accounting,
            qoe=qoe,
            table=problem.table,
            space=problem.space,
            overlap=problem.overlap,
        )
        hunt = _Hunt(freed, qoe, self.gap, self.deadline, self.say, solver=self.solver)
        hunt.find_fast_plans()
        hunt.prove()
        hunt.settle_schedules()
        return hunt

    def _asked_latency(self) -> str:
        """Which limit the makespan is held to, in words."""
        qoe, limit = self.qoe, format_seconds(self.latency_limit_s)
        if qoe.latency_s == self.latency_limit_s:
            return f"a latency of {limit}"
        rate = qoe.samples_per_s
        if rate is not None and self.problem.workload.batch / rate == self.latency_limit_s:
            return f"a throughput of {format_rate(rate)} (a latency of {limit})"
        return f"a latency of {limit}, after which the battery of an idle device is over its limit,"

    def _own_limits(self) -> list[str]:
        """Hard limits of single devices, in words."""
        qoe, words = self.qoe, []
        if qoe.battery_j and qoe.battery_price is None:
            limits = ", ".join(f"{name} {format_joules(joules)}" for name, joules in qoe.battery_j.items())
            words.append(f"the battery limits ({limits})")
        if (qoe.headroom_fraction or qoe.headroom_bytes) and qoe.headroom_price is None:
            words.append("the memory headroom")
        return words


def _prediction(each: Plan) -> Prediction:
    assert each.prediction is not None, "answers are predicted"
    return each.prediction


def _gap(value: float, bound: float) -> float:
    return max(0.0, (value - bound) / value) if value else 0.0
