"""How several streams share a cluster, as text and as HTML."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dora_nb.domain.plan import Plan
from dora_nb.domain.sharing import CameraPlan, Sharing
from dora_nb.render import words
from dora_nb.render.html import fragment
from dora_nb.render.markup import details, head, items, table
from dora_nb.render.timeline import spans_svg
from dora_nb.units import counted, format_bytes, format_seconds

_HEADING = ("cameras", "stages", "mean latency", "worst", "deadline", "triggered at")


def sharing_lines(sharing: Sharing) -> list[str]:
    """The value and what is proven of it, a line for cameras of the same plan, and one a device. Predicted."""
    lines = [_headline(sharing), *_proof(sharing)]
    rows = [_HEADING, *_rows(sharing)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(_HEADING))]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, *_place_lines(sharing)]


def sharing_text(sharing: Sharing) -> str:
    """The same as one text."""
    return "\n".join(sharing_lines(sharing))


def sharing_html(sharing: Sharing) -> str:
    """A sharing as a fragment of HTML: table, timetable of one round, loads."""
    devices = [each.device for each in sharing.figures.devices]
    drawn = spans_svg(_spans(sharing), devices, "Predicted timetable of one round", sharing.round_s)
    return fragment(
        [
            head(_headline(sharing), *_proof(sharing)),
            table(_HEADING, _rows(sharing), left=(0, 1)),
            f'<div class="dora-scroll">{drawn}</div>',
            details("devices and media", items(_place_lines(sharing))),
        ]
    )


def _headline(sharing: Sharing) -> str:
    figures, count = sharing.figures, len(sharing.cameras)
    power_w = figures.power_w(sharing.energy_accounting)
    return (
        f"{counted(count, 'camera')} on {sharing.cluster}: {power_w:.3g} W ({sharing.energy_accounting}), "
        f"predicted latency {format_seconds(figures.latency_s)} on the mean, "
        f"{format_seconds(figures.worst_latency_s)} at worst"
    )


def _proof(sharing: Sharing) -> Iterator[str]:
    def said(value: float) -> str:
        return format_seconds(value) if sharing.unit == "s" else f"{value:.4g} W"

    yield (
        f"objective {sharing.objective}: {said(sharing.value)}, bound {said(sharing.bound)}, "
        f"gap {100 * sharing.gap:.2f} % ({sharing.status}), {sharing.wall_s:.1f} s"
    )
    yield f"over: {sharing.scope}; {sharing.method}"


def _rows(sharing: Sharing) -> list[tuple[str, ...]]:
    """One row for the cameras of a stream that have the same plan."""
    rows: list[tuple[str, ...]] = []
    ordered = sorted(sharing.cameras, key=lambda each: (each.stream, stages_words(each.plan), each.number))
    for (_, stages), same in itertools.groupby(ordered, key=lambda each: (each.stream, stages_words(each.plan))):
        own = list(same)
        every_s = [seconds for camera in own for seconds in camera.latencies_s]
        deadline_s = own[0].deadline_s
        rows.append(
            (
                _names(own),
                stages,
                format_seconds(sum(every_s) / len(every_s)),
                format_seconds(max(every_s)),
                words.NOTHING if deadline_s is None else format_seconds(deadline_s),
                ", ".join(format_seconds(camera.phase_s) for camera in own),
            )
        )
    return rows


def _names(cameras: Iterable[CameraPlan]) -> str:
    own = list(cameras)
    return f"{own[0].stream} {', '.join(str(camera.number + 1) for camera in own)}"


def stages_words(plan: Plan) -> str:
    """Which layers run where, counted from 1."""
    return " > ".join(f"{'+'.join(stage.devices)} {stage.first_layer + 1}-{stage.stop_layer}" for stage in plan.stages)


def _place_lines(sharing: Sharing) -> list[str]:
    figures = sharing.figures
    lines = [
        f"{each.device}: computes {100 * each.load:.0f} % of the time, {format_bytes(each.memory_bytes)} of "
        f"{format_bytes(each.usable_memory_bytes)}, {each.power_w:.3g} W"
        for each in figures.devices
        if each.memory_bytes > 0
    ]
    unused = [each.device for each in figures.devices if each.memory_bytes <= 0]
    if unused:
        lines.append(f"not needed: {', '.join(unused)}")
    busiest = max(figures.media, key=lambda each: each.load, default=None)
    if busiest is not None:
        lines.append(f"busiest on the network: {busiest.medium}, held {100 * busiest.load:.1f} % of the time")
    return lines


@dataclass(frozen=True)
class _Bar:
    """A task as the timetable shows it."""

    kind: str
    stage: int
    micro_batch: int
    start_s: float
    end_s: float
    places: tuple[str, ...]
    whose: str


def _spans(sharing: Sharing) -> Iterator[_Bar]:
    """Every task at its place in the round; what is not over then goes on at its beginning."""
    for turn in sharing.turns:
        camera = sharing.cameras[turn.camera]
        start_s = max(turn.start_s - turn.lag * sharing.round_s, 0.0)
        end_s = start_s + turn.end_s - turn.start_s
        whose = f"{camera.name}, request {turn.request + 1}"
        bar = _Bar(turn.kind, turn.stage, turn.camera + 1, start_s, min(end_s, sharing.round_s), turn.places, whose)
        yield bar
        if end_s > sharing.round_s:
            yield _Bar(turn.kind, turn.stage, turn.camera + 1, 0.0, end_s - sharing.round_s, turn.places, whose)
