"""The paper's headline comparison as HTML: dot charts and a table for each headline, then all ranges."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dora_nb.domain.qoe import EnergyAccounting
from dora_nb.render import dots, words
from dora_nb.render import reproduction as said
from dora_nb.render.html import fragment
from dora_nb.render.svg import attribute
from dora_nb.units import counted, format_seconds

if TYPE_CHECKING:
    from dora_nb.reproduction.run import Reproduction
    from dora_nb.reproduction.summary import HeadlineRow, Paper, Ranges

_LEFT = ' class="dora-left"'
_HEADS = ("ours", "strongest baseline", "its figure", "gain", "QoE kept, %")


def reproduction_html(result: Reproduction) -> str:
    """The comparison as a fragment of HTML: no scripts, nothing fetched, readable in light and dark themes."""
    rows = result.headlines
    settings = counted(len({row.setting for row in rows}), "setting")
    baselines = counted(len({each.planner for row in rows for each in row.others}), "baseline")
    parts = [
        f'<p class="dora-head">Our plans against {baselines} in {settings}</p>',
        '<p class="dora-faint">The two headlines are alternatives, never claimed at once. All figures are simulated, '
        f"none is measured. Done in {format_seconds(result.wall_s)}.</p>",
        f"<p>{attribute(said.paper_words(result.paper))}</p>",
    ]
    kinds = {(objective, accounting): own for objective, accounting, own in said.range_groups(result.summary)}
    for objective, accounting, own in said.row_groups(rows):
        lines = [f"{_capital(kind.dynamic)}: {said.range_words(kind)}" for kind in kinds[objective, accounting]]
        whose = said.counted_words(accounting)
        parts += [
            f'<p class="dora-head" style="margin-top:1.8em">{said.MODES[objective]}{attribute(whose)}</p>',
            _items([*lines, *said.qoe_lines(own)]),
            _charts(own, result.paper),
            f"<details><summary>The figures</summary>{_table(own)}</details>",
        ]
    ranges = "".join(_range_table(*group) for group in said.range_groups(result.summary))
    parts += [
        '<p class="dora-head" style="margin-top:1.8em">Where this and the paper\'s comparison differ</p>',
        _items(said.DIFFERENCES),
        f"<details><summary>Gains over each baseline</summary>{ranges}</details>",
    ]
    return fragment(parts)


def _charts(rows: Sequence[HeadlineRow], paper: Paper) -> str:
    """A legend, and a chart without dynamics and one under dynamics on the same axis, side by side where they fit."""
    speed = all(row.objective == "latency" for row in rows)
    scale = dots.Scale.of(rows, speed, paper.speedup if speed else paper.saving)
    charts = ""
    for dynamic in said.WHEN:
        own = [row for row in rows if row.dynamic == dynamic]
        if own:
            chart = dots.dots_svg(own, scale, _capital(dynamic), [_brief(row) for row in own])
            charts += f'<div style="min-width:0">{chart}</div>'
    return f'{_legend(rows, scale)}<div style="display:flex;flex-wrap:wrap;gap:.8em 2em;margin:.8em 0">{charts}</div>'


def _brief(row: HeadlineRow) -> str:
    """The gain in the few characters beside a chart."""
    if row.verdict in ("unmatched", "missing"):
        return {"no baseline keeps as much": "more QoE"}.get(said.verdict_words(row), "-")
    return said.verdict_words(row).replace("keeps less QoE", "less QoE")


def _legend(rows: Sequence[HeadlineRow], scale: dots.Scale) -> str:
    entries = [
        f'<svg width="14" height="14" viewBox="0 0 14 14" aria-hidden="true" style="flex:none;margin-top:.22em">'
        f"{mark}</svg><span>{attribute(text)}</span>"
        for mark, text in dots.legend(rows, scale)
    ]
    briefs = {_brief(row) for row in rows}
    if "less QoE" in briefs:
        entries.append("<span>less QoE:</span><span>ours keeps less than the strongest</span>")
    if "more QoE" in briefs:
        entries.append("<span>more QoE:</span><span>no baseline keeps as much as ours</span>")
    spans = "".join(f'<span style="display:inline-flex;gap:.45em">{entry}</span>' for entry in entries)
    return f'<p style="font-size:.93em;display:flex;flex-wrap:wrap;gap:.1em 1.5em">{spans}</p>'


def _table(rows: Sequence[HeadlineRow]) -> str:
    """One row a setting: without dynamics, then under dynamics."""
    kinds = [dynamic for dynamic in said.WHEN if any(row.dynamic == dynamic for row in rows)]
    body = ""
    for deployment, own in itertools.groupby(rows, key=lambda row: row.deployment):
        title = (
            f'<td colspan="{1 + len(_HEADS) * len(kinds)}" class="dora-left dora-group">{attribute(deployment)}</td>'
        )
        body += f"<tbody><tr>{title}</tr>"
        for (_, model, mode), both in itertools.groupby(own, key=lambda row: row.setting):
            found = {row.dynamic: said.row_cells(row) for row in both}
            cells = itertools.chain.from_iterable(found.get(dynamic, ("",) * len(_HEADS)) for dynamic in kinds)
            body += _row(f"{model}, {mode}", cells, left=(1, 3))
        body += "</tbody>"
    table = f'<table class="dora-plans">{_head("setting", kinds, _HEADS, left=(1, 3))}{body}</table>'
    return f'<div class="dora-scroll">{table}</div><p class="dora-faint">{said.CAPTION}</p>'


def _range_table(objective: str, accounting: EnergyAccounting | None, kinds: Sequence[Ranges]) -> str:
    body = "".join(
        _row(name, itertools.chain.from_iterable(cells), kind="" if place else "dora-best")
        for place, (name, cells) in enumerate(said.range_rows(kinds))
    )
    head = _head("over", [kind.dynamic for kind in kinds], ("range", "median", "g/n/w/x"))
    return (
        f'<p style="margin-top:.8em">{attribute(said.range_title(objective, accounting))}</p><div class="dora-scroll">'
        f'<table class="dora-plans">{head}<tbody>{body}</tbody></table></div><p class="dora-faint">{said.COUNTS}</p>'
    )


def _head(first: str, kinds: Sequence[bool], heads: Sequence[str], left: Sequence[int] = ()) -> str:
    """Two lines: with or without dynamics, then the columns of each."""
    over = "".join(
        f'<th scope="colgroup" colspan="{len(heads)}" style="text-align:center">{_capital(dynamic)}</th>'
        for dynamic in kinds
    )
    columns = "".join(f'<th scope="col"{_side(place, left)}>{head}</th>' for place, head in enumerate(heads))
    below = f'<th scope="col"{_LEFT}>{first}</th>{columns * len(kinds)}'
    return f"<thead><tr><th></th>{over}</tr><tr>{below}</tr></thead>"


def _row(name: str, cells: Iterable[str], *, left: Sequence[int] = (), kind: str = "") -> str:
    columns = len(_HEADS) if left else 1
    figures = "".join(f"<td{_side(place % columns, left)}>{_cell(cell)}</td>" for place, cell in enumerate(cells))
    look = f' class="{kind}"' if kind else ""
    return f"<tr{look}><td{_LEFT}>{attribute(words.one_line(name))}</td>{figures}</tr>"


def _side(place: int, left: Sequence[int]) -> str:
    return _LEFT if place in left else ""


def _cell(text: str) -> str:
    return "\u2013" if text == words.NOTHING else attribute(text)


def _capital(dynamic: bool) -> str:
    return said.WHEN[dynamic].capitalize()


def _items(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{attribute(words.one_line(line))}</li>' for line in lines)}</ul>"
