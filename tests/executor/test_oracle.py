"""Plans without replicas train as ``torch.distributed.pipelining`` trains them; random plans as one process does."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from builders import Dice
from oracle import Oracle

from dora_nb.costs.operations import Shape
from dora_nb.costs.precedence import operations_of
from dora_nb.domain.plan import MOST_CHUNKS, Plan
from dora_nb.domain.transfer import Transfer
from dora_nb.domain.workload import Workload
from dora_nb.executor import execute
from dora_nb.executor.compare import differences
from dora_nb.executor.control.orders import NetworkUse
from dora_nb.executor.course import Outputs
from dora_nb.executor.reference import reference_run
from dora_nb.executor.session import Session
from dora_nb.executor.tasks.assemble import random_task
from dora_nb.exporting import pipelining_csv

STEPS = 5

#: Of losses, relative; of gradients and outputs; and of parameters after five steps of AdamW.
LOSS, GRADIENT, PARAMETER = 1e-12, 1e-12, 1e-10

THREE = [(0, 2, [(0, 2)], 3, None), (2, 4, [(1, 2)], 2, None), (4, 6, [(2, 2)], 1, None)]
TWO = [(0, 4, [(0, 3)], 2, None), (4, 6, [(1, 3)], 1, None)]
ORACLE_CASES = [
    ("untied", TWO, 3),
    ("untied", THREE, 5),
    ("untied", TWO, 7),
    ("vit", THREE, 3),
    ("vit", TWO, 4),
    ("resnet", THREE, 8),
]

needs_time = pytest.mark.skipif("DORA_NB_LONG" not in os.environ, reason="starts several processes for each case")


@pytest.mark.parametrize(
    ("network", "stages", "micro_batches"),
    [ORACLE_CASES[0], *(pytest.param(*each, marks=needs_time) for each in ORACLE_CASES[1:])],
)
def test_training_equals_schedule_1f1b(lab, pool, tmp_path, network, stages, micro_batches):
    plan = lab.plan(stages, micro_batches)
    equals_the_library(lab, pool, tmp_path, network, plan)


@needs_time
def test_an_exported_schedule_trains_alike(lab, pool, tmp_path):
    """More in flight than 1F1B has, in the library's own runtime from the file that we write for it."""
    deep = [(0, 2, [(0, 2)], 4, None), (2, 4, [(1, 2)], 3, None), (4, 6, [(2, 2)], 1, None)]
    plan = lab.plan(deep, 5)
    workload = lab.workload(lab.architectures["untied"], "training", plan.micro_batch * 5)
    equals_the_library(lab, pool, tmp_path, "untied", plan, pipelining_csv(plan, workload))


def equals_the_library(lab, pool, folder, network, plan, schedule=None):
    workload = lab.workload(lab.architectures[network], "training", plan.micro_batch * plan.micro_batches)
    task = random_task(workload, 11)
    with Oracle(task, plan, folder, schedule) as oracle:
        session = Session(pool, task, NetworkUse(), pool.seats(plan.devices), lambda _: 60.0)
        session.clear()
        session.prepare(plan, fresh=True)
        session.commit(plan)
        for step in range(STEPS):
            done = session.iterate(step, trains=True, targets={})
            theirs = oracle.step(step).loss
            assert sum(each.iteration.loss for each in done.values()) == pytest.approx(theirs, rel=LOSS)
        ours = {name: each for own in session.load("parameters").values() for name, each in own.items()}
        expected = oracle.tensors()
    assert ours.keys() == expected.keys()
    for name, tensor in ours.items():
        limit = PARAMETER if name.startswith("parameter/") else GRADIENT
        assert (tensor - expected[name]).abs().max() <= limit, name


# ------------------------------------------------------------------ random plans


def random_plan(lab, dice: Dice) -> tuple[str, str, Plan]:
    """A network, a mode and a valid plan: stages, replicas, shares, micro-batches, in-flight counts, buckets, ties."""
    network, mode = dice.pick(("tied", "untied", "encoder", "vit")), dice.pick(("training", "training", "inference"))
    count, layers = dice.number(1, 4), 6
    trains, ties = mode == "training", network in ("tied", "encoder")
    tied = "none"
    if trains and ties:
        tied = "one-stage" if count == 1 else dice.pick(("synchronised", "hosted"))
    first = int(tied == "hosted")
    cuts = sorted(dice.shuffled(range(first + 1, layers))[: count - 1])
    bounds = [first, *cuts, layers]
    micro_batch, micro_batches = dice.number(1, 6), dice.number(1, 6)
    free, in_flight, stages = dice.shuffled(range(5)), micro_batches + dice.number(0, 2), []
    for index in range(count):
        most = min(micro_batch, len(free) - (count - 1 - index), 3)
        devices = [free.pop() for _ in range(dice.number(1, most))]
        shares = random_shares(dice, micro_batch, len(devices))
        choice = None
        if len(devices) > 1 and trains:
            buckets = 1 if tied == "hosted" and index == count - 1 else dice.number(1, 4)
            choice = (dice.pick(("ring", "star")), dice.pick(devices), buckets)
        stages.append((bounds[index], bounds[index + 1], list(zip(devices, shares, strict=True)), in_flight, choice))
        in_flight = dice.number(1, in_flight)
    return network, mode, lab.plan(stages, micro_batches, tied)


def random_order(dice: Dice, plan: Plan, workload: Workload) -> tuple[Transfer, ...]:
    """Transfers in any order that dependencies allow."""
    operations = operations_of(Shape.of(plan, workload))
    waits_for = [set(each) for each in operations.predecessors]
    order: list[int] = []
    left = set(range(len(waits_for)))
    while left:
        chosen = dice.pick(sorted(each for each in left if not waits_for[each] & left))
        left.remove(chosen)
        order.append(chosen)
    names = (operations.operations[each] for each in order if each in set(operations.transfers))
    return tuple(Transfer(kind=kind, stage=stage, micro_batch=index, part=part) for kind, stage, index, part in names)


def random_shares(dice: Dice, samples: int, count: int) -> list[int]:
    """Samples of each replica, at least one, unevenly."""
    cuts = sorted(dice.shuffled(range(1, samples))[: count - 1])
    return [stop - start for start, stop in zip([0, *cuts], [*cuts, samples], strict=True)]


@pytest.mark.parametrize("seed", range(20))
def test_a_random_plan_equals_one_process(lab, seed):
    network, mode, plan = random_plan(lab, Dice(seed))
    workload = lab.workload(lab.architectures[network], mode, plan.micro_batch * plan.micro_batches)
    task, steps = random_task(workload, seed), STEPS if mode == "training" else 0
    ran = lab.run(task, plan, steps)
    check(reference_run(task, plan, steps), plan, ran.results, ran.losses)


def check(reference, plan: Plan, results, losses: Sequence[float]) -> None:
    apart = differences(reference, [Outputs(plan, results)], results, losses)
    assert apart.outputs <= GRADIENT
    assert all(abs(a - b) <= LOSS * abs(b) for a, b in zip(losses, reference.losses, strict=True))
    if losses:
        assert apart.gradients <= GRADIENT
        assert apart.parameters <= PARAMETER


@needs_time
@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_a_random_plan_on_workers_equals_one_process(lab, pool, seed, in_order):
    dice = Dice(seed)
    network, mode, plan = random_plan(lab, dice)
    workload = lab.workload(lab.architectures[network], mode, plan.micro_batch * plan.micro_batches)
    cluster = lab.cluster([1e12] * 5)
    options = {"steps": STEPS, "seed": seed, "emulate": "nothing", "workers": pool}
    if in_order:
        plan = plan.replace(chunks=dice.number(1, MOST_CHUNKS))
        plan = plan.replace(transfer_order=random_order(dice, plan, workload))
    record = execute(plan, workload, cluster, in_order=in_order, **options).wait()
    apart = record.differences
    assert apart.outputs <= GRADIENT
    pairs = zip(record.losses, record.reference_losses, strict=True)
    assert all(abs(ours - one) <= LOSS * abs(one) for ours, one in pairs)
    assert len(record.losses) == (STEPS if workload.trains else 0)
    if workload.trains:
        assert apart.gradients <= GRADIENT
        assert apart.parameters <= PARAMETER
