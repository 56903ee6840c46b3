"""Any sets of layers on every device: a deterministic local search, then an assignment program as proof."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from dora_nb import solvers
from dora_nb.costs.placement import evaluate_placement
from dora_nb.domain.placement import PlacedStage
from dora_nb.domain.problem import MeasuredProblem
from dora_nb.errors import InfeasibleError
from dora_nb.formulation.placement.downsets import Units
from dora_nb.formulation.placement.program import Assignment, assignment_model
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.placement.device_states import MOST_STATES, States
from dora_nb.planning.placement.found import Found
from dora_nb.planning.placement.in_order import place_along_orders
from dora_nb.planning.placement.work_bound import period_bound
from dora_nb.solvers import SolverChoice

Progress = Callable[[str], None]

#: Changes that are tried from each start: for every unit and device, but not more than so many; then for every unit.
_TRIES_PER_PLACE, _TRIES, _TRIES_PER_UNIT = 100, 12_000, 40

#: Runs from each start: changes that a run looks back, and its share of the tries.
_RUNS = ((50, 0.25), (50, 0.25), (1000, 0.5))

#: Variables beyond which the program is not asked: its relaxation alone would take longer than anybody waits.
_MOST_VARIABLES = 60_000

#: Seconds that the program gets even if time is up: what a solver's presolve alone may prove.
_LEAST_PROOF_S = 0.1


def place_anywhere(
    problem: MeasuredProblem, gap: float, deadline: Deadline, solver: SolverChoice, say: Progress
) -> Found:
    """The best assignment of groups of layers to devices.

    Parameters
    ----------
    problem
        In measured numbers.
    gap
        Relative gap that is good enough.
    deadline
        When to stop.
    solver, say
        Who solves the programs, and who is told about each step.

    Raises
    ------
    InfeasibleError
        If nothing fits, or nothing was found that does.
    """
    units = Units.of(problem, ordered=False)
    assignment = Assignment.of(problem, units)
    say("moving layers between devices")
    homes = _search(problem, assignment, deadline)
    value = np.inf if homes is None else evaluate_placement(problem, _stages(problem, units, assignment, homes)).value_s
    bound = period_bound(problem, units, value)
    method, stopped = "local search; bounds on shared work and heavy layers", False
    if homes is None or value - bound > gap * value:
        if assignment.variables > _MOST_VARIABLES:
            say(f"the assignment program would have {assignment.variables:,} variables: left out")
        else:
            say("the assignment program")
            outcome = _prove(assignment, value, gap, deadline, solver)
            method = f"local search and assignment program on {outcome.solver}"
            stopped = outcome.status in (solvers.Status.FEASIBLE, solvers.Status.NO_INCUMBENT)
            if outcome.status is solvers.Status.INFEASIBLE:
                if homes is None:
                    raise InfeasibleError(f"{problem.name}: No placement fits the devices. Give more memory or devices")
                bound = value * (1 - gap)  # the program looks only for what is better by more than the gap
            elif outcome.bound is not None:
                bound = max(bound, outcome.bound)
            if outcome.status.has_incumbent:
                better = assignment.decode(outcome.values["on"])
                found = evaluate_placement(problem, _stages(problem, units, assignment, better))
                if not found.broken and found.value_s < value:
                    homes, value = better, found.value_s
    if homes is None:
        raise InfeasibleError(f"{problem.name}: No placement that fits the devices was found in time; give more time")
    stages = _stages(problem, units, assignment, homes)
    scope = f"any sets of {len(units.layers)} units on a device"
    return Found(stages, value, min(bound, value), scope, method, stopped)


def _prove(
    assignment: Assignment, value: float, gap: float, deadline: Deadline, solver: SolverChoice
) -> solvers.Outcome:
    model = assignment_model(assignment, value * (1 - gap))
    options = solvers.Options(time_limit_s=deadline.grant_s(_LEAST_PROOF_S), mip_gap=gap, seed=1)
    return solvers.solve(model, options, solver=solver)


def _stages(
    problem: MeasuredProblem, units: Units, assignment: Assignment, homes: list[int]
) -> tuple[PlacedStage, ...]:
    """The layers of every device that has some."""
    stages = []
    for device, kind in enumerate(assignment.kind):
        layers = sorted(layer for unit, home in enumerate(homes) if home == device for layer in units.layers[unit])
        if layers:
            names = tuple(problem.layers[layer].name for layer in layers)
            stages.append(PlacedStage(layers=names, device=problem.devices[kind].type))
    return tuple(stages)


# ---------------------------------------------------------------------- local search


def _search(problem: MeasuredProblem, assignment: Assignment, deadline: Deadline) -> list[int] | None:
    """The best assignment that changing one or two units at a time leads to, from several starts."""
    best, value = None, np.inf
    for start in _starts(problem, assignment):
        for seed, (memory, share) in enumerate(_RUNS):
            loads = _Loads(problem, assignment, start)
            found, homes = _improve(loads, random.Random(seed), memory, share, deadline)
            if found < value:
                best, value = homes, found
    return best


def _starts(problem: MeasuredProblem, assignment: Assignment) -> list[list[int]]:
    """Contiguous stages, where they are few enough to be found, and heavy units first to where they add least."""
    starts = [_greedy(assignment)]
    ordered = problem.replace(execution=problem.execution.replace(stages="contiguous"))
    if States.number(ordered) * (len(assignment.units.layers) + 1) <= MOST_STATES // 20:
        stages = place_along_orders(ordered)
        if stages is not None:
            starts.insert(0, _homes_of(problem, assignment, stages))
    return starts


def _homes_of(problem: MeasuredProblem, assignment: Assignment, stages: tuple[PlacedStage, ...]) -> list[int]:
    free = [
        [device for device, kind in enumerate(assignment.kind) if kind == index]
        for index in range(len(problem.devices))
    ]
    types = [device.type for device in problem.devices]
    home: dict[str, int] = {}
    for stage in stages:
        home |= dict.fromkeys(stage.layers, free[types.index(stage.device)].pop(0))
    return [home[problem.layers[layers[0]].name] for layers in assignment.units.layers]


def _greedy(assignment: Assignment) -> list[int]:
    """Longest units first, each to the device that is done soonest with it and has room."""
    homes = [0] * len(assignment.units.layers)
    busy, room = [0.0] * len(assignment.kind), list(assignment.memory)
    least = assignment.time_s.min(axis=1)
    for unit in sorted(range(len(homes)), key=lambda unit: (-least[unit], unit)):
        need = float(assignment.bytes[unit])
        able = [device for device in range(len(busy)) if np.isfinite(assignment.time_s[unit, device])]
        device = min(able, key=lambda each: (room[each] < need, busy[each] + assignment.time_s[unit, each], each))
        homes[unit] = device
        busy[device] += float(assignment.time_s[unit, device])
        room[device] -= need
    return homes


class _Loads:
    """What every device takes, kept up to date as units move."""

    def __init__(self, problem: MeasuredProblem, assignment: Assignment, homes: list[int]) -> None:
        self.assignment = assignment
        self.homes = list(homes)
        self.overlap = problem.execution.overlap
        count = len(assignment.kind)
        self.time_s: list[list[float]] = assignment.time_s.tolist()
        self.bytes: list[float] = assignment.bytes.tolist()
        self.room = list(assignment.memory)
        self.busy, self.received, self.sent = [0.0] * count, [0.0] * count, [0.0] * count
        self.on: list[list[int]] = [[] for _ in range(count)]
        for unit, device in enumerate(homes):
            self.busy[device] += self.time_s[unit][device]
            self.room[device] -= self.bytes[unit]
            self.on[device].append(unit)
        self.users: list[dict[int, int]] = []
        self.tensors = assignment.tensors
        self.touching: list[list[int]] = [[] for _ in homes]
        for index, tensor in enumerate(self.tensors):
            where: dict[int, int] = {}
            for unit in tensor.consumers:
                where[homes[unit]] = where.get(homes[unit], 0) + 1
                self.touching[unit].append(index)
            self.touching[tensor.producer].append(index)
            self.users.append(where)
            self._count(index, 1.0)

    @property
    def fits(self) -> bool:
        """Whether memory is enough everywhere and every unit can run where it is."""
        able = all(self.time_s[unit][device] < np.inf for unit, device in enumerate(self.homes))
        return able and min(self.room) >= 0

    def _count(self, index: int, sign: float) -> None:
        tensor, users = self.tensors[index], self.users[index]
        home, away = self.homes[tensor.producer], False
        for device in users:
            if device != home:
                away = True
                self.received[device] += sign * tensor.enter_s[device]
        if away:
            self.sent[home] += sign * tensor.leave_s[home]

    def load(self, device: int) -> float:
        """Seconds of one device."""
        busy, received, sent = self.busy[device], self.received[device], self.sent[device]
        if self.overlap == "none":
            return busy + received + sent
        return max(busy, received + sent) if self.overlap == "half-duplex" else max(busy, received, sent)

    def loads(self) -> list[float]:
        """Seconds of every device."""
        return [self.load(device) for device in range(len(self.busy))]

    def move(self, unit: int, device: int) -> None:
        """Move a unit."""
        old = self.homes[unit]
        for index in self.touching[unit]:
            self._count(index, -1.0)
        self.homes[unit] = device
        for index in self.touching[unit]:
            if unit != self.tensors[index].producer:
                users = self.users[index]
                users[old] -= 1
                if not users[old]:
                    del users[old]
                users[device] = users.get(device, 0) + 1
            self._count(index, 1.0)
        self.busy[old] -= self.time_s[unit][old]
        self.busy[device] += self.time_s[unit][device]
        self.room[old] += self.bytes[unit]
        self.room[device] -= self.bytes[unit]
        self.on[old].remove(unit)
        self.on[device].append(unit)


def _improve(
    loads: _Loads, dice: random.Random, length: int, share: float, deadline: Deadline
) -> tuple[float, list[int]]:
    """Late acceptance: a change is kept if it is no worse than what was some changes ago (Burke and Bykov, 2017)."""
    count, devices = len(loads.homes), len(loads.busy)
    best, homes = (max(loads.loads()) if loads.fits else np.inf), list(loads.homes)
    if devices == 1:
        return best, homes
    tries = max(min(_TRIES_PER_PLACE * count * devices, _TRIES), _TRIES_PER_UNIT * count)
    current = _cost(loads)
    memory = [current] * length
    for turn in range(int(tries * share)):
        if turn % 256 == 0 and deadline.passed:
            break
        every = loads.loads()
        worst = every.index(max(every)) if dice.random() < 0.5 else dice.randrange(devices)
        if not loads.on[worst]:
            continue
        unit = dice.choice(loads.on[worst])
        other = dice.randrange(devices - 1)
        other += other >= worst
        back = [(unit, worst)]
        partner = None
        if loads.on[other] and dice.random() < 0.6:
            partner = dice.choice(loads.on[other])
            back.append((partner, other))
        if loads.time_s[unit][other] == np.inf or (partner is not None and loads.time_s[partner][worst] == np.inf):
            continue
        loads.move(unit, other)
        if partner is not None:
            loads.move(partner, worst)
        cost = _cost(loads)
        late = memory[turn % len(memory)]
        if cost <= current or cost <= late:
            current = cost
            if cost[0] < best and min(loads.room) >= 0:
                best, homes = cost[0], list(loads.homes)
        else:
            for moved, home in reversed(back):
                loads.move(moved, home)
        memory[turn % len(memory)] = min(memory[turn % len(memory)], current)
    return best, homes


def _cost(loads: _Loads) -> tuple[float, float]:
    """The slowest device, with a price on missing memory; ties by the sum of squares."""
    every = loads.loads()
    missing = sum(-room for room in loads.room if room < 0)
    worst = max(every)
    if missing:
        worst *= 1 + missing / (sum(loads.bytes) or 1.0)
        worst += max(every)
    return worst, sum(each * each for each in every)
