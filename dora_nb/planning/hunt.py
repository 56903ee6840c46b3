"""The steps from a question to proven plans: good ones, a proof, schedules, a check, ties."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from dora_nb import solvers
from dora_nb.costs.table import Floats
from dora_nb.domain.coverage import Front
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import ROUNDING
from dora_nb.errors import InputError, SolverError, SolverUnavailableError
from dora_nb.formulation.columns import Columns
from dora_nb.planning.bounding.partitions import Candidates, Open
from dora_nb.planning.bounding.search import Search
from dora_nb.planning.bounding.targets import Figure, Ladder, Targets, least_possible
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.exact.certify import check_by_program
from dora_nb.planning.exact.monolithic import all_columns, solve_jointly
from dora_nb.planning.known import Asked, Known
from dora_nb.planning.proof import FEW, MANY, Proof, look_nearby
from dora_nb.planning.question import Question
from dora_nb.planning.settle import settle_all
from dora_nb.units import counted, format_seconds

Progress = Callable[[str], None]

StoppedBy = Literal["time limit", "cancelled"]

#: Latency limits tried for every plan wanted, and rounds of more where coverage is loosest.
_LIMITS_PER_PLAN, _ROUNDS = 3, 1

#: A set that covers all trade-offs this well is not refined further.
_GOOD_DELTA = 0.01


@dataclass
class Hunt:
    """The steps of :func:`~dora_nb.planning.plan.plan`, in the order they are taken.

    Attributes
    ----------
    question, gap
        What is asked, and the relative gap that is good enough.
    deadline, say
        When to stop, and whom to tell about each step.
    most_plans
        Plans that are shown at most.
    monolithic
        Whether the joint program is solved as it stands.
    on_event
        Told about a solver's incumbents and bounds.
    started
        When the hunt began, in seconds of the monotonic clock.
    """

    question: Question
    gap: float
    deadline: Deadline
    say: Progress
    most_plans: int = 1
    monolithic: bool = False
    on_event: solvers.OnEvent | None = None
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.problem, self.qoe, self.solver = self.question.problem, self.question.qoe, self.question.solver
        self.case = self.question.case
        terms = self.problem.terms
        self.energy_limit_j, self.latency_limit_s = terms.energy_limit_j, terms.makespan_limit_s
        self.floor_s = self.case.proven(self.qoe).least_makespan_s(self.energy_limit_j)
        # Without a latency limit as well: how slow the thriftiest plan is says where trade-offs lie.
        self.targets = self._targets(np.unique([self.latency_limit_s, np.inf]))
        self.candidates: list[Candidates] = []
        self.open: list[Open] = []
        self.questions: list[Asked] = []
        self.ties: Targets | None = None
        self.solved_by, self.reason = "bounding search", "no partition was left to check by a program"
        self.stopped: StoppedBy | None = None
        self.nodes, self.proven = 0, False
        self.known = Known(self.problem)
        if self.monolithic and not self.problem.terms.is_plain:
            raise InputError(
                "algorithm", "monolithic", "'decomposed' or 'auto' where limits or the objective have prices"
            )
        if self.monolithic and self.problem.space.token_groups != (1,):
            raise InputError("algorithm", "monolithic", "'decomposed' or 'auto' with several token_groups")
        if self.monolithic and self.problem.space.shards > 1:
            raise InputError("algorithm", "monolithic", "'decomposed' or 'auto' where stages may have shards")

    def _targets(self, limits_s: Floats, new: bool = True) -> Targets:
        """Questions after the least energy within limits and, if ``new``, the fastest plan and the best value."""
        value = (Ladder("value", "makespan_s", np.array([self.latency_limit_s])),)
        return Targets(
            limits_s,
            energy_limit_j=self.energy_limit_j,
            tolerance=self.gap,
            seek_latency=new,
            floor_s=self.floor_s,
            further=() if self.problem.terms.is_plain or not new else value,
        )

    def find_fast_plans(self) -> None:
        """Good plans first: they are what bounds prune against."""
        for plan in self.case.fitting(self.problem):
            self.known.offer(self.targets, [plan])
        most = self.case.replicas[0]
        self.say(f"looking for good plans with {'one device' if most == 1 else f'up to {most} devices'} a stage")
        self._search(self.targets, most, FEW)

    def find_thrifty_plans(self) -> None:
        """Latency limits between the fastest and the thriftiest plan found, and good plans for each."""
        known = self.targets.plans
        limits_s = np.array([self.latency_limit_s])
        thriftiest = self.targets.energy_plans[-1]
        if thriftiest is not None and self.most_plans > 1:
            slowest_s = min(self.known.figures(self.known.predicted(thriftiest))[0], self.latency_limit_s)
            if slowest_s > self.targets.best_latency_s:
                more = self.most_plans if self.monolithic else _LIMITS_PER_PLAN * self.most_plans
                between = np.geomspace(self.targets.best_latency_s, slowest_s, more + 2)[1:]
                limits_s = np.unique(np.append(between, limits_s))
        self.targets = self._targets(limits_s if self.asks_energy else np.zeros(0))
        self.known.offer(self.targets, known)
        if not self.asks_energy:
            return
        self.say("looking for plans that take less energy")
        self._search(self.targets, self.case.replicas[0], FEW)

    @property
    def asks_energy(self) -> bool:
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
                self.known.offer(targets, [answer.plan])
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
        before = self.case.replicas[0]
        for most in self.case.replicas[1:]:
            columns = self.case.columns(self.problem, most, self.targets, self.deadline)
            if (self.problem.fleet.used[columns.code].sum(axis=1) > before).any():
                self.say(f"looking for good plans with up to {most} replicas")
                self._search_among(columns, self.targets, FEW)
                before = most
        self.say("looking around the best partitions")
        self.candidates.extend(look_nearby(self.question, self.targets, self.candidates, self.deadline))
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
        self.say(f"settling transfer schedules, plans open: {len(self.open)}")
        done = settle_all(self.problem, targets, self.open, solver=self.solver, deadline=self.deadline)
        self.say(f"schedules settled: {done.schedules}, by the transfer program: {done.programs}")
        self._note_stop()

    def _note_stop(self) -> None:
        if self.deadline.passed:
            self.stopped = "cancelled" if self.deadline.cancelled else "time limit"

    def refine(self) -> None:
        """More latency limits where the plans to be shown cover the trade-offs least."""
        for _ in range(_ROUNDS if self.most_plans > 1 else 0):
            if self.deadline.passed or not self.feasible:
                return
            self.choose()
            limits_s = self._loose_limits()
            if not len(limits_s):
                return
            self.say(f"bounding {len(limits_s)} more latency limits")
            more = self._targets(limits_s, new=False)
            self.known.offer(more, self.targets.plans)
            self._search_all(more)
            self._settle(more)
            self.targets.add_limits(more.energy)

    def _loose_limits(self) -> Floats:
        """Limits inside the steps that the chosen plans cover least: their middles, and just below their own plans.

        Where no plan lies between two neighbours, the limit just below the slower one proves it.
        """
        front = self.front()
        shown = [self.known.figures(self.known.predicted(self.incumbent(question))) for question in self.questions]
        ratios = np.array([front.ratios(*each) for each in shown]).min(axis=0)
        limits_s: list[float] = []
        for step in np.argsort(-ratios)[: self.most_plans].tolist():
            plan = self.targets.energy_plans[step]
            if ratios[step] <= 1 + _GOOD_DELTA or plan is None:
                continue
            lower_s, upper_s = front.edges_s[step], self.known.figures(self.known.predicted(plan))[0]
            inner = (math.sqrt(lower_s * upper_s), upper_s * (1 - 2 * self.gap))
            limits_s.extend(limit for limit in inner if limit > lower_s * (1 + self.gap))
        return np.unique(limits_s)

    def close_gaps(self) -> None:
        """Chosen questions that the search left open, each in narrow windows; without a plan, whether there is any."""
        if not self.problem.terms.is_plain:
            return
        for question in self.questions or [Asked("latency-optimal", "latency")]:
            ladder, place = self.ladder(question)
            if self.deadline.passed or ladder.bounds[place] >= ladder.best[place] * (1 - self.gap * (1 + ROUNDING)):
                continue
            self.say(f"closing the gap of the {question.label} plan in narrow windows")
            limit_s = min(self.latency_limit_s, question.latency_limit_s)
            least = max(least_possible(self.problem, self.qoe, ladder.least), float(ladder.bounds[place]))
            alone = self.targets.alone(ladder.least, limit_s, max(self.floor_s, self.targets.latency_bound_s))
            self.known.offer(alone, self.targets.plans)
            proof = Proof(self.question, alone, self.deadline, least)
            proof.run(lambda _: None)
            ladder.floor[place] = max(float(ladder.floor[place]), proof.bound)
            self.known.offer(self.targets, alone.plans)
            self.candidates.extend(proof.candidates)
            self.nodes += proof.nodes
        self.tell()
        self._note_stop()

    def choose(self) -> None:
        """The questions whose plans are shown: the objective's own, the two ends, and those that cover the most."""
        if not self.feasible:
            return
        self.questions = self._ends()
        if not self.asks_energy:
            return
        limits = self.targets.latency_limits_s.tolist()
        between = [
            Asked(f"least energy within {format_seconds(limit)}", "energy", limit)
            for limit, found in zip(limits[:-1], self.targets.energy_plans, strict=False)
            if found is not None
        ]
        every = [*self.questions, *between]
        figures = [self.known.figures(self.known.predicted(self.incumbent(question))) for question in every]
        chosen = self.front().choose(figures, range(len(self.questions)), self.most_plans)
        self.questions = [every[place] for place in chosen]

    @property
    def feasible(self) -> bool:
        """Whether a plan within the limits was found."""
        found = self.targets.latency_plan is not None
        return found and self.targets.best_latency_s <= self.latency_limit_s * (1 + ROUNDING)

    def _ends(self) -> list[Asked]:
        fastest = Asked("latency-optimal", "latency")
        thriftiest = Asked("energy-optimal", "energy", self.latency_limit_s)
        if not self.problem.terms.is_plain:
            name = f"{self.qoe.objective}-optimal" + (", soft limits priced" if self.problem.terms.is_soft else "")
            objective = self.qoe.objective
            ends = [Asked(name, objective, self.latency_limit_s, priced=True), fastest, thriftiest]
        else:
            ends = [fastest, thriftiest] if self.qoe.objective == "latency" else [thriftiest, fastest]
        return ends[: self.most_plans]

    def front(self) -> Front:
        """What is proven about every plan within the limits."""
        energy = self.targets.energy
        floors_j = np.maximum.accumulate(energy.bounds[::-1])[::-1]
        return Front((self.targets.latency_bound_s, *energy.limits.tolist()), tuple(floors_j.tolist()))

    def ladder(self, question: Asked) -> tuple[Ladder, int]:
        """Where a question stands in the targets."""
        if question.priced:
            return self.targets.further[0], 0
        if question.objective == "latency":
            return self.targets.latency, 0
        ladder = self.targets.energy
        return ladder, int(np.flatnonzero(ladder.limits == question.latency_limit_s)[0])

    def incumbent(self, question: Asked) -> Plan:
        """The best plan found for a question that was chosen."""
        ladder, place = self.ladder(question)
        found = ladder.plans[place]
        assert found is not None, "chosen questions have a plan"
        return found

    def equal(self, question: Asked) -> float:
        """Up to where a plan is as good as the best for a question, within the gap."""
        ladder, place = self.ladder(question)
        return max(float(ladder.best[place]), float(ladder.bounds[place]) / (1 - self.gap))

    def check_by_program(self) -> None:
        """The partition program for every question, over the partitions that bounds left; its plans count too."""
        self.say(f"checking {counted(len(self.questions), 'answer')} with the partition program")
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
                self.known.offer(self.targets, list(verdict.plans))
                self.solved_by, self.reason = f"bounding search, checked by {verdict.solver}", verdict.reason

    def break_ties(self) -> None:
        """The second solve: of the plans as good as each answer, within the gap, the best at the other figure."""
        if self.deadline.passed or not self.questions:
            return
        self.say("breaking ties by the other figure")
        by_pair: dict[tuple[Figure, Figure], list[float]] = {}
        for question in self.questions:
            by_pair.setdefault((question.tie_figure, question.figure), []).append(self.equal(question))
        ladders = tuple(Ladder(*pair, np.unique(equal)) for pair, equal in by_pair.items())
        self.ties = Targets(
            np.zeros(0),
            energy_limit_j=self.energy_limit_j,
            makespan_limit_s=self.latency_limit_s,
            tolerance=self.gap,
            seek_latency=False,
            floor_s=max(self.floor_s, self.targets.latency_bound_s),
            further=ladders,
        )
        self.known.offer(self.ties, self.targets.plans)
        if self.monolithic:
            for ladder in self.ties.asked:
                self._solve_jointly(self.ties, ladder)
            return
        self._search_all(self.ties)
        self._settle(self.ties)

    def _search_all(self, targets: Targets) -> None:
        self._search(targets, self.problem.space.most_devices, MANY)

    def _search(self, targets: Targets, most_devices: int, size: tuple[int, int]) -> None:
        # The first search is quick and finds the plan to return when there is no time for more.
        deadline = self.deadline if targets.plans else None
        self._search_among(self.case.columns(self.problem, most_devices, targets, deadline), targets, size)

    def _search_among(self, columns: Columns, targets: Targets, size: tuple[int, int]) -> None:
        most_labels, schedules = size
        search = Search(self.problem, columns, targets, most_labels, self.deadline, schedules, every_cut=size == FEW)
        report = search.run()
        self.candidates.extend(search.candidates)
        self.open = search.open
        self.nodes += report.labels
        self._note_stop()
        if targets is self.targets:
            self.tell()
        self.say(
            f"{len(columns):,} stage columns, {report.labels:,} partial and {report.partitions:,} complete pipelines, "
            f"{counted(report.schedules, 'schedule')}"
        )

    def remember(self) -> None:
        """Keep what was found and proven for later questions."""
        self.case.remember(self.targets.plans, self.candidates)
        if not self.proven:
            return
        proven = self.case.proven(self.qoe)
        proven.no_faster(self.targets.latency_bound_s, self.energy_limit_j)
        energy = self.targets.energy
        for limit_s, bound_j in zip(energy.limits.tolist(), energy.bounds.tolist(), strict=True):
            proven.no_thriftier(min(bound_j, self.energy_limit_j), limit_s)
