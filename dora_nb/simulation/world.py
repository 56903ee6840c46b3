"""What changes around a plan while it runs: rates of media, speeds of devices, who is there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.conditions import Condition
from dora_nb.errors import InputError, UnknownNameError
from dora_nb.simulation.traces import Trace

#: ``domain rate``: what all rates of a contention domain are multiplied by. ``device rate``: the rates at which one
#: device reaches its medium. ``device speed``: its computing speed. ``presence``: 1 while a device is there, else 0.
Quantity = Literal["domain rate", "device rate", "device speed", "presence"]


@dataclass(frozen=True)
class Influence:
    """One quantity of one device or domain over time.

    Attributes
    ----------
    quantity, name
        What changes, and whose.
    trace
        Factors; influences on the same quantity are multiplied.
    """

    quantity: Quantity
    name: str
    trace: Trace


@dataclass(frozen=True)
class State:
    """The world between two changes.

    Attributes
    ----------
    domain_rates, device_rates, device_speeds
        Factors, in the order of the cluster's domains and devices. A rate or a speed of 0 stands still.
    present
        Which devices are there.
    """

    domain_rates: tuple[float, ...]
    device_rates: tuple[float, ...]
    device_speeds: tuple[float, ...]
    present: tuple[bool, ...]


@dataclass(frozen=True)
class World:
    """A cluster and everything that changes on it.

    Attributes
    ----------
    cluster
        As it is when nothing influences it.
    influences
        In any order; several may concern the same quantity.
    """

    cluster: Cluster
    influences: tuple[Influence, ...] = ()

    def __post_init__(self) -> None:
        domains = [domain.id for domain in self.cluster.domains]
        for index, influence in enumerate(self.influences):
            if influence.quantity not in get_args(Quantity):
                raise UnknownNameError(f"influences[{index}].quantity", influence.quantity, get_args(Quantity))
            known = domains if influence.quantity == "domain rate" else self.cluster.device_ids
            if influence.name not in known:
                raise UnknownNameError(f"influences[{index}].name", influence.name, known)
            if influence.quantity == "presence" and not np.isin(influence.trace.values, (0.0, 1.0)).all():
                raise InputError(
                    f"influences[{index}].trace", influence.trace.values[:5].tolist(), "1 (there) and 0 (away)"
                )
            if influence.quantity == "device rate" and (influence.trace.values <= 0).any():
                allowed = "factors above 0; a device out of reach is one whose presence is 0"
                raise InputError(f"influences[{index}].trace", influence.trace.values.min(), allowed)

    def having(self, quantity: Quantity, name: str, trace: Trace) -> World:
        """The world with one more influence."""
        return replace(self, influences=(*self.influences, Influence(quantity, name, trace)))

    def with_bandwidth(self, domain: str, trace: Trace, nominal_bytes_per_s: float | None = None) -> World:
        """The world with a domain's rates following a bandwidth trace.

        Parameters
        ----------
        trace
            Bytes per second, see :func:`~dora_nb.simulation.traces.load_trace`.
        nominal_bytes_per_s
            The bandwidth at which the rates are those of the cluster; None: the largest of the trace.
        """
        nominal = float(trace.values.max()) if nominal_bytes_per_s is None else nominal_bytes_per_s
        if not nominal > 0:
            raise InputError("nominal_bytes_per_s", nominal, "more than 0 bytes per second")
        return self.having("domain rate", domain, trace.scaled(1 / nominal))

    def with_traffic(self, domain: str, share: Trace) -> World:
        """The world with other people's traffic taking a share of a domain's airtime."""
        if (share.values > 1).any():
            raise InputError("share", float(share.values.max()), "shares of the airtime, 0 to 1")
        return self.having("domain rate", domain, replace(share, values=1 - share.values))

    def later(self, by_s: float) -> World:
        """The world as seen from a later moment on."""
        return replace(self, influences=tuple(replace(each, trace=each.trace.later(by_s)) for each in self.influences))

    @classmethod
    def of_conditions(cls, cluster: Cluster, phases: Sequence[tuple[float, Condition]]) -> World:
        """A world that meets one condition after another, from the times given on."""
        influences: list[Influence] = []

        def follow(quantity: Quantity, name: str, values: Iterable[float]) -> None:
            factors = list(values)
            if any(factor != 1.0 for factor in factors):
                steps = [(at, factor) for (at, _), factor in zip(phases, factors, strict=True)]
                influences.append(Influence(quantity, name, Trace.steps(steps)))

        conditions = [condition for _, condition in phases]
        for domain in cluster.domains:
            follow("domain rate", domain.id, (each.domain_rate_factors.get(domain.id, 1.0) for each in conditions))
        for device in cluster.device_ids:
            follow("device rate", device, (each.device_rate_factors.get(device, 1.0) for each in conditions))
            follow("device speed", device, (each.speed_factor(device) for each in conditions))
            follow("presence", device, (float(device not in each.absent_devices) for each in conditions))
        return cls(cluster, tuple(influences))

    def __repr__(self) -> str:
        named = ", ".join(f"{each.quantity} of {each.name}" for each in self.influences)
        return f"World({self.cluster.name}: {named or 'nothing changes'})"

    def _repr_html_(self) -> str:
        from dora_nb.render.world import world_html  # a method that looks up a room: imported when called

        return world_html(self)

    @cached_property
    def times_s(self) -> Floats:
        """When something changes, ascending from 0."""
        return np.unique(np.concatenate([[0.0], *(each.trace.times_s for each in self.influences)]))

    @cached_property
    def states(self) -> tuple[State, ...]:
        """The state from each of ``times_s`` on."""
        domains = [domain.id for domain in self.cluster.domains]
        names: dict[str, Sequence[str]] = dict.fromkeys(get_args(Quantity), self.cluster.device_ids)
        names["domain rate"] = domains
        factors = {quantity: np.ones((len(self.times_s), len(members))) for quantity, members in names.items()}
        for each in self.influences:
            at = np.searchsorted(each.trace.times_s, self.times_s, side="right") - 1
            factors[each.quantity][:, names[each.quantity].index(each.name)] *= each.trace.values[at]
        return tuple(
            State(tuple(rates), tuple(own), tuple(speeds), tuple(there))
            for rates, own, speeds, there in zip(
                factors["domain rate"].tolist(),
                factors["device rate"].tolist(),
                factors["device speed"].tolist(),
                (factors["presence"] > 0).tolist(),
                strict=True,
            )
        )

    @property
    def known_until_s(self) -> float:
        """When the first of the traces ends; from then on its last value holds."""
        return min((each.trace.end_s for each in self.influences), default=math.inf)

    def index_at(self, time_s: float) -> int:
        """Which of ``states`` holds at a time."""
        return int(np.searchsorted(self.times_s, time_s, side="right")) - 1
