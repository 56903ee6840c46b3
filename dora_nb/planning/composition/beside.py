"""Plans that fit into memory beside another one, because they share parameters with it.

The best plans of two conditions may hold the same layers on unlike devices, so that they cannot be resident together,
while others that are hardly worse can: the same groups of devices in another order, or cut elsewhere. Our own design: a
local search, which proves nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from dora_nb.costs.resident import Residents, held_units, unit_bytes
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import EnergyAccounting
from dora_nb.formulation.problem import Problem
from dora_nb.planning.scheduling import finish

#: Layers by which a cut may move, with two stages, three and four; longer pipelines are left alone.
_REACH = {2: 12, 3: 5, 4: 2}

#: Variants that are scheduled, nearest first, and those that are given back.
MOST_SCHEDULED, MOST_BESIDE = 200, 3


def beside(
    plan: Plan,
    anchor: Plan,
    problem: Problem,
    usable_bytes: Mapping[str, float],
    energy: EnergyAccounting | None = None,
) -> list[Plan]:
    """Variants of a plan that fit beside another one, best first.

    Parameters
    ----------
    plan
        What is varied, for inference.
    anchor
        What stays resident, with its prediction.
    problem
        What the variants are for.
    usable_bytes
        Of every device, those that ``problem`` lacks included.
    energy
        The best takes the least energy under this accounting; None: it is the fastest.
    """
    workload = problem.workload
    own_bytes = unit_bytes(workload)
    held = held_units(anchor, workload)
    found = []
    for variant in _variants(plan, anchor):
        needed = held_units(variant, workload)
        if all(
            own_bytes[list(units | held.get(name, set()))].sum() <= usable_bytes[name] for name, units in needed.items()
        ):
            found.append(finish(variant, problem))
            if len(found) == MOST_SCHEDULED:
                break
    names, limits = tuple(usable_bytes), np.array(list(usable_bytes.values()))
    fits = [
        each for each in found if (Residents(workload, (anchor, each), names).resident_bytes((0, 1)) <= limits).all()
    ]

    def rank(plan: Plan) -> float:
        assert plan.prediction is not None, "a finished plan carries its prediction"
        return plan.prediction.makespan_s if energy is None else plan.prediction.energy_j(energy)

    return sorted(fits, key=rank)[:MOST_BESIDE]


def _variants(plan: Plan, anchor: Plan) -> Iterator[Plan]:
    """Other orders of the groups of devices and other cuts, those near the plan's own first."""
    stages = plan.stages
    reach = _REACH.get(len(stages), 0)
    if not reach:
        return
    layers, cuts = stages[-1].stop_layer, [stage.stop_layer for stage in stages[:-1]]
    familiar = [stage.stop_layer for stage in anchor.stages[:-1]]
    choices = [sorted({*range(cut - reach, cut + reach + 1), *familiar}) for cut in cuts]
    moved = [
        each
        for each in itertools.product(*choices)
        if each[0] > 0 and each[-1] < layers and all(one < other for one, other in itertools.pairwise(each))
    ]
    moved.sort(key=lambda each: sum(abs(new - old) for new, old in zip(each, cuts, strict=True)))
    for each in moved:
        bounds = [0, *each, layers]
        for order in itertools.permutations(stages):
            yield plan.replace(
                stages=tuple(
                    group.replace(first_layer=bounds[place], stop_layer=bounds[place + 1], in_flight=own.in_flight)
                    for place, (group, own) in enumerate(zip(order, stages, strict=True))
                ),
                transfer_order=(),
                prediction=None,
                certificate=None,
            )
