"""The answer to a problem in own numbers: which layers run on which devices, and how good that is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dora_nb.domain.record import Record


class PlacedStage(Record):
    """Layers that run together.

    Attributes
    ----------
    layers
        Their names, in the order of the problem.
    device
        Type of its devices.
    replicas, shards
        Devices that take turns, and devices each of these is made of: ``replicas x shards`` in all.
    ways
        How each layer runs, by name; layers that are not named run plainly.
    """

    layers: tuple[str, ...] = Field(min_length=1)
    device: str
    replicas: int = Field(default=1, ge=1)
    shards: int = Field(default=1, ge=1)
    ways: dict[str, str] = Field(default_factory=dict)


class StageLoad(Record):
    """What a stage takes, per sample.

    Attributes
    ----------
    compute_s
        Computing, shared by the replicas.
    all_reduce_s
        Summing gradients.
    receive_s, send_s
        What tensors take a device at either end.
    link_s
        The link to the next stage.
    media_s
        What its hand-overs hold each medium, by name.
    stage_s
        The first four put together as they overlap.
    memory_bytes
        On each device.
    """

    compute_s: float
    all_reduce_s: float
    receive_s: float
    send_s: float
    link_s: float
    media_s: dict[str, float]
    stage_s: float
    memory_bytes: float


class Evaluation(Record):
    """What a placement takes, from the problem's numbers alone.

    Attributes
    ----------
    value_s
        The objective.
    loads
        One a stage.
    broken
        What it breaks, in words; none: it is a placement of the problem.
    """

    value_s: float
    loads: tuple[StageLoad, ...]
    broken: tuple[str, ...] = ()


class Placement(Record):
    """A placement with what is proven of it.

    Attributes
    ----------
    problem
        Name of the problem.
    objective
        What was minimised.
    stages
        Where they follow one another: first to last.
    loads
        What each takes.
    value_s
        The objective, in the unit of the problem's times.
    bound_s
        No placement within ``scope`` is below.
    gap
        ``(value_s - bound_s) / value_s``.
    status
        ``optimal``: the gap is at most the one asked for. ``feasible``: it is larger. ``time limit``: and it ended so.
    scope
        Over which placements the bound holds.
    method
        What found it and what proved it.
    wall_s
        Seconds it took.
    """

    problem: str
    objective: Literal["period", "latency"]
    stages: tuple[PlacedStage, ...]
    loads: tuple[StageLoad, ...]
    value_s: float
    bound_s: float
    gap: float = Field(ge=0)
    status: Literal["optimal", "feasible", "time limit"]
    scope: str
    method: str
    wall_s: float = Field(ge=0)

    def __repr__(self) -> str:
        from dora_nb.render.placement import placement_text  # a method that looks up a room: imported when called

        return placement_text(self)

    def __str__(self) -> str:
        return repr(self)
