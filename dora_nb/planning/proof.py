"""The best plan for one question, found and proven with what is known already.

Good plans first (see :mod:`~dora_nb.planning.bounding.nearby`), then the proof in narrow windows: whether there is any
plan between what is proven and a little more. In a narrow window almost everything is dropped at once: what takes
longer, and what would draw too much if it takes as long as is proven. A window without plans raises the bound, whatever
comes later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dora_nb.domain.qoe import ROUNDING
from dora_nb.planning.bounding.floors import least_makespan_s
from dora_nb.planning.bounding.nearby import MOST_LABELS
from dora_nb.planning.bounding.partitions import Candidates
from dora_nb.planning.bounding.search import Search
from dora_nb.planning.bounding.targets import Ladder, Targets, least_possible
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.proven import Proven
from dora_nb.planning.question import Question
from dora_nb.planning.settle import settle_all

#: Labels per micro-batch size and number of stages, and partitions scheduled: few to find a plan, many to prove it.
FEW, MANY = (300, 100), (100_000, 2_000)

#: How much more than what is proven a window lets in, and by how much the next one is wider.
WINDOW, WIDER = 0.03, 3.0

#: A window wider than this without a plan is followed by one without a limit.
WIDEST = 2.0

#: A known plan this far above what is proven is worth a search for others that are not close to known ones.
FAR = 0.02


@dataclass
class Proof:
    """One question being answered.

    Attributes
    ----------
    question, targets, deadline
        What is asked, with the best plan so far, and until when.
    bound
        No plan within the limits is below, in the figure that is asked for.
    nodes
        Labels looked at.
    candidates
        Complete partitions that were found.
    """

    question: Question
    targets: Targets
    deadline: Deadline
    bound: float
    nodes: int = 0
    candidates: list[Candidates] = field(default_factory=list)
    _of_better: bool = False  # whether the least makespan known is that of better plans only

    @property
    def ladder(self) -> Ladder:
        """The question among the targets."""
        return self.targets.asked[0]

    @property
    def is_good(self) -> bool:
        """Whether what is known is within the gap."""
        return bool(self.bound >= self.ladder.best[0] * (1 - self.targets.tolerance))

    def find_plans(self) -> None:
        """Good plans, close to those that are known where there are any."""
        self._raise_floor(self.targets)
        known = float(self.ladder.best[0])
        self._look_nearby()
        if self.ladder.best[0] > self.bound * (1 + FAR):
            case = self.question.case
            self._raise_floor(self.targets)
            if math.isfinite(known) and self.ladder.best[0] >= known:
                # None close to it beats a plan of another question: rarely is any far from it better, so it is put to
                # the proof at once. The columns of its widest window serve all others.
                case.columns(self.question.problem, case.replicas[-1], self.targets, self.deadline)
            else:
                # With a plan in hand, smaller groups first would keep little from the columns of all.
                for replicas in case.replicas if math.isinf(self.ladder.best[0]) else case.replicas[-1:]:
                    self._search(self.targets, replicas, FEW)
                self._look_nearby()
        self.targets.forget_bounds()  # those of these searches hold for a part of the partitions only

    def _look_nearby(self) -> None:
        self.candidates.extend(look_nearby(self.question, self.targets, self.candidates, self.deadline))

    def run(self, tell: Callable[[float], None]) -> None:
        """Raise the bound until the answer is good enough or time is up."""
        width, labels, wide_enough = WINDOW, 0, False
        while not self.is_good and not self.deadline.passed:
            limit = self.bound * (1 + width)
            # A window that ends just below a known plan would be looked at twice.
            if wide_enough or self.ladder.least == "value" or not 0 < limit * (1 + width) < self.ladder.best[0]:
                limit = math.inf
            before = self.nodes
            if not self._window(limit):
                return
            tell(self.bound)
            found, labels, width = labels, self.nodes - before, width * WIDER
            # Where no plan is known there may be none: then something else than the window keeps labels few.
            wide_enough = math.isinf(self.ladder.best[0]) and (0 < labels <= found or width > WIDEST)

    def _window(self, limit: float) -> bool:
        """Look for plans up to a limit; returns whether there may be better ones that were not looked at."""
        targets = self.targets
        window = Targets(
            targets.latency_limits_s,
            energy_limit_j=min(targets.energy_limit_j, limit if self.ladder.least == "energy_j" else math.inf),
            makespan_limit_s=min(targets.makespan_limit_s, limit if self.ladder.least == "makespan_s" else math.inf),
            tolerance=targets.tolerance,
            seek_latency=targets.seek_latency,
            floor_s=max(targets.floor_s, self.bound if self.ladder.least == "makespan_s" else 0.0),
            further=tuple(Ladder(each.least, each.within, each.limits) for each in targets.further),
        )
        (own,) = window.asked
        own.best[:] = self.ladder.best  # a plan beyond the limit is still what has to be beaten
        own.plans[:] = self.ladder.plans
        self._raise_floor(window)
        search = self._search(window, self.question.problem.space.most_devices, MANY)
        settle_all(self.question.problem, window, search.open, solver=self.question.solver, deadline=self.deadline)
        self.ladder.best[:], self.ladder.plans[:] = own.best, own.plans
        reached = float(own.bounds[0])
        cut_short = own.floor[0] < own.best[0] * (1 - targets.tolerance)
        self.bound = max(self.bound, min(reached, limit))
        return math.isfinite(limit) and not cut_short and own.best[0] > limit

    def _raise_floor(self, targets: Targets) -> None:
        """Tell the targets how long every better plan takes, from what is proven of the energy of shorter ones.

        Better plans draw less than the incumbent. What is only proven of these, for these targets or those that they
        come from, is set aside with the energy up to which it is proven, so that bounds hold for all plans.
        """
        (own,) = targets.asked
        within_j = targets.energy_limit_j * (1 + 2 * ROUNDING)
        if own.least == "energy_j":
            within_j = min(within_j, float(own.best[0]) * (1 - targets.tolerance))
        problem = self.question.problem
        targets.floor_s = max(targets.floor_s, least_possible(problem, self.question.qoe, "makespan_s"))
        floor_s = max(targets.floor_s, self.question.case.proven(self.question.qoe).least_makespan_s(within_j))
        floor_s = least_makespan_s(problem, within_j, targets.longest_s, floor_s)
        self._of_better = self._of_better or floor_s > targets.floor_s
        targets.floor_s = floor_s
        if self._of_better:
            targets.set_aside(np.array([floor_s]), np.array([within_j]))

    def _search(self, targets: Targets, replicas: int, size: tuple[int, int]) -> Search:
        problem, (most_labels, schedules) = self.question.problem, size
        columns = self.question.case.columns(problem, replicas, targets, self.deadline)
        search = Search(problem, columns, targets, most_labels, self.deadline, schedules, False, size == FEW)
        self.nodes += search.run().labels
        self.candidates.extend(search.candidates)
        return search


def look_nearby(
    question: Question, targets: Targets, candidates: Sequence[Candidates], deadline: Deadline
) -> list[Candidates]:
    """Look for better plans close to those that are known; returns the complete partitions that were found.

    Parameters
    ----------
    question, targets, deadline
        What is asked, with the best plans so far, and until when. The bounds in ``targets`` hold for a part of all
        plans afterwards.
    candidates
        Partitions to look around, beside those that the question's case knows.
    """
    problem, case = question.problem, question.case
    places = case.places(problem, targets, candidates)
    if not len(places) or deadline.passed:
        return []
    columns = case.columns_near(problem, places, targets, deadline)
    search = Search(problem, columns, targets, MOST_LABELS, deadline, FEW[1], insists=False, every_cut=True)
    search.run()
    return search.candidates


def proven_by(proven: Proven, targets: Targets) -> float:
    """A bound on the first question that was proven before; also tells the targets how long every plan takes."""
    targets.floor_s = max(targets.floor_s, proven.least_makespan_s(targets.energy_limit_j))
    least = targets.asked[0].least
    if least == "value":
        return -math.inf
    return targets.floor_s if least == "makespan_s" else proven.least_energy_j(targets.makespan_limit_s)


def remember_bounds(proven: Proven, targets: Targets, bound: float) -> None:
    """Keep what was proven of the first question."""
    least = targets.asked[0].least
    if least == "makespan_s":
        proven.no_faster(min(bound, targets.makespan_limit_s), targets.energy_limit_j)
    elif least == "energy_j":
        proven.no_thriftier(min(bound, targets.energy_limit_j), targets.makespan_limit_s)
