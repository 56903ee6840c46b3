"""Quantities as people write them, turned into SI numbers.

A field name carries its unit (``latency_s``, ``memory_bytes``), so inside the package every number is a plain float
in that unit. At the border a person may write ``"80 ms"`` or ``"5 Mbit/s"``; :func:`parse` turns that into the number
and refuses a unit of another dimension. Prefixes are decimal (``MB`` is 10^6 bytes, ``Mbit`` 10^6 bits); binary ones
are spelled ``KiB``, ``MiB``, ``GiB``.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from dora_nb.errors import InputError

_DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}


def _with_prefixes(unit: str, factor: float, binary: bool = False) -> dict[str, float]:
    prefixes = _DECIMAL | (_BINARY if binary else {})
    return {prefix + unit: scale * factor for prefix, scale in prefixes.items()}


#: dimension -> unit as written -> factor to the SI unit of that dimension; the first unit named is the SI unit.
UNITS: dict[str, dict[str, float]] = {
    "time": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "min": 60.0, "h": 3600.0},
    "size": {"bytes": 1.0, **_with_prefixes("B", 1.0, binary=True), **_with_prefixes("bit", 1 / 8)},
    "rate": {
        "bytes/s": 1.0,
        **_with_prefixes("B/s", 1.0, binary=True),
        **_with_prefixes("bit/s", 1 / 8),
        **_with_prefixes("bps", 1 / 8),
    },
    "energy": {"J": 1.0, "mJ": 1e-3, "kJ": 1e3, "MJ": 1e6, "Wh": 3600.0, "kWh": 3.6e6},
    "power": {"W": 1.0, "mW": 1e-3, "kW": 1e3, "J/s": 1.0, "kJ/s": 1e3, "Wh/h": 1.0},
    "throughput": {
        "samples/s": 1.0,
        "sample/s": 1.0,
        "samples/min": 1 / 60,
        "sample/min": 1 / 60,
        "samples/h": 1 / 3600,
        "sample/h": 1 / 3600,
    },
    "compute": {"FLOP/s": 1.0, **_with_prefixes("FLOP/s", 1.0)},
    "energy per byte": {"J/byte": 1.0, "J/B": 1.0, "nJ/byte": 1e-9, "nJ/B": 1e-9, "J/bit": 8.0, "nJ/bit": 8e-9},
    "frequency": {"/s": 1.0, "/min": 1 / 60, "/h": 1 / 3600},
    "fraction": {"fraction": 1.0, "%": 1e-2},
    "count": {"count": 1.0},
}

_WRITTEN = re.compile(r"\s*([-+]?[0-9][0-9_]*\.?[0-9]*(?:[eE][-+]?[0-9]+)?)\s*(\S*)\s*")


def units_of(dimension: str) -> str:
    """The units allowed for a dimension, as text for a message."""
    return ", ".join(UNITS[dimension])


def parse(value: Any, dimension: str) -> float:
    """Turn a number, or a number with a unit, into the SI number of a dimension.

    Parameters
    ----------
    value
        A finite number (already in the SI unit) or text such as ``"80 ms"``.
    dimension
        A key of :data:`UNITS`.

    Raises
    ------
    ValueError
        If the text has no number, or a unit of another dimension, or the number is not finite.
    """
    si_unit = next(iter(UNITS[dimension]))
    allowed = f"a number in {si_unit}, or text with one of the units {units_of(dimension)}"
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(allowed)
    if isinstance(value, str):
        written = _WRITTEN.fullmatch(value)
        if written is None:
            raise ValueError(allowed)
        unit = written[2] or si_unit
        if unit not in UNITS[dimension]:
            raise ValueError(f"unit {unit!r} is not a unit of {dimension}; {allowed}")
        value = float(written[1]) * UNITS[dimension][unit]
    if not math.isfinite(value):
        raise ValueError(f"a finite number; {allowed}")
    return float(value)


def parse_field(field: str, value: Any, dimension: str) -> float:
    """Like :func:`parse`, for a value that stands under a name.

    Raises
    ------
    InputError
        Naming the field, the value and what is allowed.
    """
    try:
        return parse(value, dimension)
    except ValueError as error:
        raise InputError(field, value, str(error)) from None


def parse_price(value: Any, paid: str, per: str) -> float:
    """Turn a price, such as ``"5 J/s"`` or ``"2 s/(samples/s)"``, into its SI number.

    Parameters
    ----------
    value
        A finite number (SI units paid per SI unit), or a number with a unit, a slash and the unit it is paid for.
    paid, per
        Keys of :data:`UNITS`: the dimension of what is paid, and of what it is paid for.

    Raises
    ------
    ValueError
        If it is not a number of 0 or more, or a unit is of another dimension.
    """
    paid_unit, per_unit = (next(iter(UNITS[dimension])) for dimension in (paid, per))
    whole = f"{paid_unit}/{per_unit}" if "/" not in per_unit else f"{paid_unit}/({per_unit})"
    allowed = f"a number in {whole}, 0 or more, or text such as '2 {whole}'"
    if isinstance(value, str) and (written := _WRITTEN.fullmatch(value)) is not None and written[2]:
        top, _, bottom = written[2].partition("/")
        bottom = bottom[1:-1] if bottom.startswith("(") and bottom.endswith(")") else bottom
        for unit, dimension in ((top, paid), (bottom, per)):
            if unit not in UNITS[dimension]:
                raise ValueError(f"unit {unit!r} is not a unit of {dimension} ({units_of(dimension)}); {allowed}")
        price = float(written[1]) * UNITS[paid][top] / UNITS[per][bottom]
    elif isinstance(value, str) and written is not None:
        price = float(written[1])
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        price = float(value)
    else:
        raise ValueError(allowed)
    if not math.isfinite(price) or price < 0:
        raise ValueError(allowed)
    return price


def _of(dimension: str) -> BeforeValidator:
    return BeforeValidator(lambda value: parse(value, dimension))


# Types of validated fields. Each is a non-negative SI number; text with a unit is accepted.
Seconds = Annotated[float, _of("time"), Field(ge=0)]
Bytes = Annotated[float, _of("size"), Field(ge=0)]
BytesPerS = Annotated[float, _of("rate"), Field(gt=0)]
Joules = Annotated[float, _of("energy"), Field(ge=0)]
JoulesPerByte = Annotated[float, _of("energy per byte"), Field(ge=0)]
Watts = Annotated[float, _of("power"), Field(ge=0)]
SamplesPerS = Annotated[float, _of("throughput"), Field(gt=0)]
FlopsPerS = Annotated[float, _of("compute"), Field(gt=0)]
PerS = Annotated[float, _of("frequency"), Field(gt=0)]
Fraction = Annotated[float, _of("fraction"), Field(ge=0, le=1)]


def format_seconds(seconds: float) -> str:
    """A duration as a person reads it, three significant digits: ``17.9 s``, ``840 ms``, ``12 us``."""
    return _scaled(seconds, ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")))


def format_joules(joules: float) -> str:
    """An energy as a person reads it, three significant digits or more: ``820 J``, ``1,375 J``, ``12.4 kJ``.

    Plans are compared by figures of about 1,000 J, which read best in one unit.
    """
    return _scaled(joules, ((1e3, "kJ"),) if abs(joules) >= 1e4 else ((1.0, "J"), (1e-3, "mJ")))


def format_bytes(size: float) -> str:
    """A size as a person reads it, three significant digits: ``6.01 GB``, ``52.4 MB``, ``12 bytes``."""
    return _scaled(size, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes")))


def format_rate(samples_per_s: float) -> str:
    """A throughput as a person reads it, three significant digits: ``2.5 samples/s``."""
    return _scaled(samples_per_s, ((1.0, "samples/s"),))


def format_bandwidth(bytes_per_s: float) -> str:
    """A network's rate as a person reads it, in bits: ``186 Mbit/s``."""
    return _scaled(8 * bytes_per_s, ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s"), (1.0, "bit/s")))


def format_flops(flops: float) -> str:
    """Operations as a person reads them: ``12.3 GFLOP``; with ``/s`` behind it a rate."""
    return _scaled(flops, ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP"), (1.0, "FLOP")))


def format_count(number: float) -> str:
    """A large number as a person reads it: ``596 million``, ``12 thousand``, ``7``."""
    return _scaled(number, ((1e9, "billion"), (1e6, "million"), (1e3, "thousand"), (1.0, ""))).rstrip()


def counted(number: int, noun: str) -> str:
    """A number with its noun, which is in the singular beside 1: ``1 device``, ``2,048 devices``, ``0 batches``."""
    plural = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    """The value in the largest unit of which there is at least one; the first unit is used for zero."""
    fitting = (each for each in units if abs(value) >= each[0])
    scale, unit = next(fitting, units[-1] if value else units[0])
    shown = value / scale
    if abs(shown) >= 1e12:  # such as a transfer over a link that is as good as cut
        return f"{shown:.2e} {unit}"
    digits = max(0, 2 - math.floor(math.log10(abs(shown)))) if shown else 0
    written = f"{shown:,.{min(digits, 6)}f}"
    return f"{written.rstrip('0').rstrip('.') if digits else written} {unit}"
