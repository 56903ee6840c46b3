"""Which points a sweep runs: every combination of some values, a list, or a sample; given, or read from a file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from dora_nb.domain.document import from_fields, read_fields
from dora_nb.domain.record import Record
from dora_nb.errors import InputError
from dora_nb.sweeps.sampling import Method, unit_sample

#: A value that JSON has; a notebook gets it as the Python literal of the same content.
Value = Any

#: The parameters of one point, by name.
Point = dict[str, Value]

#: More points than this are taken to be a slip: at a second each they would take a day.
MOST_POINTS = 100_000


class Range(Record):
    """Numbers between two ends.

    Attributes
    ----------
    low, high
        The ends; both may be taken.
    steps
        How many values a grid takes, the ends among them. A sample needs none.
    scale
        ``log``: equal ratios instead of equal differences.
    whole
        Whether values are rounded to whole numbers.
    """

    low: float
    high: float
    steps: int | None = Field(default=None, ge=2, le=MOST_POINTS)
    scale: Literal["linear", "log"] = "linear"
    whole: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.low < self.high:
            raise InputError("high", self.high, f"more than low, which is {self.low:g}")
        if self.scale == "log" and self.low <= 0:
            raise InputError("low", self.low, "more than 0 where the scale is 'log'")
        return self

    def at(self, share: float) -> int | float:
        """The value at a share of the way from ``low`` (0) to ``high`` (1)."""
        if self.scale == "log":
            value = math.exp((1 - share) * math.log(self.low) + share * math.log(self.high))
        else:
            value = (1 - share) * self.low + share * self.high
        # Twelve digits: 1 rather than 1.0000000000000002, the same on every machine.
        return round(value) if self.whole else float(f"{value:.12g}")


class Sample(Record):
    """Points drawn at random instead of every combination.

    Attributes
    ----------
    points
        How many are drawn; equal ones are run once.
    method
        ``latin-hypercube``: each parameter's values are spread evenly over the sample. ``random``: each independently.
    seed
        The same seed draws the same points.
    """

    points: int = Field(ge=1, le=MOST_POINTS)
    method: Method = "latin-hypercube"
    seed: int = Field(default=0, ge=0)


class Grid(Record):
    """The points of a sweep.

    Attributes
    ----------
    fixed
        Parameters that are the same at every point.
    vary
        By parameter: a list of values, or a :class:`Range`. Every combination is a point, the last parameter changing
        first; or ``sample`` points are drawn, each value of a list being as likely as the others.
    points
        Instead of ``vary``: the points one by one.
    sample
        With ``vary``: how to draw.
    """

    fixed: dict[str, Value] = Field(default_factory=dict)
    vary: dict[str, Range | tuple[Value, ...]] = Field(default_factory=dict)
    points: tuple[Point, ...] = ()
    sample: Sample | None = None

    @field_validator("vary", mode="before")
    @classmethod
    def _axes(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            raise InputError("", given, "parameters by name, each with a list of values or a range")
        return {name: _axis(str(name), axis) for name, axis in given.items()}

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, value in self.fixed.items():
            _check_value(f"fixed.{name}", name, value)
        for index, point in enumerate(self.points):
            for name, value in point.items():
                _check_value(f"points[{index}].{name}", name, value)
                if name in self.fixed:
                    raise InputError(f"points[{index}].{name}", value, "nothing that is fixed already")
        for name in self.vary:
            if name in self.fixed:
                raise InputError(f"vary.{name}", "given twice", "nothing that is fixed already")
        if self.points and self.vary:
            raise InputError("points", f"{len(self.points)} points", "points or vary, not both")
        if self.sample is not None and not self.vary:
            raise InputError("sample", self.sample.points, "a sample only where something varies")
        if self.sample is None:
            sizes = [_size(name, axis) for name, axis in self.vary.items()]
            if math.prod(sizes) > MOST_POINTS:
                raise InputError(
                    "vary", f"{math.prod(sizes):,} combinations", f"at most {MOST_POINTS:,}; draw a sample"
                )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that some point sets, those that vary first."""
        inside = (name for point in self.points for name in point)
        return tuple(dict.fromkeys([*self.vary, *inside, *self.fixed]))

    def listed(self) -> tuple[Point, ...]:
        """All points, in order; equal ones once."""
        unique: dict[str, Point] = {}
        for point in self._varied():
            unique.setdefault(repr(sorted(point.items())), point | self.fixed)
        return tuple(unique.values())

    def _varied(self) -> list[Point]:
        if self.points:
            return list(self.points)
        if self.sample is None:
            axes = [
                tuple(axis.at(step / (axis.steps - 1)) for step in range(axis.steps or 2))
                if isinstance(axis, Range) and axis.steps
                else axis
                for axis in self.vary.values()
            ]
            return [dict(zip(self.vary, values, strict=True)) for values in itertools.product(*axes)]
        shares = unit_sample(self.sample.points, len(self.vary), self.sample.method, self.sample.seed)
        return [
            {name: _drawn(axis, share) for (name, axis), share in zip(self.vary.items(), row, strict=True)}
            for row in shares
        ]


def load_grid(path: str | Path) -> Grid:
    """Read a grid file: JSON, or YAML (``.yaml``, ``.yml``), with the fields of :class:`Grid`.

    Raises
    ------
    DocumentError
        If there is no such file, or a field of it cannot be used; the message names the field by its path in the file,
        what stands there and what is allowed.
    MissingDependencyError
        For YAML without the package pyyaml.
    """
    grid: Grid = from_fields(path, Grid, read_fields(path, "grid"))
    return grid


def _axis(name: str, axis: Any) -> Range | tuple[Value, ...]:
    if isinstance(axis, Range):
        return axis
    if isinstance(axis, Mapping):
        try:
            return Range(**axis)
        except InputError as error:
            raise InputError(f"{name}.{error.field}", error.value, error.allowed) from None
    if not isinstance(axis, list | tuple) or not axis:
        raise InputError(name, axis, "a list of values, or a range with low and high; what never changes is 'fixed'")
    for index, value in enumerate(axis):
        _check_value(f"{name}[{index}]", name, value)
    return tuple(axis)


def _size(name: str, axis: Range | tuple[Value, ...]) -> int:
    if not isinstance(axis, Range):
        return len(axis)
    if axis.steps is None:
        raise InputError(
            f"vary.{name}.steps", None, "how many values to take of the range, or a sample to draw from it"
        )
    return axis.steps


def _drawn(axis: Range | tuple[Value, ...], share: float) -> Value:
    return axis.at(share) if isinstance(axis, Range) else axis[int(share * len(axis))]


def _check_value(where: str, name: str, value: Value) -> None:
    if not name.isidentifier():
        raise InputError(where, name, "names of Python variables")
    if not _is_json(value):
        raise InputError(where, value, "text, finite numbers, true, false, null, and lists and objects of these")


def _is_json(value: Value) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list | tuple):
        return all(map(_is_json, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(inner) for key, inner in value.items())
    return value is None or isinstance(value, str | int)
