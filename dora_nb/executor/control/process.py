"""Starts worker processes on this machine."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import dora_nb
from dora_nb.executor.control.forked import ForkedProcess, fork_server, forked_worker

#: One thread, and memory that is kept once it was used: handing it back and getting it anew for every micro-batch would
#: double the time of a forward pass.
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
}

#: Where torch keeps what it compiles. It makes the folder, and leaves it behind, even when its compiler is only loaded,
#: as Hugging Face models and layers that are run again do.
CACHE = "TORCHINDUCTOR_CACHE_DIR"

#: Whether workers are forked from a process that has loaded torch: where that is safe, which macOS says it is not.
FORKS = sys.platform == "linux"

#: A child of this process, or of one that forks workers for it.
Process = subprocess.Popen[bytes] | ForkedProcess


def start_process(directory: pathlib.Path, interface: str) -> Process:
    """A worker with pipes for orders, replies and errors.

    Parameters
    ----------
    directory
        The coordinator's private one, which the worker removes if the coordinator dies.
    interface
        Network interface on which it talks to its peers.

    Raises
    ------
    ExecutionError
        If it cannot be started.
    """
    environment = {CACHE: str(directory / "compiled"), **_environment(), "GLOO_SOCKET_IFNAME": interface}
    if FORKS:
        return forked_worker(directory, environment)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "dora_nb.executor.worker", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,  # an interrupt from the keyboard reaches only the coordinator, which ends them
    )


def expect_workers() -> None:
    """Load what workers need beside what this process does: some will be started soon."""
    if FORKS:
        fork_server(_environment())


def _environment() -> dict[str, str]:
    package_root = str(pathlib.Path(dora_nb.__file__).parents[1])
    path = [package_root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    absolute = os.pathsep.join(os.path.abspath(each) for each in path if each)
    return {**os.environ, **WORKER_ENVIRONMENT, "PYTHONPATH": absolute}
