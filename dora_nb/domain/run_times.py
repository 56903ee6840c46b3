"""How long the tokens of a batch, and the requests of a stream, took or are predicted to take."""

from __future__ import annotations

import math
import statistics

from pydantic import Field

from dora_nb.domain.record import Record


class TokenTimes(Record):
    """How fast tokens came.

    Attributes
    ----------
    first_token_s
        Seconds until every sample had its first new token.
    token_s
        Seconds from one token to the next, on average; None where the first one is the only one.
    """

    first_token_s: float
    token_s: float | None = None


#: A stream kept up if requests were answered at this share of the rate at which they came, or more.
KEPT_UP = 0.95


class StreamTimes(Record):
    """How long the requests of a stream took.

    Attributes
    ----------
    arrival_s
        Seconds from the arrival of a request to that of the next one.
    latencies_s
        From each request's arrival to its last output.
    """

    arrival_s: float = Field(gt=0)
    latencies_s: tuple[float, ...] = Field(min_length=1)

    @property
    def median_s(self) -> float:
        """The median latency."""
        return statistics.median(self.latencies_s)

    @property
    def p95_s(self) -> float:
        """What 95 % of the requests took at most."""
        return sorted(self.latencies_s)[math.ceil(0.95 * len(self.latencies_s)) - 1]

    @property
    def longest_s(self) -> float:
        """The longest latency."""
        return max(self.latencies_s)

    @property
    def requests_per_s(self) -> float | None:
        """The rate at which requests were answered, from the first answer to the last; None of a single request."""
        later = len(self.latencies_s) - 1
        between_s = later * self.arrival_s + self.latencies_s[-1] - self.latencies_s[0]
        return later / between_s if later and between_s > 0 else None

    @property
    def kept_up(self) -> bool | None:
        """Whether that is the rate of arrivals, but for :data:`KEPT_UP`; None of a single request."""
        return None if self.requests_per_s is None else self.requests_per_s * self.arrival_s >= KEPT_UP
