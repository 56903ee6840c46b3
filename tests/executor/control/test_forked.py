"""Workers are forked by one process that has loaded torch, and are like those that were started one by one."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest
from processes import is_running, python, until

from dora_nb.errors import ExecutionError
from dora_nb.executor.control import forked, process
from dora_nb.executor.control.orders import ClockQuestion
from dora_nb.executor.control.replies import Clock
from dora_nb.executor.pool import WorkerPool

pytestmark = pytest.mark.skipif(not process.FORKS, reason="workers are forked on Linux")

#: Loads nothing, so that it starts at once.
SERVER = """
import sys
from dora_nb.executor import fork_server
fork_server.PRELOADED, fork_server.IDLE_S = (), float(sys.argv[1])
fork_server.main()
"""


def parent_of(pid: int) -> int:
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def answers(pool: WorkerPool) -> bool:
    orders = dict.fromkeys(pool.alive, ClockQuestion())
    return len(pool.ask(orders, Clock, doing="telling the time", timeout_s=30)) == len(pool)


@pytest.fixture
def started():
    """A process that forks, by how long it is patient, with the line on which it is asked."""
    with contextlib.ExitStack() as stack:

        def start(patience_s: float) -> tuple[subprocess.Popen[bytes], socket.socket]:
            own, its_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(own)
            with its_end:
                command = [sys.executable, "-c", SERVER, str(patience_s)]
                return stack.enter_context(subprocess.Popen(command, stdin=its_end.fileno())), own

        yield start


def test_pools_share_what_was_loaded(tmp_path, monkeypatch):
    with WorkerPool(2) as first:
        (server,) = {parent_of(pid) for pid in first.pids}
        assert server != os.getpid()
        began_s = time.monotonic()
        monkeypatch.chdir(tmp_path)
        with WorkerPool(2) as second:
            assert {parent_of(pid) for pid in second.pids} == {server}
            assert {os.readlink(f"/proc/{pid}/cwd") for pid in second.pids} == {str(tmp_path)}
            assert len({os.getsid(pid) for pid in (*first.pids, *second.pids)}) == 4
            assert answers(first)
            assert answers(second)
        print(f"two more workers were ready and asked within {time.monotonic() - began_s:.2f} s")
    assert not any(is_running(pid) for pid in (*first.pids, *second.pids))


@pytest.fixture
def of_its_own(monkeypatch):
    """This test's processes that fork are not those of other tests."""
    monkeypatch.setattr(forked, "_servers", [])
    yield
    for server in forked._servers:
        server.retire()
        server.wait(30)


def test_another_one_is_made_for_what_counts_only_at_the_start_and_is_missed_when_killed(monkeypatch, of_its_own):
    with WorkerPool(1) as first:
        server = parent_of(first.pids[0])
        monkeypatch.setenv("SOMETHING", "else")
        with WorkerPool(1) as second:
            assert parent_of(second.pids[0]) == server
        monkeypatch.setenv("PYTHONHASHSEED", "7")
        with WorkerPool(2) as third:
            pids, other = third.pids, parent_of(third.pids[0])
            assert other != server
            assert answers(first)  # nobody takes the other one from those who still use it
            os.kill(other, signal.SIGKILL)
            until(lambda: not third.alive)
            assert not any(is_running(pid) for pid in pids)
            with pytest.raises(ExecutionError, match="ended with code -9"):
                third.ask({0: ClockQuestion()}, Clock, doing="telling the time", timeout_s=30)
        assert answers(first)
    until(lambda: not is_running(server))


def test_it_ends_after_a_while_without_workers(started):
    process, _ = started(0.1)
    assert process.wait(timeout=30) == 0


def test_it_ends_with_its_starter_and_ends_nothing_that_is_not_its_own(started):
    process, line = started(600)
    line.send(json.dumps({"kill": os.getpid()}).encode())
    line.close()
    assert process.wait(timeout=30) == 0


def test_who_asks_while_it_ends_is_given_another(of_its_own, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('nobody computes here')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    server = forked.fork_server(environment)
    server.retire()
    server.wait(30)
    until(lambda: server.is_gone)
    assert server.fork(tmp_path, environment) is None
    worker = forked.forked_worker(tmp_path, environment)
    worker.kill()
    assert worker.wait(30) == -signal.SIGKILL
    for pipe in (worker.stdin, worker.stdout, worker.stderr):
        pipe.close()


def test_where_it_cannot_start_there_is_a_way_to_find_out(monkeypatch, of_its_own, tmp_path):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ExecutionError, match=r"python -m dora_nb.executor.fork_server"):
        forked.forked_worker(tmp_path, os.environ)


def test_without_torch_every_worker_says_so_itself(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('this torch is broken')")
    code = "from dora_nb.executor import WorkerPool\nwith WorkerPool(1) as pool: pass"
    with python(code, PYTHONPATH=str(tmp_path)) as coordinator:
        _, errors = coordinator.communicate(timeout=60)
    assert "this torch is broken" in errors


def test_where_forking_is_not_safe_workers_are_started_one_by_one(monkeypatch):
    monkeypatch.setattr(process, "FORKS", False)
    process.expect_workers()
    with WorkerPool(1) as pool:
        assert parent_of(pool.pids[0]) == os.getpid()
        assert answers(pool)
