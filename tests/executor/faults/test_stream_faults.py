"""Devices that are lost in the middle of a stream: what was answered stays answered, the rest is answered by others."""

from __future__ import annotations

import collections
import functools
import os
import pathlib
import re
import signal
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from processes import until

import dora_nb as dora
from dora_nb.costs.table import cost_table
from dora_nb.costs.timing import timing_of
from dora_nb.domain.run_record import RunRecord
from dora_nb.domain.transfer import Transfer
from dora_nb.errors import ExecutionError, InputError
from dora_nb.executor import WorkerPool, execute
from dora_nb.executor.compare import differences
from dora_nb.executor.conduct import Conductor
from dora_nb.executor.control.orders import Abort
from dora_nb.executor.control.paths import SharedFiles
from dora_nb.executor.control.replies import Stock
from dora_nb.executor.course import Conducted, Course, Outputs
from dora_nb.executor.device.deliveries import Deliveries, Delivery, take_delivered
from dora_nb.executor.device.instructions import compile_plan
from dora_nb.executor.device.streams import from_request, over_requests
from dora_nb.executor.session import Answered, DeviceLostError

REQUESTS, BATCH = 10, 8

#: Seldom enough, and answered slowly enough, that many are left when the fault comes, on a busy machine too.
LOAD, SLOWER = 0.1, 5.0

#: Two replicas behind two others, devices in a row, and all the others that are needed.
TWO = [(0, 3, [(0, 3), (1, 1)], 1, None), (3, 6, [(2, 3), (3, 1)], 1, None)]
THREE = [(0, 2, [(0, 4)], 1, None), (2, 5, [(1, 4)], 1, None), (5, 6, [(2, 4)], 1, None)]
ONE = [(0, 6, [(0, 3), (1, 1)], 1, None)]
ALONE, SPARE = [(0, 6, [(0, 4)], 1, None)], [(0, 6, [(1, 4)], 1, None)]
LARGER = [(0, 3, [(0, 8)], 1, None), (3, 6, [(4, 8)], 1, None)]


class Hurt:
    """A stream in which something happens once some requests are completed."""

    def __init__(
        self, lab, pool: WorkerPool, stages, hurt: Callable[[], None], others=(), micro_batches=2, order=()
    ) -> None:
        self.plan, cluster = lab.plan(stages, micro_batches).replace(transfer_order=order), lab.cluster([1e12] * 5)
        workload = lab.workload(lab.architectures["untied"], "stream", BATCH, requests_per_s=1.0)
        busy_s = timing_of(self.plan, workload, cluster, cost_table(workload, cluster)).compute_s
        workload = workload.replace(requests_per_s=LOAD / (micro_batches * max(busy_s.values())))
        before = {each.name for each in pool.directory.iterdir()}
        self.lines: list[str] = []
        run = execute(
            self.plan,
            workload,
            cluster,
            steps=REQUESTS,
            emulate="devices",
            in_order=bool(order),
            workers=pool,
            plans=others,
            slow_down_at=lambda _: dict.fromkeys(cluster.device_ids, SLOWER),
            on_progress=self.lines.append,
        )
        paths = [f"stream-*/{request}.{device}.*" for request in range(3) for device in self.plan.stages[-1].devices]
        until(lambda: run.state != "running" or all(list(pool.directory.glob(path)) for path in paths), 120)
        hurt()
        self.record: RunRecord = run.wait()
        self.left_over = {each.name for each in pool.directory.iterdir()} - before

    @property
    def completed(self) -> int:
        """Requests that were completed before the fault, as the record says."""
        recovery = next(each for each in self.record.incidents if each.kind == "recovery")
        found = re.match(rf"(\d+) of {REQUESTS} requests were completed; going on with request (\d+) ", recovery.text)
        assert found, recovery.text
        assert int(found[2]) == int(found[1]) + 1
        return int(found[1])

    def check(self) -> None:
        """Nothing was lost, and nothing is left."""
        record, completed = self.record, self.completed
        assert 3 <= completed < REQUESTS  # it fell into the middle
        assert record.max_abs_diff <= 1e-12  # of the outputs of all requests, each of which must be there
        assert self.left_over == set()
        assert [line for line in self.lines if "done in" in line] == [self.lines[-2]]
        assert self.lines[-2].startswith(f"stream of {REQUESTS} requests done in")
        assert (
            self.lines.count(
                f"{completed} of {REQUESTS} requests were completed; going on with request {completed + 1}"
            )
            == 1
        )
        self._check_latencies(completed)

    def _check_latencies(self, completed: int) -> None:
        """Those of all requests are there, and one that waited for the others to go on says so."""
        record = self.record
        stream, recovery = record.measured_stream, record.incidents[-1]
        assert record.requests == len(stream.latencies_s) == REQUESTS
        ended_s = [request * stream.arrival_s + latency_s for request, latency_s in enumerate(stream.latencies_s)]
        assert min(stream.latencies_s) > 0
        assert ended_s == sorted(ended_s)
        assert ended_s[completed] - ended_s[completed - 1] >= recovery.seconds > 0
        assert record.inference_measured_s == ended_s[-1]
        assert all(0 <= event.start_s <= event.end_s <= ended_s[-1] + 1 for event in record.events)

    def passes(self, device: str, micro_batches: int = 2) -> dict[int, int]:
        """How many passes a device made of each request."""
        events = [each for each in self.record.events if (each.device, each.kind) == (device, "forward")]
        return collections.Counter(each.micro_batch // micro_batches for each in events)


def kill(pool: WorkerPool, index: int) -> Callable[[], None]:
    return functools.partial(os.kill, pool.pids[index], signal.SIGKILL)


@pytest.mark.parametrize(
    ("stages", "lost"),
    [(TWO, 0), (TWO, 3), (THREE, 0), (THREE, 2), (ONE, 1)],
    ids=["one of the first", "one of the last", "the first", "the last", "one that nobody waits for"],
)
def test_completed_requests_outlive_a_device(lab, pool, stages, lost):
    hurt = Hurt(lab, pool, stages, kill(pool, lost))
    hurt.check()
    assert [each.kind for each in hurt.record.incidents] == ["fault", "recovery"]
    assert f"d{lost}" in hurt.record.incidents[0].text
    for device in set(hurt.plan.devices) - {f"d{lost}"}:  # nobody ran a completed request again
        passes = hurt.passes(device)
        assert [passes[request] for request in range(hurt.completed)] == [2] * hurt.completed
        assert min(passes[request] for request in range(hurt.completed, REQUESTS)) >= 2
    with pytest.raises(InputError, match="no step under its first plan"):
        dora.compare(hurt.plan, hurt.record)
    assert RunRecord.model_validate_json(hurt.record.model_dump_json()) == hurt.record
    assert f"{hurt.completed} of {REQUESTS} requests were completed" in repr(hurt.record)
    pool.respawn(lost)


def test_nobody_runs_a_completed_request_again_when_connections_break(lab, pool):
    def cut() -> None:
        pool._handles[2].order(Abort(generation=pool._generation), 0)  # its connections alone end; everybody lives

    hurt = Hurt(lab, pool, TWO, cut)
    hurt.check()
    assert [each.kind for each in hurt.record.incidents] == ["recovery"]
    for device in hurt.plan.devices:
        passes = hurt.passes(device)
        assert [passes[request] for request in range(hurt.completed)] == [2] * hurt.completed
        assert min(passes[request] for request in range(hurt.completed, REQUESTS)) >= 2


def test_what_is_left_keeps_the_order_when_connections_break(lab, pool):
    def cut() -> None:
        pool._handles[2].order(Abort(generation=pool._generation), 0)

    order = [Transfer(kind="activation", stage=0, micro_batch=batch) for batch in range(2)]
    hurt = Hurt(lab, pool, TWO, cut, order=order)
    hurt.check()
    assert hurt.record.ordering.in_order


def test_a_spare_device_goes_on_when_all_others_are_gone(lab, pool):
    hurt = Hurt(lab, pool, ALONE, kill(pool, 0), [lab.plan(SPARE, 2)])
    hurt.check()  # nobody lived to tell when the stream began, but the deliveries say so
    passes = hurt.passes("d1")
    assert [passes[request] for request in range(REQUESTS)] == [0] * hurt.completed + [2] * (REQUESTS - hurt.completed)
    pool.respawn(0)


def test_a_fallback_may_cut_requests_into_other_micro_batches(lab, pool):
    hurt = Hurt(lab, pool, TWO, kill(pool, 1), [lab.plan(LARGER, 1)])
    hurt.check()
    last = hurt.passes("d4", 1)
    assert [last[request] for request in range(REQUESTS)] == [0] * hurt.completed + [1] * (REQUESTS - hurt.completed)
    pool.respawn(1)


# ---------------------------------------------------------------------- parts of it


def delivery(request: int, end_s: float = 0.0) -> Delivery:
    return Delivery({2 * request + each: torch.full((2,), float(request)) for each in range(2)}, 1.0, end_s)


def deliver(directory: pathlib.Path, device: str, *requests: int, problem: Exception | None = None) -> None:
    directory.mkdir(exist_ok=True)
    with Deliveries(SharedFiles(directory.parent), str(directory), device) as deliveries:
        for request in requests:
            deliveries.put(request, delivery(request, end_s=0.1 + request))
        if problem is not None:
            raise problem


def test_what_was_put_is_delivered_even_if_the_iteration_fails(tmp_path):
    directory = tmp_path / "stream"
    with pytest.raises(RuntimeError, match="a peer is gone"):
        deliver(directory, "a", *range(4, 10), problem=RuntimeError("a peer is gone"))
    found = take_delivered(directory, {"a": 100.0}, 4)
    assert not directory.exists()
    assert [each["a"].end_s for each in found] == [0.1 + request - 100.0 for request in range(4, 10)]
    assert found[1]["a"].start_s == -99.0
    assert found[1]["a"].outputs.keys() == {10, 11}
    assert torch.equal(found[1]["a"].outputs[11], torch.full((2,), 5.0))


def test_a_request_is_completed_once_every_device_has_delivered_its_part(tmp_path):
    def completed(**requests: tuple[int, ...]) -> int:
        for device, own in requests.items():
            deliver(tmp_path / "stream", device, *own)
        return len(take_delivered(tmp_path / "stream", dict.fromkeys(requests, 0.0), 1))

    assert completed(a=(1, 2, 3), b=(1, 2)) == 2
    assert completed(a=(1, 2, 3), b=()) == 0
    assert completed(a=(1, 3), b=(1, 2, 3)) == 1


def test_what_cannot_be_delivered_is_an_error_and_leaves_no_gap(tmp_path):
    directory = tmp_path / "stream"
    (directory / "2.a.safetensors").mkdir(parents=True)  # no file can take its place
    with pytest.raises(ExecutionError, match="outputs could not be delivered"):
        deliver(directory, "a", 1, 2, 3, 4)
    assert sorted(each.name for each in directory.iterdir()) == ["1.a.safetensors", "2.a.safetensors"]
    assert len(take_delivered(directory, {"a": 0.0}, 1)) == 1


def test_outputs_of_parts_are_compared_and_none_may_be_missing(lab):
    whole = torch.arange(24.0).reshape(12, 2)
    reference = SimpleNamespace(outputs=list(whole.split(4)), tokens=[], losses=[])
    first, second = lab.plan([(0, 6, [(0, 3), (1, 1)], 1, None)], 1), lab.plan([(0, 6, [(1, 2)], 1, None)], 2)
    before = Outputs(first, {"d0": {"output/0": whole[:3]}, "d1": {"output/0": whole[3:4]}}, range(1))
    tensors = {f"output/{index}": whole[2 * index : 2 * index + 2] for index in range(2, 6)}
    assert differences(reference, [before, Outputs(second, {"d1": tensors}, range(2, 6))], {}, []).outputs == 0.0
    wrong = tensors | {"output/5": whole[:2]}
    assert differences(reference, [before, Outputs(second, {"d1": wrong}, range(2, 6))], {}, []).outputs == 20.0
    for some in (
        [before],
        [Outputs(second, {"d1": tensors}, range(2, 6))],
        [before, Outputs(second, {"d1": tensors}, range(3, 6))],
    ):
        with pytest.raises(ExecutionError, match="of 12 samples"):
            differences(reference, some, {}, [])


def test_a_program_without_the_first_requests(lab):
    plan = lab.plan(TWO, 2)
    for program in compile_plan(over_requests(plan, 5), trains=False).values():
        rest = from_request(program, plan, 3)
        assert {each.micro_batch for each in rest} == {6, 7, 8, 9}
        assert rest == tuple(each for each in program if each in rest)
        assert from_request(program, plan, 0) == program


class Late:
    """A session whose device is lost when all requests are answered, before it says so."""

    def __init__(self, plan, requests: int) -> None:
        self.plan, self.completed, self.present = plan, 0, frozenset()
        self.task = SimpleNamespace(trains=False, streams=True, requests=requests, batch=4)
        self._requests = [{"d0": delivery(request, end_s=2.0 + request)} for request in range(requests)]

    def iterate(self, step: int, **order: object) -> dict:
        raise DeviceLostError("d0", "gone")

    def answered(self) -> Answered:
        return Answered(self._requests, 0.5)

    def stock(self) -> dict[str, Stock]:
        return {}

    def give_up(self) -> None:
        pass

    def drop(self, device: str) -> None:
        pass


def test_a_device_that_is_lost_behind_the_last_request_does_no_harm(lab):
    told: list[str] = []
    session = Late(lab.plan(ALONE, 2), 3)
    rehearsal = SimpleNamespace(arrival_s=0.25)
    conductor = Conductor(session, rehearsal, Course(steps=3), told.append, lambda _: None, threading.Event())
    conductor._expected = SimpleNamespace(targets={})
    conductor._done = Conducted(None, conductor._expected)
    conductor._requests()
    assert conductor._done.stream.latencies_s(0.25) == (1.0, 1.75, 2.5)
    assert conductor._done.incidents[-1].text == "3 of 3 requests were completed"
    assert told[-1].startswith("stream of 3 requests done in 3 s")
