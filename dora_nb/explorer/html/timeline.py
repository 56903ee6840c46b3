"""A timeline as HTML and as text, where there is no canvas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from dora_nb.explorer.views.timeline import Lane, TimelineView
from dora_nb.render.html import fragment
from dora_nb.render.svg import attribute
from dora_nb.render.timeline import spans_svg
from dora_nb.render.words import one_line
from dora_nb.units import format_seconds

_SORTS = {"device": "device", "medium": "contention domain"}


class _Span(NamedTuple):
    kind: str
    stage: int
    micro_batch: int
    start_s: float
    end_s: float
    places: tuple[str, ...]


def lane_table(views: Sequence[TimelineView]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """What happens on every lane, in words: a heading, and a row a lane; views of the same lanes side by side."""
    each = ("operations", "busy", "share", "bubbles")
    named = [f"{view.status} {name}" if len(views) > 1 else name for view in views for name in each]
    rows = [
        (one_line(lanes[0].name), _SORTS[lanes[0].sort], *(cell for lane in lanes for cell in _cells(lane)))
        for lanes in zip(*(view.lanes for view in views), strict=True)
    ]
    return ("lane", "is a", *named), rows


def _cells(lane: Lane) -> tuple[str, str, str, str]:
    idle = format_seconds(lane.idle_s) if lane.sort == "device" else ""
    return f"{lane.operations:,}", format_seconds(lane.busy_s), f"{100 * lane.busy:.1f} %", idle


def timeline_html(title: str, views: Sequence[TimelineView]) -> str:
    """Figures of the views one below the other, and the table of their lanes."""
    figures = [f"<div>{_figure(view, f'{title} ({view.status})' if len(views) > 1 else title)}</div>" for view in views]
    heading, rows = lane_table(views)
    body = "".join(_row(cells, "td") for cells in rows)
    table = f'<table class="dora-plans"><thead>{_row(heading, "th")}</thead><tbody>{body}</tbody></table>'
    return fragment([*figures, f'<div class="dora-scroll">{table}</div>'])


def timeline_text(title: str, views: Sequence[TimelineView]) -> str:
    """The table of the lanes as plain text."""
    heading, rows = lane_table(views)
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    return "\n".join([one_line(title), *(_line(cells, widths) for cells in (heading, *rows))])


def _line(cells: Iterable[str], widths: Iterable[int]) -> str:
    padded = [
        cell.ljust(width) if number < 2 else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()


def _figure(view: TimelineView, title: str) -> str:
    return spans_svg(_spans(view), [lane.name for lane in view.lanes if lane.sort == "device"], title)


def _spans(view: TimelineView) -> Iterator[_Span]:
    columns = (view.kind, view.stage, view.micro_batch, view.start_s, view.start_s + view.duration_s, view.lane)
    for kind, stage, micro_batch, start_s, end_s, lane in zip(*(column.tolist() for column in columns), strict=True):
        yield _Span(view.kinds[kind], stage, micro_batch, start_s, end_s, (view.lanes[lane].name,))


def _row(cells: Sequence[str], tag: str) -> str:
    places = [' class="dora-left"'] * 2 + [""] * (len(cells) - 2)
    whole = (f"<{tag}{place}>{attribute(cell)}</{tag}>" for place, cell in zip(places, cells, strict=True))
    return f"<tr>{''.join(whole)}</tr>"
