"""What somebody waits for, from when passes end: the first token and the next ones, or the answer to a request.

The same for what was predicted and for what was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from dora_nb.domain.run_times import StreamTimes, TokenTimes


class Ending(Protocol):
    """A pass of one device."""

    @property
    def kind(self) -> str:
        """``forward``, ``decode`` or something else."""

    @property
    def stage(self) -> int:
        """Index of the stage."""

    @property
    def micro_batch(self) -> int:
        """Index of the micro-batch, or the step behind the first token."""

    @property
    def end_s(self) -> float:
        """Seconds from the beginning."""


def token_times(passes: Iterable[Ending], decode_steps: int) -> TokenTimes:
    """When tokens were there.

    Parameters
    ----------
    passes
        Of a batch, on all devices.
    decode_steps
        Tokens behind the first one.
    """
    passes = list(passes)
    first_token_s = max(each.end_s for each in _at_the_end(passes, "forward"))
    if not decode_steps:
        return TokenTimes(first_token_s=first_token_s)
    last_token_s = max(each.end_s for each in _at_the_end(passes, "decode"))
    return TokenTimes(first_token_s=first_token_s, token_s=(last_token_s - first_token_s) / decode_steps)


def stream_times(passes: Iterable[Ending], micro_batches: int, requests: int, arrival_s: float) -> StreamTimes:
    """How long requests took.

    Parameters
    ----------
    passes
        Of all requests, on all devices.
    micro_batches
        Of one request.
    requests, arrival_s
        How many, and the seconds between them.
    """
    done_s = [0.0] * requests
    for each in _at_the_end(list(passes), "forward"):
        request = each.micro_batch // micro_batches
        done_s[request] = max(done_s[request], each.end_s)
    latencies_s = (done - request * arrival_s for request, done in enumerate(done_s))
    return StreamTimes(arrival_s=arrival_s, latencies_s=tuple(latencies_s))


def _at_the_end(passes: Sequence[Ending], kind: str) -> list[Ending]:
    """Passes of one kind in the last stage."""
    last = max(each.stage for each in passes if each.kind == kind)
    return [each for each in passes if (each.kind, each.stage) == (kind, last)]
