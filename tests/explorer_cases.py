"""A small question with trade-offs, answered in a moment."""

from __future__ import annotations

from builders import cluster, device, layer, workload

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.planning.plan import plan


def small_workload() -> Workload:
    return workload([layer(f"l{index}", flops=4e9) for index in range(3)], batch=4)


def small_cluster() -> Cluster:
    devices = [
        device("fast", 4e9, active_w=40.0, idle_w=2.0),
        device("middle", 2e9, active_w=6.0, idle_w=1.0),
        device("thrifty", 1e9, active_w=1.5, idle_w=0.2),
    ]
    return cluster(devices, rates=[2e6, 2e6, 2e6])


def small_plans(qoe: QoE | None = None) -> PlanSet:
    return plan(small_workload(), small_cluster(), QoE(objective="energy") if qoe is None else qoe, most_plans=4)
