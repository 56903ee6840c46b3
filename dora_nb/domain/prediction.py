"""What the cost model expects of a plan."""

from __future__ import annotations

from dora_nb.domain.qoe import EnergyAccounting
from dora_nb.domain.record import Record
from dora_nb.domain.transfer import ScheduledTransfer


class DevicePrediction(Record):
    """What one participating device is predicted to do in one iteration or batch.

    Attributes
    ----------
    device
        Its id.
    busy_s
        Seconds in which it computes.
    memory_bytes, usable_memory_bytes
        Bytes that it needs, and that it has for this.
    energy_j
        Joules, idling included.
    """

    device: str
    busy_s: float
    memory_bytes: float
    usable_memory_bytes: float
    energy_j: float


class IdlePrediction(Record):
    """What a device outside the plan draws meanwhile, if it is on."""

    device: str
    energy_j: float


class Prediction(Record):
    """What the cost model expects of a plan, for one iteration or batch. Predicted, never measured.

    Attributes
    ----------
    makespan_s
        First input to last output or step; in a stream, from a request's arrival to its last output.
    period_s
        Steady-state seconds between micro-batches: the largest load of a stage or a contention domain. In a stream:
        the same between requests, the shortest time between arrivals that no stage or domain rules out.
    samples_per_s
        Throughput: the batch over the makespan, in a stream over the time between requests.
    energy_participating_j, energy_all_on_j
        Energy under the two accountings of :data:`~dora_nb.domain.qoe.EnergyAccounting`. In a stream: per request, with
        idling counted from one arrival to the next, however long the request itself takes.
    first_token_s, token_s
        When every sample has its first new token, and seconds from one token to the next; None if nothing is
        generated (``token_s`` also where the first token is the only one).
    network_bytes
        Bytes carried.
    airtime_s
        Seconds the busiest medium (shared) or port (switch) is held.
    devices
        The participating devices.
    idle
        The other devices of the cluster.
    schedule
        Every transfer with its times, by start. On one medium that is the order in which it is used.
    """

    makespan_s: float
    period_s: float
    samples_per_s: float
    energy_participating_j: float
    energy_all_on_j: float
    network_bytes: float
    airtime_s: float
    devices: tuple[DevicePrediction, ...]
    idle: tuple[IdlePrediction, ...]
    first_token_s: float | None = None
    token_s: float | None = None
    schedule: tuple[ScheduledTransfer, ...] = ()

    def energy_j(self, accounting: EnergyAccounting) -> float:
        """Energy under one accounting."""
        return self.energy_participating_j if accounting == "participating" else self.energy_all_on_j

    def __repr__(self) -> str:
        from dora_nb.render.briefly import prediction_text  # a method that looks up a room: imported when called

        return prediction_text(self)

    __str__ = __repr__
