"""A worker that connected does what one of this machine does."""

from __future__ import annotations

import pytest

from dora_nb.errors import ExecutionError, InputError
from dora_nb.executor import WorkerPool, execute
from dora_nb.executor.control.clock import clock_offsets
from dora_nb.executor.control.listener import Listener
from dora_nb.executor.latencies import stream_times

#: Device d0 is worker 0 of this machine; d1 is the name of the one that connected.
STAGES = [(0, 3, [(0, 2)], 2, None), (3, 6, [(1, 2)], 1, None)]


def test_a_plan_over_both_kinds_equals_one_process(lab, mixed):
    workload = lab.workload(lab.architectures["untied"], "training", 4)
    plan, cluster = lab.plan(STAGES, 2), lab.cluster([1e12] * 2)
    record = execute(plan, workload, cluster, steps=2, emulate="nothing", workers=mixed.pool).wait()
    assert len(record.losses) == 2
    assert record.losses == pytest.approx(record.reference_losses, rel=1e-12)
    assert record.differences.parameters <= 1e-10
    assert record.differences.outputs <= 1e-12


def test_outputs_of_a_stream_are_delivered_over_the_channel(lab, mixed):
    workload = lab.workload(lab.architectures["untied"], "stream", 4, requests_per_s=100.0)
    plan, cluster = lab.plan(STAGES, 2), lab.cluster([1e12] * 2)
    before = {each.name for each in mixed.pool.directory.iterdir()}
    record = execute(plan, workload, cluster, steps=5, emulate="nothing", workers=mixed.pool).wait()
    assert record.max_abs_diff <= 1e-12
    ended = stream_times(record.events, plan.micro_batches, 5, record.measured_stream.arrival_s)
    assert record.measured_stream.latencies_s == pytest.approx(ended.latencies_s)  # both on this host's clock
    assert {each.name for each in mixed.pool.directory.iterdir()} == before


def test_a_worker_plays_the_device_of_its_name(mixed):
    assert mixed.pool.seats(["d0", "d1"]) == {"d0": 0, "d1": 1}
    assert mixed.pool.seats(["d1", "d0"]) == {"d0": 0, "d1": 1}
    assert mixed.pool.seats(["anyone"]) == {"anyone": 0}
    with pytest.raises(InputError, match="at least 3 workers"):
        mixed.pool.seats(["d0", "d1", "d2"])


def test_clocks_of_one_host_agree_within_the_round_trip(mixed):
    offsets = clock_offsets(mixed.pool, [0, 1])
    assert offsets.keys() == {0, 1}
    for offset in offsets.values():
        assert offset.round_trip_s > 0
        assert abs(offset.offset_s) <= offset.round_trip_s / 2


def test_who_does_not_connect_is_named_with_the_command_to_enter(private):
    said = []
    listener = Listener(token_file=private / "token")
    pool = WorkerPool(0, listener=listener, remote=["phone"], join_s=0.1, on_progress=said.append)
    with pytest.raises(ExecutionError, match=r"within 0.1 s as: phone") as caught, pool:
        pass
    port = listener.address.port
    command = f"dora-nb worker --coordinator 127.0.0.1:{port} --token-file {private / 'token'} --name phone"
    assert command in str(caught.value)
    assert command in said[0]
    assert not (private / "token").exists()


def test_workers_that_connect_need_somewhere_to_connect_to():
    with pytest.raises(InputError, match="listener"):
        WorkerPool(1, remote=1)
