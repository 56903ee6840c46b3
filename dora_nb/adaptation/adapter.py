"""The runtime adapter: keeps the QoE with a few resident plans while networks and devices change.

Mechanism (iii) of the paper, our own design. At every step boundary it estimates the present condition from what the
last steps were measured to take, predicts what each resident plan would do in it, and decides how the next steps are
shared out. It is a :class:`~dora_nb.domain.controller.Controller`: it drives the simulator, and is made to drive the
executor as well.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np

from dora_nb.adaptation.estimate import Estimator
from dora_nb.adaptation.log import AdapterEvent, EventKind
from dora_nb.adaptation.mix import cheapest_mix
from dora_nb.adaptation.replanning import Replanner
from dora_nb.adaptation.turns import Turns
from dora_nb.adaptation.window import RunningWindow
from dora_nb.costs.conditions import under
from dora_nb.costs.switching import switch
from dora_nb.costs.table import CostTable, Floats, cost_table
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.composition import Composition
from dora_nb.domain.conditions import Condition, Conditions
from dora_nb.domain.controller import StepReport
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import ROUNDING, QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.units import format_seconds

#: Plans that re-planning added and that are kept at once, beside those given.
MOST_REPLANNED = 3

#: Part of a limit that is always kept in reserve, because a window just missed is a window missed; and what is kept on
#: top while all of a window is ahead, because estimates lag behind and the rest of it may be worse.
RESERVE, MARGIN = 0.03, 0.1

#: In training a switch must save more than it costs by this part of what the present plan takes; and for how many
#: windows the present state is taken to stay as it is, until changes tell otherwise.
WORTH, STAY_WINDOWS = 0.05, 10.0

#: Change of a plan's share that is worth a line in the log.
TELLING_SHARE = 0.1


@dataclass(frozen=True)
class _Outlook:
    """What the resident plans would do now, as arrays over them; infinite where one cannot run."""

    makespan_s: Floats
    energy_j: Floats


class Adapter:
    """Chooses the plan of every step.

    Parameters
    ----------
    workload, cluster
        What runs, and on what.
    qoe
        Limits on the mean latency and energy of every window; the objective is minimised within them.
    plans
        A composition, or resident plans with transfer orders.
    window_s, every_s
        As in :func:`dora_nb.simulate`.
    table
        Compute times as planned; None: the roofline estimate.
    conditions
        What may be met, so that training can keep clear of plans that a change would take the QoE from; None: those of
        a composition, or nothing is known.
    replanner
        Makes plans for states that the resident ones do not master; None: nobody does.
    confirm, forget_s
        See :class:`~dora_nb.adaptation.estimate.Estimator`; None: as long as a window.

    Attributes
    ----------
    log
        What was done, when and why.
    resident
        The plans to choose from.

    Raises
    ------
    InputError
        If there is no plan, or the QoE has limits that the adapter does not keep.
    """

    def __init__(
        self,
        workload: Workload,
        cluster: Cluster,
        qoe: QoE,
        plans: Composition | Iterable[Plan],
        *,
        window_s: float,
        every_s: float = 0.0,
        table: CostTable | None = None,
        conditions: Conditions | None = None,
        replanner: Replanner | None = None,
        confirm: int = 2,
        forget_s: float | None = None,
    ) -> None:
        self.workload, self.cluster, self.qoe = workload, cluster, qoe
        self.table = cost_table(workload, cluster) if table is None else table
        self.resident = list(plans.plans if isinstance(plans, Composition) else plans)
        self.conditions = plans.conditions if conditions is None and isinstance(plans, Composition) else conditions
        if not self.resident:
            raise InputError("plans", (), "at least one plan")
        qoe.check_means_only("the adapter")
        self._given = len(self.resident)
        self.window = RunningWindow(qoe, window_s, every_s)
        self.estimator = Estimator(cluster, confirm=confirm, forget_s=window_s if forget_s is None else forget_s)
        self.replanner = replanner
        self.log: list[AdapterEvent] = []
        self._present: frozenset[str] = frozenset(cluster.device_ids)
        self._changes = 0
        self._running: Plan | None = None
        self._turns = Turns()
        self._told_shares: dict[int, float] = {}
        self._outlooks: dict[Hashable, _Outlook] = {}
        self._switches: dict[Hashable, tuple[float, float]] = {}
        self._risk: Floats | None = None
        self._asked: set[Hashable] = set()
        self._numbers = {id(plan): number for number, plan in enumerate(self.resident, start=1)}
        for plan in self.resident:
            self._note(0.0, "resident", self._described(plan))

    # ------------------------------------------------------------------ the controller

    def observe(self, report: StepReport) -> None:
        """Learn from a step."""
        if report.completed:
            self.window.observe(report)
        changed = self.estimator.observe(report)
        if changed:
            self._changes += 1
            slow = [f"{name} is {_times(self.estimator.channels[name].slowness)}" for name in changed]
            self._note(report.end_s, "change", f"measured: {', '.join(slow)}")

    def next_plan(self, now_s: float, present: frozenset[str]) -> Plan | None:
        """The plan of the next step; None if none can run."""
        self._note_presence(now_s, present)
        self._take_new_plans(now_s)
        for name in self.estimator.forget(now_s):
            self._note(now_s, "change", f"{name} was not measured for long: taken to be as planned again")
        condition = self.estimator.condition([name for name in self.cluster.device_ids if name not in present])
        outlook = self._outlook(condition)
        if not np.isfinite(outlook.makespan_s).any():
            self._ask_for_plans(condition, now_s, "no resident plan can run without the devices that left")
            self._say_once(now_s, "waiting", "no resident plan can run")
            return None
        if self.workload.trains:
            chosen = self._chosen_to_stay(outlook, condition, now_s)
        else:
            chosen = self._chosen_by_shares(outlook, condition, now_s)
        plan = self.resident[chosen]
        before = self._running
        # In inference plans take turns all the time; only that one had to give way is worth a line.
        if before not in (None, plan) and (self.workload.trains or not present.issuperset(before.devices)):
            self._note(now_s, "switch", f"from {self._name(before)} to {self._name(plan)}")
        self._running = plan
        return plan

    # ------------------------------------------------------------------ what is known

    def _note_presence(self, now_s: float, present: frozenset[str]) -> None:
        self._changes += present != self._present
        for name in sorted(self._present - present):
            self._note(now_s, "left", f"{name} is away; going on with a resident plan that does without it")
        for name in sorted(present - self._present):
            self._note(now_s, "back", f"{name} is there again")
        self._present = present

    def _outlook(self, condition: Condition) -> _Outlook:
        """What every resident plan would do in a condition."""
        key = _key(condition)
        if key not in self._outlooks:
            if set(condition.absent_devices) >= set(self.cluster.device_ids):
                nothing = np.full(len(self.resident), math.inf)
                return _Outlook(nothing, nothing)
            place = under(self.cluster, self.table, condition)
            found = [
                place.retimed(plan, self.workload) if self._can_run(plan, condition) else None for plan in self.resident
            ]
            accounting = self.qoe.energy_accounting
            self._outlooks[key] = _Outlook(
                np.array([math.inf if each is None else each.makespan_s for each in found]),
                np.array([math.inf if each is None else each.energy_j(accounting) for each in found]),
            )
        return self._outlooks[key]

    def _can_run(self, plan: Plan, condition: Condition) -> bool:
        ends = [name for name in (self.workload.source, self.workload.sink) if name is not None]
        return not {*plan.devices, *ends} & set(condition.absent_devices)

    def _cost(self, outlook: _Outlook) -> Floats:
        """What is minimised, for every plan."""
        return np.asarray(self.qoe.base(outlook.makespan_s, outlook.energy_j))

    # ------------------------------------------------------------------ the choice

    def _chosen_by_shares(self, outlook: _Outlook, condition: Condition, now_s: float) -> int:
        """Inference: shares of the next steps by the small program, dispatched as evenly as whole steps allow."""
        able = np.flatnonzero(np.isfinite(outlook.makespan_s))
        makespan_s, energy_j = outlook.makespan_s[able], outlook.energy_j[able]
        limits = self._limits_now(now_s, outlook)
        shares = cheapest_mix(self._cost(outlook)[able], [makespan_s, energy_j], limits)
        self._check_reach(outlook, condition, now_s)
        by_plan = dict(zip(able.tolist(), shares.tolist(), strict=True))
        self._tell_shares(by_plan, now_s)
        due, fastest = self._turns.due(by_plan), int(np.argmin(outlook.makespan_s))
        chosen = next((index for index in (*due, fastest) if self._survives(index, outlook, now_s)), due[0])
        self._turns.take(chosen)
        return chosen

    def _survives(self, index: int, outlook: _Outlook, now_s: float) -> bool:
        """Whether a single step of a plan leaves the window to be kept: shares are of many steps, windows hold few."""
        return self.window.survives(now_s, float(outlook.makespan_s[index]), float(outlook.makespan_s.min()))

    def _limits_now(self, now_s: float, outlook: _Outlook) -> tuple[float, float]:
        """Means that steps may have from now on.

        What is left of the window, some of it kept in reserve. Where no plan can still save the window it is given up,
        and what holds for a fresh one counts: haste would take energy and bring nothing.
        """
        able = np.isfinite(outlook.makespan_s)
        latency_s = self.window.latency_left_s(now_s)
        energy_j = self.window.energy_left_j(now_s, float(outlook.makespan_s[able].mean()))
        if outlook.makespan_s.min() > latency_s:
            latency_s = self.qoe.latency_s or math.inf
        if outlook.energy_j.min() > energy_j:
            energy_j = self.qoe.energy_j or math.inf
        tight = 1 - RESERVE - MARGIN * self.window.share_left(now_s)
        return latency_s * tight, energy_j * tight

    def _chosen_to_stay(self, outlook: _Outlook, condition: Condition, now_s: float) -> int:
        """Training: of the plans that lose fewest windows while the present state lasts the one that costs least.

        Both with the switch to it. Limits are kept by whole plans, not by a mix: nothing is held in reserve.
        """
        self._check_reach(outlook, condition, now_s)
        able = np.flatnonzero(np.isfinite(outlook.makespan_s))
        plans = [self.resident[index] for index in able]
        makespan_s, energy_j = outlook.makespan_s[able], outlook.energy_j[able]
        switch_s, switch_j = np.array([self._switch(self._running, plan, condition) for plan in plans]).T
        stay_s = self._stay_s(now_s)
        steps = np.maximum((stay_s - switch_s) / makespan_s, 1.0)
        mean = _Outlook(makespan_s + switch_s / steps, energy_j + switch_j / steps)
        keeps = [self.qoe.keeps_means(*each) for each in zip(makespan_s.tolist(), energy_j.tolist(), strict=True)]
        if any(keeps):
            lost = np.zeros(len(able))
            if self.qoe.limits_means:
                figures = zip(switch_s, switch_j, makespan_s, energy_j, strict=True)
                lost += [self.window.lost_ahead(now_s, stay_s, *map(float, each)) for each in figures]
                lost += self._lost_at_change()[able]
            what = np.where(lost <= lost.min() * (1 + ROUNDING), self._cost(mean), np.inf)
        else:  # beyond the limits whatever comes nearest
            limits = (self.qoe.latency_s or math.inf, self.qoe.energy_j or math.inf)
            what = np.maximum(mean.makespan_s / limits[0], mean.energy_j / limits[1])
        # Another plan must be worth its switch, lest they flap.
        stay = np.array([plan is self._running for plan in plans])
        return int(able[np.argmin(what * (1 - WORTH * stay))])

    def _stay_s(self, now_s: float) -> float:
        """For how long the present state is expected to last: the mean so far, one stay taken for granted."""
        return (STAY_WINDOWS * self.window.window_s + now_s) / (1 + self._changes)

    def _lost_at_change(self) -> Floats:
        """Windows that each resident plan is expected to lose when the state changes the next time.

        None where it keeps the limits in the state that follows, or where no plan does; else the window of the change
        and what the quickest switch takes.
        """
        if self._risk is None:
            self._risk = np.zeros(len(self.resident))
            for condition in () if self.conditions is None else self.conditions.conditions:
                outlook = self._outlook(condition)
                figures = zip(outlook.makespan_s.tolist(), outlook.energy_j.tolist(), strict=True)
                keeps = np.array([math.isfinite(each[0]) and self.qoe.keeps_means(*each) for each in figures])
                for index in np.flatnonzero(~keeps) if keeps.any() else ():
                    ways = (self.resident[other] for other in np.flatnonzero(keeps))
                    quickest_s = min(self._switch(self.resident[index], other, condition)[0] for other in ways)
                    self._risk[index] += condition.probability * (1 + quickest_s / self.window.window_s)
        return self._risk

    def _switch(self, before: Plan | None, plan: Plan, condition: Condition) -> tuple[float, float]:
        """Seconds and joules of going on with another plan; a device that has left hands over before it goes."""
        if before is None or plan is before:
            return 0.0, 0.0
        key = (id(before), id(plan), _key(condition))
        if key not in self._switches:
            place = under(self.cluster, self.table, condition.replace(absent_devices=()))
            cost = switch(before, plan, self.workload, place.cluster, self.qoe.energy_accounting)
            self._switches[key] = (cost.duration_s, cost.energy_j)
        return self._switches[key]

    # ------------------------------------------------------------------ new plans

    def _check_reach(self, outlook: _Outlook, condition: Condition, now_s: float) -> None:
        """Ask for new plans where no mix of the resident ones keeps the limits of a fresh window."""
        if self.replanner is None or _key(condition) in self._asked:
            return
        able = np.isfinite(outlook.makespan_s)
        figures = [outlook.makespan_s[able], outlook.energy_j[able]]
        limits = [self.qoe.latency_s or math.inf, self.qoe.energy_j or math.inf]
        shares = cheapest_mix(self._cost(outlook)[able], figures, limits)
        if any(float(shares @ each) > limit * (1 + ROUNDING) for each, limit in zip(figures, limits, strict=True)):
            self._ask_for_plans(condition, now_s, "no resident plan keeps the limits in the present condition")

    def _ask_for_plans(self, condition: Condition, now_s: float, why: str) -> None:
        if self.replanner is None or _key(condition) in self._asked:
            return
        if set(condition.absent_devices) >= set(self.cluster.device_ids):
            return
        self._asked.add(_key(condition))
        self.replanner.ask(condition.replace(name=format_seconds(now_s)), now_s)
        self._note(now_s, "re-plan", f"asked for: {why}")

    def _take_new_plans(self, now_s: float) -> None:
        found = None if self.replanner is None else self.replanner.poll(now_s)
        if found is None:
            return
        if isinstance(found, str):
            self._note(now_s, "re-plan", f"found nothing: {found}")
            return
        known = {plan.decisions() for plan in self.resident}
        fresh = [plan for plan in found if plan.decisions() not in known]
        if not fresh:
            self._note(now_s, "re-plan", "found nothing better than the resident plans")
            return
        self.resident.extend(fresh)
        for plan in fresh:
            self._numbers[id(plan)] = max(self._numbers.values()) + 1
            self._note(now_s, "resident", self._described(plan))
        oldest = max(len(self.resident) - MOST_REPLANNED, self._given)
        del self.resident[self._given : oldest]
        self._outlooks.clear()
        self._switches.clear()  # a plan that is gone leaves its identity to a later one
        self._risk = None
        self._turns = Turns()  # places in the list have changed

    # ------------------------------------------------------------------ the log

    def _tell_shares(self, by_plan: dict[int, float], now_s: float) -> None:
        shares = {self._numbers[id(self.resident[index])]: share for index, share in by_plan.items() if share > 0}
        told = self._told_shares
        if max(abs(shares.get(each, 0.0) - told.get(each, 0.0)) for each in {*shares, *told}) < TELLING_SHARE:
            return
        self._told_shares = shares
        words = ", ".join(f"{share:.0%} plan {number}" for number, share in shares.items())
        limit_s = self.window.latency_left_s(now_s)
        aim = f", within {format_seconds(limit_s)} a step until the window ends" if math.isfinite(limit_s) else ""
        self._note(now_s, "weights", f"{words}{aim}")

    def _described(self, plan: Plan) -> str:
        label = f" ({plan.label})" if plan.label else ""
        return f"{self._name(plan)} on {', '.join(plan.devices)}{label}"

    def _name(self, plan: Plan) -> str:
        return f"plan {self._numbers[id(plan)]}"

    def _note(self, at_s: float, kind: EventKind, text: str) -> None:
        self.log.append(AdapterEvent(at_s, kind, text))

    def _say_once(self, at_s: float, kind: EventKind, text: str) -> None:
        if not self.log or (self.log[-1].kind, self.log[-1].text) != (kind, text):
            self._note(at_s, kind, text)


def _key(condition: Condition) -> Hashable:
    """What tells two conditions apart."""
    factors = (condition.domain_rate_factors, condition.device_speed_factors)
    return (*(tuple(sorted(each.items())) for each in factors), condition.absent_devices)


def _times(slowness: float) -> str:
    if slowness >= 1:
        return f"{slowness:.2g} times slower than planned" if slowness > 1.05 else "as planned"
    return f"{1 / slowness:.2g} times faster than planned" if slowness < 0.95 else "as planned"
