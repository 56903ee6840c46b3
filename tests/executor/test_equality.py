"""Plans of every kind run on real workers and equal one process in float64."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest

from dora_nb.costs.comparison import compare
from dora_nb.costs.operations import Shape
from dora_nb.costs.precedence import operations_of
from dora_nb.domain.run_record import RunRecord
from dora_nb.domain.run_timeline import INFERENCE
from dora_nb.domain.transfer import Transfer

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Case:
    network: str
    stages: list
    micro_batches: int
    tied: str = "none"
    mode: str = "training"
    recomputes: tuple[int, ...] = ()


CASES = {
    "one stage, one device": Case("tied", [(0, 6, [(0, 3)], 2, None)], 3, "one-stage"),
    "one stage, three replicas, ring": Case("tied", [(0, 6, [(0, 1), (1, 3), (2, 2)], 2, ("ring", 1))], 3, "one-stage"),
    "one stage, three replicas, star": Case("untied", [(0, 6, [(2, 1), (0, 3), (1, 2)], 1, ("star", 0))], 3),
    "three stages, untied, least in flight": Case(
        "untied", [(0, 2, [(0, 4)], 1, None), (2, 4, [(1, 4)], 1, None), (4, 6, [(2, 4)], 1, None)], 4
    ),
    "uneven shares that do not match": Case(
        "untied", [(0, 3, [(0, 5), (1, 3)], 3, ("star", 1)), (3, 6, [(2, 2), (3, 6)], 2, ("ring", 2))], 4
    ),
    "a middle stage of three on a ring, deep pipeline": Case(
        "untied",
        [(0, 1, [(0, 7)], 6, None), (1, 5, [(1, 3), (2, 1), (3, 3)], 4, ("ring", 2)), (5, 6, [(4, 7)], 1, None)],
        6,
    ),
    "two copies, one device each": Case(
        "tied", [(0, 3, [(0, 4)], 2, None), (3, 6, [(1, 4)], 1, None)], 4, "synchronised"
    ),
    "two copies, replicas at both ends": Case(
        "tied",
        [(0, 2, [(0, 3), (1, 1)], 3, ("ring", 1)), (2, 4, [(2, 4)], 2, None), (4, 6, [(3, 1), (4, 3)], 1, ("star", 4))],
        4,
        "synchronised",
    ),
    "hosted first layer": Case("tied", [(1, 3, [(0, 4)], 2, None), (3, 6, [(1, 4)], 1, None)], 4, "hosted"),
    "hosted first layer, replicas": Case(
        "tied",
        [(1, 3, [(0, 2), (1, 4)], 9, ("star", 0)), (3, 4, [(2, 6)], 2, None), (4, 6, [(3, 5), (4, 1)], 1, ("ring", 3))],
        3,
        "hosted",
    ),
    "recomputed, two copies, replicas at both ends": Case(
        "tied",
        [(0, 2, [(0, 3), (1, 1)], 3, ("ring", 1)), (2, 4, [(2, 4)], 2, None), (4, 6, [(3, 1), (4, 3)], 1, ("star", 4))],
        4,
        "synchronised",
        recomputes=(0, 1, 2),
    ),
    "in buckets, one stage, the tied layers in the first and the last": Case(
        "tied", [(0, 6, [(0, 1), (1, 3), (2, 2)], 2, ("star", 1, 4))], 3, "one-stage"
    ),
    "in buckets, two copies, replicas at both ends, recomputed": Case(
        "tied",
        [(0, 3, [(0, 3), (1, 1)], 3, ("ring", 1, 3)), (3, 6, [(3, 1), (4, 3)], 1, ("star", 4, 2))],
        4,
        "synchronised",
        recomputes=(0,),
    ),
    "in buckets, behind a hosted first layer": Case(
        "tied",
        [(1, 5, [(0, 2), (1, 4)], 3, ("star", 0, 4)), (5, 6, [(3, 5), (4, 1)], 1, ("ring", 3))],
        3,
        "hosted",
    ),
    "encoder, two copies": Case(
        "encoder",
        [(0, 3, [(0, 2), (1, 3)], 3, ("ring", 0)), (3, 6, [(2, 4), (3, 1)], 1, ("star", 2))],
        3,
        "synchronised",
    ),
    "encoder, hosted": Case(
        "encoder", [(1, 4, [(0, 3), (1, 3)], 2, ("star", 0)), (4, 6, [(2, 6)], 1, None)], 3, "hosted"
    ),
    "vit": Case(
        "vit", [(0, 1, [(0, 4)], 3, None), (1, 4, [(1, 1), (2, 3)], 2, ("ring", 1)), (4, 6, [(3, 4)], 1, None)], 4
    ),
    "decoder, inference only": Case(
        "tied", [(0, 3, [(0, 5), (1, 3)], 1, None), (3, 6, [(2, 2), (3, 6)], 1, None)], 3, "none", "inference"
    ),
    "vit, inference only": Case("vit", [(0, 3, [(0, 1)], 1, None), (3, 6, [(1, 1)], 1, None)], 5, "none", "inference"),
}


@pytest.mark.parametrize("name", CASES)
def test_distributed_equals_one_process(name, lab, pool):
    case = CASES[name]
    plan = lab.plan(case.stages, case.micro_batches, case.tied)
    stages = [each.replace(recomputes=index in case.recomputes) for index, each in enumerate(plan.stages)]
    plan = plan.replace(stages=tuple(stages))
    workload = lab.workload(lab.architectures[case.network], case.mode, plan.micro_batch * case.micro_batches)
    from dora_nb.executor import execute

    run = execute(plan, workload, lab.cluster([1e12] * 5), steps=3, seed=7, emulate="nothing", workers=pool).wait()
    print(f"\n{name}: {run.differences}")
    assert run.max_abs_diff <= TOLERANCE
    assert run.max_abs_diff == run.differences.largest
    parts = (run.differences.losses, run.differences.gradients, run.differences.parameters)
    assert all((part is not None) == (case.mode == "training") for part in parts)
    assert run.steps == len(run.losses) == len(run.step_s) == (3 if case.mode == "training" else 0)
    check_events(run)


def check_events(run: RunRecord) -> None:
    """Every device computed every micro-batch once in each iteration, one thing after the other.

    The parts of a backward pass count as one. Sums go on beside it, one after the other as well.
    """
    plan = run.plan
    for index, stage in enumerate(plan.stages):
        for device in stage.devices:
            for step in range(INFERENCE, run.steps):
                own = [event for event in run.events if event.device == device and event.step == step]
                for phase in ("forward", "backward") if step >= 0 else ("forward",):
                    passes = [each for each in own if each.kind == phase and each.stage == index]
                    batches = sorted(each.micro_batch for each in passes if each.part <= 1)
                    assert batches == list(range(plan.micro_batches))
                    parts = [each.part for each in passes if each.part]
                    assert parts == (list(range(1, stage.buckets + 1)) if phase == "backward" and parts else [])
                sums = [each for each in own if each.kind in ("all-reduce", "tied-sum")]
                if step >= 0:
                    buckets = range(1, stage.buckets + 1) if stage.buckets > 1 else [0] * stage.buckets
                    assert [each.part for each in sums if each.kind == "all-reduce"] == list(buckets)
                for line in (sums, [each for each in own if each not in sums]):
                    assert all(a.end_s <= b.start_s for a, b in itertools.pairwise(line))
                assert all(0 <= each.start_s <= each.end_s for each in own)


@pytest.fixture(scope="module")
def emulated(lab, pool) -> RunRecord:
    from dora_nb.executor import execute

    plan = lab.plan(
        [(0, 2, [(0, 4)], 3, None), (2, 5, [(1, 3), (2, 1)], 2, ("ring", 1, 3)), (5, 6, [(3, 4)], 1, None)],
        4,
        "synchronised",
    )
    workload = lab.workload(lab.architectures["tied"], "training", 16)
    lines: list[str] = []
    cluster = lab.cluster([2e12, 1e12, 5e11, 1e12])
    run = execute(plan, workload, cluster, emulate="devices", workers=pool, on_progress=lines.append).wait()
    assert any("step 3 of 3" in line for line in lines)
    return run


def test_emulated_devices_take_the_time_they_are_to_take(emulated):
    assert emulated.max_abs_diff <= TOLERANCE
    slow = emulated.slow_down
    assert slow["d1"] == pytest.approx(2 * slow["d0"])
    assert slow["d2"] == pytest.approx(4 * slow["d0"])
    passes = [event for event in emulated.events if event.device == "d2" and event.step == 1]
    busy_s = sum(each.end_s - each.start_s for each in passes if each.kind in ("forward", "backward", "step"))
    assert emulated.step_s[1] >= busy_s
    # Emulated time is slept, so only a machine that is much too busy makes a step slower than predicted.
    assert 0.5 * emulated.predicted_s <= emulated.measured_s <= 4 * emulated.predicted_s
    assert "sleeps until" in emulated.emulation


def test_every_bucket_is_predicted_and_measured(emulated):
    """And is summed when the part that fills it is over, as the events tell."""
    comparison = compare(emulated.plan, emulated)
    found = {each.part: each for each in comparison.transfers if each.kind == "all-reduce"}
    assert list(found) == [1, 2, 3]
    assert all(each.predicted_s > 0 and each.measured_s > 0 and each.count == 3 for each in found.values())
    (backward,) = (each for each in comparison.stages if (each.kind, each.stage) == ("backward", 1))
    assert backward.count == 3 * emulated.plan.micro_batches
    assert 0.5 * backward.predicted_s <= backward.measured_s <= 4 * backward.predicted_s  # a pass, not a part of one
    check_events(emulated)
    for device in ("d1", "d2"):
        for step in range(emulated.steps):
            own = [each for each in emulated.events if (each.device, each.step) == (device, step)]
            parts = {(each.kind, each.part): each for each in own if each.part}
            for part in (1, 2, 3):
                assert parts["all-reduce", part].start_s >= parts["backward", part].end_s


@pytest.mark.parametrize("tied", ["none", "synchronised"])
def test_buckets_take_their_turns_on_an_imitated_medium(lab, pool, tied):
    from dora_nb.executor import execute

    stages = [(0, 3, [(0, 3), (1, 1)], 2, ("star", 0, 3)), (3, 6, [(2, 1), (3, 3)], 1, ("ring", 2, 2))]
    network = "untied" if tied == "none" else "tied"
    plan, workload = lab.plan(stages, 2, tied), lab.workload(lab.architectures[network], "training", 8)
    cluster = lab.cluster([2e12, 1e12, 1e12, 2e12])
    operations = operations_of(Shape.of(plan, workload))
    transfers = (operations.operations[each] for each in operations.transfers)
    order = [Transfer(kind=kind, stage=at, micro_batch=index, part=part) for kind, at, index, part in transfers]
    plan = plan.replace(transfer_order=tuple(order))
    run = execute(plan, workload, cluster, steps=2, in_order=True, workers=pool).wait()
    assert run.max_abs_diff <= TOLERANCE
    assert run.ordering.in_order
    summed = [(each.stage, each.part) for each in run.predicted.transfers if each.kind == "all-reduce"]
    assert sorted(summed) == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2)]
    check_events(run)


def test_record_survives_json_and_says_where_it_ran(emulated):
    assert RunRecord.model_validate_json(emulated.model_dump_json()) == emulated
    assert emulated.environment.torch.startswith("2.")
    assert emulated.link is not None
    assert all(math.isfinite(each) for each in emulated.losses)


def test_same_seed_same_run_and_other_seed_another(lab, pool):
    from dora_nb.executor import execute

    plan = lab.plan([(0, 3, [(0, 2)], 2, None), (3, 6, [(1, 2)], 1, None)], 2)
    workload = lab.workload(lab.architectures["untied"], "training", 4)
    runs = [
        execute(plan, workload, lab.cluster([1e12] * 2), steps=1, seed=seed, emulate="nothing", workers=pool).wait()
        for seed in (1, 1, 2)
    ]
    assert runs[0].losses == runs[1].losses
    assert runs[0].losses != runs[2].losses


def test_more_devices_than_workers_is_refused_and_leaves_the_workers(lab, pool):
    from dora_nb.errors import InputError
    from dora_nb.executor import execute

    plan = lab.plan([(0, 6, [(index, 1) for index in range(6)], 1, ("ring", 0))], 1)
    workload = lab.workload(lab.architectures["untied"], "training", 6)
    with pytest.raises(InputError, match="workers"):
        execute(plan, workload, lab.cluster([1e12] * 6), emulate="nothing", workers=pool)
    assert len(pool) == 5
