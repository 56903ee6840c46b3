"""Plan sets to show: one as planned, one whose names were chosen to break things."""

from __future__ import annotations

import pytest

from dora_nb.catalog import load_cluster, load_workload
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.planning.plan import plan

#: Text that would end a tag, an attribute, a table row or an XML document.
NASTY = "<script>alert(\"1\")</script> & 'x'\n\x1b[31m ]]> \u2028"


@pytest.fixture(scope="session")
def plans() -> PlanSet:
    """Plans for training a small network at home, within a latency limit."""
    work = load_workload("bert-base", mode="training", batch=4)
    return plan(work, load_cluster("smart-home"), QoE(latency_s=4, objective="energy"), most_plans=4, solver="highs")


@pytest.fixture(scope="session")
def nasty(plans: PlanSet) -> PlanSet:
    """The same with names that have to be escaped."""
    return PlanSet(
        plans.workload.replace(name=f"{NASTY} work"),
        plans.cluster.replace(name=f"{NASTY} home"),
        plans.qoe.replace(energy_j=1e9),
        tuple(each.replace(label=f"{NASTY} {each.label}") for each in plans.plans),
        tuple(each.replace(label=f"{NASTY} {each.label} {'long ' * 50}") for each in plans.baselines),
        plans.wall_s,
    )


@pytest.fixture(scope="session")
def bare(plans: PlanSet) -> PlanSet:
    """One plan that nobody evaluated, and nothing to compare with."""
    return PlanSet(plans.workload, plans.cluster, QoE(), (plans.best.decisions(),), (), 0.5)
