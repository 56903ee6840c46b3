"""What it runs on: devices, and the media they share."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from dora_nb.domain.layer import OperatorClass, Precision
from dora_nb.domain.record import Record
from dora_nb.errors import InputError, UnknownNameError
from dora_nb.units import Bytes, BytesPerS, FlopsPerS, Fraction, JoulesPerByte, Seconds, Watts

Status = Literal["measured", "datasheet", "computed", "assumed"]


class Provenance(Record):
    """Where a number comes from.

    Attributes
    ----------
    status
        ``measured`` by somebody, from a ``datasheet``, ``computed`` from such numbers, or ``assumed`` by us.
    source
        Who says so, or for a computed or assumed number what it rests on.
    note
        What else a reader should know.
    """

    status: Status
    source: str = Field(min_length=1)
    note: str = ""


class Device(Record):
    """One device: what it can hold, how fast it computes, what it draws.

    Attributes
    ----------
    id
        Name in its cluster, unique there.
    profile
        Name of the device model in the catalogue; devices of one profile are interchangeable.
    memory_bytes, usable_memory_fraction
        Installed memory, and the share of it that a model may fill.
    flops_per_s
        Sustained rate by operator class and precision (achieved, not peak). ``lookup`` needs none.
    memory_bytes_per_s
        Sustained memory bandwidth.
    layer_overhead_s
        Fixed seconds per layer call.
    idle_w, active_w
        Draw while waiting and while computing.
    sources
        Provenance of each number, by field path (``flops_per_s.matmul.fp32``).
    """

    id: str = Field(min_length=1)
    profile: str = Field(min_length=1)
    name: str = ""
    memory_bytes: Bytes
    usable_memory_fraction: Fraction = 0.7
    flops_per_s: dict[OperatorClass, dict[Precision, FlopsPerS]]
    memory_bytes_per_s: BytesPerS
    layer_overhead_s: Seconds = 0.0
    idle_w: Watts
    active_w: Watts
    sources: dict[str, Provenance] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.active_w < self.idle_w:
            raise InputError("active_w", self.active_w, f"at least idle_w ({self.idle_w})")
        return self

    @property
    def usable_memory_bytes(self) -> float:
        """Bytes a model may fill."""
        return self.memory_bytes * self.usable_memory_fraction


class ContentionDomain(Record):
    """Links that share one medium.

    Attributes
    ----------
    id
        Name in its cluster.
    kind
        ``shared``: one airtime for everybody, as on a Wi-Fi access point; a transfer from u to v of n bytes holds it
        for ``n / rate_u + n / rate_v``. ``switch``: a transmit and a receive port per device; the transfer holds the
        transmit port of u for ``n / rate_u`` and the receive port of v for ``n / rate_v``.
    rates_bytes_per_s
        Rate at which each attached device reaches the medium.
    latency_s
        Seconds per message on top; holds nothing.
    energy_j_per_byte
        Joules per byte carried, all radios together.
    sources
        Provenance of each number, by field path.
    """

    id: str = Field(min_length=1)
    kind: Literal["shared", "switch"]
    rates_bytes_per_s: dict[str, BytesPerS] = Field(min_length=1)
    latency_s: Seconds = 0.0
    energy_j_per_byte: JoulesPerByte = 0.0
    sources: dict[str, Provenance] = Field(default_factory=dict)


class Cluster(Record):
    """Devices and the medium they share.

    Attributes
    ----------
    devices
        At least one, each under an id of its own.
    domains
        Exactly one contention domain that every device reaches; none when there is a single device.
    """

    name: str = Field(min_length=1)
    description: str = ""
    devices: tuple[Device, ...] = Field(min_length=1)
    domains: tuple[ContentionDomain, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        ids = [device.id for device in self.devices]
        repeated = next((name for name in ids if ids.count(name) > 1), None)
        if repeated is not None:
            raise InputError("devices", repeated, "every device once, under an id of its own")
        if len(self.domains) > 1 or (len(ids) > 1 and not self.domains):
            raise InputError(
                "domains",
                [domain.id for domain in self.domains],
                "exactly one contention domain that every device reaches",
            )
        for index, domain in enumerate(self.domains):
            for name in domain.rates_bytes_per_s:
                if name not in ids:
                    raise UnknownNameError(f"domains[{index}].rates_bytes_per_s", name, ids)
            missing = [name for name in ids if name not in domain.rates_bytes_per_s]
            if missing:
                raise InputError(f"domains[{index}].rates_bytes_per_s", missing, "a rate for every device")
        return self

    def device(self, device_id: str) -> Device:
        """The device with an id.

        Raises
        ------
        UnknownNameError
            If the cluster has no such device.
        """
        for device in self.devices:
            if device.id == device_id:
                return device
        raise UnknownNameError("device", device_id, self.device_ids)

    @property
    def device_ids(self) -> tuple[str, ...]:
        """Ids in the order of ``devices``."""
        return tuple(device.id for device in self.devices)

    @property
    def domain(self) -> ContentionDomain | None:
        """The medium between the devices, or None for a single device."""
        return self.domains[0] if self.domains else None
