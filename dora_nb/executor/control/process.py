"""Starts a worker process on this machine."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import dora_nb

#: One thread, and memory that is kept once it was used: handing it back and getting it anew for every micro-batch would
#: double the time of a forward pass.
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
}


def start_process(directory: pathlib.Path, interface: str) -> subprocess.Popen[bytes]:
    """A worker with pipes for orders, replies and errors.

    Parameters
    ----------
    directory
        The coordinator's private one, which the worker removes if the coordinator dies.
    interface
        Network interface on which it talks to its peers.
    """
    package_root = str(pathlib.Path(dora_nb.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "dora_nb.executor.worker", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **WORKER_ENVIRONMENT, "GLOO_SOCKET_IFNAME": interface, "PYTHONPATH": path},
        start_new_session=True,  # an interrupt from the keyboard reaches only the coordinator, which ends them
    )
