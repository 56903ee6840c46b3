"""A run in the background: watched, waited for, cancelled."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from runs import made_up_run

from dora_nb.errors import ExecutionError, InputError
from dora_nb.executor import WorkerPool, execute
from dora_nb.executor.run import Run

STAGES = [(0, 3, [(0, 2)], 2, None), (3, 6, [(1, 2)], 1, None)]


def test_progress_can_be_watched_and_the_caller_goes_on():
    go = threading.Event()

    def work(run):
        run.tell("profiling <layers>")
        go.wait()
        raise ExecutionError("worker 1 failed")

    heard = []
    run = Run(work, heard.append)
    with pytest.raises(TimeoutError, match="goes on"):
        run.wait(0.05)
    assert (run.state, run.lines, heard) == ("running", ["profiling <layers>"], ["profiling <layers>"])
    assert repr(run) == "Run running: profiling <layers>"
    assert "profiling &lt;layers&gt;" in run._repr_html_()
    go.set()
    with pytest.raises(ExecutionError, match="worker 1"):
        run.wait()
    assert run.state == "failed"
    assert "worker 1 failed" in run._repr_html_()
    assert "worker 1 failed" in repr(run)
    run.cancel()
    assert run.state == "failed"  # it was over before


def test_a_table_and_a_trace_wait_for_the_record(tmp_path):
    record = made_up_run({"a": 2.0, "b": 1.0, "c": 1.0})
    go = threading.Event()

    def work(run):
        go.wait()
        return record

    run = Run(work)
    threading.Timer(0.05, go.set).start()
    table = run.as_cost_table()
    assert run.state == "done"
    np.testing.assert_array_equal(table.forward_s, record.as_cost_table().forward_s)
    assert run.to_trace(tmp_path / "run.json") == tmp_path / "run.json"
    assert json.loads((tmp_path / "run.json").read_text())["traceEvents"]


def test_what_a_cancelled_run_trips_over_is_not_its_failure():
    def work(run):
        run.stopping.wait()
        raise InputError("worker", 0, "one of none")

    run = Run(work)
    run.cancel()
    assert run.state == "cancelled"
    with pytest.raises(ExecutionError, match="cancelled"):
        run.wait()


def test_what_is_cancelled_ends_its_workers(lab):
    workload = lab.workload(lab.architectures["untied"], "training", 4)
    with WorkerPool(1):  # the process that workers are forked from outlives them
        pass
    going, before = threading.Event(), _children(os.getpid())

    def on_progress(line: str) -> None:
        if line.startswith("step 2 "):
            going.set()

    run = execute(
        lab.plan(STAGES, 2),
        workload,
        lab.cluster([1e12] * 2),
        steps=100_000,
        emulate="nothing",
        on_progress=on_progress,
    )
    assert going.wait(60)
    children = _children(os.getpid()) - before
    assert children
    run.cancel()
    assert run.state == "cancelled"
    with pytest.raises(ExecutionError, match="cancelled"):
        run.wait()
    assert not children & _children(os.getpid())


def _children(pid: int) -> set[int]:
    found = set()
    for task in os.listdir(f"/proc/{pid}/task"):
        # A thread may have ended meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found |= {int(each) for each in Path(f"/proc/{pid}/task/{task}/children").read_text().split()}
    return found
