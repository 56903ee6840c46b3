"""Streams of requests that share a cluster: cameras with a model, a frame rate and a deadline each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Self

from pydantic import Field, model_validator

from dora_nb.domain.record import Record
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.units import Seconds, counted

#: Requests of all streams in the time after which they repeat together; more are refused.
MOST_REQUESTS = 240

#: Rates are taken as fractions with a denominator of at most this, e.g. 29.97 /s as 2997 / 100.
_FINEST = 1_001


class Stream(Record):
    """Equal cameras: each sends requests of one workload at its rate.

    Attributes
    ----------
    name
        Of the cameras, e.g. ``crossing``.
    workload
        What is computed for every request, in mode ``stream``: model, batch, the rate of one camera, the device the
        cameras hang on (``source``) and the one that needs the results (``sink``).
    count
        How many such cameras there are.
    deadline_s
        Longest time from a request's arrival to its last output; None: no limit.
    phases_s
        When each camera's first request arrives, at least 0 and less than its period; None: the planner chooses when
        each camera is triggered.
    """

    name: str = Field(min_length=1)
    workload: Workload
    count: int = Field(default=1, ge=1)
    deadline_s: Seconds | None = None
    phases_s: tuple[Seconds, ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.workload.mode != "stream":
            raise InputError("workload.mode", self.workload.mode, "stream, with the rate of one camera")
        if self.deadline_s is not None and self.deadline_s <= 0:
            raise InputError("deadline_s", self.deadline_s, "more than 0 seconds, or nothing: no limit")
        if self.phases_s is not None:
            if len(self.phases_s) != self.count:
                raise InputError("phases_s", self.phases_s, f"one for each of the {counted(self.count, 'camera')}")
            late = next((phase for phase in self.phases_s if phase >= self.period_s), None)
            if late is not None:
                raise InputError("phases_s", late, f"less than the period of {self.period_s:g} s")
        return self

    @property
    def period_s(self) -> float:
        """Seconds between the requests of one camera."""
        period_s = self.workload.arrival_s
        assert period_s is not None, "a stream has a rate"
        return period_s

    @property
    def rate(self) -> Fraction:
        """Requests of one camera per second."""
        assert self.workload.requests_per_s is not None, "a stream has a rate"
        return Fraction(self.workload.requests_per_s).limit_denominator(_FINEST)

    def __repr__(self) -> str:
        from dora_nb.render.briefly import stream_text  # a method that looks up a room: imported when called

        return stream_text(self)

    __str__ = __repr__


def common_round(streams: Sequence[Stream]) -> tuple[Fraction, tuple[int, ...]]:
    """The time after which all streams repeat together.

    Returns
    -------
    round_s
        The least common multiple of the periods.
    requests
        How many requests one camera of each stream sends in it.

    Raises
    ------
    InputError
        If a rate is no simple fraction, or the streams meet only after too many requests; it says what to do.
    """
    rates = [stream.rate for stream in streams]
    for index, (stream, rate) in enumerate(zip(streams, rates, strict=True)):
        given = stream.workload.requests_per_s
        assert given is not None, "a stream has a rate"
        if rate <= 0 or not math.isclose(float(rate), given, rel_tol=1e-12):
            raise InputError(
                f"streams[{index}].workload.requests_per_s",
                given,
                f"a fraction with a denominator of at most {_FINEST}, so that the streams repeat together after a "
                f"while; the next one is {rate or Fraction(1, _FINEST)}",
            )
    # Every camera sends a whole number of requests in the round: 1 / the greatest common divisor of the rates.
    divisor = Fraction(
        math.gcd(*(rate.numerator * math.lcm(*(r.denominator for r in rates)) // rate.denominator for rate in rates)),
        math.lcm(*(rate.denominator for rate in rates)),
    )
    requests = tuple(int(rate / divisor) for rate in rates)
    total = sum(stream.count * number for stream, number in zip(streams, requests, strict=True))
    if total > MOST_REQUESTS:
        raise InputError(
            "streams",
            [str(rate) for rate in rates],
            f"rates that meet sooner: these repeat together only every {float(1 / divisor):g} s, after {total:,} "
            f"requests, and at most {MOST_REQUESTS} are looked at. Take rates that are multiples of each other, e.g. "
            "30 /s instead of 29.97 /s",
        )
    return 1 / divisor, requests
