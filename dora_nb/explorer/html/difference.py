"""Two plans side by side as HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dora_nb.explorer.views.difference import DifferenceView, LayerRange, Runner
from dora_nb.render import words
from dora_nb.render.html import fragment
from dora_nb.render.markup import head, items, table
from dora_nb.units import format_bytes


def difference_html(view: DifferenceView) -> str:
    """Two plans side by side as a fragment of HTML."""
    heading = ["Figure", view.before, view.after, "Change"]
    return fragment(
        [
            head(f"{view.before} against {view.after}"),
            items(view.lines),
            table(heading, ([each.name, *each.said] for each in view.figures)),
            table(["Layers", view.before, view.after, "To move"], _ranges(view.ranges), sentences=(1, 2)),
        ]
    )


def _ranges(ranges: Sequence[LayerRange]) -> Iterator[list[str]]:
    for each in ranges:
        size = format_bytes(each.moved_bytes) if each.moved_bytes else words.NOTHING
        yield [each.layers, _runs(each.before), _runs(each.after), size]


def _runs(runners: Sequence[Runner]) -> str:
    if len(runners) == 1:
        return runners[0].device
    return words.sentence(f"{each.device} ({each.parts or each.samples})" for each in runners)
