"""Quantities that change over time in steps, and files that hold them.

A bandwidth trace is a CSV file with two columns, named by what they hold: ``seconds`` and ``bits_per_s``. Lines that
begin with ``#`` are notes; ``# status: measured`` and ``# source: ...`` among them say where the numbers come from::

    # status: generated
    # source: dora_nb.simulation.generators.wifi, seed 7
    seconds,bits_per_s
    0,2.1e8
    1,1.8e8
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.domain.document import write_whole
from dora_nb.errors import DocumentError, InputError
from dora_nb.units import counted, format_seconds

#: Names of the two columns, with what turns them into seconds and bytes per second.
TIME_COLUMNS = {"seconds": 1.0, "milliseconds": 1e-3}
RATE_COLUMNS = {"bits_per_s": 1 / 8, "kbits_per_s": 1e3 / 8, "mbits_per_s": 1e6 / 8, "bytes_per_s": 1.0}

#: A hole of more than this many usual steps between two samples is taken for missing data.
GAP_STEPS = 10.0

Origin = Literal["measured", "generated", "assumed"]


@dataclass(frozen=True)
class Trace:
    """A quantity that keeps each value until the next one is given.

    Attributes
    ----------
    times_s
        Ascending, the first is 0, shape (samples,).
    values
        From each time on, not negative, shape (samples,).
    end_s
        Until when it is known. After that the last value holds, and whoever runs into it is told.
    origin, source
        Where it comes from.
    """

    times_s: Floats
    values: Floats
    end_s: float = math.inf
    origin: Origin = "assumed"
    source: str = ""

    def __post_init__(self) -> None:
        times, values = (np.asarray(each, dtype=float) for each in (self.times_s, self.values))
        if times.ndim != 1 or times.shape != values.shape or not len(times):
            raise InputError("trace", (times.shape, values.shape), "as many times as values, at least one")
        if times[0] != 0 or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            raise InputError(
                "trace.times_s", times[:5].tolist(), "finite seconds from 0 on, each later than the one before"
            )
        if not np.isfinite(values).all() or (values < 0).any():
            raise InputError("trace.values", values[:5].tolist(), "finite values, none below 0")
        if self.end_s < times[-1]:
            raise InputError("trace.end_s", self.end_s, f"the time of the last value ({times[-1]:g} s) or later")
        object.__setattr__(self, "times_s", times)
        object.__setattr__(self, "values", values)

    def __repr__(self) -> str:
        spread = (
            f"from {self.values.min():.4g} to {self.values.max():.4g}"
            if len(self.values) > 1
            else f"of {self.values[0]:.4g}"
        )
        known = "" if math.isinf(self.end_s) else f" over {format_seconds(self.end_s)}"
        source = f" ({self.source})" if self.source else ""
        return f"Trace: {counted(len(self.values), 'value')} {spread}{known}, {self.origin}{source}"

    @classmethod
    def constant(cls, value: float) -> Trace:
        """A quantity that never changes."""
        return cls(np.zeros(1), np.array([value]))

    @classmethod
    def steps(cls, steps: Sequence[tuple[float, float]], **fields: Any) -> Trace:
        """From (from when on, value) pairs."""
        return cls(np.array([at for at, _ in steps]), np.array([value for _, value in steps]), **fields)

    def at(self, time_s: float) -> float:
        """The value at a time."""
        return float(self.values[np.searchsorted(self.times_s, time_s, side="right") - 1])

    def later(self, by_s: float) -> Trace:
        """The trace as seen from a later moment on."""
        first = int(np.searchsorted(self.times_s, by_s, side="right")) - 1
        times_s = np.maximum(self.times_s[first:] - by_s, 0.0)
        return replace(self, times_s=times_s, values=self.values[first:], end_s=max(self.end_s - by_s, times_s[-1]))

    def scaled(self, factor: float) -> Trace:
        """The trace with all values multiplied."""
        return replace(self, values=self.values * factor)


def load_trace(path: str | Path, *, largest_gap_s: float | None = None) -> Trace:
    """A bandwidth trace from a CSV file, in bytes per second.

    Parameters
    ----------
    path
        See the module's own description for the form of the file.
    largest_gap_s
        Longest time between two samples; None: ten times the usual one.

    Returns
    -------
    Trace

    Raises
    ------
    DocumentError
        If the file cannot be read, a column has another name, a line is not two numbers, times do not ascend, or
        samples are missing; it names the line, what stands there and what is allowed.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(path, f"cannot be read as text: {error}") from None
    notes = dict(_note(line) for line in lines if line.startswith("#") and ":" in line)
    rows = [(number, line) for number, line in enumerate(lines, start=1) if line.strip() and not line.startswith("#")]
    if len(rows) < 2:
        raise DocumentError(path, "holds no samples; allowed: a line of column names and at least one of numbers")
    to_s, to_bytes_per_s = _columns(path, *rows[0])
    samples = [_sample(path, number, line) for number, line in rows[1:]]
    times_s = np.array([time for time, _ in samples]) * to_s
    _check_times(path, times_s, [number for number, _ in rows[1:]], largest_gap_s)
    origin = notes.get("status", "measured")
    if origin not in ("measured", "generated", "assumed"):
        raise DocumentError(path, f"status: got {origin!r}; allowed: measured, generated, assumed")
    usual_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0
    return Trace(
        times_s - times_s[0],
        np.array([rate for _, rate in samples]) * to_bytes_per_s,
        end_s=float(times_s[-1] - times_s[0]) + usual_s,
        origin=origin,  # type: ignore[arg-type]
        source=notes.get("source", str(path)),
    )


def _note(line: str) -> tuple[str, str]:
    name, _, text = line.lstrip("# ").partition(":")
    return name.strip(), text.strip()


def _columns(path: Path, number: int, line: str) -> tuple[float, float]:
    names = [name.strip() for name in line.split(",")]
    allowed = f"{' or '.join(TIME_COLUMNS)}, then {' or '.join(RATE_COLUMNS)}, separated by a comma"
    if len(names) != 2 or names[0] not in TIME_COLUMNS or names[1] not in RATE_COLUMNS:
        raise DocumentError(path, f"line {number}: got columns {line!r}; allowed: {allowed}")
    return TIME_COLUMNS[names[0]], RATE_COLUMNS[names[1]]


def _sample(path: Path, number: int, line: str) -> tuple[float, float]:
    cells = next(csv.reader([line]))
    try:
        time, rate = (float(cell) for cell in cells)
    except ValueError:
        time = rate = math.nan
    if not math.isfinite(time) or not math.isfinite(rate) or rate < 0:
        raise DocumentError(path, f"line {number}: got {line!r}; allowed: a time and a rate of 0 or more, two numbers")
    return time, rate


def _check_times(path: Path, times_s: Floats, numbers: list[int], largest_gap_s: float | None) -> None:
    steps_s = np.diff(times_s)
    back = np.flatnonzero(steps_s <= 0)
    if len(back):
        at = int(back[0])
        raise DocumentError(
            path,
            f"line {numbers[at + 1]}: the time {times_s[at + 1]:g} s does not come after {times_s[at]:g} s; allowed: "
            "times that ascend",
        )
    if len(steps_s):
        limit_s = GAP_STEPS * float(np.median(steps_s)) if largest_gap_s is None else largest_gap_s
        wide = np.flatnonzero(steps_s > limit_s)
        if len(wide):
            at = int(wide[0])
            raise DocumentError(
                path,
                f"line {numbers[at + 1]}: {steps_s[at]:g} s are missing before it; allowed: gaps of at most "
                f"{limit_s:g} s, or a larger largest_gap_s if the last value held that long",
            )


def save_trace(path: str | Path, trace: Trace) -> None:
    """Write a bandwidth trace in bytes per second as a file that :func:`load_trace` reads.

    Parameters
    ----------
    path
        Where to; an existing file is replaced.
    trace
        What to write.

    Raises
    ------
    DocumentError
        If it cannot be written; nothing is left behind and an existing file is as it was.
    """
    text = [f"# status: {trace.origin}", f"# source: {trace.source}", "seconds,bits_per_s"]
    text += [f"{time:.10g},{8 * rate:.10g}" for time, rate in zip(trace.times_s, trace.values, strict=True)]
    write_whole(path, "\n".join(text) + "\n")
