"""From a question and conditions to a few resident plans and how often to use each, with a proven gap."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dora_nb import solvers
from dora_nb.costs.table import CostTable, Floats, cost_table
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.composition import Composition, ConditionFigures, Keep, evenly, in_runs, keeps
from dora_nb.domain.conditions import Condition, Conditions
from dora_nb.domain.fits import check_ends, check_fits
from dora_nb.domain.plan import Certificate, Plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InfeasibleError, InputError, ObjectiveMismatchError
from dora_nb.formulation.composition import Mixture, Promise, mixing_model
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.generation import Generator
from dora_nb.planning.palette import Palette
from dora_nb.planning.plan import Progress, check_effort
from dora_nb.planning.shortlist import Shortlist
from dora_nb.units import format_joules, format_seconds

#: Plans that the integer program chooses from; in training fewer, because there it looks at pairs of them.
MOST_PLANS_MIXED, MOST_PLANS_MIXED_TRAINING = 60, 16

#: Partitions that the program behind a bound may mix, and those that all get their transfers scheduled.
MOST_PLANS_LISTED, MOST_PLANS_SCHEDULED = 200, 40

#: Seconds that a step towards a smaller gap gets at least.
LEAST_STEP_S = 1.0

#: Plans that are tried in every combination when there is no time for the integer program.
MOST_PLANS_TRIED = 12

#: Seconds the integer program gets when time is up, and those that explain why there is no answer.
LEAST_MIXING_S, MOST_EXPLAINING_S = 1.0, 5.0

#: Relative disagreement of two computations that solver tolerances explain.
AGREEMENT = 1e-5


def compose(
    workload: Workload,
    cluster: Cluster,
    qoe: QoE | None,
    conditions: Conditions | Sequence[Condition],
    *,
    restrict: PlanSet | Iterable[Plan] | None = None,
    most_plans: int = 3,
    window: int = 20,
    keep: Keep = "mean",
    missed_share: float = 0.05,
    requests_per_s: float | None = None,
    gap: float = 1e-3,
    time_limit_s: float = 60.0,
    solver: str = "auto",
    table: CostTable | None = None,
    space: SearchSpace | None = None,
    on_progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Composition:
    """Choose a few plans and the share of the requests that each takes in every condition.

    Plans are made for every condition and for all of them together; then column generation: the relaxed program prices
    seconds, joules and requests, the bounding search finds the plans that are cheapest at these prices in one
    condition or in several at once, and proves how cheap any plan can be. An integer program chooses among all plans
    found. The bound is the Lagrangian one at the best prices: it holds for every mixture of every plan of the space,
    whatever the order of its transfers. It leaves out resident memory, capacity and changes of plans, so where those
    bind the gap is honest, not small.

    Parameters
    ----------
    workload, cluster
        What to run, and on what.
    qoe
        Limits and objective, the same in every condition; None: no limits, lowest latency.
    conditions
        What may be met, with probabilities that add up to 1.
    restrict
        Mix these plans only; None: make plans.
    most_plans
        How many plans may be resident.
    window
        Requests (training: iterations) over which the counts of a condition are whole numbers.
    keep
        ``mean``: limits hold for the mean of every condition. ``tail``: at most a share of a condition's requests
        exceeds them.
    missed_share
        That share.
    requests_per_s
        Rate at which requests arrive: the mix may keep no device and no medium busier than all the time. Latencies
        are those of a request alone. None: one request after the other.
    gap
        Relative gap at which an answer is good enough.
    time_limit_s
        Seconds after which the best composition so far is returned with its true gap.
    solver, table, space, on_progress, cancel
        As in :func:`dora_nb.plan`.

    Returns
    -------
    Composition

    Raises
    ------
    InputError
        If something given cannot be used.
    InfeasibleError
        If no composition keeps the limits; it says in which condition, and what can be reached.
    """
    started = time.monotonic()
    qoe = QoE() if qoe is None else qoe
    if not isinstance(conditions, Conditions):
        conditions = Conditions(conditions=tuple(conditions))
    given = None if restrict is None else tuple(restrict.plans if isinstance(restrict, PlanSet) else restrict)
    promise = Promise(qoe, keep, missed_share if keep == "tail" else 0.0)
    _check_promise(qoe)
    _check(workload, cluster, conditions, given, most_plans, window, keep, missed_share, requests_per_s)
    check_effort(gap, time_limit_s, solver)
    table = cost_table(workload, cluster) if table is None else table
    deadline, say = Deadline(started + time_limit_s, cancel), on_progress or (lambda _: None)
    palette = Palette(workload, cluster, table, conditions, qoe.energy_accounting, space, requests_per_s)
    mixer = _Mixer(palette, promise, most_plans, window, gap, solver, deadline, say)
    if given is not None:
        palette.add(given)
        choice = mixer.choose()
        bounds = _Bounds(mixer.program_bound, mixer.least_by_condition(), f"of the {len(given)} given")
    else:
        generator = Generator(palette, promise, most_plans, gap, solver, mixer.solve, deadline, say)
        generator.make_plans()
        generator.generate()
        choice = _refined(generator, mixer, started)
        made = palette.problem(palette.calm).space.describe()
        bounds = _Bounds(
            generator.bound, generator.floors, f"of all plans: {made}; any weights, memory and changes free"
        )
    return mixer.composition(choice, bounds, started)


def _refined(generator: Generator, mixer: _Mixer, started: float) -> _Choice:
    """The best composition of the plans made, with more plans and a better bound where the gap asks for them.

    Raises
    ------
    InfeasibleError
        If there is none.
    """
    choice = mixer.look()
    if choice is None or not mixer.enough(choice, generator.bound):
        generator.make_room()
        generator.share_room()
        choice = mixer.choose()
    if mixer.enough(choice, generator.bound) or generator.deadline.passed:
        return choice
    choice = _listed(generator, mixer, choice, _part(generator.deadline, started))
    part = _part(generator.deadline, started)
    while not (mixer.enough(choice, generator.bound) or part.passed):
        mixer.say("looking for plans that use what whole counts leave of the limits")
        if not generator.improve(choice.mixture, choice.counts, part):
            break
        better = mixer.choose()
        if mixer.value(better) >= mixer.value(choice) * (1 - AGREEMENT):
            break
        choice = better
    return choice


def _listed(generator: Generator, mixer: _Mixer, choice: _Choice, deadline: Deadline) -> _Choice:
    """The choice among all partitions that could be better, with a bound that knows all of the rules."""
    palette, value = generator.palette, mixer.value(choice)
    if palette.workload.trains or palette.requests_per_s is not None:
        return choice
    mixer.say("listing the partitions that a better composition could use")
    shortlist = Shortlist(palette, mixer.promise, mixer.most_plans, mixer.window, deadline)
    if mixer.most_plans == 1:
        mixture = shortlist.of_single_plans(value)
    else:
        mixture = None if generator.proof is None else shortlist.of_mixtures(generator.proof, value)
    if mixture is None or len(mixture.makespan_s) > MOST_PLANS_LISTED:
        return choice
    bound, used = mixer.bound_of(mixture, deadline)
    generator.bound = max(generator.bound, min(bound, value))
    listed = mixture.residents.plans
    for some in ([listed[j] for j in used], listed if len(listed) <= MOST_PLANS_SCHEDULED else ()):
        if not mixer.enough(choice, generator.bound):
            before = len(palette.plans)
            generator.add_scheduled(some, deadline)
            better = mixer.choose(range(before, len(palette.plans)))
            choice = better if mixer.value(better) < mixer.value(choice) else choice
    return choice


def _part(deadline: Deadline, started: float) -> Deadline:
    """Time for one more step: as much as all steps so far took together."""
    now = time.monotonic()
    return Deadline(min(deadline.at_s, now + max(now - started, LEAST_STEP_S)), deadline.cancel)


def _check(
    workload: Workload,
    cluster: Cluster,
    conditions: Conditions,
    given: tuple[Plan, ...] | None,
    most_plans: int,
    window: int,
    keep: str,
    missed_share: float,
    requests_per_s: float | None,
) -> None:
    check_ends(workload, cluster)
    conditions.check_fits(cluster)
    for index, each in enumerate(conditions.conditions):
        for end in (workload.source, workload.sink):
            if end in each.absent_devices:
                allowed = "devices other than the source and the sink"
                raise InputError(f"conditions[{index}].absent_devices", end, allowed)
    if given is not None and not given:
        raise InputError("restrict", given, "at least one plan")
    for plan in given or ():
        check_fits(plan, workload, cluster)
    if most_plans < 1:
        raise InputError("most_plans", most_plans, "at least 1")
    if window < 1:
        raise InputError("window", window, "at least 1 request")
    if keep not in ("mean", "tail"):
        raise InputError("keep", keep, "mean or tail")
    if not 0 <= missed_share < 1:
        raise InputError("missed_share", missed_share, "a share of 0 or more and below 1")
    if requests_per_s is not None and (workload.trains or not 0 < requests_per_s < math.inf):
        allowed = "None for training" if workload.trains else "more than 0 requests a second"
        raise InputError("requests_per_s", requests_per_s, allowed)


def _check_promise(qoe: QoE) -> None:
    if qoe.objective == "price":
        raise InputError("objective", qoe.objective, "latency or energy in a composition")
    qoe.check_means_only("a composition")


@dataclass(frozen=True)
class _Choice:
    """Plans of a mixture and how often each is used.

    Attributes
    ----------
    mixture
        The plans.
    counts
        Shape (plans, conditions).
    homes
        With which plan the windows of each condition start.
    """

    mixture: Mixture
    counts: Floats
    homes: tuple[int, ...]

    def used(self) -> _Choice:
        """Without the plans that are not used."""
        used = np.flatnonzero((self.counts > 0).any(axis=1)).tolist()
        homes = tuple(used.index(home) for home in self.homes)
        return _Choice(self.mixture.take(used), self.counts[used], homes)


@dataclass(frozen=True)
class _Bounds:
    """What no composition can fall below: over all conditions, and in each; and among which plans."""

    expected: float
    by_condition: Floats
    among: str


@dataclass
class _Mixer:
    """Chooses among the plans of a palette, and says how good the choice is."""

    palette: Palette
    promise: Promise
    most_plans: int
    window: int
    gap: float
    solver: str
    deadline: Deadline
    say: Progress

    def __post_init__(self) -> None:
        self.objective = self.promise.qoe.objective
        self.program_bound = 0.0
        self.solved_by, self.reason = "every choice of a plan per condition", "no program was solved"

    def solve(self, model: object, seconds: float | None = None) -> solvers.Outcome:
        """Solve a program with the solver asked for."""
        options = solvers.Options(time_limit_s=seconds, mip_gap=AGREEMENT / 10)
        return solvers.solve(model, options, solver=self.solver, cancel=self.deadline.cancel)  # type: ignore[arg-type]

    # ------------------------------------------------------------------ the choice

    def look(self) -> _Choice | None:
        """The best composition of the plans known; None if there is none."""
        mixture = self._mixture(())
        return (None if self.deadline.cancelled else self._by_program(mixture)) or self._one_each(mixture)

    def value(self, choice: _Choice) -> float:
        """The expected latency or energy of a composition."""
        figures = self._figures(choice)
        return float(
            self.palette.probability @ [e.mean_s if self.objective == "latency" else e.mean_j for e in figures]
        )

    def enough(self, choice: _Choice, bound: float) -> bool:
        """Whether a composition is as near to a bound as asked."""
        return self.value(choice) * (1 - self.gap) <= bound

    def bound_of(self, mixture: Mixture, deadline: Deadline) -> tuple[float, list[int]]:
        """What no composition of some plans can fall below, and the plans of the best; infinite if there is none."""
        model = mixing_model(mixture, self.promise, most_plans=self.most_plans, window=self.window)
        seconds = deadline.remaining_s
        outcome = self.solve(model, None if seconds is None else max(seconds, LEAST_MIXING_S))
        if outcome.status is solvers.Status.INFEASIBLE:
            return math.inf, []
        used = outcome.values["count"].sum(axis=1) > 0.5 if outcome.status.has_incumbent else np.zeros(0)
        return (-math.inf if outcome.bound is None else outcome.bound), np.flatnonzero(used).tolist()

    def _mixture(self, wanted: Iterable[int]) -> Mixture:
        mixture = self.palette.mixture(self._promising(wanted), changes=True)
        self.say(f"choosing among {len(mixture.makespan_s)} plans")
        return mixture

    def choose(self, wanted: Iterable[int] = ()) -> _Choice:
        """The best composition of the plans known, some of which are to be looked at in any case.

        Raises
        ------
        InfeasibleError
            If there is none.
        """
        mixture = self._mixture(wanted)
        choice = (None if self.deadline.cancelled else self._by_program(mixture)) or self._one_each(mixture)
        if choice is None:
            workload, cluster = self.palette.workload, self.palette.cluster
            raise InfeasibleError(f"{workload.name} on {cluster.name}: {self._why_infeasible(mixture)}")
        return choice

    def _promising(self, wanted: Iterable[int]) -> list[int]:
        """The plans to choose from; when there are too many, those nearest to the best at something."""
        most = MOST_PLANS_MIXED_TRAINING if self.palette.workload.trains else MOST_PLANS_MIXED
        figures = np.hstack([self.palette.figures("latency"), self.palette.figures("energy")])
        expected = self.palette.figures(self.objective) @ self.palette.probability
        places = np.argsort(np.argsort(np.column_stack([figures, expected]), axis=0, kind="stable"), axis=0)
        nearest = np.argsort(places.min(axis=1), kind="stable")[:most]
        return sorted({*nearest.tolist(), *wanted})

    def _by_program(self, mixture: Mixture) -> _Choice | None:
        """The choice of the integer program; its bound and its solver are noted."""
        seconds = self.deadline.remaining_s
        model = mixing_model(mixture, self.promise, most_plans=self.most_plans, window=self.window)
        outcome = self.solve(model, None if seconds is None else max(seconds, LEAST_MIXING_S))
        self.solved_by, self.reason = outcome.solver, outcome.reason
        self.program_bound = max(self.program_bound, outcome.bound or 0.0)
        if not outcome.status.has_incumbent:
            return None
        counts = np.rint(outcome.values["count"])
        # Without changes to pay for it does not matter where a window starts.
        starts = outcome.values["turn"].sum(axis=1) if mixture.changes is not None else counts
        return _Choice(mixture, counts, tuple(int(home) for home in np.argmax(starts, axis=0)))

    def _one_each(self, mixture: Mixture) -> _Choice | None:
        """The best composition of one plan per condition, by looking at every choice of few plans; None without."""
        good = mixture.able & ~mixture.misses(self.promise)
        cost = np.where(good, mixture.probability * mixture.figure(self.objective), np.inf)
        places = np.argsort(np.argsort(cost, axis=0, kind="stable"), axis=0)
        pool = sorted(np.argsort(places.min(axis=1), kind="stable")[:MOST_PLANS_TRIED].tolist())
        best, chosen = math.inf, None
        for size in range(1, min(self.most_plans, len(mixture.probability)) + 1):
            for some in itertools.combinations(pool, size):
                value = float(cost[list(some)].min(axis=0).sum())
                if value < best and mixture.fits(some):
                    homes = tuple(some[at] for at in np.argmin(cost[list(some)], axis=0))
                    counts = np.zeros(cost.shape)
                    counts[homes, np.arange(len(homes))] = self.window
                    choice = _Choice(mixture, counts, homes)
                    if mixture.within_capacity(counts / self.window) and all(e.kept for e in self._figures(choice)):
                        best, chosen = value, choice
        return chosen

    def _why_infeasible(self, mixture: Mixture) -> str:
        """Which limit is exceeded in which condition at least, by the program that exceeds them as little as it can."""
        if self.deadline.cancelled:
            return "cancelled before a composition was found"
        names, rate = self.palette.conditions.names, self.palette.requests_per_s
        for name, able in zip(names, mixture.able.T, strict=True):
            if not able.any():
                return f"none of the plans can run in condition '{name}'"
        plans = "1 plan" if self.most_plans == 1 else f"{self.most_plans} plans"
        model = mixing_model(mixture, self.promise, most_plans=self.most_plans, window=self.window, elastic=True)
        outcome = self.solve(model, MOST_EXPLAINING_S)
        if not outcome.status.has_incumbent:
            served = "" if rate is None else f" and {rate:g} requests a second"
            return f"no {plans} at most can be resident together and serve every condition{served}"
        over = np.maximum(outcome.values["over"], 0.0)
        limits = [format_seconds(self.promise.limits["latency"])] if "latency" in self.promise.limits else []
        limits += [format_joules(self.promise.limits["energy"])] if "energy" in self.promise.limits else []
        parts = []
        for name, excess in zip(names, over.tolist(), strict=True):
            if excess > AGREEMENT and self.promise.keep == "mean":
                reached = f"{100 * excess:.3g} % above is the least that was reached"
                parts.append(f"condition '{name}' cannot be kept within {' and '.join(limits)} on the mean: {reached}")
            elif excess > AGREEMENT:
                share = 100 * (self.promise.missed_share + excess)
                reached = f"{share:.3g} % of its requests beyond is the least that was reached"
                parts.append(f"condition '{name}' cannot be kept within {' and '.join(limits)}: {reached}")
        return f"with at most {plans}, {'; '.join(parts)}"

    # ------------------------------------------------------------------ its figures

    def _figures(self, choice: _Choice, floors: Floats | None = None) -> tuple[ConditionFigures, ...]:
        """Every figure of a composition, computed from its plans and counts without any program."""
        mixture, promise = choice.mixture, self.promise
        missed, trains = mixture.misses(promise), self.palette.workload.trains
        figures = []
        for k, home in enumerate(choice.homes):
            share = choice.counts[:, k] / self.window
            switch_s, switch_j = self._switching(choice, k)
            mean_s = float(share @ mixture.figure("latency")[:, k]) + switch_s / self.window
            mean_j = float(share @ mixture.figure("energy")[:, k]) + switch_j / self.window
            missed_share = float(share @ missed[:, k])
            counts = [int(count) for count in choice.counts[:, k]]
            figures.append(
                ConditionFigures(
                    counts=tuple(counts),
                    makespan_s=_known(mixture.makespan_s[:, k]),
                    energy_j=_known(mixture.energy_j[:, k]),
                    switch_s=switch_s,
                    switch_j=switch_j,
                    mean_s=mean_s,
                    mean_j=mean_j,
                    missed_share=missed_share,
                    kept=keeps(mean_s, mean_j, missed_share, promise.qoe, promise.keep, promise.missed_share),
                    bound=0.0 if floors is None else float(floors[k]),
                    order=in_runs(counts, home) if trains else evenly(counts),
                )
            )
        return tuple(figures)

    def _switching(self, choice: _Choice, k: int) -> tuple[float, float]:
        """Seconds and joules of changing plans in an average window of a condition."""
        changes, homes = choice.mixture.changes, choice.homes
        if changes is None:
            return 0.0, 0.0
        home, costs = homes[k], []
        for within, between in ((changes.within_s, changes.between_s), (changes.within_j, changes.between_j)):
            away = [j for j in np.flatnonzero(choice.counts[:, k] > 0).tolist() if j != home]
            inside = sum(within[home, j, k] + within[j, home, k] for j in away)
            coming = sum(changes.arrivals[b, k] * between[homes[b], home, b, k] for b in range(len(homes)))
            costs.append(float(inside + coming))
        return costs[0], costs[1]

    def least_by_condition(self) -> Floats:
        """The best figure of any plan known in each condition: no mixture of them is below."""
        return np.asarray(self.palette.figures(self.objective).min(axis=0))

    def composition(self, choice: _Choice, bounds: _Bounds, started: float) -> Composition:
        """The choice with every figure and its certificate.

        Raises
        ------
        ObjectiveMismatchError
            If it is better than the bound: then one of the two computations is wrong.
        """
        choice, palette = choice.used(), self.palette
        figures = self._figures(choice, bounds.by_condition)
        value = self.value(choice)
        if bounds.expected > value * (1 + AGREEMENT):
            raise ObjectiveMismatchError(f"the bound {bounds.expected:.9g} is above the composition's own {value:.9g}")
        single, single_value = self._single()
        residents, device_ids = choice.mixture.residents, palette.cluster.device_ids
        held = residents.resident_bytes(range(len(residents.plans)), palette.requests_per_s is not None)
        return Composition(
            workload=palette.workload,
            cluster=palette.cluster,
            qoe=self.promise.qoe,
            conditions=palette.conditions,
            keep=self.promise.keep,
            missed_share=self.promise.missed_share,
            window=self.window,
            plans=residents.plans,
            figures=figures,
            certificate=self._certificate(value, bounds),
            single=single,
            single_value=single_value,
            resident_bytes=dict(zip(device_ids, held.tolist(), strict=True)),
            usable_bytes=dict(zip(device_ids, palette.usable_bytes.tolist(), strict=True)),
            wall_s=time.monotonic() - started,
        )

    def _single(self) -> tuple[Plan | None, float | None]:
        """The best of the plans known that serves every condition alone and keeps the limits there."""
        expected = self.palette.figures(self.objective) @ self.palette.probability
        for name, limit in self.promise.limits.items():
            expected[self.palette.figures(name).max(axis=1) > limit * (1 + AGREEMENT)] = np.inf
        best = int(np.argmin(expected))
        return (self.palette.plans[best], float(expected[best])) if np.isfinite(expected[best]) else (None, None)

    def _certificate(self, value: float, bounds: _Bounds) -> Certificate:
        bound = min(bounds.expected, value)
        gap = (value - bound) / value if value else 0.0
        stopped = "cancelled" if self.deadline.cancelled else "time limit" if self.deadline.passed else "feasible"
        return Certificate(
            objective=self.objective,
            unit="s" if self.objective == "latency" else "J",
            latency_limit_s=self.promise.qoe.latency_s,
            energy_limit_j=self.promise.qoe.energy_j,
            value=value,
            bound=bound,
            gap=gap,
            status="optimal" if gap <= self.gap * (1 + AGREEMENT) else stopped,
            scope=f"mixtures of at most {self.most_plans} {bounds.among}",
            solver=self.solved_by if bounds.among.endswith("given") else f"bounding search and {self.solved_by}",
            solver_reason=self.reason,
        )


def _known(values: Floats) -> tuple[float | None, ...]:
    return tuple(float(value) if np.isfinite(value) else None for value in values)
