"""Why an answer is what it is: :func:`explain`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from dora_nb.costs.table import CostTable
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.explanation import Explanation, Relaxation, StoppedBy
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InfeasibleError, InputError
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.explanation.alternatives import question_of
from dora_nb.planning.explanation.relax import Relaxer
from dora_nb.planning.explanation.worth import Appraiser
from dora_nb.planning.plan import plan
from dora_nb.planning.question import Question
from dora_nb.solvers import SolverChoice
from dora_nb.units import parse_field

Progress = Callable[[str], None]

#: What a step can be given for, and in which dimension; of a headroom in bytes, a size.
STEPS = {
    "latency": "time",
    "throughput": "throughput",
    "energy": "energy",
    "battery": "energy",
    "headroom": "fraction",
    "memory": "size",
    "bandwidth": "rate",
}


def explain(
    workload: Workload | PlanSet,
    cluster: Cluster | None = None,
    qoe: QoE | None = None,
    *,
    gap: float = 1e-4,
    time_limit_s: float = 60.0,
    solver: SolverChoice = "auto",
    overlap: bool = True,
    table: CostTable | None = None,
    space: SearchSpace | None = None,
    steps: Mapping[str, float | str] | None = None,
    on_progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Explanation:
    """Explain the answer to a question: of a feasible one what more is worth, of an infeasible one what must give.

    Parameters
    ----------
    workload, cluster, qoe
        A question as for :func:`~dora_nb.planning.plan.plan`; or plans, as the only argument.
    gap, solver, overlap, table, space
        As for :func:`~dora_nb.planning.plan.plan`; plans bring their own.
    time_limit_s
        Seconds after which what is known by then is returned; it says so in ``stopped``.
    steps
        How much more of ``latency``, ``energy``, ``battery``, ``memory`` and ``bandwidth`` to try, how much less of
        ``throughput`` and ``headroom``, e.g. ``{"memory": "2 GB"}``; what is missing gets a power of ten of its unit,
        at most a quarter of what there is.
    on_progress
        Called with a few words about each step.
    cancel
        Set from another thread to stop: what is known by then is returned.

    Returns
    -------
    Explanation

    Raises
    ------
    InputError
        If something given cannot be used.
    """
    started = time.monotonic()
    say = on_progress or (lambda _: None)
    deadline = Deadline(started + time_limit_s, cancel)
    if isinstance(workload, PlanSet):
        if cluster is not None or qoe is not None:
            raise InputError("cluster", cluster, "nothing: plans know what they were made for")
        return _worth(workload, _parsed(steps or {}, workload.qoe), deadline, say, started)
    if cluster is None:
        raise InputError("cluster", cluster, "a cluster, or plans as the only argument")
    qoe = QoE() if qoe is None else qoe
    sizes = _parsed(steps or {}, qoe)
    try:
        plans = plan(
            workload,
            cluster,
            qoe,
            most_plans=1,
            gap=gap,
            time_limit_s=time_limit_s,
            solver=solver,
            overlap=overlap,
            table=table,
            space=space,
            on_progress=on_progress,
            cancel=cancel,
        )
    except InfeasibleError as error:
        relaxer = Relaxer(Question.of(workload, cluster, qoe, table, space, overlap, solver), gap, deadline, say)
        relaxer.run()
        return Explanation(
            workload=workload,
            cluster=cluster,
            qoe=qoe,
            best=None,
            message=str(error),
            relaxations=tuple(relaxer.found),
            ruled_out=tuple(relaxer.ruled_out),
            margins=(),
            solves=1 + relaxer.solves,
            stopped=_stopped(deadline),
            wall_s=time.monotonic() - started,
        )
    return _worth(plans, sizes, deadline, say, started)


def relaxations(
    question: Question, gap: float, time_limit_s: float, cancel: threading.Event | None
) -> tuple[Relaxation, ...]:
    """The smallest changes that make a question feasible for which no plan was found.

    Parameters
    ----------
    question, gap
        What was asked, and to which relative gap changes are proven.
    time_limit_s, cancel
        When to stop.
    """
    relaxer = Relaxer(question, gap, Deadline(time.monotonic() + time_limit_s, cancel), lambda _: None)
    relaxer.run()
    return tuple(relaxer.found)


def _worth(
    plans: PlanSet, steps: Mapping[str, float], deadline: Deadline, say: Progress, started: float
) -> Explanation:
    question, gap = question_of(plans)
    appraiser = Appraiser(question, plans.best, plans.plans, gap, steps, deadline, say)
    appraiser.run()
    return Explanation(
        workload=plans.workload,
        cluster=plans.cluster,
        qoe=plans.qoe,
        best=plans.best,
        message="",
        relaxations=(),
        ruled_out=(),
        margins=tuple(appraiser.found),
        solves=1 + appraiser.solves,
        stopped=_stopped(deadline),
        wall_s=time.monotonic() - started,
    )


def _stopped(deadline: Deadline) -> StoppedBy | None:
    if not deadline.passed:
        return None
    return "cancelled" if deadline.cancelled else "time limit"


def _parsed(steps: Mapping[str, float | str], qoe: QoE) -> dict[str, float]:
    sizes, dimensions = {}, STEPS | ({"headroom": "size"} if qoe.headroom_bytes is not None else {})
    for name, step in steps.items():
        if name not in STEPS:
            raise InputError("steps", name, ", ".join(STEPS))
        sizes[name] = parse_field(f"steps.{name}", step, dimensions[name])
        if not sizes[name] > 0:
            raise InputError(f"steps.{name}", step, "more than 0")
    return sizes
