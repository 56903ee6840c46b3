"""What running plans asks of the operating system."""

from __future__ import annotations

import os

from dora_nb.errors import ExecutionError


def require_posix() -> None:
    """Refuse to start or play workers where locks, signals and owners of files are not POSIX's.

    Everything else, from planning to notebooks and simulation, runs anywhere.

    Raises
    ------
    ExecutionError
        On Windows.
    """
    if os.name != "posix":
        raise ExecutionError(
            "plans run on Linux and macOS; on Windows use WSL 2 (wsl --install), in which everything works as on "
            "Linux. Planning, simulation and notebooks work without it"
        )


def usable_cores() -> int:
    """Cores this process and its children may run on; where the system does not tell, all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS, Windows
