"""Which stages of a plan have shards, and who holds which parts of their layers. Needs no torch."""

from __future__ import annotations

from typing import NamedTuple

from dora_nb.domain.plan import Algorithm, Plan
from dora_nb.errors import InputError


class ShardStage(NamedTuple):
    """A stage with shards; equal in two plans if its devices can go on as they are.

    Attributes
    ----------
    first_layer, stop_layer, devices, shards, algorithm
        See :class:`~dora_nb.domain.plan.Stage`.
    """

    first_layer: int
    stop_layer: int
    devices: tuple[str, ...]
    shards: tuple[int, ...]
    algorithm: Algorithm

    @property
    def leader(self) -> str:
        """The device that speaks for the others."""
        return self.devices[0]

    @property
    def layers(self) -> range:
        """Its layers."""
        return range(self.first_layer, self.stop_layer)

    def parts_of(self, device: str) -> tuple[int, int]:
        """Parts [start, stop) of every layer that a device holds."""
        place = self.devices.index(device)
        start = sum(self.shards[:place])
        return start, start + self.shards[place]


def shard_stages(plan: Plan) -> tuple[ShardStage, ...]:
    """The stages of a plan that have shards."""
    return tuple(
        ShardStage(stage.first_layer, stage.stop_layer, stage.devices, stage.shards, stage.shard_sum)
        for stage in plan.stages
        if stage.shard_sum is not None
    )


def shard_stage_of(plan: Plan, device: str) -> ShardStage | None:
    """The stage with shards that a device is part of, if it is."""
    return next((each for each in shard_stages(plan) if device in each.devices), None)


def check_shards_stay(before: Plan, after: Plan) -> None:
    """Refuse to change from one plan to another where shards would have to change place.

    Raises
    ------
    InputError
        If the two do not have the same shards.
    """
    if not shards_stay(before, after):
        described = " | ".join("+".join(stage.devices) for stage in shard_stages(after)) or "none"
        allowed = "the same stages with shards in both, since shards do not change place while a plan runs"
        raise InputError("plans", f"shards of layers: {described}", f"{allowed}; start a run of its own, or resume one")


def shards_stay(before: Plan, after: Plan) -> bool:
    """Whether two plans have the same shards, so that one can follow the other: shards do not change place."""
    return set(shard_stages(before)) == set(shard_stages(after))
