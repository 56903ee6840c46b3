"""Plans that do without a device, made on the spot from the plan that it was part of.

No solver is asked and no optimum claimed: the smallest change that keeps every layer somewhere. Our own design. Memory
is not checked; whoever wants a good plan gives one beforehand (:func:`dora_nb.alternatives`), or has one made.
"""

from __future__ import annotations

from collections.abc import Iterable

from dora_nb.domain.plan import Plan, Replica, Stage
from dora_nb.executor.faults.moves import Move, holders_of


def first_without(plans: Iterable[Plan], present: frozenset[str]) -> Plan | None:
    """The first plan that needs only devices that are there."""
    return next((plan for plan in plans if present.issuperset(plan.devices)), None)


def without(plan: Plan, device: str) -> Plan | None:
    """The plan without one of its devices; None if it was the only one.

    In a stage of several replicas the others take its samples, in proportion to their own; of those that held shards,
    the first one left takes the whole layers. Otherwise the stage before, or the one behind if it was the first, takes
    its layers as well. Transfers leave as soon as they are ready.
    """
    if len(plan.devices) == 1 or device not in plan.devices:
        return None if device in plan.devices else plan
    index = next(number for number, stage in enumerate(plan.stages) if device in stage.devices)
    stages = list(plan.stages)
    if stages[index].shards:
        left = next(each for each in stages[index].replicas if each.device != device)
        stages[index] = stages[index].replace(replicas=(left,), shards=(), shard_sum=None)
    elif len(stages[index].replicas) > 1:
        stages[index] = _shared_out(stages[index], device)
    else:
        gone = stages.pop(index)
        heir = max(0, index - 1)
        first, stop = min(gone.first_layer, stages[heir].first_layer), max(gone.stop_layer, stages[heir].stop_layer)
        stages[heir] = stages[heir].replace(first_layer=first, stop_layer=stop)
    tied = plan.tied
    if len(stages) == 1 and tied in ("hosted", "synchronised"):
        tied = "one-stage"
        stages[0] = stages[0].replace(first_layer=0)
    if tied == "hosted" and stages[-1].buckets > 1 and stages[-1].all_reduce is not None:
        stages[-1] = stages[-1].replace(all_reduce=stages[-1].all_reduce.replace(buckets=1))  # its hosts compute on
    label = f"{plan.label or 'the plan'} without {device}"
    return plan.decisions().replace(label=label, stages=tuple(stages), tied=tied)


def copies_to_neighbours(plan: Plan) -> tuple[Move, ...]:
    """A copy of every layer that one device alone holds, to a device of a stage beside it."""
    neighbour = {}
    for index, stage in enumerate(plan.stages):
        beside = plan.stages[index + 1 if index + 1 < len(plan.stages) else index - 1]
        for device in stage.devices:
            neighbour[device] = beside.devices[0]
    return tuple(
        Move(layer=layer, sender=holders[0], receivers=(neighbour[holders[0]],))
        for layer, holders in sorted(holders_of(plan).items())
        if len(holders) == 1 and neighbour[holders[0]] != holders[0]
    )


def _shared_out(stage: Stage, device: str) -> Stage:
    """The stage without a replica, whose samples go to the others by largest remainder."""
    staying = [replica for replica in stage.replicas if replica.device != device]
    samples, before = sum(each.samples for each in stage.replicas), sum(each.samples for each in staying)
    exact = [samples * each.samples / before for each in staying]
    whole = [int(each) for each in exact]
    by_remainder = sorted(range(len(exact)), key=lambda number: whole[number] - exact[number])
    for number in by_remainder[: samples - sum(whole)]:
        whole[number] += 1
    replicas = tuple(Replica(device=each.device, samples=count) for each, count in zip(staying, whole, strict=True))
    all_reduce = stage.all_reduce
    if len(replicas) == 1:
        all_reduce = None
    elif all_reduce is not None and all_reduce.leader == device:
        all_reduce = all_reduce.replace(leader=replicas[0].device)
    return stage.replace(replicas=replicas, all_reduce=all_reduce)
