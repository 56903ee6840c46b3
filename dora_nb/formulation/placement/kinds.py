"""Device types and the shards on them: what a stage may run on, and how its layers run there."""

from __future__ import annotations

from dataclasses import dataclass

from dora_nb.domain.problem import MeasuredProblem, Way


@dataclass(frozen=True)
class Kind:
    """Devices of one type, each layer cut over so many of them.

    Attributes
    ----------
    device
        Position of the type.
    shards
        Devices that one replica is made of.
    """

    device: int
    shards: int


def kinds_of(problem: MeasuredProblem) -> tuple[Kind, ...]:
    """Device types, each with every number of shards that some layer has and that there are devices for."""
    shards = sorted({way.shards for layer in problem.layers for way in layer.ways})
    return tuple(
        Kind(index, width) for index, device in enumerate(problem.devices) for width in shards if width <= device.count
    )


def ways_on(problem: MeasuredProblem, layer: int, kind: Kind) -> list[Way]:
    """Ways to run a layer on a kind of device."""
    device = problem.devices[kind.device].type
    return [way for way in problem.layers[layer].ways if way.shards == kind.shards and device in way.time_s]
