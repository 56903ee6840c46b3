"""How long a plan holds the media between devices."""

from __future__ import annotations

from dora_nb.costs.network import Network
from dora_nb.costs.operations import Shape, operations_of
from dora_nb.costs.transfers import transfer_holds
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload


def held_s(plan: Plan, workload: Workload, cluster: Cluster) -> dict[str, float]:
    """Seconds that one iteration, batch or request holds every medium, port or link that it uses, by resource name."""
    holds = dict(transfer_holds(plan, workload, Network.of(cluster)))
    operations = operations_of(Shape.of(plan, workload))
    held: dict[str, float] = {}
    for transfer in operations.transfers:
        for resource, seconds in holds[operations.classes[transfer]].seconds.items():
            held[resource] = held.get(resource, 0.0) + seconds
    return held
