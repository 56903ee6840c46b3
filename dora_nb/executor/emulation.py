"""Unlike devices on one machine: every device computes for real and then waits as long as a slower one would take."""

from __future__ import annotations

import os

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError

#: Share of this machine's cores that computing may fill on average; the rest is for moving tensors.
CORE_SHARE = 0.8

#: Least slow-down, so that a computation that shares its core for a while still ends in time.
LEAST = 3.0

#: Devices further apart than this are brought this close, or one step would take minutes.
WIDEST_SPREAD = 16.0


def usable_cores() -> int:
    """Cores this process and its children may run on."""
    return len(os.sched_getaffinity(0))


def slow_down(plan: Plan, workload: Workload, cluster: Cluster) -> dict[str, float]:
    """How much slower than this machine each device computes.

    Devices keep their relative speeds: their sustained rates of matrix products in the workload's precision. The
    fastest one is slowed down so far that all of them together fit on this machine's cores.

    Parameters
    ----------
    plan
        Whose devices take part.
    workload
        As planned, not scaled down: its precision counts.
    cluster
        The devices' rates.

    Returns
    -------
    factor by device id

    Raises
    ------
    InputError
        If a device has no such rate.
    """
    rates = {device: _rate(cluster, device, workload) for device in plan.devices}
    fastest = max(rates.values())
    slower = {device: min(fastest / rate, WIDEST_SPREAD) for device, rate in rates.items()}
    demand = sum(1 / factor for factor in slower.values())
    base = max(LEAST, demand / (CORE_SHARE * usable_cores()))
    return {device: base * factor for device, factor in slower.items()}


def describe(factors: dict[str, float], emulate: bool) -> str:
    """What was imitated and what was not, in words."""
    if not emulate:
        return (
            "No emulation: every device is one thread of this machine at its full speed, and devices share its cores; "
            "tensors pass over loopback. The prediction takes no sharing of cores into account."
        )
    spread = max(factors.values()) / min(factors.values())
    cut = f" (differences beyond {WIDEST_SPREAD:g}x are cut to that)" if spread > 0.999 * WIDEST_SPREAD else ""
    each = ", ".join(f"{device} {factor:.3g}x" for device, factor in factors.items())
    return (
        f"Emulated devices: each computes for real on one thread of this machine and then sleeps until a multiple of "
        f"the time profiled here has passed: {each}. Relative speeds follow the devices' sustained matrix-product "
        f"rates{cut}. The network is this machine's loopback as probed, not the planned one; nothing is measured on "
        f"the planned devices themselves."
    )


def _rate(cluster: Cluster, device_id: str, workload: Workload) -> float:
    rates = cluster.device(device_id).flops_per_s.get("matmul", {})
    if workload.precision not in rates:
        raise InputError(
            f"devices.{device_id}.flops_per_s.matmul.{workload.precision}",
            None,
            f"a sustained rate, which its emulation needs; it has {', '.join(rates) or 'none'}",
        )
    return rates[workload.precision]
