"""The runtime adapter: keeps the QoE with a few resident plans while networks and devices change.

Mechanism (iii) of the paper, our own design. At every step boundary it estimates the present condition from what the
last steps were measured to take, predicts what each resident plan would do in it, and decides how the next steps are
shared out. It is a :class:`~dora_nb.domain.controller.Controller`: it drives the simulator, and is made to drive the
executor as well.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable

import numpy as np

from dora_nb.adaptation.estimate import Estimator
from dora_nb.adaptation.log import AdapterEvent, EventKind
from dora_nb.adaptation.outlook import Forecast, Outlook, Surprises, key_of
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
MOST_REPLANNED = 8

#: Part of a limit that is kept in reserve, because a window just missed is a window missed.
RESERVE = 0.03

#: That, and what is kept on top while all of a window is ahead, because estimates lag behind and the rest of it may be
#: worse; in calm times, and where conditions are known to change or something has got slow or left lately. Tuned, like
#: the next three, on other worlds than the benchmark's.
CALM, RESTLESS = (RESERVE, 0.1), (0.08, 0.5)

#: How much a surprise counts against what is expected where neither is sure to leave the window to be kept.
SURPRISE = 0.2

#: Windows after which a channel that was not measured is taken to be as planned again.
FORGET_WINDOWS = 2.5

#: Windows for which what has happened once is expected to happen again.
MEMORY_WINDOWS = 10.0

#: In training a switch must save more than it costs by this part of what the present plan takes; and for how many
#: windows the present state is taken to stay as it is, until changes tell otherwise.
WORTH, STAY_WINDOWS = 0.05, 10.0

#: Change of a plan's share that is worth a line in the log; and so many times the limit do not tell anything any more.
TELLING_SHARE, TELLING_TIMES = 0.1, 10.0


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
        See :class:`~dora_nb.adaptation.estimate.Estimator`. None: one measurement makes a change (in training, where
        acting on chance costs a switch: two in a row), and it is forgotten after two and a half windows.

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
        confirm: int | None = None,
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
        self.estimator = Estimator(
            cluster,
            confirm=(2 if workload.trains else 1) if confirm is None else confirm,
            forget_s=FORGET_WINDOWS * window_s if forget_s is None else forget_s,
        )
        self.replanner = replanner
        self.log: list[AdapterEvent] = []
        self._present: frozenset[str] = frozenset(cluster.device_ids)
        self._changes = 0
        self.forecast = Forecast(workload, cluster, self.table, qoe)
        self.surprises = Surprises(self.estimator.domains, MEMORY_WINDOWS * window_s)
        self._running: Plan | None = None
        self._turns = Turns()
        self._told_shares: dict[int, float] = {}
        self._switches: dict[Hashable, tuple[float, float]] = {}
        self._risk: Floats | None = None
        self._asked: set[Hashable] = set()
        self._waits_for_plans, self._met = False, key_of(self.estimator.condition())
        self._numbers = {id(plan): number for number, plan in enumerate(self.resident, start=1)}
        for plan in self.resident:
            self._note(0.0, "resident", self._described(plan))

    # ------------------------------------------------------------------ the controller

    def observe(self, report: StepReport) -> None:
        """Learn from a step."""
        if report.completed:
            self.window.observe(report)
        changed = self.estimator.observe(report)
        for name in changed:
            self.surprises.note_slow(name, self.estimator.channels[name].slowness, report.end_s)
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
            chosen = self._chosen_by_shares(outlook, now_s)
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
            self.surprises.note_left(name, now_s)
            self._note(now_s, "left", f"{name} is away; going on with a resident plan that does without it")
        for name in sorted(present - self._present):
            self._note(now_s, "back", f"{name} is there again")
        self._present = present

    def _outlook(self, condition: Condition) -> Outlook:
        return self.forecast.of(self.resident, condition)

    # ------------------------------------------------------------------ the choice

    def _chosen_by_shares(self, outlook: Outlook, now_s: float) -> int:
        """Inference: shares of the next steps by the small program, dispatched as evenly as whole steps allow."""
        self._check_reach(outlook, now_s)
        shares = outlook.mix(*self._limits_now(now_s, outlook))
        self._tell_shares(shares, now_s)
        chosen = self._first_safe(self._turns.due(shares), outlook, now_s)
        self._turns.take(chosen)
        return chosen

    def _first_safe(self, due: list[int], outlook: Outlook, now_s: float) -> int:
        """The plan whose turn it is, unless a single step of it, or a surprise meanwhile, could cost the window.

        Shares are of many steps and of a world that stays as it is; windows hold few and the world does not stay. Of
        the other plans the cheapest does that is safe; if none is, the one that comes nearest, surprises counted less
        than what is expected. A window that haste cannot save is given up.
        """
        if not self.window.survives(now_s, outlook.fastest_s, outlook.fastest_s):
            return due[0]
        after = [self._outlook(each) for each in self.surprises.after(outlook.condition, now_s)]
        rounding_s, risks = (self.qoe.latency_s or 0.0) * ROUNDING, dict[int, tuple[bool, float]]()
        for index in dict.fromkeys((*due, *outlook.by_cost)):
            expected_s = self._short_s(index, outlook, outlook, now_s)
            surprised_s = [self._short_s(index, outlook, each, now_s) for each in after]
            if max(expected_s, *surprised_s, -math.inf) <= rounding_s:
                return index
            risks[index] = expected_s > rounding_s, expected_s + SURPRISE * float(np.mean(surprised_s or [0.0]))
        return min(risks, key=lambda index: risks[index])

    def _short_s(self, index: int, expected: Outlook, case: Outlook, now_s: float) -> float:
        """By how much the window is missed if a plan runs, things turn out to be otherwise, and haste follows."""
        rest_s, step_s = case.fastest_s, float(case.makespan_s[index])
        if math.isinf(rest_s):
            return -math.inf  # nothing can be done about it
        if math.isinf(step_s):  # its device leaves
            return self.window.short_s(now_s, rest_s, rest_s, lost_s=float(expected.makespan_s[index]))
        return self.window.short_s(now_s, step_s, rest_s)

    def _limits_now(self, now_s: float, outlook: Outlook) -> tuple[float, float]:
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
        reserve, margin = RESTLESS if self.surprises.any or self.conditions is not None else CALM
        tight = 1 - reserve - margin * self.window.share_left(now_s)
        return latency_s * tight, energy_j * tight

    def _chosen_to_stay(self, outlook: Outlook, condition: Condition, now_s: float) -> int:
        """Training: of the plans that lose fewest windows while the present state lasts the one that costs least.

        Both with the switch to it. Limits are kept by whole plans, not by a mix: nothing is held in reserve.
        """
        self._check_reach(outlook, now_s)
        able = np.flatnonzero(np.isfinite(outlook.makespan_s))
        plans = [self.resident[index] for index in able]
        makespan_s, energy_j = outlook.makespan_s[able], outlook.energy_j[able]
        switch_s, switch_j = np.array([self._switch(self._running, plan, condition) for plan in plans]).T
        stay_s = self._stay_s(now_s)
        steps = np.maximum((stay_s - switch_s) / makespan_s, 1.0)
        mean = Outlook(condition, self.qoe, makespan_s + switch_s / steps, energy_j + switch_j / steps)
        keeps = [self.qoe.keeps_means(*each) for each in zip(makespan_s.tolist(), energy_j.tolist(), strict=True)]
        if any(keeps):
            lost = np.zeros(len(able))
            if self.qoe.limits_means:
                figures = zip(switch_s, switch_j, makespan_s, energy_j, strict=True)
                lost += [self.window.lost_ahead(now_s, stay_s, *map(float, each)) for each in figures]
                lost += self._lost_at_change()[able]
            what = np.where(lost <= lost.min() * (1 + ROUNDING), mean.cost, np.inf)
        else:  # out of reach: neither haste nor thrift at any price, but the least product of delay and energy
            what = mean.makespan_s * mean.energy_j
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
        key = (id(before), id(plan), key_of(condition))
        if key not in self._switches:
            place = under(self.cluster, self.table, condition.replace(absent_devices=()))
            cost = switch(before, plan, self.workload, place.cluster, self.qoe.energy_accounting)
            self._switches[key] = (cost.duration_s, cost.energy_j)
        return self._switches[key]

    # ------------------------------------------------------------------ new plans

    def _check_reach(self, outlook: Outlook, now_s: float) -> None:
        """Ask for new plans where no mix of the resident ones keeps the limits, now or after a surprise."""
        stays, self._met = key_of(outlook.condition) == self._met, key_of(outlook.condition)
        if not outlook.in_reach:
            self._ask_for_plans(outlook.condition, now_s, "no resident plan keeps the limits in the present condition")
        elif self.replanner is not None and stays and not self._waits_for_plans:
            after = (each for each in self.surprises.after(outlook.condition, now_s) if key_of(each) not in self._asked)
            short = next((each for each in after if not self._outlook(each).in_reach), None)
            if short is not None:
                self._ask_for_plans(short, now_s, "to be prepared for what has been seen before")

    def _ask_for_plans(self, condition: Condition, now_s: float, why: str) -> None:
        if self.replanner is None or key_of(condition) in self._asked:
            return
        if set(condition.absent_devices) >= set(self.cluster.device_ids):
            return
        self._asked.add(key_of(condition))
        self._waits_for_plans = True
        self.replanner.ask(condition.replace(name=format_seconds(now_s)), now_s)
        self._note(now_s, "re-plan", f"asked for: {why}")

    def _take_new_plans(self, now_s: float) -> None:
        found = None if self.replanner is None else self.replanner.poll(now_s)
        if found is None:
            return
        self._waits_for_plans = False
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
        self.forecast.forget()
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
        words = ", ".join(f"{100 * share:.0f} % plan {number}" for number, share in shares.items())
        limit_s = self.window.latency_left_s(now_s)
        tells = limit_s < TELLING_TIMES * (self.qoe.latency_s or 0.0)
        aim = f", within {format_seconds(limit_s)} a step until the window ends" if tells else ""
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


def _times(slowness: float) -> str:
    if slowness >= 1:
        return f"{slowness:.2g} times slower than planned" if slowness > 1.05 else "as planned"
    return f"{1 / slowness:.2g} times faster than planned" if slowness < 0.95 else "as planned"
