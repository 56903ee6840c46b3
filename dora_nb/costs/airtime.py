"""The airtime rule: stations that are active at once on a shared medium get equal airtime.

A medium has one second of airtime per second. With k stations active, each is on the air for a k-th of the time and
moves bytes at its own rate meanwhile, so a slow station does not slow a fast one down to its own pace (as equal
packets would). The planner rests on the same second of airtime: transfers of a shared domain take turns, each at its
own rate. The rule is held against measurements of others in ``data/measurements/wifi-contention.json``; it has no
word for priorities, and it overstates how fair many stations are to each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dora_nb.units import parse


@dataclass(frozen=True)
class ContentionRow:
    """Stations that were active at once, as measured.

    Attributes
    ----------
    case
        What was measured.
    stations
        Kind of each station.
    goodput_bytes_per_s
        Of each station; empty where only ``jain`` was published.
    jain
        Jain's fairness index, where it was published or follows from the goodputs.
    """

    case: str
    stations: tuple[str, ...]
    goodput_bytes_per_s: tuple[float, ...]
    jain: float


@dataclass(frozen=True)
class ContentionError:
    """How far the rule is from one row.

    Attributes
    ----------
    row
        As measured.
    goodput_bytes_per_s, jain
        As the rule predicts them.
    """

    row: ContentionRow
    goodput_bytes_per_s: tuple[float, ...]
    jain: float

    @property
    def relative(self) -> tuple[float, ...]:
        """Predicted over measured, less 1, of each station that was measured."""
        pairs = zip(self.goodput_bytes_per_s, self.row.goodput_bytes_per_s, strict=False)
        return tuple(predicted / measured - 1 for predicted, measured in pairs)

    def __str__(self) -> str:
        megabits = 8e-6
        stations = ", ".join(
            f"{kind} {megabits * predicted:.0f}" + (f" / {megabits * measured:.0f}" if measured else "")
            for kind, predicted, measured in zip(
                self.row.stations,
                self.goodput_bytes_per_s,
                self.row.goodput_bytes_per_s or (0.0,) * len(self.row.stations),
                strict=True,
            )
        )
        worst = f", worst {max(self.relative, key=abs):+.0%}" if self.relative else ""
        fairness = f"Jain {self.jain:.3f} / {self.row.jain:.3f}"
        return f"{self.row.case}: Mbit/s predicted / measured: {stations}{worst}; {fairness}"


def contention_rows(document: Mapping[str, Any]) -> tuple[ContentionRow, ...]:
    """The rows of a file of measurements."""
    rows = []
    for entry in document["rows"]:
        quantities = entry.get("goodput_bytes_per_s", ())
        goodput = tuple(parse(f"{each['value']} {each['unit']}", "rate") for each in quantities)
        published = entry["jain"]["value"] if "jain" in entry else jain(goodput)
        rows.append(ContentionRow(entry["case"], tuple(entry["stations"]), goodput, published))
    return tuple(rows)


def equal_airtime(rates_bytes_per_s: Sequence[float]) -> tuple[float, ...]:
    """Goodput of stations that are active at once, from the rate that each reaches alone."""
    return tuple(rate / len(rates_bytes_per_s) for rate in rates_bytes_per_s)


def fit_rates(rows: Iterable[ContentionRow]) -> dict[str, float]:
    """The rate of each kind of station with which the rule is closest to the rows, in least squares.

    A station's goodput is its rate over the number of stations, ``y = r / k``; the best ``r`` of a kind is
    ``sum(y / k) / sum(1 / k^2)`` over its measurements.
    """
    above: dict[str, float] = {}
    below: dict[str, float] = {}
    for row in rows:
        count = len(row.stations)
        for kind, goodput in zip(row.stations, row.goodput_bytes_per_s, strict=True):
            above[kind] = above.get(kind, 0.0) + goodput / count
            below[kind] = below.get(kind, 0.0) + 1.0 / count**2
    return {kind: above[kind] / below[kind] for kind in above}


def compare(row: ContentionRow, rates_bytes_per_s: Mapping[str, float]) -> ContentionError:
    """The rule's prediction beside a row."""
    predicted = equal_airtime([rates_bytes_per_s[kind] for kind in row.stations])
    return ContentionError(row, predicted, jain(predicted))


def jain(goodput: Sequence[float]) -> float:
    """Jain's fairness index: 1 where all are equal, 1 / k where one has everything (Jain, Chiu and Hawe, 1984)."""
    return sum(goodput) ** 2 / (len(goodput) * sum(each**2 for each in goodput))
