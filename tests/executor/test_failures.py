"""What goes wrong is said quickly, and nothing is left behind."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from dora_nb.errors import ExecutionError, InputError, MissingDependencyError
from dora_nb.executor import WorkerPool, execute

STAGES = [(0, 3, [(0, 2)], 2, None), (3, 6, [(1, 2)], 1, None)]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def run_and_hurt(lab, sign: signal.Signals, silence_s: float) -> tuple[str, float, WorkerPool, tuple[int, ...], str]:
    """Run a plan, send a signal to its second worker on the way, and return what was raised and how long it took."""
    workload = lab.workload(lab.architectures["untied"], "training", 4)
    hurt_s = []
    with WorkerPool(2, silence_s=silence_s) as pool:
        pids, directory = pool.pids, str(pool.directory)

        def hurt(line: str) -> None:
            if line.startswith("step 1 "):
                hurt_s.append(time.monotonic())
                os.kill(pids[1], sign)

        with pytest.raises(ExecutionError) as caught:
            execute(
                lab.plan(STAGES, 2), workload, lab.cluster([1e12] * 2), steps=5000, on_progress=hurt, workers=pool
            ).wait()
        return str(caught.value), time.monotonic() - hurt_s[0], pool, pids, directory


def test_a_killed_worker_is_named_and_nothing_is_left(lab):
    message, seconds, pool, pids, directory = run_and_hurt(lab, signal.SIGKILL, silence_s=30.0)
    assert f"worker 1 (process {pids[1]})" in message
    assert "code -9" in message
    assert seconds < 10
    assert not any(alive(pid) for pid in pids)
    assert not os.path.exists(directory)
    assert len(pool) == 0


def test_a_pool_that_is_not_open_says_so(lab):
    workload, pool = lab.workload(lab.architectures["untied"], "training", 4), WorkerPool(2)
    with pytest.raises(InputError, match="open\\(\\) starts its workers") as caught:
        execute(lab.plan(STAGES, 2), workload, lab.cluster([1e12] * 2), workers=pool)
    assert caught.value.value == "a pool that is not open"


@pytest.mark.parametrize("name", ["rack/a", "..\\a", "a\nb"])
def test_no_file_is_named_after_a_path(name):
    with pytest.raises(InputError, match="without slashes and line breaks"):
        WorkerPool(2).seats(["Gerät 1", name])


def test_an_interrupt_ends_the_workers_and_the_coordinator_never_listened():
    before = listening(os.getpid())
    with pytest.raises(KeyboardInterrupt), WorkerPool(1) as pool:  # noqa: PT012
        pids, directory = pool.pids, pool.directory
        assert alive(pids[0])
        assert oct(directory.stat().st_mode & 0o777) == "0o700"
        assert listening(os.getpid()) == before
        raise KeyboardInterrupt
    assert not alive(pids[0])
    assert not directory.exists()


def test_a_worker_ends_when_its_coordinator_does(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "dora_nb.executor.worker", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    process.stdin.close()
    assert process.wait(timeout=20) == 0


def test_what_libraries_print_does_not_reach_the_control_channel():
    code = (
        "import os\n"
        "from dora_nb.executor.worker import _claimed_stdout\n"
        "channel = _claimed_stdout()\n"
        "print('chatter', flush=True); os.system('echo more chatter')\n"
        "channel.write(b'message'); channel.flush()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert done.stdout == b"message"
    assert b"more chatter" in done.stderr


@pytest.mark.parametrize("package", ["torch", "safetensors"])
def test_without_torch_the_missing_package_is_named(lab, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    workload = lab.workload(lab.architectures["untied"], "training", 4)
    with pytest.raises(MissingDependencyError, match=rf"{package}.*not installed.*dora-nb\[exec\]"):
        execute(lab.plan(STAGES, 2), workload, lab.cluster([1e12] * 2))


def test_importing_the_executor_loads_no_torch():
    code = (
        "import sys, dora_nb.executor as e\n"
        "e.execute, e.WorkerPool, e.scale_down\n"
        "assert 'torch' not in sys.modules\n"
        "try:\n    e.nonsense\nexcept AttributeError:\n    print('fine')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert done.stdout.strip() == b"fine"


def test_steps_must_be_positive(lab):
    workload = lab.workload(lab.architectures["untied"], "training", 4)
    with pytest.raises(InputError, match="steps"):
        execute(lab.plan(STAGES, 2), workload, lab.cluster([1e12] * 2), steps=0)


def test_everything_listens_on_this_host_only(lab, pool):
    workload = lab.workload(lab.architectures["untied"], "training", 4)
    execute(lab.plan(STAGES, 2), workload, lab.cluster([1e12] * 2), steps=1, emulate="nothing", workers=pool).wait()
    ours = [address for pid in (os.getpid(), *pool.pids) for address in listening(pid)]
    assert ours, "gloo's connections between the workers"
    assert all(address.startswith("0100007F:") for address in ours), ours


def listening(pid: int) -> list[str]:
    """Addresses at which a process listens, as the kernel writes them."""
    addresses = {}
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                addresses[f"socket:[{fields[9]}]"] = fields[1]
    targets = [_link(f"/proc/{pid}/fd/{descriptor}") for descriptor in os.listdir(f"/proc/{pid}/fd")]
    return sorted(addresses[target] for target in targets if target in addresses)


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
