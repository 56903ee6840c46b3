"""What it costs to go on with another plan.

Inference: nothing, the parameters of every resident plan are in place and stay valid. Training: with every step the
parameters and optimizer states of a plan that does not run go stale, so a device gets those that the plan before held
elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
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
    """What it costs to change plans, everything sent at once as one exchange.

    Each device that lacks a layer's state gets it from the best-connected device that has it.

    Parameters
    ----------
    cluster
        With every device of both plans.
    accounting
        Whether the devices of the two plans draw power meanwhile, or all of the cluster.
    """
    if not workload.trains:
        return _FREE
    network, size = Network.of(cluster), unit_bytes(workload)
    had, needed = held_units(before, workload), held_units(after, workload)
    flows: dict[tuple[str, str], float] = defaultdict(float)
    for receiver, units in needed.items():
        for unit in units - had.get(receiver, frozenset()):
            sender = max((device for device, held in had.items() if unit in held), key=network.rate)
            flows[sender, receiver] += float(size[unit])
    hold = network.exchange([Flow(sender, receiver, count) for (sender, receiver), count in flows.items()])
    if not hold.size_bytes:
        return _FREE
    counted = cluster.device_ids if accounting == "all-on" else {*before.devices, *after.devices}
    idle_w = sum(cluster.device(name).idle_w for name in counted)
    return Switch(hold.size_bytes, hold.duration_s, hold.energy_j + idle_w * hold.duration_s)
