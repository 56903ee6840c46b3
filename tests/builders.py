"""Tiny workloads and clusters, every plan of a search space, and the best order of a plan's transfers.

Everything here is written from the definitions, in plain loops, and shares no code with the planner it is held
against: plans are enumerated one by one, and the best transfer order is searched exhaustively.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from hypothesis import strategies as st

from dora_nb.costs.evaluate import evaluate
from dora_nb.costs.network import Network
from dora_nb.costs.operations import COMPUTE_KINDS, Operations, Shape, Timing
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.table import cost_table
from dora_nb.costs.timing import timing_of
from dora_nb.domain.cluster import Cluster, ContentionDomain, Device
from dora_nb.domain.layer import Layer, NextToken
from dora_nb.domain.plan import Plan, Replica, Stage, Weights
from dora_nb.domain.workload import Workload
from dora_nb.formulation.fleet import Fleet
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.schedules.list_schedule import list_schedule
from dora_nb.formulation.space import SearchSpace

T = TypeVar("T")

MEGA = 1_000_000


def layer(name: str, flops: float = 1e9, **figures: Any) -> Layer:
    """A dense layer that needs 1 s on a device of 1 GFLOP/s, has no parameters and hands over 1 MB (fp32)."""
    return Layer(**({"name": name, "forward_flops": flops, "parameters": 0, "output_elements": MEGA // 4} | figures))


def workload(layers: int | Sequence[Layer] = 3, **fields: Any) -> Workload:
    """A workload of equal layers, or of those given."""
    chain = [layer(f"l{index}") for index in range(layers)] if isinstance(layers, int) else layers
    return Workload(**({"name": "tiny", "mode": "training", "batch": 4, "layers": tuple(chain)} | fields))


def device(name: str, flops_per_s: float | dict[str, dict[str, float]] = 1e9, **figures: Any) -> Device:
    """A device of 1 GFLOP/s that moves memory in no time and draws 1 W idle, 3 W active."""
    rates = flops_per_s
    if not isinstance(rates, dict):
        rates = {operator: {"fp32": rates} for operator in ("matmul", "conv", "depthwise")}
    fields: dict[str, Any] = {
        "id": name,
        "profile": "test",
        "memory_bytes": 1e12,
        "usable_memory_fraction": 1.0,
        "flops_per_s": rates,
        "memory_bytes_per_s": 1e12,
        "idle_w": 1.0,
        "active_w": 3.0,
    }
    return Device(**(fields | figures))


def cluster(
    devices: int | Sequence[Device] = 2,
    rates: float | Sequence[float] = 1e6,
    kind: str = "shared",
    **medium: Any,
) -> Cluster:
    """Devices on one medium that each reaches at 1 MB/s, or at the rates given."""
    members = [device("abcdefgh"[index]) for index in range(devices)] if isinstance(devices, int) else devices
    each = [rates] * len(members) if isinstance(rates, int | float) else rates
    reached = {member.id: float(rate) for member, rate in zip(members, each, strict=True)}
    domain = ContentionDomain(**({"id": "net", "kind": kind, "rates_bytes_per_s": reached} | medium))
    return Cluster(name="tiny", devices=tuple(members), domains=(domain,))


def pipeline(
    *stages: tuple[int, int, dict[str, int]],
    micro_batches: int = 1,
    in_flight: Sequence[int] | None = None,
    tied: str = "none",
    algorithm: str = "star",
) -> Plan:
    """A plan from (first layer, stop layer, samples by device) of each stage, 1F1B unless told otherwise."""
    counts = in_flight or [min(micro_batches, len(stages) - index) for index in range(len(stages))]
    return Plan(
        micro_batch=sum(stages[0][2].values()),
        micro_batches=micro_batches,
        tied=tied,
        stages=tuple(
            Stage(
                first_layer=first,
                stop_layer=stop,
                replicas=tuple(Replica(device=name, samples=count) for name, count in shares.items()),
                in_flight=held,
                all_reduce={"algorithm": algorithm, "leader": next(iter(shares))} if len(shares) > 1 else None,
            )
            for (first, stop, shares), held in zip(stages, counts, strict=True)
        ),
    )


def sliced(plan: Plan, stage: int, shards: Mapping[str, int], algorithm: str = "ring") -> Plan:
    """The plan with the layers of a stage sliced over devices, each of which takes all samples."""
    replicas = tuple(Replica(device=name, samples=plan.micro_batch) for name in shards)
    whole = plan.stages[stage]
    apart = whole.replace(replicas=replicas, all_reduce=None, shards=tuple(shards.values()), shard_sum=algorithm)
    return plan.replace(stages=(*plan.stages[:stage], apart, *plan.stages[stage + 1 :]))


# ---------------------------------------------------------------------------------------------- random problems


class Dice:
    """Random choices from a seed.

    Hypothesis draws only the seed: drawing every figure itself, it tries mostly the smallest problems there are.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def pick(self, options: Iterable[T]) -> T:
        """One of several."""
        return self._random.choice(list(options))

    def number(self, least: int, most: int) -> int:
        """A whole number, both ends included."""
        return self._random.randint(least, most)

    def shuffled(self, items: Iterable[T]) -> list[T]:
        """Items in some order."""
        mixed = list(items)
        self._random.shuffle(mixed)
        return mixed


def seeded(make: Callable[[Dice], T]) -> st.SearchStrategy[T]:
    """What a function makes of dice, for many seeds."""
    return st.integers(0, 2**32 - 1).map(lambda seed: make(Dice(seed)))


def random_workload(
    dice: Dice,
    *,
    devices: Sequence[str] = ("a", "b"),
    layers: tuple[int, int] = (2, 3),
    batches: Sequence[int] = (1, 2, 3, 4),
    modes: Sequence[str] = ("training", "inference"),
    tied: bool | None = None,
    ends: bool | None = None,
) -> Workload:
    """Small chains with round figures; parameters, activations and work of the same order of magnitude."""
    count, mode = dice.number(*layers), dice.pick(modes)
    ties = dice.pick((True, False)) if tied is None else tied
    shared = dice.number(1, 4) * MEGA // 8 if ties else 0
    chain = []
    for index in range(count):
        at_an_end = index in (0, count - 1)
        chain.append(
            layer(
                f"l{index}",
                flops=dice.number(1, 9) * 1e8,
                operator=dice.pick(("matmul", "conv")),
                parameters=dice.number(0, 4) * MEGA // 8 + (shared if at_an_end else 0),
                output_elements=dice.number(1, 9) * MEGA // 40,
                stash_elements=dice.number(0, 5) * MEGA // 10,
                traffic_elements=dice.number(0, 5) * MEGA // 10,
                tied_parameters=shared if at_an_end else 0,
                kv_elements=dice.number(0, 3) * MEGA // 100 if mode == "generate" else 0,
                next_token=next_token(dice) if mode == "generate" else None,
            )
        )
    ended = dice.pick((True, False)) if ends is None else ends
    return workload(
        chain,
        mode=mode,
        batch=dice.pick(batches),
        source=dice.pick(devices) if ended and dice.number(0, 3) else None,
        sink=dice.pick(devices) if ended and dice.number(0, 3) else None,
        input_bytes=dice.pick((0, 50_000, 400_000)),
        label_bytes=dice.pick((0, 30_000)) if mode == "training" else 0,
        output_bytes=dice.pick((0, 200_000)),
        sequence=2 if mode == "generate" else None,
        new_tokens=dice.number(1, 4) if mode == "generate" else 0,
        requests_per_s=dice.pick((0.1, 0.3, 1, 3)) if mode == "stream" else None,
    )


def next_token(dice: Dice) -> NextToken:
    """Of the order of what one token of a short prompt takes; memory counts more, as in generating it does."""
    return NextToken(
        flops=dice.number(1, 9) * 2e7,
        context_flops=dice.number(0, 3) * 1e6,
        read_parameters=dice.number(0, 4) * MEGA // 8,
        output_elements=dice.number(1, 9) * MEGA // 200,
        traffic_elements=dice.number(0, 5) * MEGA // 50,
    )


def random_cluster(
    dice: Dice,
    *,
    devices: tuple[int, int] = (2, 3),
    kinds: Sequence[str] = ("shared", "switch"),
) -> Cluster:
    """Two or three devices, often two equal ones, on a slow or a fast medium."""
    count, twins = dice.number(*devices), dice.pick((True, False))
    scale = dice.pick((2e5, 2e6, 2e7))
    members, rates = [], []
    for index in range(count):
        if twins and index == count - 1:
            members.append(members[0].replace(id="abcdefgh"[index]))
            rates.append(rates[0])
            continue
        idle = dice.number(1, 4)
        members.append(
            device(
                "abcdefgh"[index],
                {name: {"fp32": dice.pick((5e7, 3e8, 1e9, 4e9))} for name in ("matmul", "conv")},
                idle_w=float(idle),
                active_w=float(idle + dice.number(0, 9)),
                layer_overhead_s=dice.pick((0.0, 0.02)),
                memory_bytes_per_s=dice.pick((1e7, 1e8, 1e12)),
            )
        )
        rates.append(scale * dice.pick((1, 2, 3, 7, 100)))
    kind = dice.pick(kinds)
    if kind in ("shared", "switch"):
        return cluster(
            members,
            rates,
            kind,
            latency_s=dice.pick((0.0, 0.01)),
            energy_j_per_byte=dice.pick((0.0, 1e-6)),
        )
    reached = {member.id: rate for member, rate in zip(members, rates, strict=True)}
    domains = _mixture(dice, reached, scale) if kind == "mixed" else [_domain(dice, "net", kind, reached, scale)]
    return Cluster(name="tiny", devices=tuple(members), domains=tuple(domains))


def _domain(dice: Dice, name: str, kind: str, reached: dict[str, float], scale: float) -> ContentionDomain:
    """A domain with members that reach it at rates given; other rates, latency and energy are drawn."""
    fields: dict[str, Any] = {"rates_bytes_per_s": reached}
    if kind == "cell":
        factor = dice.pick((1, 3, 20))
        fields["down_rates_bytes_per_s"] = {member: factor * rate for member, rate in reached.items()}
    if kind == "links":
        ways = dice.pick((itertools.combinations, itertools.permutations))  # the same both ways, or not
        links: dict[str, dict[str, float]] = {}
        for a, b in ways(reached, 2):
            links.setdefault(a, {})[b] = scale * dice.pick((1, 2, 2, 9, 100))
        fields = {"links_bytes_per_s": links}
    energy_j_per_byte = dice.pick((0.0, 1e-7, 1e-6))
    return ContentionDomain(
        id=name, kind=kind, latency_s=dice.pick((0.0, 0.01)), energy_j_per_byte=energy_j_per_byte, **fields
    )


def _mixture(dice: Dice, reached: dict[str, float], scale: float) -> list[ContentionDomain]:
    """One or two domains behind a third; at least one device in each of the former."""
    names = dice.shuffled(reached)
    leaves = {"x": names[:1], "y": names[1:2]} if dice.number(0, 1) else {"x": names[: dice.number(1, len(names))]}
    top = {name: rate for name, rate in reached.items() if not any(name in inside for inside in leaves.values())}
    domains = []
    for leaf, inside in leaves.items():
        rates = {name: reached[name] for name in inside}
        for name in list(top) if leaf == "x" else ():
            if len(top) > 1 and dice.number(0, 1):
                rates[name] = top.pop(name)
        domains.append(_domain(dice, leaf, dice.pick(("shared", "switch", "cell")), rates, scale))
        top[leaf] = scale * dice.pick((1, 2, 7, 100))
    kind = dice.pick(("switch", "switch", "cell", "shared", *(("links",) if len(top) > 1 else ())))
    return [*domains, _domain(dice, "top", kind, top, scale)]


def random_question(
    dice: Dice, *, device_count: tuple[int, int] = (2, 3), kinds: Sequence[str] = ("shared", "switch"), **options: Any
) -> tuple[Workload, Cluster]:
    """A workload and a cluster that fit together."""
    place = random_cluster(dice, devices=device_count, kinds=kinds)
    return random_workload(dice, devices=place.device_ids, **options), place


def questions(**options: Any) -> st.SearchStrategy[tuple[Workload, Cluster]]:
    """Random workloads on random clusters."""
    return seeded(lambda dice: random_question(dice, **options))


def random_plan(dice: Dice, work: Workload, place: Cluster) -> Plan:
    """Some plan that fits a workload and a cluster, whether or not a planner would think of it."""
    size = dice.pick(n for n in range(1, work.batch + 1) if work.batch % n == 0)
    batches = work.batch // size
    free = dice.shuffled(place.device_ids)
    count = dice.number(1, min(len(free), len(work.layers)))
    tied = "none"
    if work.trains and work.tied_parameters:
        tied = "one-stage" if count == 1 else dice.pick(("synchronised", "hosted"))
        if tied == "hosted" and count > len(work.layers) - 1:
            tied = "synchronised"
    first = 1 if tied == "hosted" else 0
    cuts = [first, *sorted(dice.shuffled(range(first + 1, len(work.layers)))[: count - 1]), len(work.layers)]
    held = sorted((dice.number(1, batches) for _ in range(count)), reverse=True)  # fewer ones in front would lock up
    overlap, stages = dice.pick((True, True, False)), []
    for index in range(count):
        members = [free.pop() for _ in range(dice.number(1, min(size, len(free) - (count - 1 - index))))]
        shares = dice.pick(compositions(size, len(members)))
        stages.append(
            Stage(
                first_layer=cuts[index],
                stop_layer=cuts[index + 1],
                replicas=tuple(Replica(device=d, samples=n) for d, n in zip(members, shares, strict=True)),
                in_flight=held[index],
                all_reduce={
                    "algorithm": dice.pick(("ring", "star")),
                    "leader": dice.pick(members),
                    "buckets": 1 if not overlap or (tied == "hosted" and index == count - 1) else dice.number(1, 4),
                }
                if work.trains and len(members) > 1
                else None,
                recomputes=work.trains and dice.pick((False, False, True)),
            )
        )
    return Plan(
        micro_batch=size,
        micro_batches=batches,
        stages=tuple(stages),
        tied=tied,
        overlap=overlap,
        chunks=dice.pick((1, 1, 2, 3)),
    )


def sliceable_question(dice: Dice, *, modes: Sequence[str] = ("inference", "generate")) -> tuple[Workload, Cluster]:
    """Layers some of which can be sliced, short messages and slow devices, so that slicing them may pay."""
    work, place = random_question(
        dice,
        layers=(2, 3),
        batches=(1, 2),
        modes=modes,
        kinds=("shared", "switch", "links", "cell", "mixed", "mixed"),
        device_count=(2, 3),
    )
    parts = dice.pick((2, 3))
    layers = tuple(each.replace(parts=dice.pick((1, parts, parts))) for each in work.layers)
    lighter = dice.pick((1, 30, 300))
    layers = tuple(
        each.replace(
            output_elements=max(each.output_elements // lighter, 1),
            next_token=each.next_token
            and each.next_token.replace(output_elements=max(each.next_token.output_elements // lighter, 1)),
        )
        for each in (layers[0].replace(parts=parts), *layers[1:])
    )
    latency_s = dice.pick((None, 0.0, 1e-4))
    if latency_s is not None:
        place = place.replace(domains=tuple(domain.replace(latency_s=latency_s) for domain in place.domains))
    if dice.pick((True, False)):  # on some of which a whole layer does not fit
        kept = sum(each.parameters for each in layers) * 4
        devices = [each.replace(memory_bytes=1e6 + kept * dice.pick((0.4, 1.5))) for each in place.devices]
        place = place.replace(devices=tuple(devices))
    return work.replace(layers=layers), place


def randomly_sliced(dice: Dice, work: Workload, place: Cluster) -> tuple[Workload, Plan]:
    """The workload with some layers that can be sliced, and a plan that slices at least one stage of it.

    Parameters tied between two stages are untied, since the stages at the ends then could not have shards.
    """
    parts = dice.number(2, 4)
    layers = tuple(each.replace(parts=dice.pick((1, parts)), tied_parameters=0) for each in work.layers)
    at = dice.number(0, len(layers) - 1)
    layers = (*layers[:at], layers[at].replace(parts=parts), *layers[at + 1 :])
    work = work.replace(layers=layers)
    plan = random_plan(dice, work, cluster(place.devices[: dice.number(1, len(place.devices) - 1)]))
    stages, free = [], [each for each in dice.shuffled(place.device_ids) if each not in plan.devices]
    for stage in plan.stages:
        can = any(each.parts > 1 for each in layers[stage.first_layer : stage.stop_layer])
        most = min(parts, len(stage.devices) + len(free))
        if can and most > 1 and (free or len(stage.devices) > 1) and (not stages or dice.pick((True, False))):
            members = [*stage.devices, *free][: dice.number(2, most)]
            free = [each for each in free if each not in members]
            stage = stage.replace(
                replicas=tuple(Replica(device=each, samples=plan.micro_batch) for each in members),
                all_reduce=None,
                recomputes=False,
                shards=dice.pick(compositions(parts, len(members))),
                shard_sum=dice.pick(("ring", "star")),
            )
        stages.append(stage)
    return work, plan.replace(stages=tuple(stages))


# ---------------------------------------------------------------------------------------------- every plan


def compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to write a number as an ordered sum of positive ones."""
    if parts == 1:
        yield (total,)
        return
    for first in range(1, total - parts + 2):
        for rest in compositions(total - first, parts - 1):
            yield (first, *rest)


def groupings(free: frozenset[str], stages: int, most: int) -> Iterator[tuple[tuple[str, ...], ...]]:
    """All sequences of disjoint, non-empty groups of devices."""
    if stages == 0:
        yield ()
        return
    for size in range(1, min(most, len(free)) + 1):
        for group in itertools.combinations(sorted(free), size):
            for rest in groupings(free - set(group), stages - 1, most):
                yield (group, *rest)


def every_plan(problem: Problem) -> Iterator[Plan]:
    """Every plan of a problem's space, whether or not it fits in memory; no transfer orders."""
    work, place, space = problem.workload, problem.cluster, problem.space
    layers = len(problem.workload.layers)
    for size in space.micro_batch_sizes:
        batches = work.batch // size
        for count in range(1, min(layers, len(place.devices)) + 1):
            placements = ["none"]
            if work.trains and work.tied_parameters:
                placements = ["one-stage"] if count == 1 else ["synchronised", "hosted"]
            for tied in placements:
                start = 1 if tied == "hosted" else 0
                for inner in itertools.combinations(range(start + 1, layers), count - 1):
                    cuts = (start, *inner, layers)
                    most = max(min(space.most_replicas, size), space.shards)
                    for groups in groupings(frozenset(place.device_ids), count, most):
                        for plan in _with_shares(problem, size, batches, tied, cuts, groups):
                            for split in space.token_groups:
                                if batches % split == 0:
                                    yield plan.replace(token_groups=split)


def _with_shares(
    problem: Problem,
    size: int,
    batches: int,
    tied: str,
    cuts: tuple[int, ...],
    groups: tuple[tuple[str, ...], ...],
) -> Iterator[Plan]:
    work, count = problem.workload, len(groups)
    groups = tuple(_by_type(problem, group) for group in groups)
    depths = {
        tuple(min(batches, 1 + depth * behind) for behind in range(count - 1, -1, -1))
        for depth in problem.space.in_flight_depths
    }
    sums = [
        (None,)
        if len(group) == 1 or not work.trains
        else [
            {
                "algorithm": algorithm,
                "leader": _leader(problem.cluster, group),
                "buckets": min(4, cuts[index + 1] - cuts[index])
                if problem.overlap and not (tied == "hosted" and index == count - 1)
                else 1,
            }
            for algorithm in ("ring", "star")
        ]
        for index, group in enumerate(groups)
    ]
    ways_to_share = (_sharings(problem, size, cuts[index : index + 2], group) for index, group in enumerate(groups))
    for shares in itertools.product(*ways_to_share):
        run = [{}]
        if problem.space.recomputation and work.trains:
            run = [{}, {"recomputes": True}]
        elif problem.space.weights:
            run = [{"weights": each} for each in (None, *problem.space.weights)]
        if (tied == "synchronised" and shares[0][1]) or (tied in ("synchronised", "hosted") and shares[-1][1]):
            continue
        own_sums = [(None,) if sliced else each for (_, sliced), each in zip(shares, sums, strict=True)]
        can_run = [[each for each in run if not (sliced and any(each.values()))] for _, sliced in shares]
        runs = itertools.product(*can_run)
        for held, ways, hows in itertools.product(sorted(depths), itertools.product(*own_sums), runs):
            yield Plan(
                micro_batch=size,
                micro_batches=batches,
                tied=tied,
                overlap=problem.overlap,
                stages=tuple(
                    Stage(
                        first_layer=cuts[index],
                        stop_layer=cuts[index + 1],
                        replicas=tuple(Replica(device=d, samples=n) for d, n in each.items()),
                        in_flight=held[index],
                        all_reduce=ways[index],
                        **sliced,
                        **hows[index],
                    )
                    for index, (each, sliced) in enumerate(shares)
                ),
            )


def _sharings(
    problem: Problem, size: int, between: tuple[int, ...], group: tuple[str, ...]
) -> list[tuple[dict[str, int], dict[str, Any]]]:
    """Samples of every device, and shards where its layers are sliced."""
    found: list[tuple[dict[str, int], dict[str, Any]]] = []
    if len(group) <= min(problem.space.most_replicas, size):
        found = [(dict(zip(group, each, strict=True)), {}) for each in compositions(size, len(group))]
    parts = {layer.parts for layer in problem.workload.layers[slice(*between)]} - {1}
    if len(parts) == 1 and 1 < len(group) <= min(problem.space.shards, *parts):
        leader = problem.network.best_leader(group)
        everyone = dict.fromkeys((leader, *(name for name in group if name != leader)), size)
        for shards in compositions(*parts, len(group)):
            found.extend((everyone, {"shards": shards, "shard_sum": algorithm}) for algorithm in ("ring", "star"))
    return found


def _by_type(problem: Problem, group: tuple[str, ...]) -> tuple[str, ...]:
    """Replicas in the order of the space: equal devices next to each other. It decides who sends what to whom."""
    place = {index: kind for kind, same in enumerate(problem.fleet.types) for index in same}
    ids = problem.cluster.device_ids
    return tuple(sorted(group, key=lambda name: (place[ids.index(name)], ids.index(name))))


def _leader(place: Cluster, group: tuple[str, ...]) -> str:
    """The device that leads a group: the best connected."""
    if len(place.domains) == 1 and place.domains[0].kind in ("shared", "switch"):
        return max(group, key=place.domains[0].rates_bytes_per_s.__getitem__)
    return Network.of(place).best_leader(group)


# ---------------------------------------------------------------------------------------------- every order


def shape_and_timing(plan: Plan, problem: Problem) -> tuple[Operations, Timing]:
    """A plan's operations and how long they take."""
    operations = operations_of(Shape.of(plan, problem.workload))
    return operations, timing_of(plan, problem.workload, problem.cluster, problem.table)


def tails(operations: Operations, timing: Timing) -> list[float]:
    """Seconds from each operation's start to the end of the iteration if nothing waited for a medium."""
    seconds = [timing.duration_s[kind] for kind in operations.classes]
    remaining = list(seconds)
    for index in range(len(remaining) - 1, -1, -1):
        for earlier in operations.predecessors[index]:
            remaining[earlier] = max(remaining[earlier], seconds[earlier] + remaining[index])
    return remaining


def best_makespan(operations: Operations, timing: Timing, below_s: float = math.inf, most_nodes: int = 20_000) -> float:
    """The shortest makespan over all transfer orders that is below a limit, else the limit.

    Depth first over the transfers by ascending start. Exact when it returns before ``most_nodes``; after that it only
    stops improving, so what it returns is always the makespan of a real schedule, or the limit.
    """
    seconds = [timing.duration_s[kind] for kind in operations.classes]
    after = tails(operations, timing)
    follows = operations.successors
    best = below_s
    nodes = 0

    def settle(ends: dict[int, float], waiting: list[int], able: list[int], ready: dict[int, float]) -> float:
        """Run every computation that can run; returns the bound of what was touched."""
        bound = 0.0
        while able:
            index = able.pop()
            start = max((ends[each] for each in operations.predecessors[index]), default=0.0)
            bound = max(bound, start + after[index])
            kind = operations.classes[index]
            if kind.kind not in COMPUTE_KINDS and timing.holds[kind].seconds:  # what holds nothing need not wait
                ready[index] = start
                continue
            ends[index] = start + seconds[index]
            for each in follows[index]:
                waiting[each] -= 1
                if not waiting[each]:
                    able.append(each)
        return bound

    def descend(
        ends: dict[int, float], waiting: list[int], ready: dict[int, float], free: dict[str, float], since: float
    ) -> None:
        nonlocal best, nodes
        nodes += 1
        if nodes > most_nodes:
            return
        if not ready:
            best = min(best, max(ends.values()))
            return
        starts = {}
        for index, at in ready.items():
            hold = timing.holds[operations.classes[index]].seconds
            starts[index] = max([at, since, *(free.get(name, 0.0) for name in hold)])
            if starts[index] + after[index] >= best:
                return
        for index, start in sorted(starts.items(), key=lambda item: (item[1], -after[item[0]])):
            hold = timing.holds[operations.classes[index]].seconds
            now_free = free | {name: start + held for name, held in hold.items()}
            now_ends = ends | {index: start + seconds[index]}
            now_waiting = list(waiting)
            now_ready = {each: at for each, at in ready.items() if each != index}
            able = []
            for each in follows[index]:
                now_waiting[each] -= 1
                if not now_waiting[each]:
                    able.append(each)
            if settle(now_ends, now_waiting, able, now_ready) < best:
                descend(now_ends, now_waiting, now_ready, now_free, start)

    waiting = [len(before) for before in operations.predecessors]
    ends: dict[int, float] = {}
    ready: dict[int, float] = {}
    able = [index for index, count in enumerate(waiting) if not count]
    if settle(ends, waiting, able, ready) < best:
        descend(ends, waiting, ready, {}, 0.0)
    return best


def default_space(
    work: Workload,
    place: Cluster,
    depths: tuple[int, ...] = (1, 2),
    *,
    recomputation: bool = False,
    weights: tuple[Weights, ...] = (),
    token_groups: tuple[int, ...] = (1,),
    shards: int = 1,
) -> SearchSpace:
    """The default space with fewer in-flight depths, and layers run in one way unless others are asked for."""
    default = SearchSpace.default(work, Fleet.of(work, place, cost_table(work, place)))
    return dataclasses.replace(
        default,
        in_flight_depths=depths if work.trains else (1,),
        recomputation=recomputation,
        weights=weights,
        token_groups=token_groups,
        shards=shards,
    )


# ---------------------------------------------------------------------------------------------- the true optimum


class Rated:
    """A plan of the space with its figures, and what a better transfer order could make of it."""

    def __init__(self, plan: Plan, problem: Problem) -> None:
        self.problem = problem
        self.operations, self.timing = shape_and_timing(plan, problem)
        transfers = list_schedule(self.operations, self.timing).transfers()
        self.plan = plan.replace(transfer_order=transfers)
        figures = evaluate(self.plan, problem.workload, problem.cluster, problem.table).prediction
        self.fits = all(each.memory_bytes <= each.usable_memory_bytes for each in figures.devices)
        self.makespan_s = figures.makespan_s
        self.drawn_j = {each.device: each.energy_j for each in figures.devices}
        all_on = problem.idle_all_w is not None
        self.energy_j = figures.energy_j("all-on" if all_on else "participating")
        counted = problem.cluster.devices if all_on else [problem.cluster.device(name) for name in plan.devices]
        self.idle_w = sum(each.idle_w for each in counted)
        self.dynamic_j = self.energy_j - self.idle_w * self.makespan_s
        self.path_s = max(tails(self.operations, self.timing))

    def best_s(self, below_s: float) -> float:
        """The shortest makespan over all transfer orders, if it is below a limit, else the limit."""
        if self.makespan_s >= below_s and self.path_s >= below_s:
            return below_s
        return best_makespan(self.operations, self.timing, min(below_s, self.makespan_s), most_nodes=3_000)

    def reaches_latency(self, below_s: float, energy_limit_j: float = math.inf) -> bool:
        """Whether some transfer order is faster than this within the energy limit."""
        if self.idle_w:
            below_s = min(below_s, (energy_limit_j - self.dynamic_j) / self.idle_w)
        elif self.dynamic_j > energy_limit_j:
            return False
        return self.best_s(below_s) < below_s

    def reaches_energy(self, below_j: float, latency_limit_s: float = math.inf) -> bool:
        """Whether some transfer order takes less energy than this within the latency limit."""
        if self.dynamic_j + self.idle_w * self.path_s >= below_j:
            return False
        if self.makespan_s <= latency_limit_s and self.energy_j < below_j:
            return True
        below_s = (below_j - self.dynamic_j) / self.idle_w if self.idle_w else math.inf
        below_s = min(below_s, latency_limit_s)
        return self.best_s(below_s) < below_s


def rated_plans(problem: Problem) -> list[Rated]:
    """Every plan of the space that fits in memory."""
    return [rated for rated in (Rated(plan, problem) for plan in every_plan(problem)) if rated.fits]


# ---------------------------------------------------------------------------------------------- streams


def best_stream_latency(
    operations: Operations, timing: Timing, period_s: float, below_s: float, most_nodes: int = 3_000
) -> float:
    """The smallest latency of a schedule that repeats every period, if it is below a limit, else the limit.

    Start from the earliest times without media. While two transfers meet on a medium modulo the period, try every
    number of periods that may lie between them. Exact when it returns before ``most_nodes``; after that it only stops
    improving.
    """
    count = len(operations.operations)
    seconds = [timing.duration_s[kind] for kind in operations.classes]
    base = [(each, index, seconds[each]) for index in range(count) for each in operations.predecessors[index]]
    stages: dict[int, list[int]] = {}
    for index, name in enumerate(operations.operations):
        if name.kind == "forward":
            stages.setdefault(name.stage, []).append(index)
    for own in stages.values():
        own.sort(key=lambda index: operations.operations[index].micro_batch)
        last = operations.sums_behind(own[-1])
        base.append((last, own[0], seconds[last] - period_s))
    held = {index: timing.holds[operations.classes[index]].seconds for index in operations.transfers}
    slack = 1e-9 * period_s
    if any(seconds > period_s + slack for hold in held.values() for seconds in hold.values()):
        return below_s  # a transfer would meet itself
    most = math.ceil(below_s / period_s) + 1 if math.isfinite(below_s) else 2 * count
    best, nodes = below_s, 0

    def earliest(waits: list[tuple[int, int, float]]) -> list[float] | None:
        at = [0.0] * count
        for _ in range(count + 1):
            moved = False
            for one, other, wait_s in waits:
                if at[one] + wait_s > at[other] + slack / 10:
                    at[other], moved = at[one] + wait_s, True
            if not moved:
                return at
        return None

    def meeting(at: list[float]) -> tuple[int, int, float, float] | None:
        for one, other in itertools.combinations(operations.transfers, 2):
            for medium in held[one].keys() & held[other].keys():
                apart = (at[other] - at[one]) % period_s
                if min(apart, period_s - apart) < slack:
                    apart = 0.0
                if apart < held[one][medium] - slack or apart > period_s - held[other][medium] + slack:
                    return one, other, held[one][medium], held[other][medium]
        return None

    def descend(waits: list[tuple[int, int, float]]) -> None:
        nonlocal best, nodes
        nodes += 1
        at = earliest(waits)
        if nodes > most_nodes or at is None or max(map(sum, zip(at, seconds, strict=True))) >= best - slack:
            return
        met = meeting(at)
        if met is None:
            best = max(map(sum, zip(at, seconds, strict=True)))
            return
        one, other, first_s, second_s = met
        near = round((at[other] - at[one]) / period_s)
        for lag in sorted(range(-most, most + 1), key=lambda lag: abs(lag - near)):
            between = [
                (one, other, first_s + lag * period_s),
                (other, one, second_s - (lag + 1) * period_s),
            ]
            descend([*waits, *between])

    descend(base)
    return best


def unrolled_latencies(plan: Plan, work: Workload, place: Cluster, requests: int) -> list[float]:
    """Latency of request after request when a stream starts on idle devices and follows a plan's order.

    Every medium takes its transfers in the order in which they enter the network, period after period; every stage
    takes requests as they come. No cycles, no periods: one event after the other.
    """
    assert work.requests_per_s is not None
    period_s = 1.0 / work.requests_per_s
    problem = Problem.of(work, place, "participating")
    operations, timing = shape_and_timing(plan, problem)
    seconds = [timing.duration_s[kind] for kind in operations.classes]
    free_s: dict[str, float] = {}
    ends: dict[tuple[int, int], float] = {}
    index_of = {tuple(name): index for index, name in enumerate(operations.operations)}
    # More requests follow, so that the last ones meet as many others as those before.
    simulated = requests + max((transfer.lag for transfer in plan.transfer_order), default=0)
    turns = [
        (turn - transfer.lag, index_of[transfer.kind, transfer.stage, transfer.micro_batch, transfer.part])
        for turn in range(simulated)
        for transfer in plan.transfer_order
        if turn >= transfer.lag
    ]

    def end_of(request: int, index: int) -> float:
        """Ends follow from what comes before; transfers are settled in turn, below."""
        if (request, index) not in ends:
            name = operations.operations[index]
            assert name.kind == "forward", "a transfer is asked for before its turn"
            start = max(
                [request * period_s, *(end_of(request, each) for each in operations.predecessors[index])], default=0.0
            )
            if request and not name.micro_batch:
                last = index_of["forward", name.stage, plan.micro_batches - 1, 0]
                start = max(start, end_of(request - 1, last))
            ends[request, index] = start + seconds[index]
        return ends[request, index]

    for request, index in turns:
        hold = timing.holds[operations.classes[index]].seconds
        ready = [request * period_s, *(end_of(request, each) for each in operations.predecessors[index])]
        start = max([*ready, *(free_s.get(medium, 0.0) for medium in hold)])
        for medium, held_s in hold.items():
            free_s[medium] = start + held_s
        ends[request, index] = start + seconds[index]
    return [
        max(end_of(request, index) for index in range(len(seconds))) - request * period_s for request in range(requests)
    ]


def examples(quick: int) -> int:
    """Random cases of a costly property: so many in the quick run, five times as many with ``DORA_NB_LONG=1``."""
    return 5 * quick if "DORA_NB_LONG" in os.environ else quick


def drawn_layers(between: Callable[[float, float], float], count: int) -> list[Layer]:
    """Unlike layers of about a GFLOP, with about a million parameters and 1 MB handed over each."""
    return [
        layer(
            f"l{index}",
            flops=between(0.5, 1.5) * 1e9,
            parameters=int(between(0.5, 1.5) * MEGA),
            output_elements=int(between(0.5, 1.5) * MEGA / 4),
            stash_elements=MEGA // 10,
        )
        for index in range(count)
    ]
