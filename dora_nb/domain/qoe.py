"""Quality of experience: the limits to keep, what going beyond one costs, and what to optimise under them."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from dora_nb.domain.record import Record
from dora_nb.errors import InputError
from dora_nb.units import Bytes, Fraction, Joules, SamplesPerS, Seconds, Watts, parse_price

Objective = Literal["latency", "energy", "price"]
#: ``participating``: only the plan's devices draw power; ``all-on``: every device of the cluster idles meanwhile.
EnergyAccounting = Literal["participating", "all-on"]
#: What an objective is counted in.
Unit = Literal["s", "J"]
Term = Literal["latency", "throughput", "energy", "battery", "headroom"]

#: Relative difference by which two sums of the same numbers may differ; a limit is kept if it is exceeded by less.
ROUNDING = 1e-9

#: What each price is paid for, as a dimension of :data:`~dora_nb.units.UNITS`.
_PAID_FOR = {
    "latency_price": "time",
    "throughput_price": "throughput",
    "energy_price": "energy",
    "battery_price": "energy",
    "headroom_price": "size",
}

#: What every limit and its price are where there is none.
_UNLIMITED: dict[Term, dict[str, Any]] = {
    "latency": {"latency_s": None, "latency_price": None},
    "throughput": {"samples_per_s": None, "throughput_price": None},
    "energy": {"energy_j": None, "energy_price": None},
    "battery": {"battery_j": {}, "battery_price": None},
    "headroom": {"headroom_fraction": None, "headroom_bytes": None, "headroom_price": None},
}


class QoE(Record):
    """Limits and objective.

    A limit is hard: no plan may break it. With a price it is soft: every unit beyond it adds that much to the
    objective, in the objective's unit (seconds for latency, joules for energy and price). A price is a number in SI
    units or text such as ``"5 J/s"``, ``"2 s/(samples/s)"``, ``"0.1 s/J"`` or ``"3 J/GB"``.

    Attributes
    ----------
    objective
        What the best plan minimises within the limits: the makespan, the energy, or a ``price`` between the two,
        ``energy + joules_per_s x makespan``. Of equally good plans it is the one that is better at the other figure:
        the thriftiest of the fastest, the fastest of the thriftiest or the cheapest.
    joules_per_s
        What a second of makespan is worth in joules; for the objective ``price`` only.
    latency_s, latency_price
        Longest makespan allowed of an iteration or batch; None: no limit. Text such as ``"80 ms"`` is accepted.
    samples_per_s, throughput_price
        Fewest samples a second: the batch over the makespan.
    energy_j, energy_price
        Largest energy allowed of an iteration or batch, under ``energy_accounting``.
    battery_j, battery_price
        By device: most joules that it may draw in an iteration or batch, idling and computing (what its radio takes
        is counted in the total only, since joules per byte are known for all radios together). Devices outside the
        plan draw under the accounting ``all-on``, and nothing under ``participating``.
    headroom_fraction, headroom_bytes, headroom_price
        Part of every device's usable memory to keep free, as a share of it or in bytes (one of the two).
    energy_accounting
        Whose energy counts; every reported figure names it.
    """

    objective: Objective = "latency"
    joules_per_s: Watts | None = None
    latency_s: Seconds | None = Field(default=None, gt=0)
    latency_price: float | None = None
    samples_per_s: SamplesPerS | None = None
    throughput_price: float | None = None
    energy_j: Joules | None = Field(default=None, gt=0)
    energy_price: float | None = None
    battery_j: dict[str, Joules] = Field(default_factory=dict)
    battery_price: float | None = None
    headroom_fraction: Fraction | None = None
    headroom_bytes: Bytes | None = None
    headroom_price: float | None = None
    energy_accounting: EnergyAccounting = "participating"

    @field_validator(*_PAID_FOR, mode="before")
    @classmethod
    def _price(cls, value: Any, info: ValidationInfo) -> float | None:
        if value is None:
            return None
        assert info.field_name is not None
        paid = "time" if info.data.get("objective", "latency") == "latency" else "energy"
        return parse_price(value, paid, _PAID_FOR[info.field_name])

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.objective == "price") != (self.joules_per_s is not None):
            raise InputError("joules_per_s", self.joules_per_s, "a number exactly when the objective is 'price'")
        if self.headroom_fraction is not None and self.headroom_bytes is not None:
            raise InputError("headroom_bytes", self.headroom_bytes, "headroom as a share or in bytes, not both")
        limits = {
            "latency_price": self.latency_s,
            "throughput_price": self.samples_per_s,
            "energy_price": self.energy_j,
            "battery_price": self.battery_j or None,
            "headroom_price": self.headroom_fraction if self.headroom_bytes is None else self.headroom_bytes,
        }
        for name, limit in limits.items():
            if getattr(self, name) is not None and limit is None:
                raise InputError(name, getattr(self, name), "a price only next to the limit it belongs to")
        return self

    @property
    def unit(self) -> Unit:
        """What the objective is counted in."""
        return "s" if self.objective == "latency" else "J"

    @property
    def without_limits(self) -> QoE:
        """The objective and the accounting, with nothing to keep."""
        return QoE(objective=self.objective, joules_per_s=self.joules_per_s, energy_accounting=self.energy_accounting)

    @property
    def hard(self) -> tuple[Term, ...]:
        """What is limited without a price."""
        limits: dict[Term, Any] = {
            "latency": self.latency_price is None and self.latency_s,
            "throughput": self.throughput_price is None and self.samples_per_s,
            "energy": self.energy_price is None and self.energy_j,
            "battery": self.battery_price is None and self.battery_j,
            "headroom": self.headroom_price is None and (self.headroom_bytes or self.headroom_fraction),
        }
        return tuple(term for term, limit in limits.items() if limit)

    def without(self, *terms: Term) -> QoE:
        """The QoE with nothing to keep, nor to pay, of some terms."""
        gone = {name: value for term in terms for name, value in _UNLIMITED[term].items()}
        return self.replace(**gone)

    def room_bytes(self, usable_bytes: float) -> float:
        """Bytes that may be filled of a device's usable memory; below 0 where not even nothing leaves enough free."""
        if self.headroom_bytes is not None:
            return usable_bytes - self.headroom_bytes
        return usable_bytes * (1 - (self.headroom_fraction or 0.0))

    def keeps_means(self, latency_s: float, energy_j: float, rounding: float = ROUNDING) -> bool:
        """Whether a mean latency and a mean energy are within the limits on them."""
        within = [(latency_s, self.latency_s), (energy_j, self.energy_j)]
        return all(limit is None or value <= limit * (1 + rounding) for value, limit in within)

    @property
    def limits_means(self) -> bool:
        """Whether there is a limit on the mean latency or energy at all."""
        return self.latency_s is not None or self.energy_j is not None

    def check_means_only(self, where: str) -> None:
        """Refuse limits that are not hard ones on latency and energy.

        Parameters
        ----------
        where
            What keeps no others, e.g. ``a composition``.

        Raises
        ------
        InputError
            Naming the first of them.
        """
        plain = type(self)(
            objective=self.objective,
            joules_per_s=self.joules_per_s,
            latency_s=self.latency_s,
            energy_j=self.energy_j,
            energy_accounting=self.energy_accounting,
        )
        for name in type(self).model_fields:
            if getattr(self, name) != getattr(plain, name):
                allowed = f"nothing in {where}, which keeps hard limits on latency and energy only"
                raise InputError(name, getattr(self, name), allowed)

    def base(self, makespan_s: Any, energy_j: Any) -> Any:
        """The objective without what soft limits add, of numbers or arrays."""
        if self.objective == "latency":
            return makespan_s
        return energy_j if self.joules_per_s is None else energy_j + self.joules_per_s * makespan_s

    def __repr__(self) -> str:
        from dora_nb.render.requests import qoe_text  # a method that looks up a room: imported when called

        return qoe_text(self)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from dora_nb.render.requests import qoe_html

        return qoe_html(self)
