"""Which share of the requests each plan takes, as stacked bars in SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dora_nb.render import svg, words
from dora_nb.render.svg import attribute

#: Colours of plans, first to last, and of text on them (the palette of Okabe and Ito); further plans share the last.
PLAN_COLOURS = (
    ("#0072b2", "#ffffff"),
    ("#e69f00", "#000000"),
    ("#009e73", "#000000"),
    ("#cc79a7", "#000000"),
    ("#56b4e9", "#000000"),
    ("#999999", "#000000"),
)

_WIDTH, _ROW_PX, _BAR_PX, _LEGEND_PX, _AXIS_PX, _GAP_PX = 720.0, 30.0, 20.0, 20.0, 22.0, 10.0

_LONGEST_NAME, _LONGEST_LABEL = 30, 40  # characters of a row's name, and of a plan in the legend


def colours_of(plan: int) -> tuple[str, str]:
    """Colour of a plan, and of text on it."""
    return PLAN_COLOURS[min(plan, len(PLAN_COLOURS) - 1)]


def shares_svg(plans: Sequence[str], rows: Sequence[tuple[str, Sequence[float], str]], title: str) -> str:
    """A bar a row, one piece a plan.

    Parameters
    ----------
    plans
        What the plans are called.
    rows
        Per row its name, the share of every plan (0 to 1, together 1), and what stands behind the bar.
    title
        What a screen reader says.
    """
    left = 20 + max(svg.text_width(words.shorten(words.one_line(name), _LONGEST_NAME)) for name, _, _ in rows)
    right = _WIDTH - 18 - max(svg.text_width(note) for _, _, note in rows)
    floor = _LEGEND_PX * len(plans) + _GAP_PX + _ROW_PX * len(rows)
    axis = svg.Axis(0.0, 1.0, left, right, 0.01, "%")
    body = [*_legend(plans), *_grid(axis, floor, len(plans))]
    for index, row in enumerate(rows):
        body += _row(row, plans, _LEGEND_PX * len(plans) + _GAP_PX + _ROW_PX * index, axis)
    return svg.figure(_WIDTH, floor + _AXIS_PX + 18, title, body)


def _legend(plans: Sequence[str]) -> Iterator[str]:
    for index, label in enumerate(plans):
        y = _LEGEND_PX * index
        yield f'<rect x="4" y="{svg.number(y + 3)}" width="12" height="12" rx="2" fill="{colours_of(index)[0]}"/>'
        said = words.shorten(words.one_line(label), _LONGEST_LABEL)
        yield svg.text(22, y + 13, f"{words.plan_mark(index)}  {said}")


def _grid(axis: svg.Axis, floor: float, plans: int) -> Iterator[str]:
    for value, label in axis.ticks(5):
        at = axis.at(value)
        yield svg.line(at, _LEGEND_PX * plans + _GAP_PX, at, floor, 0.15)
        yield svg.text(at, floor + 14, label, anchor="middle", opacity=0.8)
    middle = (axis.start_px + axis.stop_px) / 2
    yield svg.text(middle, floor + 32, "share of the requests (%)", anchor="middle")


def _row(row: tuple[str, Sequence[float], str], plans: Sequence[str], top: float, axis: svg.Axis) -> Iterator[str]:
    name, shares, note = row
    baseline = top + _ROW_PX / 2 + 4
    yield svg.text(axis.start_px - 8, baseline, words.shorten(words.one_line(name), _LONGEST_NAME), anchor="end")
    start = 0.0
    for index, share in enumerate(shares):
        if share <= 0:
            continue
        x, width = axis.at(start), axis.at(share) - axis.at(0.0)
        fill, ink = colours_of(index)
        tip = attribute(f"{name}: {100 * share:.3g} % {plans[index]}")
        yield (
            f'<rect x="{svg.number(x)}" y="{svg.number(top + (_ROW_PX - _BAR_PX) / 2)}" width="{svg.number(width)}" '
            f'height="{svg.number(_BAR_PX)}" fill="{fill}" stroke="{_EDGE}"><title>{tip}</title></rect>'
        )
        said = f"{100 * share:.0f} %"
        if svg.text_width(said) + 8 <= width:
            yield svg.text(x + width / 2, baseline, said, anchor="middle").replace("currentColor", ink)
        start += share
    yield svg.text(axis.stop_px + 10, baseline, note, opacity=0.85)


#: Between pieces: the page's own background.
_EDGE = "var(--jp-layout-color0,Canvas)"
