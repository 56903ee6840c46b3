"""Small requests for tokens, and plans with slots that serve them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from builders import Dice, cluster, layer, random_cluster, random_workload

from dora_nb.costs.serving.service import Service, serving_plan
from dora_nb.costs.table import CostTable, cost_table
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.layer import NextToken
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload


class Case(NamedTuple):
    """Requests on a cluster, with the compute times of as many as go together."""

    work: Workload
    place: Cluster
    table: CostTable


def case_of(work: Workload, place: Cluster, slots: int) -> Case:
    """With the roofline's times of up to so many samples."""
    return Case(work, place, cost_table(work.replace(batch=slots), place))


def service_of(case: Case, plan: Plan) -> Service:
    """What a plan takes in a case."""
    return Service(plan, case.work, case.place, case.table)


def two_layers(tokens: int = 3, bytes_per_s: float = 1e6, slots: int = 4) -> Case:
    """Prompts take 1 s a layer and hand over 1 MB, further tokens 0.1 s a layer and hand over 20 kB; two devices."""
    token = NextToken(flops=1e8, read_parameters=0, output_elements=5_000)
    chain = [layer(f"l{index}", next_token=token, kv_elements=100) for index in range(2)]
    work = Workload(name="tiny", mode="generate", batch=1, layers=tuple(chain), sequence=8, new_tokens=tokens)
    return case_of(work, cluster(2, bytes_per_s), slots)


def random_case(dice: Dice, slots: int = 3) -> Case:
    """One or two layers on two devices; memory that may bind."""
    place = random_cluster(dice, devices=(2, 2), kinds=("shared", "switch", "cell", "links"))
    work = random_workload(dice, layers=(1, 3), batches=(1,), modes=("generate",), tied=False)
    if dice.pick((True, False)):
        most = sum(each.parameters for each in work.layers)
        small = place.devices[0].replace(memory_bytes=float(4 * most + 3e6), usable_memory_fraction=1.0)
        place = place.replace(devices=(small, *place.devices[1:]))
    return case_of(work, place, slots)


def every_plan(case: Case, slots: tuple[int, ...], groups: tuple[int, ...]) -> Iterator[Plan]:
    """Contiguous stages on a device each, so many slots and groups, whether they fit or not."""
    layers = len(case.work.layers)
    for stages in range(1, min(layers, len(case.place.devices)) + 1):
        for inner in itertools.combinations(range(1, layers), stages - 1):
            for devices in itertools.permutations(case.place.device_ids, stages):
                cuts = list(itertools.pairwise((0, *inner, layers)))
                chosen = [(first, stop, name) for (first, stop), name in zip(cuts, devices, strict=True)]
                for slot, group in itertools.product(slots, groups):
                    yield serving_plan(chosen, slot, group)


def random_served(dice: Dice) -> tuple[Case, Plan]:
    """A case with one of its plans."""
    case = random_case(dice)
    return case, dice.pick(every_plan(case, (1, 2, 3), (1, 2, 3)))


def random_arrivals(dice: Dice, service: Service, requests: int) -> list[float]:
    """Of the order of what the plan can do; now and then several at once."""
    busy = dice.pick((0.3, 0.8, 1.5))
    between_s = 1 / (busy * service.capacity_per_s)
    arrivals, now = [], 0.0
    for _ in range(requests):
        arrivals.append(now)
        now += between_s * dice.pick((0, 0.5, 1, 2.5))
    return arrivals
