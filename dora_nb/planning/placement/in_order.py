"""Stages that follow one another: a dynamic programme over the cuts of the layers' graph, exact where these are few."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dora_nb.costs.placement import evaluate_placement
from dora_nb.domain.placement import PlacedStage
from dora_nb.domain.problem import DeviceType, MeasuredProblem, Way
from dora_nb.domain.qoe import ROUNDING
from dora_nb.errors import InfeasibleError, InputError
from dora_nb.formulation.placement.downsets import Downsets, Units, all_downsets, order_downsets
from dora_nb.formulation.placement.stage_table import StageTable
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.placement.device_states import MOST_STATES, States
from dora_nb.planning.placement.downset_search import DownsetSearch, Step, possible_downsets
from dora_nb.planning.placement.found import Found
from dora_nb.planning.placement.work_bound import WorkBound, device_seconds, period_bound, work_bound
from dora_nb.units import counted

#: Families of at most so many downsets are searched at once; larger ones first along a few orders.
_FEW_DOWNSETS = 300

#: Weights of media that are tried for one limit.
_ROUNDS_OF_WEIGHTS = 12

#: Guesses of the optimum over the bound, tried until one holds: little slack leaves few states.
_GUESSES = (1.001, 1.01, 1.05, 1.25, 2.0, 8.0, np.inf)


def place_in_order(problem: MeasuredProblem, deadline: Deadline, say: Callable[[str], None]) -> Found:
    """The best stages that follow one another.

    Parameters
    ----------
    problem
        What to place.
    deadline
        When the best so far is returned.
    say
        Told about each step.

    Raises
    ------
    InputError
        If there are too many unlike devices.
    InfeasibleError
        If no placement keeps the memory limits.
    """
    units = Units.of(problem)
    _check_size(problem, units)
    found = _InOrder(problem, units, deadline, say).search()
    broken = evaluate_placement(problem, found.stages).broken
    if broken and all("needs" in each for each in broken):
        # Memory that is full to the last bit, judged by differences of sums: leave what rounding may hide.
        tighter = _with_memory(problem, 1 - 1e-9)
        found = _InOrder(tighter, units, deadline, say).search()
    return found


def _with_memory(problem: MeasuredProblem, factor: float) -> MeasuredProblem:
    def limited(device: DeviceType) -> DeviceType:
        return device if device.memory_bytes is None else device.replace(memory_bytes=device.memory_bytes * factor)

    return problem.replace(devices=tuple(limited(device) for device in problem.devices))


def _check_size(problem: MeasuredProblem, units: Units) -> None:
    states = States.number(problem) * (len(units.layers) + 1)
    if states > MOST_STATES:
        raise InputError(
            "devices",
            [device.count for device in problem.devices],
            f"fewer unlike devices: {len(problem.devices)} types with {len(units.layers)} units of layers have "
            f"{states:,} states, at most {MOST_STATES:,} are looked at. Give devices that are nearly alike one type",
        )


def place_along_orders(problem: MeasuredProblem) -> tuple[PlacedStage, ...] | None:
    """Stages that follow one another along a few orders of the layers, as a start for others; None: none fit."""
    units = Units.of(problem)
    steps = _InOrder(problem, units, Deadline(), lambda _: None)
    most = MOST_STATES // States.number(problem)
    orders = order_downsets(units, device_seconds(problem, units).min(axis=0), most)
    _, chain, search = steps.solve(orders, steps.simple_bound(), np.inf)
    return tuple(_stage(search, step) for step in chain) or None


class _InOrder:
    """The steps of finding stages that follow one another, in the order they are taken."""

    def __init__(self, problem: MeasuredProblem, units: Units, deadline: Deadline, say: Callable[[str], None]) -> None:
        self.problem, self.units, self.deadline, self.say = problem, units, deadline, say
        self.objective = problem.execution.objective
        self.work: WorkBound = work_bound(problem, units)
        self.states = States.of(problem)
        self.exact = True

    def search(self) -> Found:
        """The best stages."""
        self.say("bounds")
        bound = self.simple_bound()
        every = all_downsets(self.units)
        cuts = 0 if every is None else len(every)
        most = MOST_STATES // States.number(self.problem)
        if every is not None and cuts <= min(_FEW_DOWNSETS, most):
            value, steps, search = self.solve(every, bound, np.inf)
        else:
            orders = order_downsets(self.units, device_seconds(self.problem, self.units).min(axis=0), most)
            self.say(f"{counted(len(orders), 'cut')} along some orders of the layers")
            value, steps, search = self.solve(orders, bound, np.inf)
            if every is not None and not orders.every:
                if self.objective == "period":
                    every = every.take(possible_downsets(every, self.work, self.states, value))
                if len(every) > most:
                    cuts = 0
                else:
                    self.say(f"{len(every):,} of {counted(cuts, 'cut')}")
                    better, better_steps, better_search = self.solve(every, bound, value)
                    if better_steps:
                        value, steps, search = better, better_steps, better_search
        if not steps:
            raise InfeasibleError(self._nothing_fits(cuts > 0))
        stages = tuple(_stage(search, step) for step in steps)
        return Found(
            stages,
            value if self.exact else None,
            max(bound, self.lowest if cuts else bound),
            self._scope(cuts),
            "dynamic programme over cuts of the graph"
            + ("; ways of layers by knapsacks" if any(search.chooses) else ""),
        )

    def simple_bound(self) -> float:
        if self.objective == "period":
            return period_bound(self.problem, self.units)
        return float(device_seconds(self.problem, self.units).min(axis=0).sum())

    def solve(self, downsets: Downsets, bound: float, below: float) -> tuple[float, list[Step], DownsetSearch]:
        """The best chain in a family below a value, or ``below`` and no steps; sets ``lowest``, the family's bound."""
        table = StageTable(self.problem, self.units, downsets)
        search = DownsetSearch(table, self.states, self.work)
        if self.problem.media and self.objective == "period":
            return (*self._share_media(search, below), search)
        sure = any(search.chooses)
        value, steps = self._guess(search, bound, below, sure)
        self.lowest = value
        if not sure:
            return value, steps, search
        return (*self._settle_ways(search, value, steps), search)

    def _guess(self, search: DownsetSearch, bound: float, below: float, sure: bool) -> tuple[float, list[Step]]:
        """The best chain, looked for just above the bound first: passes with little slack are quick."""
        guesses = [bound * each for each in _GUESSES if bound * each < below] if self.objective == "period" else []
        for limit in [*guesses, below]:
            value, steps = search.run(limit, self.objective, sure=sure)
            if steps:
                return value, steps
        return below, []

    def _settle_ways(self, search: DownsetSearch, value: float, steps: list[Step]) -> tuple[float, list[Step]]:
        """Lower bounds of stages on the best chain are replaced by exact solutions until the chain is real."""
        self.exact = False  # ways also differ in bytes, which only the evaluation knows
        while True:
            low, chain = search.run(value, self.objective)
            if not chain:
                self.lowest = value
                return value, steps
            self.lowest = low
            news = False
            for step in chain:
                kind = step.option.kind
                if search.chooses[kind]:
                    seconds, _, proven = _choose(search, step)
                    if proven:
                        news |= search.ways[kind].learn(step.inner, step.outer, step.in_flight, seconds)
            if not news:
                better, better_steps = search.run(value, self.objective, sure=True)
                return (better, better_steps) if better_steps else (value, steps)
            if self.deadline.passed:
                return value, steps

    def _share_media(self, search: DownsetSearch, below: float) -> tuple[float, list[Step]]:
        """Least of the slowest stage and every medium's seconds: bisection on a limit for all of them.

        With weights that sum to one, the least weighted airtime of chains whose stages keep a limit is at most the
        limit if media can keep it too: if not, the optimum is above the limit. For one medium that settles every
        limit; for several the weights move to the medium that is held too long, and what stays undecided shows in the
        gap.
        """
        low, _ = search.run(below, "period")
        best, steps = below, list[Step]()
        undecided, limit = low, np.inf
        while undecided < best * (1 - ROUNDING) and (not steps or not self.deadline.passed):
            proven, value, chain = self._within(search, limit, best)
            if chain and value < best:
                best, steps = value, chain
            if not np.isfinite(limit):
                low = undecided = max(low, proven)
                if not chain:
                    low = undecided = best
            elif not chain:
                low = undecided = limit
            elif value > limit:
                undecided = limit
            limit = (undecided + best) / 2
        self.lowest = low if steps else below
        return best, steps

    def _within(self, search: DownsetSearch, limit: float, below: float) -> tuple[float, float, list[Step]]:
        """A bound, a value and a chain for a limit; no chain: none keeps it."""
        media = len(self.problem.media)
        shares = np.full(media, 1 / media)
        proven, value, best = 0.0, np.inf, list[Step]()
        for _ in range(1 if media == 1 or not np.isfinite(limit) else _ROUNDS_OF_WEIGHTS):
            airtime, chain = search.run(min(limit, below), "airtime", limit_s=limit, shares=shares)
            if not chain:
                return np.inf, np.inf, []
            proven = max(proven, airtime)
            held = search.chain_media_s(chain)
            found = max(float(held.max()), search.slowest(chain))
            if found < value:
                value, best = found, chain
            if value <= limit:
                break
            shares[int(np.argmax(held))] *= 1.5
            shares /= shares.sum()
        return proven, value, best

    def _scope(self, cuts: int) -> str:
        rules = self.problem.execution
        parts = ["contiguous stages"]
        if cuts:
            parts.append(f"all {cuts:,} cuts of {len(self.units.layers)} units")
        else:
            parts.append(
                f"cuts along several topological orders of {len(self.units.layers)} units; the bound holds for all"
            )
        if rules.most_replicas != 1:
            parts.append(
                "replicas" if rules.most_replicas is None else f"up to {counted(rules.most_replicas, 'replica')}"
            )
        if self.units.fused:
            parts.append(f"{counted(self.units.fused, 'group')} fused that wait for each other")
        if self.units.mirrored:
            parts.append(
                f"{counted(self.units.mirrored, 'unit')} of backward layers only, ordered as the mirror image of their "
                "tensors"
            )
        return ", ".join(parts)

    def _nothing_fits(self, every: bool) -> str:
        limits = ", ".join(
            f"{device.count} x {device.type} with "
            + ("no memory limit" if device.memory_bytes is None else f"{device.memory_bytes:,.0f} bytes")
            for device in self.problem.devices
        )
        where = "No placement" if every else "No placement along the orders looked at"
        return f"{self.problem.name}: {where} fits the devices ({limits}). Give more memory, devices or replicas"


def _choose(search: DownsetSearch, step: Step) -> tuple[float, dict[int, Way], bool]:
    """The ways of a step's layers, with their seconds and whether these are proven to be the least."""
    table, kind = search.table, step.option.kind
    outer = np.array([step.outer])
    fixed = table.rows(step.inner, outer).fixed_bytes[kind]
    buffers = search.buffers(step.inner, outer, kind, fixed)
    return search.ways[kind].choose(step.inner, step.outer, step.in_flight, float(buffers[0]))


def _stage(search: DownsetSearch, step: Step) -> PlacedStage:
    """A step as a stage of the answer."""
    problem, table = search.problem, search.table
    kind = table.kinds[step.option.kind]
    inside = np.flatnonzero(table.downsets.members[step.outer] & ~table.downsets.members[step.inner])
    layers = sorted(layer for unit in inside for layer in table.units.layers[unit])
    _, chosen, _ = _choose(search, step)
    names = {}
    for layer in layers:
        way = chosen[layer]
        if way.way != problem.layers[layer].way:
            names[problem.layers[layer].name] = way.way
    return PlacedStage(
        layers=tuple(problem.layers[layer].name for layer in layers),
        device=problem.devices[kind.device].type,
        replicas=step.option.replicas,
        shards=kind.shards,
        ways=names,
    )
