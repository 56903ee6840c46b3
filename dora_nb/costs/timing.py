"""Seconds of every class of a plan's operations, and the rounds in which tokens are generated."""

from __future__ import annotations

from dataclasses import replace

from dora_nb.costs.compute_times import compute_seconds
from dora_nb.costs.network import Network
from dora_nb.costs.operations import TOKEN_KINDS, Operation, OperationClass, Shape, Timing
from dora_nb.costs.precedence import generation
from dora_nb.costs.table import CostTable
from dora_nb.costs.token_rounds import Leg, every_leg, rounds_s, slack_s
from dora_nb.costs.transfers import transfer_holds
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload


def timing_of(plan: Plan, workload: Workload, cluster: Cluster, table: CostTable) -> Timing:
    """Seconds of every class of the plan's operations.

    Parameters
    ----------
    plan, workload, cluster
        What is computed and sent where.
    table
        Seconds of every layer on every device.
    """
    network = Network.of(cluster)
    alone = Timing(
        compute_s={
            kind: max(by_device.values()) for kind, by_device in compute_seconds(plan, workload, cluster, table)
        },
        holds=dict(transfer_holds(plan, workload, network)),
    )
    if plan.token_groups == 1 or not workload.decode_steps:
        return alone
    own_s = sum(alone.duration_s[operation.cls] for operation in token_chain(plan, workload))
    all_s = rounds_s(round_legs(plan, workload, alone), plan.token_groups, workload.decode_steps)
    follow_s = max(all_s - own_s, 0.0)  # rounding apart, all groups are not quicker than one
    return replace(alone, compute_s={**alone.compute_s, OperationClass("follow", len(plan.stages) - 1): follow_s})


def token_chain(plan: Plan, workload: Workload) -> list[Operation]:
    """What a group does in a round."""
    return [each for each in generation(Shape.of(plan, workload)) if each.kind in TOKEN_KINDS]


def round_legs(plan: Plan, workload: Workload, timing: Timing) -> list[Leg]:
    """A round of one group, a step of average length."""
    steps, legs = workload.decode_steps, []
    for kind in (operation.cls for operation in token_chain(plan, workload)):
        duration_s = timing.duration_s[kind] / steps
        held_s = {f"stage {kind.stage}": duration_s}
        if kind in timing.holds:
            held_s = {name: seconds / steps for name, seconds in timing.holds[kind].seconds.items()}
        legs.append(Leg(duration_s, held_s))
    return legs


def late_in_rounds(plan: Plan, workload: Workload, timing: Timing) -> dict[Operation, float]:
    """By how much each operation of a round, named as in the timeline, could start later."""
    legs, groups, chain = round_legs(plan, workload, timing), plan.token_groups, token_chain(plan, workload)
    late_s = slack_s(legs, list(every_leg(legs, groups, workload.decode_steps)))
    return {chain[each.leg]._replace(micro_batch=each.step * groups + each.group): s for each, s in late_s.items()}
