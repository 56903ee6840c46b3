"""What was measured of the network between devices: delays, rates alone, rates of several streams at once."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from dora_nb.domain.record import Record
from dora_nb.errors import InputError


class Delay(Record):
    """Seconds of a small message from one device to another, one way: half of a round trip."""

    first: str
    second: str
    latency_s: float = Field(ge=0)


class StreamRate(Record):
    """Bytes per second that arrived while a device kept sending to another, latency apart."""

    sender: str
    receiver: str
    bytes_per_s: float = Field(gt=0)


class LinkMeasurements(Record):
    """The network between some devices, as probed.

    Attributes
    ----------
    delays
        Of every pair.
    alone
        Rates of every pair in both directions, with nothing else on the network.
    together
        Rates of several streams at once, each of which was also measured alone.
    source
        What measured it where and when, in words.
    """

    delays: tuple[Delay, ...] = Field(min_length=1)
    alone: tuple[StreamRate, ...] = Field(min_length=1)
    together: tuple[tuple[StreamRate, ...], ...] = ()
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = {(each.sender, each.receiver) for each in self.alone}
        for sender, receiver in sorted(known):
            if sender == receiver:
                raise InputError("alone", sender, "rates from one device to another")
            if (receiver, sender) not in known:
                raise InputError("alone", (sender, receiver), "a rate for the other direction as well")
        for index, streams in enumerate(self.together):
            for stream in streams:
                if (stream.sender, stream.receiver) not in known:
                    raise InputError(
                        f"together[{index}]",
                        (stream.sender, stream.receiver),
                        "streams that were measured alone as well",
                    )
        return self

    @property
    def devices(self) -> tuple[str, ...]:
        """Every device that was probed."""
        return tuple(dict.fromkeys(each.sender for each in self.alone))
