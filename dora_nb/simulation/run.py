"""Many steps one after the other, each with the plan that a controller chooses, while the world changes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dora_nb.costs.table import CostTable, cost_table
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.composition import Composition
from dora_nb.domain.controller import Controller, Static, StepReport
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError, UnknownNameError
from dora_nb.simulation.batteries import Batteries
from dora_nb.simulation.clock import StepResult
from dora_nb.simulation.composed import Composed
from dora_nb.simulation.engine import Sharing, run_step
from dora_nb.simulation.record import PlanChange, SimulationRecord, Waiting, ledger
from dora_nb.simulation.residency import Residency
from dora_nb.simulation.steps import StepModel
from dora_nb.simulation.world import State, World
from dora_nb.units import format_seconds


def simulate(
    workload: Workload,
    world: World,
    controller: Controller | Plan | Composition,
    qoe: QoE | None = None,
    *,
    horizon_s: float,
    window_s: float,
    every_s: float = 0.0,
    resident: Iterable[Plan] = (),
    running: Plan | None = None,
    free_changes: bool = False,
    table: CostTable | None = None,
    sharing: Sharing = "ordered",
    battery_j: Mapping[str, float] | None = None,
) -> SimulationRecord:
    """Run steps until the time is over.

    A device that leaves stops computing at once, and the step is lost; in training it hands its state over before it
    goes (our own reading: leaving is announced, as in :func:`~dora_nb.domain.conditions.handover`). A step under way
    at the end is cut off and not counted. In inference a plan that was never resident first moves the parameters that
    its devices lack; where memory is short, the plans that were not used for longest make room.

    A device with a battery draws from it what :class:`~dora_nb.domain.qoe.QoE` counts as a battery's: idling, and what
    computing takes above that; what radios and ports take is in nobody's battery, since joules per byte are known for
    all of them together. Under ``participating`` a device idles while a plan of its runs, and while that plan is
    changed for or from another; under ``all-on`` for all the time it is there. A change of plans is taken from
    batteries in the same way: its devices idle through it, and its bytes are in nobody's battery. Whose battery is
    empty leaves at that moment and never returns; the step under way is lost if it needs the device. When that is
    follows from our own simplification that a step draws evenly from its start to its end, so what is lost has drawn
    the part of the whole step's energy that its time is of the whole step's. A change of plans under way is carried
    through, as for any device that leaves, but an empty battery gives nothing for it.

    Parameters
    ----------
    workload
        What every step is.
    world
        The cluster and its changes; the last values hold where a trace has ended.
    controller
        Chooses the plans. A plan alone: always that one. A composition: its plans, all resident, in the order of the
        condition that holds, which it is told (see :class:`~dora_nb.simulation.composed.Composed`).
    qoe
        What is to be kept in every window; None: what a composition was made for, else nothing.
    horizon_s, window_s
        How long to go on, and how long a window of the ledger is.
    every_s
        A step is asked for every so many seconds and waits for those before it; 0: the next one as soon as one ends.
    resident
        Plans whose parameters are in place from the start (inference); the first that runs always is.
    running
        The plan that ran before; None: none did, and the first one costs nothing to begin with.
    free_changes
        Whether changing plans costs nothing, for comparisons.
    table
        Compute times without any influence; None: the roofline estimate.
    sharing
        ``ordered``: transfers in each plan's own order. ``fair``: nobody schedules them, the airtime is shared fairly.
    battery_j
        Joules that each device named has at the start; the others are on mains. None: all are.

    Returns
    -------
    SimulationRecord

    Raises
    ------
    UnknownNameError
        If a battery is of a device that the cluster does not have.
    InputError
        If something else given cannot be used.
    """
    if workload.mode == "stream":
        allowed = "training, inference or generate; requests that overlap are played by play_stream()"
        raise InputError("workload.mode", "stream", allowed)
    for name, value in (("horizon_s", horizon_s), ("window_s", window_s)):
        if not 0 < value < math.inf:
            raise InputError(name, value, "more than 0 seconds, and finite")
    if not 0 <= every_s < math.inf:
        raise InputError("every_s", every_s, "0 seconds or more, and finite")
    for name, value in (battery_j or {}).items():
        if name not in world.cluster.device_ids:
            raise UnknownNameError("battery_j", name, world.cluster.device_ids)
        if not 0 < value < math.inf:
            allowed = "more than 0 joules, and finite; what is on mains is not named"
            raise InputError(f"battery_j.{name}", value, allowed)
    if isinstance(controller, Plan):
        controller = Static(controller)
    elif isinstance(controller, Composition):
        qoe, resident = qoe or controller.qoe, [*controller.plans, *resident]
        controller = Composed(controller, world)
    table = cost_table(workload, world.cluster) if table is None else table
    run = Run(
        workload,
        world,
        controller,
        QoE() if qoe is None else qoe,
        horizon_s,
        every_s,
        Residency(workload, world.cluster, table, resident, free_changes),
        running,
        table,
        sharing,
        dict(battery_j or {}),
    )
    run.go()
    return run.record(window_s)


@dataclass
class Run:
    """A simulated run under way: what happened so far, and the state of things; see :func:`simulate`.

    Attributes
    ----------
    workload, world, controller, qoe
        What is done where, who chooses the plans, and what is to be kept.
    horizon_s, every_s
        How long it goes on, and how far apart steps are asked for; 0: each as the one before ends.
    residency
        Plans whose parameters are in place.
    plan
        The one that runs.
    table, sharing
        Compute times without any influence, and how transfers share the network.
    battery_j
        Joules of batteries at the start.
    now_s
        The time.
    steps, lost, changes, waits
        What happened so far.
    asked_s
        When steps were asked for.
    dynamic_j, participating_idle_j
        Joules above idling, and of the running plans' devices idling.
    events
        Events of the simulator.
    """

    workload: Workload
    world: World
    controller: Controller
    qoe: QoE
    horizon_s: float
    every_s: float
    residency: Residency
    plan: Plan | None
    table: CostTable
    sharing: Sharing
    battery_j: Mapping[str, float] = field(default_factory=dict)
    now_s: float = 0.0
    steps: list[StepReport] = field(default_factory=list)
    lost: list[StepReport] = field(default_factory=list)
    changes: list[PlanChange] = field(default_factory=list)
    waits: list[Waiting] = field(default_factory=list)
    asked_s: list[float] = field(default_factory=list)
    dynamic_j: float = 0.0
    participating_idle_j: float = 0.0
    events: int = 0

    def __post_init__(self) -> None:
        self.cluster: Cluster = self.world.cluster
        self.names = (*self.cluster.device_ids, *(domain.id for domain in self.cluster.domains))
        self.models: dict[int, StepModel] = {}
        self.replays: dict[tuple[int, State], StepResult] = {}
        self.batteries: Batteries | None = None
        if self.battery_j:
            self.batteries = Batteries(self.battery_j, self.world, self.qoe, self.horizon_s)

    def go(self) -> None:
        """Step after step, each asked for in its turn."""
        for number in itertools.count():
            arrival_s = number * self.every_s if self.every_s else self.now_s
            if max(arrival_s, self.now_s) >= self.horizon_s:
                return
            self.now_s = max(self.now_s, arrival_s)
            self.asked_s.append(arrival_s)
            while not self._step(arrival_s):
                if self.now_s >= self.horizon_s:
                    return

    def _step(self, arrival_s: float) -> bool:
        """Try to complete one step; whether it was."""
        self._draw(self.now_s)
        present = self._present()
        plan = self.controller.next_plan(self.now_s, present)
        if plan is None or not present.issuperset(self.needed(plan)):
            there = f"there were {', '.join(sorted(present)) or 'no devices'}"
            self._wait(f"no plan could run; {there}{self._empty_words()}")
            return False
        self._change_to(plan)
        self.residency.note_memory(plan)
        if self.now_s >= self.horizon_s:
            return False
        result = self._run(self.model(plan))
        if self.batteries is not None:
            result, spent = self.batteries.cut(self.needed(plan), plan.devices, result)
            self._draw(result.end_s, plan.devices, result.busy_s, spent)
        self.now_s = result.end_s
        self.events += result.events
        dynamic_j = self.above_idling_j(result)
        self.dynamic_j += dynamic_j
        self.participating_idle_j += self._idle_w(plan) * result.duration_s
        if result.lost_to == "":
            if result.end_s < self.horizon_s:
                self.waits.append(Waiting(result.end_s, self.horizon_s, "nothing moved any more"))
            self.now_s = self.horizon_s
            return False
        report = self.report(plan, arrival_s, result, dynamic_j)
        (self.steps if report.completed else self.lost).append(report)
        self.controller.observe(report)
        return report.completed

    def _present(self) -> frozenset[str]:
        there = self.world.states[self.world.index_at(self.now_s)].present
        return frozenset(name for name, here in zip(self.cluster.device_ids, there, strict=True) if here)

    def needed(self, plan: Plan) -> list[str]:
        """Devices that a step of a plan needs."""
        return [self.cluster.device_ids[place] for place in self.model(plan).devices]

    def _wait(self, why: str) -> None:
        """Until something changes."""
        row = self.world.index_at(self.now_s) + 1
        until_s = float(self.world.times_s[row]) if row < len(self.world.times_s) else self.horizon_s
        until_s = min(until_s, self.horizon_s)
        if self.batteries is not None:
            until_s = min(until_s, self.batteries.next_s())
        if self.waits and self.waits[-1].end_s == self.now_s and self.waits[-1].why == why:
            self.waits[-1] = replace(self.waits[-1], end_s=until_s)
        else:
            self.waits.append(Waiting(self.now_s, until_s, why))
        self.now_s = until_s

    def _draw(
        self, until_s: float, idling: Collection[str] = (), busy_s: Sequence[float] = (), spent: str | None = None
    ) -> float:
        """Draw from batteries, if there are any, see there; whose is empty is not there any more."""
        if self.batteries is None:
            return 0.0
        missing_j = self.batteries.draw(until_s, idling, busy_s, spent)
        self.world = self.batteries.world
        return missing_j

    def _empty_words(self) -> str:
        """What to add where nothing can run: whose batteries are empty."""
        names = [] if self.batteries is None else list(self.batteries.empty_s)
        if len(names) > 1:
            return f"; the batteries of {', '.join(names[:-1])} and {names[-1]} are empty"
        return f"; the battery of {names[0]} is empty" if names else ""

    def _change_to(self, plan: Plan) -> None:
        """Go on with a plan, and pay for what has to change place."""
        before, self.plan = self.plan, plan
        if plan is before:
            return
        cost = self.residency.change(before, plan, self.world.states[self.world.index_at(self.now_s)])
        if before is None or plan.decisions() == before.decisions():
            return
        counted = {*before.devices, *plan.devices}
        idle_w = sum(self.cluster.device(name).idle_w for name in counted)
        missing_j = self._draw(self.now_s + cost.duration_s, counted)
        energy_j = cost.energy_j - missing_j
        self.changes.append(PlanChange(self.now_s, before, plan, cost.size_bytes, cost.duration_s, energy_j))
        self.participating_idle_j += idle_w * cost.duration_s - missing_j
        self.dynamic_j += cost.energy_j - idle_w * cost.duration_s
        self.now_s = min(self.now_s + cost.duration_s, self.horizon_s)

    def model(self, plan: Plan) -> StepModel:
        """A plan's step, made once."""
        if id(plan) not in self.models:
            self.models[id(plan)] = StepModel(plan, self.workload, self.cluster, self.table)
        return self.models[id(plan)]

    def _run(self, model: StepModel) -> StepResult:
        """Simulate a step, or repeat one that met the same state and no change."""
        row = self.world.index_at(self.now_s)
        key = (id(model), self.world.states[row])
        change_s = float(self.world.times_s[row + 1]) if row + 1 < len(self.world.times_s) else math.inf
        known = self.replays.get(key)
        if known is not None and self.now_s + known.duration_s < min(change_s, self.horizon_s):
            return replace(known, start_s=self.now_s, end_s=self.now_s + known.duration_s)
        result = run_step(model, self.world, self.now_s, sharing=self.sharing, until_s=self.horizon_s)
        if result.completed and result.end_s < change_s:
            self.replays[key] = result
        return result

    def above_idling_j(self, result: StepResult) -> float:
        """Joules that a step takes above idling."""
        computing = sum(
            (device.active_w - device.idle_w) * busy_s
            for device, busy_s in zip(self.cluster.devices, result.busy_s, strict=True)
        )
        return computing + result.network_j

    def _idle_w(self, plan: Plan) -> float:
        return sum(self.cluster.device(name).idle_w for name in plan.devices)

    def report(self, plan: Plan, arrival_s: float, result: StepResult, dynamic_j: float) -> StepReport:
        """What is told of a step."""
        idle_w = self._idle_w(plan)
        if self.qoe.energy_accounting == "all-on":
            gone = {} if self.batteries is None else self.batteries.empty_s
            out = {name for name, empty_s in gone.items() if empty_s <= result.start_s}
            idle_w = sum(device.idle_w for device in self.cluster.devices if device.id not in out)
        told = [place for place, work_s in enumerate(result.work_s) if work_s > 0]
        return StepReport(
            plan,
            arrival_s,
            result.start_s,
            result.end_s,
            result.lost_to,
            dynamic_j + idle_w * result.duration_s,
            {self.names[place]: result.work_s[place] for place in told},
            {self.names[place]: result.took_s[place] for place in told},
        )

    def record(self, window_s: float) -> SimulationRecord:
        """Everything that happened."""
        self._draw(self.horizon_s)
        self.steps.sort(key=lambda step: step.end_s)
        notes = []
        if self.world.known_until_s < self.horizon_s:
            at = format_seconds(self.world.known_until_s)
            notes.append(f"a trace ends at {at}; from then on its last value was held")
        left_j = {}
        if self.batteries is not None:
            left_j = {name: self.batteries.left_j(name) for name in self.battery_j}
            for name, empty_s in sorted(self.batteries.empty_s.items(), key=lambda each: each[1]):
                notes.append(f"the battery of {name} was empty at {format_seconds(empty_s)}")
        return SimulationRecord(
            qoe=self.qoe,
            horizon_s=self.horizon_s,
            window_s=window_s,
            steps=tuple(self.steps),
            lost=tuple(self.lost),
            changes=tuple(self.changes),
            waits=tuple(self.waits),
            windows=ledger(self.steps, self.asked_s, self.qoe, window_s, self.horizon_s),
            energy_participating_j=self.dynamic_j + self.participating_idle_j,
            energy_all_on_j=self.dynamic_j + self._all_idle_j(),
            events=self.events,
            notes=tuple(notes),
            battery_left_j=left_j,
            peak_memory_bytes=dict(zip(self.cluster.device_ids, self.residency.peak_bytes.tolist(), strict=True)),
        )

    def _all_idle_j(self) -> float:
        """Joules of every device idling while it is there."""
        total_j, until = 0.0, [*self.world.times_s[1:].tolist(), math.inf]
        for start_s, end_s, state in zip(self.world.times_s.tolist(), until, self.world.states, strict=True):
            lasted_s = min(end_s, self.horizon_s) - start_s
            if lasted_s <= 0:
                break
            there = zip(self.cluster.devices, state.present, strict=True)
            total_j += lasted_s * sum(device.idle_w for device, here in there if here)
        return total_j
