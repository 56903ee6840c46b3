"""Devices that die, hang or are cut off in the middle of a run."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable

import pytest

from dora_nb.domain.run_record import RunRecord
from dora_nb.errors import DocumentError, ExecutionError, InputError
from dora_nb.executor import WorkerPool, execute
from dora_nb.executor.control.orders import Abort
from dora_nb.executor.faults.checkpoint import Checkpoint, directory_of, finish, latest, read_checkpoint
from dora_nb.executor.faults.fallback import copies_to_neighbours, first_without, without
from dora_nb.executor.faults.moves import holders_of
from dora_nb.executor.faults.recovery import latest_complete

#: A stage of two replicas, which sum in buckets, between two devices that are alone in theirs.
STAGES = [(0, 2, [(0, 4)], 3, None), (2, 5, [(1, 3), (2, 1)], 2, ("star", 1, 3)), (5, 6, [(3, 4)], 1, None)]
STEPS = 8


def run_and_hurt(
    lab,
    pool: WorkerPool,
    hurt: Callable[[], None],
    mode: str = "training",
    at: str = "step 3 ",
    told: list[str] | None = None,
    **options: object,
) -> RunRecord:
    """Run the plan; a moment after some progress, something happens."""
    workload = lab.workload(lab.architectures["tied"], mode, 8)
    timers = []

    def on_progress(line: str) -> None:
        if told is not None:
            told.append(line)
        if line.startswith(at) and not timers:
            timers.append(threading.Timer(0.02, hurt))
            timers[0].start()

    plan = lab.plan(STAGES, 2, "synchronised" if mode == "training" else "none")
    cluster = lab.cluster([1e12] * 4)
    options = {"steps": STEPS, "emulate": "devices", "workers": pool, **options}
    record = execute(plan, workload, cluster, on_progress=on_progress, **options).wait()
    assert timers
    return record


def check_undisturbed(record: RunRecord) -> None:
    """Training ended where an undisturbed one ends."""
    assert len(record.losses) == STEPS
    pairs = zip(record.losses, record.reference_losses, strict=True)
    assert all(abs(ours - one) <= 1e-12 * abs(one) for ours, one in pairs)
    assert record.differences.parameters <= 1e-10
    assert [each.kind for each in record.incidents] == ["fault", "recovery"]
    fault, recovery = record.incidents
    assert recovery.completed >= fault.completed - 1


@pytest.mark.parametrize(("index", "copies"), [(2, "replicas"), (3, "neighbours")])
def test_a_killed_device_with_a_copy_costs_no_step(lab, pool, index, copies):
    record = run_and_hurt(lab, pool, lambda: os.kill(pool.pids[index], signal.SIGKILL), copies=copies)
    check_undisturbed(record)
    assert f"d{index}" in record.incidents[0].text
    assert record.incidents[1].completed == record.incidents[0].completed  # every completed step was kept
    pool.respawn(index)


def test_a_hanging_device_is_noticed_within_a_second_and_left_behind(lab, pool):
    record = run_and_hurt(lab, pool, lambda: os.kill(pool.pids[1], signal.SIGSTOP))
    check_undisturbed(record)
    assert "no sign of life for 0.8 s" in record.incidents[0].text
    pool.respawn(1)


def test_connections_that_break_are_made_again(lab, pool):
    def cut() -> None:
        pool._handles[2].order(Abort(generation=pool._generation), 0)  # its connections alone end; everybody lives

    record = run_and_hurt(lab, pool, cut)
    assert record.differences.parameters <= 1e-10
    assert [each.kind for each in record.incidents] == ["recovery"]
    assert set(record.plan.devices) == {"d0", "d1", "d2", "d3"}
    pool.respawn(2)


def test_inference_goes_on_from_the_last_request(lab, pool):
    told: list[str] = []
    kill = functools.partial(os.kill, pool.pids[3], signal.SIGKILL)
    record = run_and_hurt(lab, pool, kill, "inference", "batch 3 ", told, steps=8)
    assert record.max_abs_diff <= 1e-12
    done = [line.partition(" done in")[0] for line in told if " done in" in line]
    assert done == [f"batch {number} of 8" for number in range(1, 9)]  # none is told twice
    assert [each.kind for each in record.incidents] == ["fault", "recovery"]
    pool.respawn(3)


def test_a_single_copy_stops_at_the_last_checkpoint_and_resumes_from_it(lab, pool, tmp_path):
    with WorkerPool(4) as four, pytest.raises(ExecutionError) as caught:
        run_and_hurt(lab, four, lambda: os.kill(four.pids[0], signal.SIGKILL), checkpoints=tmp_path, checkpoint_every=2)
    message = str(caught.value)
    assert "d0 alone held layers [0, 1]" in message
    assert str(tmp_path) in message
    found = latest(tmp_path)
    assert found is not None
    kept = read_checkpoint(found).completed
    assert f"after {kept} steps" in message
    assert kept in (2, 4)
    assert len(list(tmp_path.iterdir())) == 1  # older ones are gone
    two = lab.plan([(0, 3, [(0, 4)], 2, None), (3, 6, [(1, 4)], 1, None)], 2, "synchronised")
    record = execute(
        two,
        lab.workload(lab.architectures["tied"], "training", 8),
        lab.cluster([1e12] * 4),
        steps=STEPS,
        emulate="nothing",
        workers=pool,
        checkpoints=tmp_path,
        checkpoint_every=100,
        resume=True,
    ).wait()
    assert len(record.losses) == STEPS
    assert len(record.step_s) == STEPS - kept
    assert record.differences.losses <= 1e-12 * max(record.losses)
    assert record.differences.parameters <= 1e-10


def test_checkpoints_of_unlike_runs_are_not_mixed(lab, tmp_path):
    plan, place = lab.plan([(0, 3, [(0, 4)], 2, None), (3, 6, [(1, 4)], 1, None)], 2), lab.cluster([1e12] * 4)
    training, inference = (lab.workload(lab.architectures["untied"], mode, 8) for mode in ("training", "inference"))
    start = functools.partial(execute, plan, training, place, checkpoints=tmp_path)
    with pytest.raises(InputError, match="a checkpoint that a run wrote there"):
        start(resume=True)
    directory_of(tmp_path, 4).mkdir()
    finish(directory_of(tmp_path, 4), Checkpoint(completed=4, files={0: "d0.safetensors"}))
    with pytest.raises(InputError, match="without those of another run, or to resume from its step-000004"):
        start(steps=2)
    with pytest.raises(InputError, match="more than 4, those before"):
        start(steps=4, resume=True)
    with pytest.raises(InputError, match="training"):
        execute(plan, inference, place, checkpoints=tmp_path, resume=True)
    with pytest.raises(InputError, match="a checkpoint of this network, which has 6 layers"):
        start(steps=5, resume=True, emulate="nothing").wait()


def test_a_checkpoint_that_cannot_be_written_says_where(lab, tmp_path):
    (tmp_path / "step-000001").write_text("in the way")
    plan, work = lab.plan([(0, 6, [(0, 8)], 1, None)], 1), lab.workload(lab.architectures["untied"], "training", 8)
    options = {"steps": 1, "emulate": "nothing", "checkpoints": tmp_path}
    with pytest.raises(DocumentError, match="step-000001: a checkpoint cannot be written: File exists"):
        execute(plan, work, lab.cluster([1e12] * 4), **options).wait()


def test_a_plan_without_a_device_covers_everything(lab):
    plan = lab.plan(STAGES, 2, "synchronised")
    for device in plan.devices:
        left = without(plan, device)
        assert device not in left.devices
        assert sorted(holders_of(left)) == list(range(6))
    alone = plan
    for device in ("d1", "d2", "d0"):
        alone = without(alone, device)
    assert alone.devices == ("d3",)
    assert alone.tied == "one-stage"
    assert without(alone, "d3") is None
    hosted = without(lab.plan([(1, 3, [(0, 4)], 2, None), (3, 6, [(1, 4)], 1, None)], 2, "hosted"), "d0")
    assert (hosted.stages[0].first_layer, hosted.tied) == (0, "one-stage")
    hosts = [(1, 2, [(0, 4)], 3, None), (2, 4, [(1, 2), (2, 2)], 2, ("ring", 1, 2)), (4, 6, [(3, 4)], 1, None)]
    heirs = without(lab.plan(hosts, 2, "hosted"), "d3").stages[-1]
    assert (heirs.stop_layer, heirs.buckets) == (6, 1)  # who hosts the first layer sums behind its passes
    shares = without(lab.plan([(0, 6, [(0, 5), (1, 2), (2, 1)], 1, ("star", 0))], 1), "d0").stages[0]
    assert [each.samples for each in shares.replicas] == [5, 3]
    assert shares.all_reduce.leader == "d1"
    assert first_without([plan, alone], frozenset({"d3"})) == alone


def test_every_lone_layer_gets_a_copy_elsewhere(lab):
    plan = lab.plan(STAGES, 2, "synchronised")
    copies = {move.layer: (move.sender, move.receivers) for move in copies_to_neighbours(plan)}
    assert copies == {0: ("d0", ("d1",)), 1: ("d0", ("d1",)), 5: ("d3", ("d1",))}
    assert copies_to_neighbours(lab.plan([(0, 6, [(0, 4)], 1, None)], 2)) == ()


def test_the_latest_state_that_all_layers_have_in_common_counts():
    stock = {"a": {4: (0, 1), 5: (0, 1)}, "b": {4: (2,), 3: (2,)}, "c": {5: (2,), 4: ()}}
    assert latest_complete(stock, [0, 1, 2]) == (5, {0: ["a"], 1: ["a"], 2: ["c"]})
    del stock["c"]
    assert latest_complete(stock, [0, 1, 2]) == (4, {0: ["a"], 1: ["a"], 2: ["b"]})
    assert latest_complete(stock, [0, 1, 2, 3]) is None
