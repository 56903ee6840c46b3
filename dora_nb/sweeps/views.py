"""What a report of a sweep shows, as small records made of the rows of its tables; nothing is drawn here."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dora_nb.sweeps.placements import Change, placement_change

Rows = Sequence[Mapping[str, Any]]

#: Parameters that the axes of heat maps take; of the limits the first that varies.
ACROSS, LIMITS = "bandwidth_scale", ("latency_limit_s", "energy_limit_j")

#: More cells than four for each point, and points are no grid but a sample.
_SPARSE = 4


@dataclass(frozen=True)
class FrontPoint:
    """One plan of one point: its figures, what tells its point from others, and whether no plan here beats it."""

    latency_s: float
    energy_j: float
    label: str
    is_front: bool


@dataclass(frozen=True)
class FrontView:
    """Every plan that a sweep found for a deployment, fastest first."""

    title: str
    points: tuple[FrontPoint, ...]

    @property
    def front(self) -> tuple[FrontPoint, ...]:
        """The points of plans that no other is better than in both figures."""
        return tuple(point for point in self.points if point.is_front)


@dataclass(frozen=True)
class HeatMap:
    """The best plan at every bandwidth and limit, of points that differ in nothing else.

    Attributes
    ----------
    title
        What they share.
    across, up
        Names of the two parameters.
    xs, ys
        Their values in order; None (no limit) comes last.
    values, unit
        By y, then x: the objective's value; None where there is no such point or no plan keeps the limits.
    placements
        By y, then x: who runs which layers; empty where no plan keeps the limits, None where there is no such point.
    is_grid
        Whether most combinations were run; else the points are a sample.
    """

    title: str
    across: str
    up: str
    xs: tuple[Any, ...]
    ys: tuple[Any, ...]
    values: tuple[tuple[float | None, ...], ...]
    unit: str
    placements: tuple[tuple[str | None, ...], ...]
    is_grid: bool

    @property
    def distinct(self) -> tuple[str, ...]:
        """Placements in the order in which they are met."""
        return tuple(dict.fromkeys(each for row in self.placements for each in row if each))

    def changes(self) -> tuple[tuple[str, Change], ...]:
        """Where neighbouring points have unlike best plans: between which, and what changes."""
        found = []
        for (row, y), (column, x) in itertools.product(enumerate(self.ys), enumerate(self.xs)):
            here = self.placements[row][column]
            if here is None:
                continue
            # The next point that there is, to the right and upwards.
            right = next((k for k in range(column + 1, len(self.xs)) if self.placements[row][k] is not None), None)
            above = next((k for k in range(row + 1, len(self.ys)) if self.placements[k][column] is not None), None)
            if right is not None and self.placements[row][right] != here:
                between = (
                    f"{self.across} {value_words(x)} to {value_words(self.xs[right])}, at {self.up} {value_words(y)}"
                )
                found.append((between, placement_change(here, self.placements[row][right] or "")))
            if above is not None and self.placements[above][column] != here:
                between = (
                    f"{self.up} {value_words(y)} to {value_words(self.ys[above])}, at {self.across} {value_words(x)}"
                )
                found.append((between, placement_change(here, self.placements[above][column] or "")))
        return tuple(found)


@dataclass(frozen=True)
class Effort:
    """How long planning a point took, and the gap of its best plan; None where there is no plan."""

    seconds: float
    gap: float | None
    label: str


@dataclass(frozen=True)
class SweepView:
    """All that a report shows.

    Attributes
    ----------
    points, plans, failed, without_plan
        How many points and plans there are, how many points failed, and how many have no plan that keeps the limits.
    fronts, maps, efforts
        The parts; empty where the rows do not have what they are made of.
    """

    points: int
    plans: int
    failed: int
    without_plan: int
    fronts: tuple[FrontView, ...]
    maps: tuple[HeatMap, ...]
    efforts: tuple[Effort, ...]


def sweep_view(results: Rows, timings: Rows) -> SweepView:
    """What the tables of a sweep come to.

    Parameters
    ----------
    results, timings
        Rows of ``results.parquet`` and ``timings.parquet``, by column.
    """
    parameters = _parameters(timings)
    varied = [name for name in parameters if len({_hashable(row.get(name)) for row in timings}) > 1]
    plans = [row for row in results if row.get("plan") is not None]
    return SweepView(
        points=len(timings),
        plans=len(plans),
        failed=sum(row.get("status") == "failed" for row in timings),
        without_plan=sum(row.get("status") == "infeasible" for row in results),
        fronts=tuple(_fronts(plans, varied)),
        maps=tuple(_maps(results, varied)),
        efforts=tuple(_efforts(results, timings, varied)),
    )


def value_words(value: Any) -> str:
    """A parameter's value in a few characters."""
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _parameters(timings: Rows) -> list[str]:
    """Columns that are parameters: those between the point's name and its status."""
    return list(itertools.takewhile(lambda name: name != "status", list(timings[0])[1:])) if timings else []


def _fronts(plans: Rows, varied: Sequence[str]) -> Iterable[FrontView]:
    usable = [row for row in plans if row.get("makespan_s") is not None and row.get("energy_j") is not None]
    shared = [name for name in ("deployment", "model", "mode", "batch") if name == "deployment" or name in varied]
    for title, own in _grouped(usable, shared):
        ordered = sorted(own, key=lambda row: (row["makespan_s"], row["energy_j"]))
        least, points = float("inf"), []
        for row in ordered:
            is_front = row["energy_j"] < least
            least = min(least, row["energy_j"])
            told = [name for name in varied if name not in shared]
            label = ", ".join([str(row["plan"]), *(f"{name}={value_words(row.get(name))}" for name in told)])
            points.append(FrontPoint(row["makespan_s"], row["energy_j"], label, is_front))
        yield FrontView(title or "all plans", tuple(points))


def _maps(results: Rows, varied: Sequence[str]) -> Iterable[HeatMap]:
    best = [row for row in results if row.get("is_best") and ACROSS in row]
    up = next((name for name in LIMITS if name in varied), None)
    if up is None or ACROSS not in varied:
        return
    for title, own in _grouped(best, [name for name in varied if name not in (ACROSS, up)]):
        xs, ys = _ordered(row[ACROSS] for row in own), _ordered(row.get(up) for row in own)
        cells = {(row.get(up), row[ACROSS]): row for row in own}
        table = [[cells.get((y, x)) for x in xs] for y in ys]
        yield HeatMap(
            title=title or "all points",
            across=ACROSS,
            up=up,
            xs=xs,
            ys=ys,
            values=tuple(tuple(None if cell is None else cell.get("value") for cell in row) for row in table),
            unit=next((str(row["value_unit"]) for row in own if row.get("value_unit")), ""),
            placements=tuple(
                tuple(None if cell is None else cell.get("placement") or "" for cell in row) for row in table
            ),
            is_grid=len(xs) * len(ys) <= _SPARSE * len(own),
        )


def _efforts(results: Rows, timings: Rows, varied: Sequence[str]) -> Iterable[Effort]:
    gaps = {row["point"]: row.get("gap") for row in results if row.get("is_best")}
    for row in timings:
        seconds = row.get("planning_wall_s")
        if seconds is None or row.get("status") != "done":
            continue
        label = ", ".join(f"{name}={value_words(row.get(name))}" for name in varied)
        yield Effort(float(seconds), gaps.get(row["point"]), label)


def _grouped(rows: Rows, names: Sequence[str]) -> Iterable[tuple[str, list[Mapping[str, Any]]]]:
    """Rows that agree in some columns, with these as a title, in the order in which they are met."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        title = ", ".join(
            value_words(row[name]) if isinstance(row[name], str) else f"{name}={value_words(row[name])}"
            for name in names
            if name in row
        )
        groups.setdefault(title, []).append(row)
    return groups.items()


def _ordered(values: Iterable[Any]) -> tuple[Any, ...]:
    """Each value once, None last."""
    known = set(values)
    return (*sorted(value for value in known if value is not None), *([None] if None in known else []))


def _hashable(value: Any) -> Any:
    return repr(value) if isinstance(value, list | dict) else value
