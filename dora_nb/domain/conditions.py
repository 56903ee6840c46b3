"""What may change while a person uses the network: the medium's rates, the devices' speeds, who is there."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from dora_nb.domain.cluster import Cluster, Provenance
from dora_nb.domain.record import Record
from dora_nb.errors import InputError, UnknownNameError

#: What a rate or a speed is multiplied by.
Factor = Annotated[float, Field(gt=0)]

#: How far probabilities may be from adding up to one.
_ROUNDING = 1e-6


class Condition(Record):
    """A state of network and devices, with how likely it is.

    Attributes
    ----------
    name
        Unique among the conditions it is used with.
    probability
        Share of the requests or iterations that meet this condition.
    domain_rate_factors
        What all rates of a contention domain are multiplied by, by domain id.
    device_rate_factors
        What the rates at which a device reaches its media are multiplied by, by device id.
    device_speed_factors
        What a device's computing speed is multiplied by, by device id; its draw stays the same.
    absent_devices
        Devices that are not there.
    sources
        Provenance of each number, by field path.
    """

    name: str = Field(min_length=1)
    probability: float = Field(gt=0, le=1)
    domain_rate_factors: dict[str, Factor] = Field(default_factory=dict)
    device_rate_factors: dict[str, Factor] = Field(default_factory=dict)
    device_speed_factors: dict[str, Factor] = Field(default_factory=dict)
    absent_devices: tuple[str, ...] = ()
    sources: dict[str, Provenance] = Field(default_factory=dict)

    def rate_factor(self, domain: str, member: str) -> float:
        """What the rate at which a device, or another domain's gateway, reaches a domain is multiplied by."""
        return self.domain_rate_factors.get(domain, 1.0) * self.device_rate_factors.get(member, 1.0)

    def link_factor(self, domain: str, sender: str, receiver: str) -> float:
        """What the rate of a link of a domain is multiplied by: the slower of its ends decides."""
        return min(self.rate_factor(domain, sender), self.rate_factor(domain, receiver))

    def speed_factor(self, device: str) -> float:
        """What a device's computing speed is multiplied by."""
        return self.device_speed_factors.get(device, 1.0)

    def __repr__(self) -> str:
        from dora_nb.render.conditions import condition_text  # a method that looks up a room: imported when called

        return condition_text(self)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from dora_nb.render.conditions import condition_html

        return condition_html(self)


class Conditions(Record):
    """All conditions that may be met, one at a time.

    Attributes
    ----------
    name, description
        For the reader.
    conditions
        Their probabilities add up to 1.
    windows_per_change
        Windows that pass on average until the condition is drawn anew, by the probabilities and whatever it was (our
        own model). Counts in training only, where changing plans with the condition costs something.
    sources
        Provenance of ``windows_per_change``.
    """

    name: str = Field(default="conditions", min_length=1)
    description: str = ""
    conditions: tuple[Condition, ...] = Field(min_length=1)
    windows_per_change: float = Field(default=10.0, ge=1)
    sources: dict[str, Provenance] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        repeated = next((name for name in self.names if self.names.count(name) > 1), None)
        if repeated is not None:
            raise InputError("conditions", repeated, "every condition once, under a name of its own")
        total = sum(self.probabilities)
        if abs(total - 1) > _ROUNDING:
            raise InputError("conditions", total, "probabilities that add up to 1")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the order of ``conditions``."""
        return tuple(each.name for each in self.conditions)

    @property
    def probabilities(self) -> tuple[float, ...]:
        """Probabilities in the order of ``conditions``."""
        return tuple(each.probability for each in self.conditions)

    def __len__(self) -> int:
        return len(self.conditions)

    def check_fits(self, cluster: Cluster) -> None:
        """Refuse conditions that name what the cluster does not have, or leave it without a device.

        Raises
        ------
        InputError
            Naming the field, the value and what is allowed.
        """
        domains = [domain.id for domain in cluster.domains]
        for index, condition in enumerate(self.conditions):
            known = {
                "domain_rate_factors": (condition.domain_rate_factors, domains),
                "device_rate_factors": (condition.device_rate_factors, cluster.device_ids),
                "device_speed_factors": (condition.device_speed_factors, cluster.device_ids),
                "absent_devices": (condition.absent_devices, cluster.device_ids),
            }
            for field, (named, allowed) in known.items():
                for name in named:
                    if name not in allowed:
                        raise UnknownNameError(f"conditions[{index}].{field}", name, allowed)
            if set(condition.absent_devices) >= set(cluster.device_ids):
                raise InputError(
                    f"conditions[{index}].absent_devices", condition.absent_devices, "at least one device left"
                )

    def __repr__(self) -> str:
        from dora_nb.render.conditions import conditions_text

        return conditions_text(self)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from dora_nb.render.conditions import conditions_html

        return conditions_html(self)


def handover(before: Condition, after: Condition, cluster: Cluster) -> Condition:
    """The state in which plans are changed when one condition follows another.

    A device that leaves hands over before it does, one that comes takes over once it is there; a device that is there
    in both has the lower of its two rates. Our own reading: a change is announced.
    """
    rates: dict[str, float] = {}
    for domain in cluster.domains:
        for device in domain.members:
            there = [each for each in (before, after) if device not in each.absent_devices]
            factor = min((each.rate_factor(domain.id, device) for each in there), default=1.0)
            rates[device] = min(rates.get(device, factor), factor)
    return Condition(
        name=f"{before.name} to {after.name}",
        probability=1.0,
        device_rate_factors=rates,
        absent_devices=tuple(name for name in before.absent_devices if name in after.absent_devices),
    )
