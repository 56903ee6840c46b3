"""What a plan set is compared with: what people do without a planner, and the strongest of other planners."""

from __future__ import annotations

from collections.abc import Callable

from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.formulation.problem import Problem
from dora_nb.planning.baselines.asteroid import asteroids
from dora_nb.planning.baselines.choice import best_of
from dora_nb.planning.baselines.data_parallel import data_parallels
from dora_nb.planning.baselines.edgeshard import edgeshards
from dora_nb.planning.baselines.even_split import even_splits
from dora_nb.planning.baselines.memory_proportional import memory_proportionals
from dora_nb.planning.baselines.pipeedge import pipeedges
from dora_nb.planning.baselines.single_device import single_devices
from dora_nb.planning.baselines.uniform_pipeline import uniform_pipelines

#: What anybody can do.
_SIMPLE = {"best single device": single_devices, "even split": even_splits}

#: Planners that answer within a second or so. The one that decides in sequence does not, and stays in ``BASELINES``.
_PLANNERS = {
    "memory-proportional": memory_proportionals,
    "data parallel": data_parallels,
    "Asteroid": asteroids,
    "PipeDream/Alpa": uniform_pipelines,
}

#: Those that do up to so many unlike devices: they look at every subset of the kinds of devices.
_PLANNERS_OF_FEW_KINDS, _FEW_KINDS = {"EdgeShard": edgeshards, "PipeEdge": pipeedges}, 8


def compared_with(plans: PlanSet) -> tuple[Plan, ...]:
    """The simple baselines and, of all others, the strongest; each at its best for latency and at its best for energy.

    They answer the same question with the same choices, but need not keep its limits.
    """
    found = compared_unless(plans, lambda: False)
    assert found is not None, "nothing stopped it"
    return found


def compared_unless(plans: PlanSet, stop: Callable[[], bool]) -> tuple[Plan, ...] | None:
    """What :func:`compared_with` gives, asking between any two planners whether to stop; None if it was stopped."""
    options = {name: plans.options.get(name) for name in ("table", "space")}
    accounting, overlap = plans.qoe.energy_accounting, plans.options.get("overlap", True)
    problem = Problem.of(plans.workload, plans.cluster, accounting, overlap=overlap, **options)
    planners = _SIMPLE | _PLANNERS
    if len(problem.fleet.available) <= _FEW_KINDS:
        planners |= _PLANNERS_OF_FEW_KINDS
    alternatives = {}
    for name, make in planners.items():
        if stop():
            return None
        alternatives[name] = make(problem)
    found: dict[Plan, Plan] = {}
    for objective in ("latency", "energy"):
        goal = QoE(objective=objective, energy_accounting=accounting)
        best = {name: best_of(own, goal) for name, own in alternatives.items()}
        strongest = best_of((plan for name, plan in best.items() if plan and name not in _SIMPLE), goal)
        for name, plan in best.items():
            if plan and (name in _SIMPLE or plan is strongest) and plan.decisions() not in found:
                found[plan.decisions()] = plan.replace(label=f"{name}, {objective}")
    return tuple(sorted(found.values(), key=lambda plan: list(planners).index(plan.label.rsplit(", ", 1)[0])))
