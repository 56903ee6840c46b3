"""How long a plan holds the media between devices."""

from __future__ import annotations

from dora_nb.costs.network import Network
from dora_nb.costs.operations import Shape
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.transfers import carried, held_seconds, transfer_holds
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload


def held_s(plan: Plan, workload: Workload, cluster: Cluster) -> dict[str, float]:
    """Seconds that one iteration, batch or request holds every medium, port or link that it uses, by resource name."""
    holds = dict(transfer_holds(plan, workload, Network.of(cluster)))
    return held_seconds(carried(plan, operations_of(Shape.of(plan, workload)), holds))
