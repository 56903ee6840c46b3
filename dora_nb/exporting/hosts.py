"""How a plan file is run: the commands for the coordinator and for the hosts that play its devices."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from dora_nb.domain.plan import Plan


def run_commands(plan_file: Path, plan: Plan, coordinator: str) -> tuple[str, str, str]:
    """Three commands: run all on this machine; or wait for workers, and start them all on one host by torchrun.

    Parameters
    ----------
    plan_file
        Where the plan is written.
    plan
        The plan in it.
    coordinator
        ``host:port`` at which workers connect.

    Returns
    -------
    tuple of str
        For a shell: local run, coordinator, workers.
    """
    wait = ("--listen", coordinator, "--token-file", "token")
    return (
        shlex.join(["dora-nb", "execute", str(plan_file)]),
        shlex.join(["dora-nb", "execute", str(plan_file), *wait]),
        torchrun_command(plan.devices, coordinator),
    )


def torchrun_command(devices: Sequence[str], coordinator: str) -> str:
    """One process of a host for each of some devices, which torchrun starts and restarts; names go by rank."""
    started = ("torchrun", f"--nproc-per-node={len(devices)}", "--no-python")
    joins = ("dora-nb", "worker", "--coordinator", coordinator, "--token-file", "token", "--name", ",".join(devices))
    return shlex.join([*started, *joins])
