"""Plans whose stages slice layers over devices."""

from __future__ import annotations

from collections.abc import Mapping

from dora_nb.domain.plan import Algorithm, Plan


def with_shards(plan: Plan, shards: Mapping[int, tuple[tuple[int, ...], Algorithm]]) -> Plan:
    """The plan with (parts of each device, algorithm) of some of its stages, every device taking all samples."""
    stages = list(plan.stages)
    for index, (shares, algorithm) in shards.items():
        replicas = tuple(each.replace(samples=plan.micro_batch) for each in stages[index].replicas)
        stages[index] = stages[index].replace(replicas=replicas, shards=shares, shard_sum=algorithm)
    return plan.replace(stages=tuple(stages))
