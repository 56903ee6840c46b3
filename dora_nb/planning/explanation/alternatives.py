"""Plans that avoid a device, so that a device that leaves finds a plan ready."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence

from dora_nb.costs.table import CostTable
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.explanation import Alternative
from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import UnknownNameError
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.ask import best, rating
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.plan import plan
from dora_nb.planning.question import Question
from dora_nb.units import format_joules, format_seconds

Progress = Callable[[str], None]


def alternatives(
    workload: Workload,
    cluster: Cluster,
    qoe: QoE | None = None,
    *,
    without: Iterable[str | Collection[str]] | None = None,
    gap: float = 1e-4,
    time_limit_s: float = 60.0,
    overlap: bool = True,
    table: CostTable | None = None,
    space: SearchSpace | None = None,
    on_progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> dict[str, Alternative]:
    """The best plan without each device.

    Parameters
    ----------
    workload, cluster, qoe
        As for :func:`~dora_nb.planning.plan.plan`.
    without
        Devices, or sets of devices that leave together; None: every device by itself.
    gap, time_limit_s, overlap, table, space, on_progress, cancel
        As for :func:`~dora_nb.planning.plan.plan`; the time is for all alternatives together.

    Returns
    -------
    dict
        By device, or by the names of a set joined with ``" + "``: a plan with its certificate and what it loses
        against the best plan, or why there is none.

    Raises
    ------
    InfeasibleError
        If no plan keeps the limits even with all devices.
    """
    started = time.monotonic()
    plans = plan(
        workload,
        cluster,
        qoe,
        most_plans=1,
        gap=gap,
        time_limit_s=time_limit_s,
        overlap=overlap,
        table=table,
        space=space,
        on_progress=on_progress,
        cancel=cancel,
    )
    remaining_s = max(time_limit_s - (time.monotonic() - started), 1e-9)
    return alternatives_of(plans, without, time_limit_s=remaining_s, on_progress=on_progress, cancel=cancel)


def alternatives_of(
    plans: PlanSet,
    without: Iterable[str | Collection[str]] | None = None,
    *,
    time_limit_s: float = 60.0,
    on_progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> dict[str, Alternative]:
    """Plans without some devices, beside plans at hand; see :func:`alternatives`."""
    question, gap = question_of(plans)
    deadline = Deadline(time.monotonic() + time_limit_s, cancel)
    say = on_progress or (lambda _: None)
    found = {}
    for absent in plans.cluster.device_ids if without is None else without:
        names = (absent,) if isinstance(absent, str) else tuple(absent)
        say(f"without {' and '.join(names)}")
        found[" + ".join(names)] = avoiding(question, names, plans.best, plans.plans, gap, deadline)
    return found


def question_of(plans: PlanSet) -> tuple[Question, float]:
    """The question that plans answer, and the gap that was good enough for them."""
    options = plans.options
    table, space, overlap = options.get("table"), options.get("space"), options.get("overlap", True)
    solver = options.get("solver", "auto")
    session = options.get("session")
    question = Question.of(plans.workload, plans.cluster, plans.qoe, table, space, overlap, solver, session)
    return question, options.get("gap", 1e-4)


def avoiding(
    question: Question,
    names: Sequence[str],
    against: Plan,
    known: Iterable[Plan],
    gap: float,
    deadline: Deadline,
) -> Alternative:
    """The best plan without some devices.

    Parameters
    ----------
    question
        What is planned with all devices.
    names
        Who leaves.
    against
        The best plan with all devices.
    known
        Plans that may be as good; those that use a device that leaves are left out.
    gap, deadline
        When to stop.

    Raises
    ------
    UnknownNameError
        If the cluster has no such device.
    """
    qoe, ids = question.qoe, question.cluster.device_ids
    for name in names:
        if name not in ids:
            raise UnknownNameError("without", name, ids)

    def answer(chosen: Plan | None, reason: str, asked: QoE = qoe) -> Alternative:
        return Alternative(
            without=tuple(names),
            plan=chosen,
            reason=reason,
            objective=qoe.objective,
            objective_unit=qoe.unit,
            loss=None if chosen is None else rating(chosen, asked).value - rating(against, qoe).value,
        )

    stays = _why_not(question, names)
    if stays:
        return answer(None, stays)
    # Where all devices draw, one fewer leaves more of a limited energy to the others.
    counts_energy = qoe.objective != "latency" or qoe.energy_j is not None or qoe.battery_j
    same_figures = qoe.energy_accounting == "participating" or not counts_energy
    if same_figures and not set(names) & set(against.devices):
        # Its bound holds for more plans than are left.
        return answer(against, "the best plan does not use it")
    if deadline.passed:
        return answer(None, f"not looked at: {'cancelled' if deadline.cancelled else 'time limit'}")
    reduced = question.without(names)
    found = best(reduced, gap=gap, deadline=deadline, known=known)
    if found.plan is not None:
        return answer(found.plan.replace(label=f"without {' and '.join(names)}"), "", reduced.qoe)
    if not found.impossible:
        return answer(None, "no plan was found before planning was stopped")
    return answer(None, _why_impossible(reduced, gap, deadline))


def _why_not(question: Question, names: Sequence[str]) -> str:
    """Why devices cannot leave at all; empty if they can."""
    for role, what in (("source", "the inputs come from it"), ("sink", "the outputs have to reach it")):
        name = getattr(question.workload, role)
        if name in names:
            return f"{name} is the {role} and cannot leave: {what}"
    if set(names) == set(question.cluster.device_ids):
        return "no device would be left"
    return ""


def _why_impossible(question: Question, gap: float, deadline: Deadline) -> str:
    """What could be reached without the limits on time or, where there are none, without that on energy."""
    hard = question.qoe.hard
    if not hard:
        too_slow = "" if question.workload.arrival_s is None else ", or they do not keep up with the stream"
        return f"proven: the network does not fit the memory of the others{too_slow}"
    told = "proven: no plan of the others keeps the limits"
    if "latency" in hard or "throughput" in hard:
        freed = question.with_qoe(question.qoe.without("latency", "throughput"))
        least = best(freed, gap=gap, deadline=deadline, figure="makespan_s")
        return told if least.plan is None else f"{told}; the least latency they reach is {format_seconds(least.value)}"
    if "energy" in hard:
        freed = question.with_qoe(question.qoe.without("energy"))
        least = best(freed, gap=gap, deadline=deadline, figure="energy_j")
        return told if least.plan is None else f"{told}; the least energy they reach is {format_joules(least.value)}"
    return told
