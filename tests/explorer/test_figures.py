"""Figures to take away: their data, their units, and that they draw without a network."""

from __future__ import annotations

import base64
import gzip
import json
import re
import subprocess
import sys

import nbformat
import pytest
from explorer_cases import small_cluster, small_plans, small_workload
from nbconvert import HTMLExporter
from plotly.offline import get_plotlyjs

from dora_nb.domain.composition import Composition
from dora_nb.domain.conditions import Condition, Conditions
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.explorer.figures import OfflineFigure, composition_figure, figure_html, pareto_figure
from dora_nb.explorer.views.front import front_view
from dora_nb.planning.composition.compose import compose

#: An address in what plotly.js is given, or in a tag.
ADDRESS = re.compile(r"https?:|//[a-z]+\.")


@pytest.fixture(scope="module")
def plans() -> PlanSet:
    return small_plans(QoE(latency_s=100.0, energy_j=1e4, objective="energy"))


@pytest.fixture(scope="module")
def mix() -> Composition:
    slower = dict.fromkeys(small_cluster().device_ids, 0.5)
    conditions = Conditions(
        name="day",
        conditions=(
            Condition(name="calm", probability=0.75),
            Condition(name="busy", probability=0.25, device_speed_factors=slower),
        ),
    )
    return compose(small_workload().replace(mode="inference"), small_cluster(), QoE(objective="energy"), conditions)


def named(figure: OfflineFigure, name: str) -> dict[str, list[float]]:
    (found,) = [trace for trace in figure.data if trace.name == name]
    return {
        "x": list(found.x),
        "y": list(found.y),
        "text": list(found.text or ()),
        "hover": list(found.hovertext or ()),
    }


def test_the_front_is_drawn_in_the_axes_own_units(plans: PlanSet) -> None:
    view, figure = front_view(plans), pareto_figure(plans)
    drawn = named(figure, "plan")
    assert drawn["x"] == pytest.approx([each.latency_s / view.latency.scale for each in view.points])
    assert drawn["y"] == pytest.approx([each.energy_j / view.energy.scale for each in view.points])
    assert drawn["text"] == [each.mark for each in view.points]
    assert all("(predicted)" in text for text in drawn["hover"])
    assert figure.layout.xaxis.title.text == f"latency ({view.latency.unit})"
    assert figure.layout.yaxis.title.text == f"energy, participating ({view.energy.unit})"
    assert len(named(figure, "baseline")["x"]) == len(view.baselines)
    assert {"dominated by a plan", "proven: no plan"} <= {trace.name for trace in figure.data}
    assert named(figure, "latency limit 100 s")["x"] == [100.0 / view.latency.scale] * 2
    assert named(figure, "energy limit 10 kJ")["y"] == [1e4 / view.energy.scale] * 2
    assert [note for note in view.notes if note in str(figure.layout.annotations)] == list(view.notes)


def test_shares_of_a_composition_add_up(mix: Composition) -> None:
    figure = composition_figure(mix)
    assert len(figure.data) == len(mix)
    conditions = len(mix.figures)
    for place in range(conditions):
        assert sum(trace.x[place] for trace in figure.data) == pytest.approx(100.0)
        for trace, count in zip(figure.data, mix.figures[place].counts, strict=True):
            assert trace.hovertext[place].startswith(f"{count} of {mix.window} requests")
    assert list(figure.data[0].y) == ["calm (75 %)", "busy (25 %)"]
    assert figure.layout.xaxis.title.text == "share of requests (%)"
    assert figure.layout.barmode == "stack"


def test_names_cannot_end_a_tag(plans: PlanSet) -> None:
    nasty = "</script><script>alert(1)</script>"
    made = tuple(each.replace(label=nasty) for each in plans.plans)
    figure = pareto_figure(PlanSet(plans.workload, plans.cluster, plans.qoe, made, (), 0.0))
    figure.update_layout(title=nasty)
    html = figure_html(figure)
    assert html.count("</script>") == 1
    assert "<script>alert" not in html.replace("\\u003c", "<").split('aria-label="')[1].split('"')[0]


def test_the_fragment_carries_all_it_needs(plans: PlanSet) -> None:
    html = figure_html(pareto_figure(plans))
    packed = re.search(r'packed = "([^"]+)"', html)
    assert packed is not None
    assert gzip.decompress(base64.b64decode(packed[1])).decode() == get_plotlyjs()
    rest = html.replace(packed[1], "")
    assert not ADDRESS.search(rest)
    assert "src=" not in rest
    assert len(html) < 2.1e6
    assert re.search(r"height:\d+px", rest)


def test_a_notebook_gets_json_to_draw_live_and_html_to_keep(plans: PlanSet) -> None:
    bundle = pareto_figure(plans)._repr_mimebundle_()
    assert set(bundle) == {"application/vnd.plotly.v1+json", "text/html", "text/plain"}
    live = bundle["application/vnd.plotly.v1+json"]
    assert live["config"]["displaylogo"] is False
    assert not ADDRESS.search(json.dumps(live))
    assert bundle["text/plain"].startswith("Latency against energy")
    assert pareto_figure(plans).update_layout(title="mine")._repr_mimebundle_()["text/plain"] == "mine"


def test_exported_html_shows_the_figure_and_asks_for_nothing_more(plans: PlanSet) -> None:
    """What nbconvert makes of a notebook with the figure, beside what it makes of one without."""

    def exported(*outputs: nbformat.NotebookNode) -> str:
        cell = nbformat.v4.new_code_cell("pareto_figure(plans)", outputs=list(outputs))
        notebook = nbformat.v4.new_notebook(cells=[cell])
        html: str = HTMLExporter().from_notebook_node(notebook)[0]  # type: ignore[no-untyped-call]
        return html

    figure = pareto_figure(plans)
    shown = exported(nbformat.v4.new_output("display_data", data=figure._repr_mimebundle_()))
    assert "window.Plotly.newPlot" in shown
    assert 'packed = "' in shown
    assert len(ADDRESS.findall(shown)) == len(ADDRESS.findall(exported()))


def test_plotly_is_loaded_with_the_figures_only() -> None:
    code = "import sys, dora_nb.explorer, dora_nb.explorer.views.front; print('plotly' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"
