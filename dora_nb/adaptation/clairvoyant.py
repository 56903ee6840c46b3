"""A controller that knows what is going to happen, to compare the adapter with.

At the start of every window it tries every plan, and every mix of two in a few proportions, on the world as it is going
to be, and takes what keeps most of the coming windows with the least energy. It decides window by window (our own
choice: an optimum over a whole trace would be too slow), so a better one may exist.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from dora_nb.adaptation.turns import Turns
from dora_nb.adaptation.window import RunningWindow
from dora_nb.costs.table import CostTable
from dora_nb.domain.controller import StepReport
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.simulation.record import SimulationRecord
from dora_nb.simulation.run import simulate
from dora_nb.simulation.world import World

#: Proportions in which two plans are mixed.
SHARES = (0.25, 0.5, 0.75)


@dataclass
class Mixed:
    """Some plans in fixed proportions, spread evenly; others while their devices are away.

    Attributes
    ----------
    shares
        Of each plan; sum 1.
    others
        What runs when none of them can.
    """

    shares: Sequence[tuple[Plan, float]]
    others: Sequence[Plan] = ()
    _turns: Turns = field(default_factory=Turns, init=False)

    def next_plan(self, now_s: float, present: frozenset[str]) -> Plan | None:
        """The plan that is furthest behind its share."""
        del now_s
        able = [index for index, (plan, _) in enumerate(self.shares) if present.issuperset(plan.devices)]
        if not able:
            return next((plan for plan in self.others if present.issuperset(plan.devices)), None)
        due = self._turns.due({index: share for index, (_, share) in enumerate(self.shares)})
        chosen = next(index for index in due if index in able)
        self._turns.take(chosen)
        return self.shares[chosen][0]

    def observe(self, report: StepReport) -> None:
        """Nothing is learnt."""


class Clairvoyant:
    """Knows the world.

    Parameters
    ----------
    workload, world, qoe, plans, table
        As for the adapter; ``plans`` are resident.
    window_s, every_s
        As in :func:`dora_nb.simulate`.
    ahead
        Windows that it looks ahead: in training more than one, since a switch has to pay.
    free_changes
        Whether changing plans costs nothing.
    """

    def __init__(
        self,
        workload: Workload,
        world: World,
        qoe: QoE,
        plans: Iterable[Plan],
        *,
        window_s: float,
        every_s: float = 0.0,
        table: CostTable | None = None,
        ahead: int = 1,
        free_changes: bool = False,
    ) -> None:
        self.workload, self.world, self.qoe, self.table = workload, world, qoe, table
        self.plans, self.ahead, self.free_changes = tuple(plans), ahead, free_changes
        self.window = RunningWindow(qoe, window_s, every_s)
        self._until_s = 0.0
        self._policy = Mixed([(self.plans[0], 1.0)], self.plans)
        self._running: Plan | None = None

    def observe(self, report: StepReport) -> None:
        """Keep the ledger."""
        if report.completed:
            self.window.observe(report)

    def next_plan(self, now_s: float, present: frozenset[str]) -> Plan | None:
        """The plan of the policy that the present window runs with."""
        if now_s >= self._until_s:
            self._until_s = (int(now_s / self.window.window_s) + 1) * self.window.window_s
            self._policy = self._best(now_s)
        plan = self._policy.next_plan(now_s, present)
        self._running = plan or self._running
        return plan

    def _best(self, now_s: float) -> Mixed:
        tried = [(self._outcome(shares, now_s), number, shares) for number, shares in enumerate(self._policies())]
        _, _, shares = min(tried)
        return Mixed(shares, self.plans)

    def _policies(self) -> Iterator[Sequence[tuple[Plan, float]]]:
        for plan in self.plans:
            yield [(plan, 1.0)]
        if not self.workload.trains:
            for one, other in itertools.combinations(self.plans, 2):
                for share in SHARES:
                    yield [(one, share), (other, 1 - share)]

    def _outcome(self, shares: Sequence[tuple[Plan, float]], now_s: float) -> tuple[int, float]:
        """Windows that are lost, and energy of a step."""
        end_s = self._until_s + (self.ahead - 1) * self.window.window_s
        record = simulate(
            self.workload,
            self.world.later(now_s),
            Mixed(shares, self.plans),
            self.qoe,
            horizon_s=end_s - now_s,
            window_s=self.window.window_s,
            every_s=self.window.every_s,
            resident=self.plans,
            running=self._running,
            free_changes=self.free_changes,
            table=self.table,
        )
        return self._lost(record, now_s), record.energy_per_step_j

    def _lost(self, record: SimulationRecord, now_s: float) -> int:
        """How many of the windows ahead miss their limits, what is already in the first one counted."""
        lost = 0
        for number in range(self.ahead):
            start_s = self._until_s + (number - 1) * self.window.window_s - now_s
            inside = [step for step in record.steps if start_s < step.end_s <= start_s + self.window.window_s]
            count = len(inside) + (self.window.steps if number == 0 else 0)
            latency_s = sum(step.latency_s for step in inside) + (self.window.latency_s if number == 0 else 0.0)
            energy_j = sum(step.energy_j for step in inside) + (self.window.energy_j if number == 0 else 0.0)
            lost += not (count and self.qoe.keeps_means(latency_s / count, energy_j / count))
        return lost
