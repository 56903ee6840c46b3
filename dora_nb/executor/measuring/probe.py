"""Measures the network between workers: delays, rates alone and rates of several streams at once.

The coordinator draws up rounds; every device takes part in each of them, if only by waiting until it is over. A stream
keeps several messages under way and its receiver notes when each has arrived, so a rate needs no common clock and
contains no delay.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from dora_nb.domain.links import Delay, LinkMeasurements, StreamRate
from dora_nb.domain.record import Record
from dora_nb.errors import ExecutionError

if TYPE_CHECKING:  # rounds are drawn up without torch
    from dora_nb.executor.device.transport import Pending, Transport

#: A message to and fro, and how many times.
PING_BYTES, TRIPS = 8, 30

#: Messages of a stream; those of the trial that finds out how large they may be.
MESSAGES, TRIAL_MESSAGES, TRIAL_BYTES = 24, 6, 16_384

#: Seconds that a stream is to last, and limits on one of its messages.
LASTS_S, LEAST_BYTES, MOST_BYTES = 0.4, 1024, 4 * 2**20

#: Messages of one stream that its receiver is ready for at any time.
WINDOW = 4

#: Rounds of several streams at once: with few devices some are repeated, with many not all there could be are run.
LEAST_TOGETHER, MOST_TOGETHER = 3, 12


class Ping(Record):
    """A small message to and fro between two devices."""

    kind: Literal["ping"] = "ping"
    first: str
    second: str
    trips: int = Field(ge=1)


class Stream(Record):
    """Messages of one size from one device to another."""

    sender: str
    receiver: str
    messages: int = Field(ge=2)
    size_bytes: int = Field(ge=8, le=MOST_BYTES)


class Streams(Record):
    """Streams that start together; no device is the sender, or the receiver, of two of them."""

    kind: Literal["streams"] = "streams"
    streams: tuple[Stream, ...] = Field(min_length=1)


Round = Annotated[Ping | Streams, Field(discriminator="kind")]


class Heard(Record):
    """What one device measured in one round; nothing if it only waited.

    Attributes
    ----------
    seconds
        One way, of every trip of a ping (the first device's); or when every message of a stream had arrived, since the
        round began (the receiver's).
    """

    seconds: tuple[float, ...] = ()


#: Has every device take part in some rounds, one after another; answers with what each device heard in each round.
Ask = Callable[[Sequence[Ping | Streams]], Mapping[str, Sequence[Heard]]]


def take_part(rounds: Sequence[Ping | Streams], device: str, transport: Transport) -> tuple[Heard, ...]:
    """Play one device in some rounds.

    Parameters
    ----------
    rounds
        The same for all devices.
    device
        Which one this is.
    transport
        To the others.
    """
    heard = []
    for each in rounds:
        transport.barrier()
        heard.append(_ping(each, device, transport) if isinstance(each, Ping) else _streams(each, device, transport))
        transport.flush()
    transport.barrier()  # nobody leaves while a peer still waits for something
    return tuple(heard)


def _ping(ping: Ping, device: str, transport: Transport) -> Heard:
    if device not in (ping.first, ping.second):
        return Heard()
    import torch

    out, back = (torch.zeros(PING_BYTES // 8, dtype=torch.float64) for _ in range(2))
    peer = ping.second if device == ping.first else ping.first
    seconds = []
    for tag in range(ping.trips):
        pending = transport.receive(back, peer, tag, "hand-over")
        start_s = time.perf_counter()
        if device == ping.first:
            transport.send(out, peer, tag, "hand-over")
            pending.wait()
            seconds.append((time.perf_counter() - start_s) / 2)
        else:
            pending.wait()
            transport.send(out, peer, tag, "hand-over")
    return Heard(seconds=tuple(seconds)) if device == ping.first else Heard()


def _streams(streams: Streams, device: str, transport: Transport) -> Heard:
    import torch

    start_s = time.perf_counter()
    into = next((each for each in streams.streams if each.receiver == device), None)
    out = next((each for each in streams.streams if each.sender == device), None)
    posted: list[Pending] = []
    buffers = [] if into is None else [torch.empty(into.size_bytes, dtype=torch.uint8) for _ in range(WINDOW)]

    def post(tag: int) -> None:
        assert into is not None, "who receives nothing posts nothing"
        posted.append(transport.receive(buffers[tag % WINDOW], into.sender, tag, "hand-over"))

    for tag in range(0 if into is None else min(WINDOW, into.messages)):
        post(tag)
    if out is not None:
        message = torch.zeros(out.size_bytes, dtype=torch.uint8)
        for tag in range(out.messages):
            transport.send(message, out.receiver, tag, "hand-over")
    arrivals = []
    for tag in range(0 if into is None else into.messages):
        posted[tag].wait()
        arrivals.append(time.perf_counter() - start_s)
        assert into is not None, "who receives nothing waits for nothing"
        if tag + WINDOW < into.messages:
            post(tag + WINDOW)
    return Heard(seconds=tuple(arrivals))


def measure_links(devices: Sequence[str], ask: Ask, source: str, *, lasts_s: float = LASTS_S) -> LinkMeasurements:
    """Probe the network between some devices.

    Delays of all pairs; a short trial of every stream, which says how large its messages may be; every stream alone;
    and several at once that no port of a switch would stop: two disjoint ones, two in a row, two ways between a pair.

    Parameters
    ----------
    devices
        At least two.
    ask
        Has them take part.
    source
        What measures where and when, in words.
    lasts_s
        Seconds that a stream is to last.

    Raises
    ------
    ExecutionError
        If a device does not report what it should have heard.
    """
    pairs = list(itertools.permutations(devices, 2))
    pings = [Ping(first=a, second=b, trips=TRIPS) for a, b in itertools.combinations(devices, 2)]
    trials = [_one(pair, TRIAL_MESSAGES, TRIAL_BYTES) for pair in pairs]
    heard = _asked(ask, [*pings, *trials])
    delays = [
        Delay(first=each.first, second=each.second, latency_s=statistics.median(of[each.first].seconds))
        for each, of in zip(pings, heard, strict=False)
    ]
    size_bytes = {
        pair: _message_bytes(lasts_s * _rates(trial, of)[0].bytes_per_s)
        for pair, trial, of in zip(pairs, trials, heard[len(pings) :], strict=True)
    }
    alone = [_one(pair, MESSAGES, size_bytes[pair]) for pair in pairs]
    together = [
        Streams(streams=tuple(_stream(pair, MESSAGES, size_bytes[pair]) for pair in at_once))
        for at_once in _at_once(devices)
    ]
    heard = _asked(ask, [*alone, *together])
    rates = [_rates(each, of) for each, of in zip([*alone, *together], heard, strict=True)]
    return LinkMeasurements(
        delays=tuple(delays),
        alone=tuple(each for (each,) in rates[: len(alone)]),
        together=tuple(rates[len(alone) :]),
        source=source,
    )


def _at_once(devices: Sequence[str]) -> list[tuple[tuple[str, str], ...]]:
    """Streams to run at once, round by round."""
    ways = list(_ways(devices))
    return list(itertools.islice(itertools.cycle(ways), min(max(len(ways), LEAST_TOGETHER), MOST_TOGETHER)))


def _ways(devices: Sequence[str]) -> Iterator[tuple[tuple[str, str], ...]]:
    """Unlike senders, unlike receivers. What tells most comes first."""
    for a, b, c, d in zip(devices, devices[1:], devices[2:], devices[3:], strict=False):
        yield (a, b), (c, d)  # nothing but the medium can make them meet
        yield (a, c), (d, b)
    for a, b, c in zip(devices, devices[1:], devices[2:], strict=False):
        yield (a, b), (b, c)
    for a, b in itertools.combinations(devices, 2):
        yield (a, b), (b, a)


def _one(pair: tuple[str, str], messages: int, size_bytes: int) -> Streams:
    return Streams(streams=(_stream(pair, messages, size_bytes),))


def _stream(pair: tuple[str, str], messages: int, size_bytes: int) -> Stream:
    return Stream(sender=pair[0], receiver=pair[1], messages=messages, size_bytes=size_bytes)


def _message_bytes(stream_bytes: float) -> int:
    return int(min(max(stream_bytes / MESSAGES, LEAST_BYTES), MOST_BYTES))


def _asked(ask: Ask, rounds: Sequence[Ping | Streams]) -> list[dict[str, Heard]]:
    """What each device heard, round by round."""
    by_device = ask(rounds)
    for device, heard in by_device.items():
        if len(heard) != len(rounds):
            raise ExecutionError(f"{device} took part in {len(heard)} of {len(rounds)} rounds of the probe")
    return [{device: heard[index] for device, heard in by_device.items()} for index in range(len(rounds))]


def _rates(streams: Streams, heard: Mapping[str, Heard]) -> tuple[StreamRate, ...]:
    """Bytes per second of each stream while all were going on: between the last first and the first last arrival."""
    arrivals = []
    for stream in streams.streams:
        seconds = heard[stream.receiver].seconds
        if len(seconds) != stream.messages:
            raise ExecutionError(
                f"{stream.receiver} heard {len(seconds)} of {stream.messages} messages of {stream.sender}"
            )
        arrivals.append(seconds)
    start_s, stop_s = max(each[0] for each in arrivals), min(each[-1] for each in arrivals)
    rates = []
    for stream, seconds in zip(streams.streams, arrivals, strict=True):
        since_s, until_s = (start_s, stop_s) if stop_s > start_s else (seconds[0], seconds[-1])
        had = np.interp([since_s, until_s], seconds, stream.size_bytes * np.arange(1.0, stream.messages + 1))
        # Messages that were buffered on the way arrive in no time: a rate too high to tell is still a number.
        bytes_per_s = max(float(had[1] - had[0]), 1.0) / max(until_s - since_s, 1e-9)
        rates.append(StreamRate(sender=stream.sender, receiver=stream.receiver, bytes_per_s=bytes_per_s))
    return tuple(rates)
