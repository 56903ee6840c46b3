"""What it costs to go on with another plan.

Inference: nothing, the parameters of every resident plan are in place and stay valid. Training: with every step the
parameters and optimizer states of a plan that does not run go stale, so a device gets those that the plan before held
elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from dora_nb.costs.network import Flow, Network
from dora_nb.costs.resident import held_units, unit_bytes
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import EnergyAccounting
from dora_nb.domain.workload import Workload


@dataclass(frozen=True)
class Switch:
    """One change from a plan to another.

    Attributes
    ----------
    size_bytes
        State that changes place.
    duration_s
        Seconds it takes; nothing else runs meanwhile.
    energy_j
        What the network draws, and the devices that count while they wait.
    """

    size_bytes: float
    duration_s: float
    energy_j: float


_FREE = Switch(0.0, 0.0, 0.0)


def switch(before: Plan, after: Plan, workload: Workload, cluster: Cluster, accounting: EnergyAccounting) -> Switch:
    """What it costs to change plans: nothing in inference, in training the state that changes place.

    Parameters
    ----------
    cluster
        With every device of both plans.
    accounting
        Whether the devices of the two plans draw power meanwhile, or all of the cluster.
    """
    if not workload.trains:
        return _FREE
    counted = cluster.device_ids if accounting == "all-on" else {*before.devices, *after.devices}
    return move(held_units(before, workload), after, workload, cluster, counted)


def move(
    had: Mapping[str, Collection[int]], after: Plan, workload: Workload, cluster: Cluster, counted: Collection[str]
) -> Switch:
    """What it costs to bring what a plan needs to where it needs it, everything sent at once as one exchange.

    Each device that lacks a unit of parameters gets it from the best-connected device that has it.

    Parameters
    ----------
    had
        Units that each device holds, see :func:`~dora_nb.costs.resident.held_units`; together all of them.
    cluster
        With every device that holds or needs something.
    counted
        Devices that draw power meanwhile.
    """
    network, size, needed = Network.of(cluster), unit_bytes(workload), held_units(after, workload)
    flows: dict[tuple[str, str], float] = defaultdict(float)
    for receiver, units in needed.items():
        for unit in units.difference(had.get(receiver, ())):
            sender = max((device for device, held in had.items() if unit in held), key=network.rate)
            flows[sender, receiver] += float(size[unit])
    hold = network.exchange([Flow(sender, receiver, count) for (sender, receiver), count in flows.items()])
    if not hold.size_bytes:
        return _FREE
    idle_w = sum(cluster.device(name).idle_w for name in counted)
    return Switch(hold.size_bytes, hold.duration_s, hold.energy_j + idle_w * hold.duration_s)
