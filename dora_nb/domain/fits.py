"""Whether a plan is one for a workload on a cluster."""

from __future__ import annotations

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan, TiedPlacement
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError, UnknownNameError


def check_fits(plan: Plan, workload: Workload, cluster: Cluster) -> None:
    """Refuse a plan that is not one for this workload on this cluster; what it costs is not looked at.

    Raises
    ------
    InputError
        Naming the field, the value and what is allowed.
    """
    for index, stage in enumerate(plan.stages):
        for device in stage.devices:
            if device not in cluster.device_ids:
                raise UnknownNameError(f"plan.stages[{index}].replicas.device", device, cluster.device_ids)
        if workload.trains and len(stage.replicas) > 1 and stage.all_reduce is None and not stage.shards:
            raise InputError(f"plan.stages[{index}].all_reduce", None, "a way for its replicas to sum their gradients")
        if stage.recomputes and not workload.trains:
            raise InputError(f"plan.stages[{index}].recomputes", True, "False without training: nothing is kept")
        if stage.weights is not None and workload.trains:
            allowed = "None in training, which changes the weights: they stay in the workload's precision"
            raise InputError(f"plan.stages[{index}].weights", stage.weights, allowed)
    check_ends(workload, cluster)
    if plan.layer_count != len(workload.layers):
        raise InputError(
            f"plan.stages[{len(plan.stages) - 1}].stop_layer",
            plan.layer_count,
            f"{len(workload.layers)}, the number of layers of the workload",
        )
    if plan.micro_batch * plan.micro_batches != workload.batch:
        raise InputError(
            "plan.micro_batches",
            plan.micro_batches,
            f"micro-batches of {plan.micro_batch} that make up the batch of {workload.batch}",
        )
    if plan.token_groups > 1 and not workload.generates:
        raise InputError("plan.token_groups", plan.token_groups, f"1 in mode {workload.mode!r}")
    for index, stage in enumerate(plan.stages):
        if stage.shards:
            _check_shards(plan, index, workload)
    expected = tied_placements(workload, len(plan.stages))
    if plan.tied not in expected:
        raise InputError("plan.tied", plan.tied, " or ".join(repr(each) for each in expected))


def _check_shards(plan: Plan, index: int, workload: Workload) -> None:
    """Refuse shards that do not make up the layers of their stage."""
    stage, field = plan.stages[index], f"plan.stages[{index}].shards"
    parts = {layer.parts for layer in workload.layers[stage.first_layer : stage.stop_layer] if layer.parts > 1}
    if not parts:
        raise InputError(field, stage.shards, "() in a stage none of whose layers can be sliced (all have parts = 1)")
    if len(parts) > 1:
        allowed = f"() in a stage whose layers can be sliced into unlike numbers of parts {sorted(parts)}"
        raise InputError(field, stage.shards, allowed)
    if sum(stage.shards) not in parts:
        raise InputError(field, stage.shards, f"parts that add up to {parts.pop()}, the parts of the stage's layers")
    ends = {"synchronised": (0, len(plan.stages) - 1), "hosted": (len(plan.stages) - 1,)}
    if index in ends.get(plan.tied, ()):
        allowed = "() in a stage that holds parameters tied to another stage's while training (our own limit)"
        raise InputError(field, stage.shards, allowed)


def check_ends(workload: Workload, cluster: Cluster) -> None:
    """Refuse a source or a sink that the cluster does not have.

    Raises
    ------
    UnknownNameError
        Naming the field, the value and the devices there are.
    """
    for end in ("source", "sink"):
        name = getattr(workload, end)
        if name is not None and name not in cluster.device_ids:
            raise UnknownNameError(f"workload.{end}", name, cluster.device_ids)


def tied_placements(workload: Workload, stages: int) -> tuple[TiedPlacement, ...]:
    """Where tied parameters may live in a pipeline of so many stages."""
    if not workload.trains_tied:
        return ("none",)
    return ("one-stage",) if stages == 1 else ("synchronised", "hosted")
