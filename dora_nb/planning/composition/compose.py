"""From a question and conditions to a few resident plans and how often to use each, with a proven gap."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Sequence

from dora_nb.costs.table import CostTable, cost_table
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.composition import Composition, Keep
from dora_nb.domain.conditions import Condition, Conditions
from dora_nb.domain.fits import check_ends, check_fits
from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.formulation.composition.mixture import Promise
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.composition.generation import Generator
from dora_nb.planning.composition.mixer import AGREEMENT, Bounds, Choice, Mixer
from dora_nb.planning.composition.palette import Palette
from dora_nb.planning.composition.shortlist import Shortlist
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.hunt import Progress
from dora_nb.planning.plan import check_effort
from dora_nb.solvers import SolverChoice

#: Partitions that the program behind a bound may mix, and those that all get their transfers scheduled.
MOST_PLANS_LISTED, MOST_PLANS_SCHEDULED = 200, 40

#: Seconds that a step towards a smaller gap gets at least.
LEAST_STEP_S = 1.0


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
    solver: SolverChoice = "auto",
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
    if space is not None and space.shards > 1:
        raise InputError("space.shards", space.shards, "1: plans of a composition share whole layers, not parts")
    table = cost_table(workload, cluster) if table is None else table
    deadline, say = Deadline(started + time_limit_s, cancel), on_progress or (lambda _: None)
    palette = Palette(workload, cluster, table, conditions, qoe.energy_accounting, space, requests_per_s)
    mixer = Mixer(palette, promise, most_plans, window, gap, solver, deadline, say)
    if given is not None:
        palette.add(given)
        choice = mixer.choose()
        bounds = Bounds(mixer.program_bound, mixer.least_by_condition(), f"of the {len(given)} given")
    else:
        generator = Generator(palette, promise, most_plans, gap, solver, mixer.solve, deadline, say)
        generator.make_plans()
        generator.generate()
        choice = _refined(generator, mixer, started)
        made = palette.problem(palette.calm).space.describe()
        bounds = Bounds(
            generator.bound, generator.floors, f"of all plans: {made}; any weights, memory and changes free"
        )
    return mixer.composition(choice, bounds, started)


def _refined(generator: Generator, mixer: Mixer, started: float) -> Choice:
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


def _listed(generator: Generator, mixer: Mixer, choice: Choice, deadline: Deadline) -> Choice:
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
    for plans in ([listed[j] for j in used], listed if len(listed) <= MOST_PLANS_SCHEDULED else ()):
        if not mixer.enough(choice, generator.bound):
            before = len(palette.plans)
            generator.add_scheduled(plans, deadline)
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
    restrict: tuple[Plan, ...] | None,
    most_plans: int,
    window: int,
    keep: str,
    missed_share: float,
    requests_per_s: float | None,
) -> None:
    check_ends(workload, cluster)
    conditions.check_fits(cluster)
    for index, condition in enumerate(conditions.conditions):
        for end in (workload.source, workload.sink):
            if end in condition.absent_devices:
                allowed = "devices other than the source and the sink"
                raise InputError(f"conditions[{index}].absent_devices", end, allowed)
    if restrict is not None and not restrict:
        raise InputError("restrict", restrict, "at least one plan")
    for plan in restrict or ():
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
