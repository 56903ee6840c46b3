"""Column generation for compositions: plans that mixing asks for, and a bound on what any mixture can reach."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dora_nb import solvers
from dora_nb.costs.conditions import Surroundings, slowness
from dora_nb.costs.table import Floats
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.errors import InfeasibleError
from dora_nb.formulation.composition.mixture import Mixture, Promise
from dora_nb.formulation.composition.prices import Prices, bound_model, least_place, prices_model, prices_of, sets_of
from dora_nb.formulation.problem import Problem
from dora_nb.planning.composition.beside import beside
from dora_nb.planning.composition.palette import Palette
from dora_nb.planning.composition.pricing import cheapest
from dora_nb.planning.composition.shortlist import Proof
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.hunt import Progress
from dora_nb.planning.plan import plan as make_plans
from dora_nb.planning.scheduling import settle
from dora_nb.solvers import SolverChoice

#: Rounds of column generation.
MOST_ROUNDS = 8

#: Sets of conditions that are priced together in a round, likeliest first; the others are bounded one by one.
MOST_SETS = 11

#: Share of the time that may go into plans for single conditions and for all, before any are priced.
PLANNING_SHARE = 0.5

#: Seconds that planning for one condition gets of those that are left, even if its share is smaller.
LEAST_PLANNING_S = 2.0

Solve = Callable[[Any], solvers.Outcome]  # of a model


@dataclass
class Generator:
    """Makes plans until none improves the relaxed program.

    Attributes
    ----------
    palette
        Where plans go.
    promise, most_plans, gap
        What is asked.
    solver
        For planning.
    solve
        Solves a program with the solver asked for.
    deadline, say
        When to stop, and whom to tell about each step.
    """

    palette: Palette
    promise: Promise
    most_plans: int
    gap: float
    solver: SolverChoice
    solve: Solve
    deadline: Deadline
    say: Progress

    def __post_init__(self) -> None:
        self.bound = 0.0
        self.proof: Proof | None = None
        self.floors = np.zeros(len(self.palette.places))  # bounds by condition, in the objective's unit

    def make_plans(self) -> None:
        """The best plan over all conditions together, and the best one for every condition alone.

        Raises
        ------
        InfeasibleError
            If no single plan keeps the limits of a condition: then no mixture does either.
        """
        palette = self.palette
        states = len(palette.places)
        free = Prices(np.zeros(states), {}, 0.0)
        everywhere = palette.mean(range(states), palette.probability)
        if states > 1 and everywhere is not None:
            # First, because these can serve every condition if there is no time for more.
            self.say("planning for all conditions together")
            per_s, per_j = np.array([self._rates(free, k) for k in range(states)]).sum(axis=0)
            self._plan(palette.problem(everywhere), per_s, per_j, "for all conditions", PLANNING_SHARE / (states + 1))
        for k, (condition, place) in enumerate(zip(palette.conditions.conditions, palette.places, strict=True)):
            self.say(f"planning for condition '{condition.name}'")
            label, share = f"for '{condition.name}'", PLANNING_SHARE / (states - PLANNING_SHARE * k)
            if not self._plan(palette.problem(place), *self._rates(free, k), label, share):
                self._insist(place, label, share)

    def _plan(self, problem: Problem, per_s: float, per_j: float, label: str, share: float) -> bool:
        """Make the cheapest plan within the limits, in a share of the time left; whether there is one now."""
        _, plans = self._cheapest(problem, per_s, per_j, label, self._to_keep_alone, self._share(share))
        self.palette.add(plans)
        return bool(plans)

    @property
    def _to_keep_alone(self) -> dict[str, float]:
        """The limits that every mixture needs some plan to keep: all but one on the mean, if there are two.

        Mixing can keep an energy limit on the mean that no single plan keeps together with the latency limit.
        """
        limits = dict(self.promise.limits)
        if self.promise.keep == "mean" and "latency" in limits:
            limits.pop("energy", None)
        return limits

    def _share(self, share: float) -> Deadline:
        """A share of the time left."""
        seconds = self.deadline.remaining_s
        if seconds is None:
            return self.deadline
        granted_s = max(share * seconds, min(seconds, LEAST_PLANNING_S))
        return Deadline(min(self.deadline.at_s, time.monotonic() + granted_s), self.deadline.cancel)

    def _insist(self, place: Surroundings, label: str, share: float) -> None:
        """Ask the planner, which explains what cannot be had, after the quicker way found nothing."""
        qoe = self.promise.qoe
        if self.promise.keep == "mean":
            qoe = qoe.replace(energy_j=None)
        try:
            self.palette.add(self._planned(place, qoe, label, share))
        except InfeasibleError as error:
            if not (self.palette.plans and self.deadline.passed):
                raise InfeasibleError(f"condition {label.removeprefix('for ')}: {error}") from None

    def make_room(self) -> None:
        """Where memory is scarce: plans that leave room for others, and plans that avoid the scarce devices.

        Plans that each fill a K-th of a device can be resident together whatever they hold.
        """
        palette = self.palette
        mixture = palette.mixture(range(len(palette.plans)))
        scarce = [palette.cluster.device_ids[device] for device in mixture.scarce]
        if self.most_plans == 1 or not scarce:
            return
        free = Prices(np.zeros(len(palette.places)), {}, 0.0)
        for k, (name, place) in enumerate(zip(palette.conditions.names, palette.places, strict=True)):
            self.say(f"planning for condition '{name}' with room for other plans on {', '.join(scarce)}")
            for share in (1 / self.most_plans, 0.0):
                devices = tuple(
                    each.replace(memory_bytes=share * each.memory_bytes) if each.id in scarce else each
                    for each in place.cluster.devices
                )
                problem = palette.problem(Surroundings(place.cluster.replace(devices=devices), place.table))
                label = f"for '{name}', with room for others"
                for limits in ({}, self._to_keep_alone) if self._to_keep_alone else ({},):
                    if self.deadline.passed:
                        return
                    _, plans = self._cheapest(problem, *self._rates(free, k), label, limits, self._share(0.1))
                    palette.add(plans)

    def share_room(self) -> None:
        """Where memory is scarce: for every two conditions, plans for one that fit beside the best plan for the other.

        In inference only: in training nothing but the running plan's state is up to date.
        """
        palette = self.palette
        if self.most_plans == 1 or palette.workload.trains or not palette.mixture(range(len(palette.plans))).scarce:
            return
        usable_bytes = dict(zip(palette.cluster.device_ids, palette.usable_bytes.tolist(), strict=True))
        energy = palette.accounting if self.promise.qoe.objective == "energy" else None
        best = {k: plan for k in range(len(palette.places)) if (plan := self._best_in(k)) is not None}
        names = palette.conditions.names
        for anchor, other in itertools.permutations(best, 2):
            if self.deadline.passed:
                return
            self.say(f"planning for condition '{names[other]}' beside the best plan for '{names[anchor]}'")
            problem = palette.problem(palette.places[other])
            found = beside(best[other], best[anchor], problem, usable_bytes, energy)
            palette.add(each.replace(label=f"for '{names[other]}', beside another") for each in found)

    def _best_in(self, k: int) -> Plan | None:
        """The plan that is best in one condition, of those that keep the limits in it if there are any."""
        palette, limits = self.palette, self._to_keep_alone
        value = palette.figures(self.promise.qoe.objective)[:, k]
        kept = np.ones(len(value), dtype=bool)
        for name, limit in limits.items():
            kept &= palette.figures(name)[:, k] <= limit
        value = np.where(kept, value, np.inf) if (kept & np.isfinite(value)).any() else value
        return palette.plans[int(np.argmin(value))] if np.isfinite(value).any() else None

    def _planned(self, place: Surroundings, qoe: QoE, label: str, share: float) -> list[Plan]:
        """The one call of the planner, in a share of the time left; each plan says what it was made for."""
        seconds = self.deadline.remaining_s
        plan_set = make_plans(
            self.palette.workload,
            place.cluster,
            qoe,
            time_limit_s=math.inf if seconds is None else max(share * seconds, min(seconds, LEAST_PLANNING_S), 1e-3),
            gap=self.gap / 2,
            solver=self.solver,
            table=place.table,
            space=self.palette.space,
            cancel=self.deadline.cancel,
        )
        return [each.replace(label=f"{each.label} {label}") for each in plan_set.plans]

    def generate(self) -> None:
        """Price plans that are not there yet until none improves the relaxed program, and keep the best bound."""
        if self.most_plans == 1:
            self._bound_single()
        for turn in range(MOST_ROUNDS):
            # One round even if time is up: its bounds are weak then, but true.
            if self.deadline.cancelled or (turn and self.deadline.passed):
                return
            mixture = self.palette.mixture(range(len(self.palette.plans)))
            outcome = self.solve(prices_model(mixture, self.promise, most_plans=self.most_plans))
            if not outcome.status.has_incumbent or outcome.objective is None:
                return
            prices = prices_of(outcome.values, self.promise)
            new = self._price(prices)
            short = outcome.objective - self.bound
            self.say(
                f"round {turn + 1}: {new} new of {len(self.palette.plans)} plans, relaxed {outcome.objective:.6g}, "
                f"bound {self.bound:.6g}"
            )
            if not new or short <= self.gap / 10 * abs(outcome.objective):
                return

    def _bound_single(self) -> None:
        """A single plan has nothing to be mixed with: it runs and keeps the limits in every condition.

        So it uses devices that are there in all of them, and its figures are at least the best in each on these
        devices, and at least the best on the mean of the conditions.
        """
        self.say("bounding single plans")
        states, limits = range(len(self.palette.places)), self.promise.limits
        free = Prices(np.zeros(len(states)), {}, 0.0)
        by_condition = [self._rates(free, k) for k in states]
        bounds = []
        everywhere = tuple(float(sum(rates)) for rates in zip(*by_condition, strict=True))
        weightings = [*np.eye(len(states)), self.palette.probability]
        for weights, (per_s, per_j) in zip(weightings, [*by_condition, everywhere], strict=True):
            place = self.palette.mean(states, weights)
            if place is None:
                return
            bound, plans = self._cheapest(self.palette.problem(place), per_s, per_j, "for one plan", limits)
            self.palette.add(plans)
            bounds.append(bound)
        *apart, together = bounds
        best = max(sum(apart), together)
        if math.isfinite(best):
            self.bound = max(self.bound, best)

    def _price(self, prices: Prices) -> int:
        """The cheapest plans at some prices, for single conditions and for sets of them; improves the bound."""
        states = range(len(self.palette.places))
        paid = prices.paid(self.promise)
        least: dict[tuple[int, ...], float] = {}
        new = 0
        for k in states:
            least[(k,)], plans = self._cheapest_alone(k, prices)
            new += self.palette.add(plans)
        sets = sets_of(len(self.palette.places))
        sets.sort(key=lambda members: -float(self.palette.probability[list(members)].sum()))
        for index, members in enumerate(sets):
            least[members] = sum(least[(k,)] for k in members)
            # Without a price on places, what a set costs follows from its members.
            if prices.place > 0 and index < MOST_SETS and not self.deadline.passed:
                together, plan = self._cheapest_together(members, prices)
                least[members] = max(together, least[members])
                new += self.palette.add([plan] if plan is not None else [])
        if not all(math.isfinite(least[(k,)]) for k in states):
            return new
        outcome = self.solve(bound_model(least, len(states), self.most_plans))
        if outcome.status.has_incumbent:
            request = outcome.values["request"]
            place = least_place(request, least)
            bound = float(request.sum() - paid.sum()) - self.most_plans * place
            self.bound = max(self.bound, bound)
            if self.proof is None or bound > self.proof.bound:
                self.proof = Proof(prices, request, place, bound)
        alone = np.array([least[(k,)] for k in states])
        self.floors = np.maximum(self.floors, (alone - paid) / self.palette.probability)
        return new

    def _cheapest_alone(self, k: int, prices: Prices) -> tuple[float, list[Plan]]:
        """What a plan costs at least in one condition, limits priced in, and the plans that cost that."""
        place, label = self.palette.places[k], f"priced for '{self.palette.conditions.names[k]}'"
        problem = self.palette.problem(place)
        per_s, per_j = self._rates(prices, k)
        if "missed" not in prices.limit:
            return self._cheapest(problem, per_s, per_j, label)
        kept_bound, kept = self._cheapest(problem, per_s, per_j, label, self.promise.limits)
        any_bound, any_plan = self._cheapest(problem, per_s, per_j, label)
        return min(kept_bound, any_bound + float(prices.limit["missed"][k])), [*kept, *any_plan]

    def _cheapest_together(self, members: tuple[int, ...], prices: Prices) -> tuple[float, Plan | None]:
        """What one plan costs at least in several conditions at once, limits priced in.

        On the mean of the conditions, weighted by what a joule costs in each (or a second, where joules have no price):
        see :func:`dora_nb.costs.conditions.mean_of`. Seconds may be priced otherwise over the conditions. They cost at
        least the lowest price per weight; and, since a makespan grows with its durations and in proportion to them, all
        their prices together on a cluster that is slower by no part than their own mean. The better of the two counts.
        """
        per_s, per_j = np.array([self._rates(prices, k) for k in members]).T
        weights = per_j if per_j.any() else per_s
        place = self.palette.mean(members, weights)
        if place is None:
            return math.inf, None
        price_s = float(weights.sum() * (per_s[weights > 0] / weights[weights > 0]).min())
        if per_s.any():
            own = self.palette.mean(members, per_s)
            assert own is not None, "the same devices"
            price_s = max(price_s, float(per_s.sum()) * slowness(own, place))
        names = ", ".join(self.palette.conditions.names[k] for k in members)
        bound, plans = self._cheapest(self.palette.problem(place), price_s, float(per_j.sum()), f"priced for {names}")
        return bound, plans[0] if plans else None

    def _rates(self, prices: Prices, k: int) -> tuple[float, float]:
        """What a second and a joule of a condition's requests cost, the objective included."""
        return prices.rates(self.promise, self.palette.probability, k)

    def improve(self, mixture: Mixture, counts: Floats, deadline: Deadline) -> int:
        """Plans to put in the place of those of a composition, one at a time; returns how many are new.

        Whole counts leave a part of the limits unused: the plan sought takes the same requests as the one it replaces
        and may use that part. Over several conditions it is sought on their mean, where the limits are necessary.
        """
        palette, promise, new = self.palette, self.promise, 0
        if promise.keep == "tail" or not promise.limits:
            return 0
        window = float(counts[:, 0].sum())
        for j, taken in enumerate(counts):
            used = tuple(np.flatnonzero(taken).tolist())
            for members in dict.fromkeys([used, *((k,) for k in used)]) if used else ():
                weights = np.zeros(len(palette.places))
                weights[list(members)] = palette.probability[list(members)] * taken[list(members)]
                place = palette.mean(members, weights[list(members)])
                if place is None or deadline.passed:
                    continue
                limits = {}
                for name, limit in promise.limits.items():
                    figure = mixture.figure(name)
                    unused = limit * window - (counts * figure).sum(axis=0)
                    allowed = figure[j] + unused / np.maximum(taken, 1.0)
                    limits[name] = float(weights @ allowed / weights.sum())
                per_s, per_j = (1.0, 0.0) if promise.qoe.objective == "latency" else (0.0, 1.0)
                label = f"in place of another in {', '.join(palette.conditions.names[k] for k in members)}"
                _, plans = self._cheapest(palette.problem(place), per_s, per_j, label, limits, deadline)
                new += palette.add(plans)
        return new

    def add_scheduled(self, plans: Iterable[Plan], deadline: Deadline) -> None:
        """Partitions with the best order of their transfers for every condition in which they can run."""
        for plan in plans:
            bare = plan.replace(transfer_order=(), prediction=None, label="listed")
            for place in self.palette.places:
                if set(plan.devices) <= set(place.cluster.device_ids):
                    problem = self.palette.problem(place)
                    limits = {"below_s": math.inf, "gap": self.gap / 4}
                    settled = settle(bare, problem, **limits, solver=self.solver, deadline=deadline)
                    self.palette.add([] if settled.plan is None else [settled.plan])

    def _cheapest(
        self,
        problem: Problem,
        per_s: float,
        per_j: float,
        label: str,
        limits: Mapping[str, float] | None = None,
        deadline: Deadline | None = None,
    ) -> tuple[float, list[Plan]]:
        limits = limits or {}
        found = cheapest(
            problem,
            per_s=per_s,
            per_j=per_j,
            latency_limit_s=limits.get("latency", np.inf),
            energy_limit_j=limits.get("energy", np.inf),
            known=self.palette.plans,
            gap=self.gap / 4,
            solver=self.solver,
            deadline=deadline or self.deadline,
        )
        return found.bound, [found.plan.replace(label=label)] if found.plan is not None else []
