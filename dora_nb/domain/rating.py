"""What a plan is worth under a QoE, from its predicted figures alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dora_nb.domain.limit import Limit
from dora_nb.domain.qoe import ROUNDING, QoE

if TYPE_CHECKING:
    from dora_nb.domain.prediction import Prediction


@dataclass(frozen=True)
class Rating:
    """What a plan is worth.

    Attributes
    ----------
    value
        The objective with what soft limits add, in the objective's unit.
    limits
        Every limit, kept or broken.
    """

    value: float
    limits: tuple[Limit, ...]

    @property
    def keeps_hard(self) -> bool:
        """Whether every limit without a price is kept."""
        return all(limit.kept for limit in self.limits if limit.price is None)

    @property
    def broken(self) -> tuple[Limit, ...]:
        """The limits that are not kept, hard and soft."""
        return tuple(limit for limit in self.limits if not limit.kept)


def qoe_value(prediction: Prediction, qoe: QoE) -> Rating:
    """The value of a plan's predicted figures, and which limits they keep.

    Nothing here knows how the plan was found: planning checks its own answers against this.
    """
    base = float(qoe.base(prediction.makespan_s, prediction.energy_j(qoe.energy_accounting)))
    limits = tuple(_limits(prediction, qoe))
    return Rating(base + sum(limit.cost for limit in limits), limits)


def _limits(prediction: Prediction, qoe: QoE) -> Iterator[Limit]:
    if qoe.latency_s is not None:
        yield _at_most("latency", prediction.makespan_s, qoe.latency_s, "s", qoe.latency_price)
    if qoe.samples_per_s is not None:
        yield Limit(
            term="throughput",
            limit=qoe.samples_per_s,
            value=prediction.samples_per_s,
            unit="samples/s",
            price=qoe.throughput_price,
            kept=prediction.samples_per_s >= qoe.samples_per_s * (1 - ROUNDING),
        )
    if qoe.energy_j is not None:
        energy_j = prediction.energy_j(qoe.energy_accounting)
        yield _at_most("energy", energy_j, qoe.energy_j, "J", qoe.energy_price)
    drawn_j = {device.device: device.energy_j for device in prediction.devices}
    if qoe.energy_accounting == "all-on":
        drawn_j |= {device.device: device.energy_j for device in prediction.idle}
    for name, limit_j in qoe.battery_j.items():
        yield _at_most("battery", drawn_j.get(name, 0.0), limit_j, "J", qoe.battery_price, name)
    if qoe.headroom_fraction is not None or qoe.headroom_bytes is not None:
        for device in prediction.devices:
            room_bytes = qoe.room_bytes(device.usable_memory_bytes)
            yield _at_most("headroom", device.memory_bytes, room_bytes, "bytes", qoe.headroom_price, device.device)


def _at_most(term: str, value: float, limit: float, unit: str, price: float | None, device: str | None = None) -> Limit:
    return Limit(
        term=term,
        device=device,
        limit=limit,
        value=value,
        unit=unit,
        price=price,
        kept=value <= limit + ROUNDING * abs(limit),
    )
