"""Plotly figures to take away: in notebooks, reports and exported pages.

Every figure is an :class:`OfflineFigure`, which draws wherever it is shown without asking the network for anything.
Plotly's own renderer for notebooks does not: its HTML loads MathJax from a content delivery network, and only the
first figure of a kernel brings the drawing library, so that the others stay blank once that cell is run again. Here a
figure is shown in two forms at once: as plotly's JSON, which JupyterLab draws with the extension that comes with
plotly, and as HTML that carries the library itself, compressed (2.0 MB instead of 4.8), which is what nbconvert and
voila take.
"""

from __future__ import annotations

import base64
import functools
import gzip
import json
import uuid
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from dora_nb.domain.composition import Composition
from dora_nb.domain.plan_set import PlanSet
from dora_nb.explorer.views.front import AxisView, FrontPoint, FrontView, front_view
from dora_nb.explorer.views.mix import MixCondition, mix_view
from dora_nb.render import words
from dora_nb.render.envelope import Point
from dora_nb.render.svg import attribute
from dora_nb.units import counted

#: The palette of Okabe and Ito, which people with any kind of colour vision can tell apart; its blue a little lighter,
#: to stand out from a dark page as well.
PALETTE = ("#0a7fc2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999")

#: Readable on a white and on a dark page.
_INK, _GRID = "#797979", "rgba(128,128,128,0.25)"

_FONT = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"

_AXIS = {
    "gridcolor": _GRID,
    "linecolor": _INK,
    "showline": True,
    "zeroline": False,
    "ticks": "outside",
    "separatethousands": True,
    "title": {"font": {"size": 12}, "standoff": 8},
    "automargin": True,
}

#: One restrained look for light and dark pages: nothing is painted behind the marks, text is grey.
TEMPLATE = go.layout.Template(
    layout={
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "colorway": PALETTE,
        "font": {"color": _INK, "size": 12, "family": _FONT},
        "title": {"font": {"size": 14}, "x": 0, "xref": "paper", "y": 1, "yanchor": "top", "pad": {"t": 12}},
        # Above the plot, with room for a second row on a narrow page.
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        "margin": {"l": 70, "r": 20, "t": 84, "b": 52},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "hoverlabel": {"align": "left"},
    }
)

_HEIGHT_PX = 420

_CONFIG = {"displaylogo": False, "responsive": True}


class OfflineFigure(go.Figure):  # type: ignore[misc]
    """A plotly figure that needs no network wherever it is shown."""

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Plotly's JSON for JupyterLab, HTML for exported pages, the title as text."""
        return {
            "application/vnd.plotly.v1+json": json.loads(self.to_json()) | {"config": _CONFIG},
            "text/html": figure_html(self),
            "text/plain": _title(self),
        }

    def _repr_html_(self) -> str:
        return figure_html(self)

    def _ipython_display_(self) -> None:
        from IPython.display import display  # there is nothing to display without it

        display(self._repr_mimebundle_(), raw=True)  # type: ignore[no-untyped-call]


def figure_html(figure: go.Figure, *, with_library: bool = True) -> str:
    """A plotly figure as a fragment of HTML that draws itself offline.

    It carries the drawing library as compressed text, which a page with several figures unpacks once. A whole page is
    ``dora_nb.render.html.page(title, figure_html(figure))``.

    Parameters
    ----------
    figure
        What to draw.
    with_library
        False where a figure that stands before it on the same page has the library.
    """
    packed = _packed_library() if with_library else ""
    name = f"dora-{uuid.uuid4().hex}"
    drawing = json.dumps(json.loads(figure.to_json()) | {"config": _CONFIG}).replace("</", r"<\/")
    height_px = figure.layout.height or _HEIGHT_PX
    return (
        f'<div id="{name}" class="dora-figure" role="img" aria-label="{attribute(_title(figure))}" '
        f'style="width:100%;height:{height_px:g}px"></div>\n'
        f"<script>(async () => {{\n"
        f'const packed = "{packed}";\n'
        "const unpack = async () => {\n"
        "  const bytes = Uint8Array.from(atob(packed), (each) => each.charCodeAt(0));\n"
        '  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));\n'
        '  const script = document.createElement("script");\n'
        "  script.textContent = await new Response(stream).text();\n"
        "  document.head.append(script);\n"
        "};\n"
        "window.doraPlotly ??= window.Plotly ? Promise.resolve() : unpack();\n"
        "await window.doraPlotly;\n"
        f'const place = document.getElementById("{name}");\n'
        f"const drawing = {drawing};\n"
        "if (place) window.Plotly.newPlot(place, drawing.data, drawing.layout, drawing.config);\n"
        "})();</script>"
    )


@functools.cache
def _packed_library() -> str:
    """plotly.js, compressed, as text; with a fixed time, so that the same figure is the same text."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _title(figure: go.Figure) -> str:
    return figure.layout.title.text or "figure"


def pareto_figure(plan_set: PlanSet) -> OfflineFigure:
    """Latency against energy: plans, baselines, limits, what is dominated and what is proven impossible.

    Raises
    ------
    InputError
        If a plan of the set was never evaluated.
    """
    view = front_view(plan_set)
    figure = OfflineFigure()
    figure.add_traces([*_areas(view), *_limits(view), _dots(view, view.baselines), _dots(view, view.points)])
    figure.update_layout(
        template=TEMPLATE,
        title=view.title,
        height=_HEIGHT_PX + 16 * len(view.notes),
        legend={"traceorder": "reversed"},
        xaxis={"title": view.latency.title, "range": _range(view.latency)},
        yaxis={"title": view.energy.title, "range": _range(view.energy)},
    )
    if view.notes:
        text = "<br>".join(attribute(note) for note in view.notes)
        place = {"x": 0, "y": 0, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "top", "yshift": -48}
        figure.add_annotation(text=text, showarrow=False, align="left", **place)
        figure.update_layout(margin_b=60 + 16 * len(view.notes))
    return figure


def _range(axis: AxisView) -> list[float]:
    return [axis.low / axis.scale, axis.high / axis.scale]


def _line(view: FrontView, corners: list[Point], **style: Any) -> go.Scatter:
    """A line through points in SI units, on the axes' own scales; it answers no hover."""
    x = [seconds / view.latency.scale for seconds, _ in corners]
    y = [joules / view.energy.scale for _, joules in corners]
    return go.Scatter(x=x, y=y, **({"mode": "lines", "hoverinfo": "skip"} | style))


def _areas(view: FrontView) -> list[go.Scatter]:
    """What the plans dominate, and where no plan can be: an area each, and the line that bounds it."""
    left, right = view.latency.low, view.latency.high
    bottom, top = view.energy.low, view.energy.high
    corners = list(view.dominated)
    around = [(corners[0][0], top), *corners, (right, corners[-1][1]), (right, top)]
    areas = [
        _line(view, around, name="dominated by a plan", fill="toself", fillcolor="rgba(10,127,194,0.1)", line_width=0),
        _line(view, corners, showlegend=False, line={"color": PALETTE[0], "width": 1}),
    ]
    if view.proven:
        corners = [(max(seconds, left), max(joules, bottom)) for seconds, joules in view.proven]
        around = [(left, corners[0][1]), *corners, (corners[-1][0], bottom), (left, bottom)]
        hatch = {"shape": "/", "fgcolor": _GRID, "bgcolor": "rgba(0,0,0,0)", "size": 7, "solidity": 0.15}
        areas += [
            _line(view, around, name="proven: no plan", fill="toself", fillpattern=hatch, line_width=0),
            _line(view, corners, showlegend=False, line={"color": _INK, "width": 1.2}),
        ]
    return areas


def _limits(view: FrontView) -> list[go.Scatter]:
    style = {"line": {"color": PALETTE[5], "width": 1.5, "dash": "dash"}}
    lines = []
    if view.latency_limit_s is not None:
        ends = [(view.latency_limit_s, view.energy.low), (view.latency_limit_s, view.energy.high)]
        name = f"{view.latency_limit_words} {words.seconds_words(view.latency_limit_s)}"
        lines.append(_line(view, ends, name=name, **style))
    if view.energy_limit_j is not None:
        ends = [(view.latency.low, view.energy_limit_j), (view.latency.high, view.energy_limit_j)]
        name = f"{view.energy_limit_words} {words.joules_words(view.energy_limit_j)}"
        lines.append(_line(view, ends, name=name, **style))
    return lines


def _dots(view: FrontView, points: tuple[FrontPoint, ...]) -> go.Scatter:
    are_plans = points is view.points
    ring = {"color": "rgba(0,0,0,0)", "size": 10, "line": {"color": _INK, "width": 2}}
    return _line(
        view,
        [(each.latency_s, each.energy_j) for each in points],
        name="plan" if are_plans else "baseline",
        mode="markers+text",
        marker={"color": PALETTE[0], "size": 11} if are_plans else ring,
        text=[each.mark for each in points],
        textposition="bottom left" if are_plans else "top right",
        hoverinfo="text",
        hovertext=["<br>".join(attribute(line) for line in each.lines) for each in points],
    )


def composition_figure(mix: Composition) -> OfflineFigure:
    """Which share of the requests each resident plan takes in each condition, as stacked bars."""
    view = mix_view(mix)
    names = [f"{each.name} ({100 * each.probability:.3g} %)" for each in view.conditions]
    figure = OfflineFigure()
    for index, plan in enumerate(view.plans):
        shares = [100 * each.shares[index] for each in view.conditions]
        hover = [_share_words(each, index, view.window) for each in view.conditions]
        figure.add_bar(
            name=attribute(f"{plan.mark} {words.shorten(plan.label, 40)}"),
            orientation="h",
            y=names,
            x=shares,
            text=[f"{plan.mark}: {share:.0f} %" if share else "" for share in shares],
            textposition="inside",
            insidetextanchor="middle",
            hoverinfo="text+name",
            hovertext=hover,
        )
    figure.update_layout(
        template=TEMPLATE,
        title=f"Which plan runs when: {counted(len(view.plans), 'plan')}, limits kept for "
        f"{100 * view.kept_share:.3g} % of requests (predicted)",
        barmode="stack",
        height=140 + 44 * len(view.conditions),
        xaxis={"title": "share of requests (%)", "range": [0, 100]},
        yaxis={"title": "condition (its probability)", "autorange": "reversed"},
        legend={"traceorder": "normal"},
    )
    return figure


def _share_words(condition: MixCondition, plan: int, window: int) -> str:
    lines = [f"{condition.counts[plan]} of {counted(window, 'request')}", *(each.said for each in condition.ledger)]
    return "<br>".join(map(attribute, lines))
