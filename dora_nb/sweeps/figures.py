"""Figures of a sweep: they draw the records of ``views``, wherever they are shown, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dora_nb.explorer.figures import PALETTE, TEMPLATE, OfflineFigure
from dora_nb.render.svg import attribute
from dora_nb.sweeps.views import Effort, FrontView, HeatMap, value_words

#: From little to much, in one colour; the ends can be told from a white and from a dark page.
_BLUES = [[0.0, "#cfe3f3"], [0.5, "#5fa3d3"], [1.0, "#0b4f82"]]

#: Which point is pointed at; with a :class:`HeatMap`.
_PLACE = "{0.across} %{{x}}, {0.up} %{{y}}"

_FAINT = "rgba(128,128,128,0.45)"


def front_figure(view: FrontView) -> OfflineFigure:
    """Latency against energy of every plan found for a deployment; those that no other beats are joined by a line."""
    figure = OfflineFigure()
    others = [point for point in view.points if not point.is_front]
    for name, points, style in (
        ("beaten by another plan", others, {"mode": "markers", "marker": {"color": _FAINT, "size": 7}}),
        (
            "not beaten by any",
            view.front,
            {
                "mode": "lines+markers",
                "line": {"shape": "hv", "width": 1.5, "color": PALETTE[0]},
                "marker": {"color": PALETTE[0], "size": 9},
            },
        ),
    ):
        figure.add_scatter(
            name=name,
            x=[point.latency_s for point in points],
            y=[point.energy_j for point in points],
            hovertext=[attribute(point.label) for point in points],
            hovertemplate="%{hovertext}<br>%{x:.4g} s, %{y:.4g} J (predicted)<extra></extra>",
            **style,
        )
    figure.update_xaxes(rangemode="nonnegative")  # around a lone plan there would be seconds below zero
    figure.update_yaxes(rangemode="nonnegative")
    return _laid_out(figure, f"Latency against energy: {view.title}", "latency (s)", "energy (J)")


def heat_figure(view: HeatMap) -> OfflineFigure:
    """The objective's value of the best plan, over bandwidth and limit; where no plan keeps the limits it says so."""
    figure = OfflineFigure()
    bar = {"title": {"text": view.unit, "side": "top"}, "thickness": 12, "outlinewidth": 0}
    if view.is_grid:
        text = [[_cell_words(view, row, column) for column in range(len(view.xs))] for row in range(len(view.ys))]
        figure.add_heatmap(
            x=_labels(view.xs),
            y=_labels(view.ys),
            z=view.values,
            text=text,
            texttemplate="%{text}",
            colorscale=_BLUES,
            colorbar=bar,
            xgap=2,
            ygap=2,
            hovertemplate=f"{_PLACE.format(view)}<br>%{{z:.4g}} {view.unit} (predicted)<extra></extra>",
        )
        _note_missing(figure, view)
    else:
        cells = [(x, y, view.values[j][i]) for i, x in enumerate(view.xs) for j, y in enumerate(view.ys)]
        shown = [(x, y, z) for x, y, z in cells if y is not None and z is not None]
        figure.add_scatter(
            x=[x for x, _, _ in shown],
            y=[y for _, y, _ in shown],
            mode="markers",
            marker={
                "color": [z for _, _, z in shown],
                "colorscale": _BLUES,
                "size": 13,
                "showscale": True,
                "colorbar": bar,
            },
            hovertemplate=f"{_PLACE.format(view)}<br>%{{marker.color:.4g}} {view.unit}<extra></extra>",
        )
    _laid_out(figure, f"Best plan's value ({view.unit}): {view.title}", view.across, view.up)
    if view.is_grid:
        figure.update_layout(height=110 + 46 * len(view.ys), margin_t=44, xaxis_type="category", yaxis_type="category")
    return figure


def changes_figure(view: HeatMap) -> OfflineFigure:
    """Which placement is best where: points with the same letter have the same devices, layers and shares."""
    distinct = view.distinct
    letters = {placement: _letter(index) for index, placement in enumerate(distinct)}
    steps = max(len(distinct), 1)
    colours = [PALETTE[index % len(PALETTE)] for index in range(steps)]
    scale = [[(index + side) / steps, colours[index]] for index in range(steps) for side in (0, 1)]
    figure = OfflineFigure()
    figure.add_heatmap(
        x=_labels(view.xs),
        y=_labels(view.ys),
        z=[[None if not each else distinct.index(each) for each in row] for row in view.placements],
        zmin=-0.5,
        zmax=steps - 0.5,
        text=[[letters.get(each or "", "") for each in row] for row in view.placements],
        customdata=[[attribute(_placement_words(each)) for each in row] for row in view.placements],
        texttemplate="%{text}",
        colorscale=scale,
        showscale=False,
        xgap=2,
        ygap=2,
        hovertemplate=f"{_PLACE.format(view)}<br>%{{customdata}}<extra></extra>",
    )
    _note_missing(figure, view)
    _laid_out(figure, f"Which plan is best where: {view.title}", view.across, view.up)
    figure.update_layout(height=110 + 46 * len(view.ys), margin_t=44, xaxis_type="category", yaxis_type="category")
    return figure


def effort_figure(efforts: Sequence[Effort]) -> OfflineFigure:
    """Seconds that planning took against the gap that was proven, a mark a point."""
    figure = OfflineFigure()
    for name, own, colour in (
        ("with a plan", [each for each in efforts if each.gap is not None], PALETTE[0]),
        ("no plan keeps the limits", [each for each in efforts if each.gap is None], PALETTE[5]),
    ):
        if own:
            figure.add_scatter(
                name=name,
                x=[each.seconds for each in own],
                y=[100 * (each.gap or 0.0) for each in own],
                mode="markers",
                marker={"color": colour, "size": 9, "opacity": 0.7},
                hovertext=[attribute(each.label) for each in own],
                hovertemplate="%{hovertext}<br>%{x:.3g} s, gap %{y:.3g} %<extra></extra>",
            )
    _laid_out(figure, "What planning took, and the gap proven", "planning (wall seconds)", "gap of the best plan (%)")
    figure.update_layout(yaxis_rangemode="tozero", xaxis_rangemode="tozero")
    return figure


def letter_rows(view: HeatMap) -> list[tuple[str, str]]:
    """The letters of :func:`changes_figure` and what each stands for."""
    return [(_letter(index), _placement_words(each)) for index, each in enumerate(view.distinct)]


def _laid_out(figure: OfflineFigure, title: str, across: str, up: str) -> OfflineFigure:
    figure.update_layout(template=TEMPLATE, title=attribute(title), height=420)
    figure.update_xaxes(title_text=attribute(across))
    figure.update_yaxes(title_text=attribute(up))
    return figure


def _note_missing(figure: OfflineFigure, view: HeatMap) -> None:
    for j, row in enumerate(view.placements):
        for i, placement in enumerate(row):
            if placement == "":  # by its place: a label such as "2" would be taken for one
                figure.add_annotation(x=i, y=j, text="no plan", showarrow=False, font={"size": 11})


def _labels(values: Sequence[Any]) -> list[str]:
    return [value_words(value) for value in values]


def _cell_words(view: HeatMap, row: int, column: int) -> str:
    value = view.values[row][column]
    return "" if value is None else f"{value:.3g}"


def _letter(index: int) -> str:
    """A, B, ... Z, A1, B1, ..."""
    return chr(ord("A") + index % 26) + (str(index // 26) if index >= 26 else "")


def _placement_words(placement: str | None) -> str:
    return (placement or "no plan").replace("|", " | ").replace(":", ": ")
