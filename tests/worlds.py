"""Random plans to simulate, and worlds that change around them."""

from __future__ import annotations

from builders import Dice, cluster, device, layer, pipeline, random_plan, random_question, workload

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload
from dora_nb.formulation.problem import Problem
from dora_nb.planning.scheduling import finish
from dora_nb.simulation import Trace, World

Case = tuple[Workload, Cluster, Plan]


def scheduled(work: Workload, place: Cluster, plan: Plan) -> Plan:
    return finish(plan, Problem.of(work, place, "participating", overlap=plan.overlap))


def random_case(dice: Dice) -> Case:
    work, place = random_question(
        dice,
        modes=("training", "inference", "generate"),
        layers=(2, 4),
        kinds=("shared", "switch", "cell", "mixed", "links"),
    )
    plan = random_plan(dice, work, place)
    if work.generates:
        plan = plan.replace(token_groups=dice.pick(n for n in (1, 2, 3, 4) if plan.micro_batches % n == 0))
    return work, place, scheduled(work, place, plan)


def changing(dice: Dice, place: Cluster, least: float = 0.2) -> World:
    """Speeds and rates that jump at random moments."""
    world = World(place)
    for quantity, names in (
        ("domain rate", [domain.id for domain in place.domains]),
        ("device speed", place.device_ids),
        ("device rate", place.device_ids),
    ):
        name, at, steps = dice.pick(names), 0.0, []
        for _ in range(dice.number(1, 4)):
            slowest = least if quantity != "device rate" else max(least, 0.2)
            steps.append((at, dice.pick((slowest, 0.5, 1.0, 2.0))))
            at += dice.pick((0.05, 0.3, 1.7))
        world = world.having(quantity, name, Trace.steps(steps))  # type: ignore[arg-type]
    return world


def two_ways(mode: str = "inference", parameters: int = 0) -> tuple[Workload, Cluster, dict[str, Plan]]:
    """Two devices, and a plan for each alone: a step takes 4 s on a at 12 J, or 2 s on b at 40 J.

    Idle they draw 1 W, busy 3 W and 20 W. In training everything takes three times as long.
    """
    layers = [layer("l0", flops=2e9, parameters=parameters), layer("l1", flops=2e9, parameters=parameters)]
    work = workload(layers, mode=mode, batch=1)
    place = cluster([device("a"), device("b", 2e9, active_w=20.0)], 1e6)
    ways = {"a": pipeline((0, 2, {"a": 1})), "b": pipeline((0, 2, {"b": 1}))}
    return work, place, {name: scheduled(work, place, plan).replace(label=name) for name, plan in ways.items()}
