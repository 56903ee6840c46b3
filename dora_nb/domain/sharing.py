"""How several streams share a cluster: a plan for every camera, and one timetable for all of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import EnergyAccounting
from dora_nb.domain.record import Record
from dora_nb.domain.transfer import TransferKind


class CameraPlan(Record):
    """What happens to the requests of one camera.

    Attributes
    ----------
    stream, number
        Whose camera, and which of its cameras, from 0.
    phase_s
        When its first request arrives.
    deadline_s
        As the stream says.
    plan
        Where its layers run; the order of transfers is the timetable's.
    latencies_s
        From arrival to the last output, of each of its requests in a round.
    """

    stream: str
    number: int = Field(ge=0)
    phase_s: float = Field(ge=0)
    deadline_s: float | None
    plan: Plan
    latencies_s: tuple[float, ...] = Field(min_length=1)

    @property
    def name(self) -> str:
        """How the camera is called."""
        return f"{self.stream}-{self.number + 1}"


class Turn(Record):
    """One entry of the timetable.

    Attributes
    ----------
    camera, request
        Which camera, by its place, and which of its requests in a round.
    kind, stage
        What is done: a computation (``forward``) or a transfer, of which stage.
    lag
        How many rounds after its request's own round it starts.
    start_s, end_s
        From when until when, from the start of the request's own round.
    places
        The device that computes, or the media that are held.
    """

    camera: int = Field(ge=0)
    request: int = Field(ge=0)
    kind: Literal["forward"] | TransferKind
    stage: int = Field(ge=0)
    lag: int = Field(ge=0)
    start_s: float = Field(ge=0)
    end_s: float = Field(ge=0)
    places: tuple[str, ...]


class DeviceShare(Record):
    """What one device does for all streams.

    Attributes
    ----------
    device
        Its id.
    load
        Share of the time that it computes.
    memory_bytes, usable_memory_bytes
        Of all models on it together, equal layers once; and what there is.
    power_w
        Mean draw, idle and computing; 0 where nothing runs on it.
    """

    device: str
    load: float
    memory_bytes: float
    usable_memory_bytes: float
    power_w: float


class MediumShare(Record):
    """Share of the time that a medium or a port is held."""

    medium: str
    load: float


class SharingFigures(Record):
    """What a timetable is predicted to do.

    Attributes
    ----------
    latency_s
        From arrival to last output, mean over all requests.
    worst_latency_s
        Of the request that takes longest.
    power_participating_w, power_all_on_w
        Mean draw: of the devices that compute for a stream, or of all of the cluster; and of carrying bytes.
    devices
        Every device of the cluster.
    media
        Every medium or port that is used.
    """

    latency_s: float
    worst_latency_s: float
    power_participating_w: float
    power_all_on_w: float
    devices: tuple[DeviceShare, ...]
    media: tuple[MediumShare, ...]

    def power_w(self, accounting: EnergyAccounting) -> float:
        """Mean draw under one accounting."""
        return self.power_participating_w if accounting == "participating" else self.power_all_on_w


class Sharing(Record):
    """Several streams on one cluster, with what is proven of it.

    Attributes
    ----------
    cluster
        Its name.
    objective
        ``latency``: the mean over all requests. ``energy``: joules per second, all streams together.
    energy_accounting
        Whose energy counts.
    round_s
        Everything repeats after this time.
    cameras
        Stream by stream.
    turns
        The timetable: every computation and transfer of a round, in the order in which they begin within it.
    figures
        Predicted, from the plans and the timetable alone.
    value, unit
        The objective, and its unit: ``s`` or ``W``.
    bound
        No sharing within ``scope`` that keeps all deadlines is below.
    gap
        ``(value - bound) / value``.
    status
        ``optimal``: the gap is at most the one asked for. ``feasible``: it is larger. ``time limit`` and
        ``cancelled``: and it was stopped.
    scope
        Over which plans the bound holds.
    method
        What found it and what proved it.
    wall_s
        Seconds it took.
    """

    cluster: str
    objective: Literal["latency", "energy"]
    energy_accounting: EnergyAccounting
    round_s: float = Field(gt=0)
    cameras: tuple[CameraPlan, ...] = Field(min_length=1)
    turns: tuple[Turn, ...]
    figures: SharingFigures
    value: float
    unit: Literal["s", "W"]
    bound: float
    gap: float = Field(ge=0)
    status: Literal["optimal", "feasible", "time limit", "cancelled"]
    scope: str
    method: str
    wall_s: float = Field(ge=0)

    def __repr__(self) -> str:
        from dora_nb.render.sharing import sharing_text  # a method that looks up a room: imported when called

        return sharing_text(self)

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        from dora_nb.render.sharing import sharing_html

        return sharing_html(self)
