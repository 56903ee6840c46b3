"""Devices that die beside shards or with one, and checkpoints of shards, which any plan can go on from."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from builders import sliced

from dora_nb.errors import ExecutionError, InputError
from dora_nb.executor import WorkerPool, execute
from dora_nb.executor.device.shard_stages import check_shards_stay
from dora_nb.executor.faults.checkpoint import latest, read_checkpoint
from dora_nb.executor.faults.fallback import without
from dora_nb.executor.faults.recovery import whole_layers

STEPS = 6


@pytest.fixture(scope="module")
def spec(lab):
    return lab.architectures["tied"].replace(tied_embeddings=False)


def sharded(lab):
    """A replicated stage, shards of two devices, and a device alone."""
    stages = [(0, 2, [(0, 3), (1, 1)], 3, ("star", 0)), (2, 5, [(2, 4)], 2, None), (5, 6, [(4, 4)], 1, None)]
    return sliced(lab.plan(stages, 2), 1, {"d2": 1, "d3": 1})


def hurt_at(pool: WorkerPool, index: int, at: str):
    timers = []

    def on_progress(line: str) -> None:
        if line.startswith(at) and not timers:
            timers.append(threading.Timer(0.02, lambda: os.kill(pool.pids[index], signal.SIGKILL)))
            timers[0].start()

    return on_progress


def test_a_lost_shard_ends_training_and_any_plan_goes_on_from_the_checkpoint(lab, pool, spec, tmp_path):
    workload, cluster = lab.workload(spec, "training", 8), lab.cluster([1e12] * 5)
    with WorkerPool(5) as five, pytest.raises(ExecutionError) as caught:
        execute(
            sharded(lab),
            workload,
            cluster,
            steps=STEPS,
            emulate="devices",
            workers=five,
            checkpoints=tmp_path,
            on_progress=hurt_at(five, 3, "step 3 "),
        ).wait()
    assert "d3 alone held shards of layers [2, 3, 4]" in str(caught.value)
    found = latest(tmp_path)
    assert found is not None
    kept = read_checkpoint(found).completed
    assert kept in (2, 3, 4)
    other = lab.plan([(0, 3, [(0, 4)], 2, None), (3, 6, [(1, 4)], 1, None)], 2)
    for plan, steps in ((other, kept + 1), (sharded(lab), STEPS)):  # whole layers, and shards again
        options = {"steps": steps, "emulate": "nothing", "workers": pool, "checkpoints": tmp_path, "resume": True}
        record = execute(plan, workload, cluster, **options).wait()
        assert len(record.losses) == steps
        assert record.differences.losses <= 1e-12
        assert record.differences.parameters <= 1e-10
    assert read_checkpoint(latest(tmp_path)).completed == STEPS


def test_a_copy_lost_beside_shards_costs_no_step(lab, pool, spec):
    workload, cluster = lab.workload(spec, "training", 8), lab.cluster([1e12] * 5)
    hurt = hurt_at(pool, 1, "step 3 ")
    record = execute(
        sharded(lab), workload, cluster, steps=STEPS, emulate="devices", workers=pool, on_progress=hurt
    ).wait()
    assert [each.kind for each in record.incidents] == ["fault", "recovery"]
    assert record.incidents[1].completed >= record.incidents[0].completed - 1
    assert record.differences.losses <= 1e-12
    assert record.differences.parameters <= 1e-10
    pool.respawn(1)


def test_without_training_whole_layers_take_a_lost_shards_place(lab, pool, spec):
    workload, cluster = lab.workload(spec, "inference", 8), lab.cluster([1e12] * 5)
    plan = sharded(lab)
    plan = plan.replace(stages=tuple(each.replace(all_reduce=None) for each in plan.stages))
    hurt = hurt_at(pool, 2, "batch 2 ")
    record = execute(plan, workload, cluster, steps=4, emulate="devices", workers=pool, on_progress=hurt).wait()
    assert [each.kind for each in record.incidents] == ["fault", "recovery"]
    assert record.differences.outputs <= 1e-12
    pool.respawn(2)


def test_what_is_left_of_a_plan_whose_shard_is_gone(lab):
    plan = sharded(lab)
    left = without(plan, "d2")
    assert [(stage.devices, stage.shards) for stage in left.stages][1] == (("d3",), ())
    with pytest.raises(InputError, match="do not change place"):
        check_shards_stay(plan, left)
    check_shards_stay(plan, without(plan, "d1"))
    stock = {device: {2: (2, 3, 4), 3: (2, 3, 4)} for device in ("d2", "d3")}
    assert whole_layers(plan, stock) == stock
    del stock["d3"][3]
    assert whole_layers(plan, stock) == {"d2": {2: (2, 3, 4), 3: ()}, "d3": {2: (2, 3, 4)}}
    assert whole_layers(plan, {"d2": stock["d2"]}) == {"d2": {2: (), 3: ()}}
