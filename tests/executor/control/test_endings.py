"""However a run ends, no process, socket or file of it stays."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest
from processes import command, is_running, python, until

COORDINATOR = """
import json, pathlib, shlex, subprocess, sys
from dora_nb.executor import WorkerPool
from dora_nb.executor.control.listener import Listener
from dora_nb.executor.control.orders import ClockQuestion
from dora_nb.executor.control.replies import Probed

friend = None
listener = Listener(token_file=pathlib.Path(sys.argv[1]) / "token")

def connect(line):
    global friend
    if "waiting for workers" in line:
        arguments = shlex.split(line.partition("dora-nb ")[2])
        code = "from dora_nb.cli import main; main()"
        friend = subprocess.Popen([sys.executable, "-c", code, *arguments], start_new_session=True)

with WorkerPool(1, listener=listener, remote=["friend"], on_progress=connect) as pool:
    pids = [*pool.pids, friend.pid, pool._scratch._guard.pid]
    print(json.dumps([pids, str(pool.directory), listener.address.port]), flush=True)
    pool.ask(dict.fromkeys((0, 1), ClockQuestion()), Probed, doing="waiting", timeout_s=600)
"""

SIGNALS = [signal.SIGKILL, signal.SIGINT] if os.environ.get("DORA_NB_LONG") else [signal.SIGKILL]


@pytest.mark.parametrize("sign", SIGNALS)
def test_nothing_stays_of_a_coordinator_that_is_killed_or_interrupted(private, tmp_path, sign):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with python(COORDINATOR, str(private), TMPDIR=str(temporary)) as coordinator:
        pids, directory, port = json.loads(coordinator.stdout.readline())
        assert all(is_running(pid) for pid in pids)
        assert len(list(temporary.glob("dora-nb-*"))) == 2  # the pool's and the connected worker's
        coordinator.send_signal(sign)
        assert coordinator.wait(timeout=30) != 0
    until(lambda: not any(is_running(pid) for pid in pids))
    until(lambda: not os.path.exists(directory))
    until(lambda: not list(temporary.iterdir()))
    assert not (private / "token").exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


@pytest.mark.skipif("DORA_NB_LONG" not in os.environ, reason="starts two more processes")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_connected_worker_that_is_interrupted_leaves_nothing(door, tmp_path, sign):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    address, token = str(door.listener.address), str(door.listener.token_file)
    arguments = ("worker", "--coordinator", address, "--token-file", token, "--name", "friend")
    with command(*arguments, TMPDIR=str(temporary)) as worker:
        until(lambda: list(temporary.glob("dora-nb-worker-*")), timeout_s=60)
        worker.send_signal(sign)
        assert worker.wait(timeout=20) == 128 + sign
    assert list(temporary.iterdir()) == []
    while door.guest("friend").receive() is not None:
        pass
