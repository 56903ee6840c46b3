"""Unlike devices on one machine: every device computes for real and then waits as long as a slower one would take."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dora_nb.costs.network import Network
from dora_nb.costs.operations import OperationClass, Shape, Timing
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.table import CostTable
from dora_nb.costs.timing import timing_of
from dora_nb.costs.transfers import carried, held_seconds
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.run_record import Link
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.executor.system import usable_cores
from dora_nb.units import counted

#: Share of this machine's cores that computing may fill on average; the rest is for moving tensors.
CORE_SHARE = 0.8

#: Least slow-down, so that a computation that shares its core for a while still ends in time.
LEAST = 3.0

#: Devices further apart than this are brought this close, or one step would take minutes.
WIDEST_SPREAD = 16.0


#: Seconds for which the busiest medium is held in an iteration, at most, in those that the busiest stage computes.
LONGEST_HELD = 8.0

#: Transfers that the executor carries out; inputs are made and outputs stay where they are.
EXECUTED = (
    *("activation", "gradient", "token"),
    *("shard-sum", "shard-gradient-sum", "shard-token-sum"),
    *("all-reduce", "tied-reduce", "tied-exchange", "tied-broadcast"),
)


def busy_core_s() -> float:
    """Core-seconds that all programs together have computed, those that yield to others apart.

    Counted since this machine started; 0 where the system does not tell.
    """
    try:
        with open("/proc/stat") as file:
            user, _, system, _, _, *interrupts = (int(each) for each in file.readline().split()[1:9])
    except OSError:
        return 0.0
    return (user + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def slow_down(devices: Sequence[str], workload: Workload, cluster: Cluster) -> dict[str, float]:
    """How much slower than this machine each device computes.

    Devices keep their relative speeds: their sustained rates of matrix products in the workload's precision. The
    fastest one is slowed down so far that all of them together fit on this machine's cores.

    Parameters
    ----------
    devices
        Those that take part.
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
    rates = {device: _rate(cluster, device, workload) for device in devices}
    fastest = max(rates.values())
    slower = {device: min(fastest / rate, WIDEST_SPREAD) for device, rate in rates.items()}
    demand = sum(1 / factor for factor in slower.values())
    base = max(LEAST, demand / (CORE_SHARE * usable_cores()))
    return {device: base * factor for device, factor in slower.items()}


@dataclass(frozen=True)
class Emulation:
    """What a run on this machine imitates.

    Attributes
    ----------
    factors
        How much slower than this machine each device computes.
    devices
        Whether devices are slowed down.
    network
        The planned devices on the imitated network; None: loopback as it is.
    dilation
        Seconds here for one second of the plan, where devices are slowed down.
    cores
        Those of this machine, where all devices compute on them at full speed; None: nobody waits for a core.
    """

    factors: Mapping[str, float]
    devices: bool = True
    network: Cluster | None = None
    dilation: float = 1.0
    cores: int | None = None

    def overhead_s(self, link: Link, plan: Plan) -> float:
        """Seconds that this machine adds to each message of the imitated network, from a probe of the first two."""
        if self.network is None or len(plan.devices) < 2:
            return 0.0
        first, second = plan.devices[:2]
        return max(0.0, link.latency_s - Network.of(self.network).route(first, second).latency_s)

    def describe(self) -> str:
        """What was imitated and what was not, in words."""
        if not self.devices:
            if self.cores is None:
                return "No emulation: every device computes at its full speed, and tensors pass over the real network."
            return (
                f"No emulation: every device is one thread of this machine at its full speed, and those that compute "
                f"at once share {counted(self.cores, 'core')}, which the prediction knows; tensors pass over loopback."
            )
        factors = self.factors
        spread = max(factors.values()) / min(factors.values())
        cut = f" (differences beyond {WIDEST_SPREAD:g}x are cut to that)" if spread > 0.999 * WIDEST_SPREAD else ""
        each = ", ".join(f"{device} {factor:.3g}x" for device, factor in factors.items())
        network = (
            "The network is this machine's loopback as probed, not the planned one"
            if self.network is None
            else (
                f"The planned network is imitated too: its media, rates and latencies, with time and bytes scaled so "
                f"that it takes the same share of an iteration as planned (1 s of the plan is {self.dilation:.3g} s "
                f"here)"
            )
        )
        return (
            f"Emulated devices: each computes for real on one thread of this machine and then sleeps until a multiple "
            f"of the time profiled here has passed: {each}. Relative speeds follow the devices' sustained "
            f"matrix-product rates{cut}. {network}; nothing is measured on the planned devices themselves."
        )


def imitated_network(
    planned: tuple[Plan, Workload, Cluster, CostTable], run: tuple[Plan, Workload, CostTable], *, with_network: bool
) -> tuple[Cluster | None, float]:
    """The planned network, made as slow as what runs here needs it to be.

    What runs is smaller than what was planned: fewer bytes, and other seconds of computing. Time is stretched by the
    ratio of the busiest stage's seconds, here and as planned; latencies with it, and rates so that the busiest medium
    is held for the same share of an iteration; a network that takes many times as long as computing is made so fast
    that a step does not last for minutes (:data:`LONGEST_HELD`). Our own design.

    Parameters
    ----------
    planned
        Plan, workload, cluster and compute times as planned.
    run
        Plan, workload and compute times, on the same devices in the same order, as they run here.
    with_network
        Whether the network is imitated; if not, only time is related.

    Returns
    -------
    cluster, dilation
        The planned devices with the network to imitate, if it is; and seconds here per second of the plan.
    """
    plan, workload, cluster, table = planned
    small_plan, small, small_table = run
    before, after = timing_of(plan, workload, cluster, table), timing_of(small_plan, small, cluster, small_table)
    busiest_s = _busiest_s(small_plan, after.compute_s)
    dilation = busiest_s / _busiest_s(plan, before.compute_s)
    if not with_network:
        return None, dilation
    held_s, small_held_s = _most_held_s(plan, workload, before), _most_held_s(small_plan, small, after)
    if not held_s or not small_held_s:
        return cluster, dilation
    dilation = min(dilation, LONGEST_HELD * busiest_s / held_s)
    slower = dilation * held_s / small_held_s  # seconds here per byte, against the plan's
    domains = tuple(
        domain.replace(
            rates_bytes_per_s={name: rate / slower for name, rate in domain.rates_bytes_per_s.items()},
            down_rates_bytes_per_s={name: rate / slower for name, rate in domain.down_rates_bytes_per_s.items()},
            links_bytes_per_s={
                name: {other: rate / slower for other, rate in others.items()}
                for name, others in domain.links_bytes_per_s.items()
            },
            latency_s=domain.latency_s * dilation,
        )
        for domain in cluster.domains
    )
    return cluster.replace(domains=domains), dilation


def _busiest_s(plan: Plan, compute_s: Mapping[OperationClass, float]) -> float:
    """Seconds in which the stage with the most to do computes in an iteration."""
    load_s = dict.fromkeys(range(len(plan.stages)), 0.0)
    for kind, seconds in compute_s.items():
        if kind.kind in ("forward", "backward") and kind.part == 0:  # parts are those of one micro-batch
            load_s[kind.stage % len(plan.stages)] += plan.micro_batches * seconds  # stage -1 is hosted by the last one
        elif kind.kind == "decode":
            load_s[kind.stage] += plan.token_groups * seconds
    return max(load_s.values())


def _most_held_s(plan: Plan, workload: Workload, timing: Timing) -> float:
    """Seconds for which the busiest medium is held in an iteration, by transfers that are executed."""
    executed = carried(plan, operations_of(Shape.of(plan, workload)), timing.holds, EXECUTED)
    return max(held_seconds(executed).values(), default=0.0)


def _rate(cluster: Cluster, device_id: str, workload: Workload) -> float:
    rates = cluster.device(device_id).flops_per_s.get("matmul", {})
    if workload.precision not in rates:
        raise InputError(
            f"devices.{device_id}.flops_per_s.matmul.{workload.precision}",
            None,
            f"a sustained rate, which its emulation needs; it has {', '.join(rates) or 'none'}",
        )
    return rates[workload.precision]
