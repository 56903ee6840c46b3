"""The plot of trade-offs as a widget, without a browser: what it holds, and what it shows without a kernel."""

from __future__ import annotations

import json
import re

import pytest
from explorer_cases import small_plans

from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.errors import UnknownNameError
from dora_nb.explorer.views.front import FrontView, front_view
from dora_nb.explorer.widgets.base import static_text
from dora_nb.explorer.widgets.pareto import ParetoPlot


@pytest.fixture(scope="module")
def plans() -> PlanSet:
    return small_plans(QoE(latency_s=100.0, objective="energy"))


def test_it_holds_the_view_and_looks_at_the_best_plan(plans: PlanSet) -> None:
    plot = ParetoPlot(plans)
    assert FrontView(**plot.view) == front_view(plans)
    assert plans[plot.selected] is plans.best
    assert plot.compared == -1
    assert (plot.latency_limit_s, plot.energy_limit_j) == (100.0, None)
    json.dumps(plot.get_state(["view", "selected", "compared", "latency_limit_s", "energy_limit_j"]))


def test_traits_given_win_over_the_plans(plans: PlanSet) -> None:
    plot = ParetoPlot(plans, selected=0, latency_limit_s=None, energy_limit_j=5.0)
    assert (plot.selected, plot.latency_limit_s, plot.energy_limit_j) == (0, None, 5.0)
    assert ParetoPlot().view == {}
    with pytest.raises(UnknownNameError, match="did you mean 'selected'"):
        ParetoPlot(plans, slected=1)


def test_what_the_browser_changes_arrives(plans: PlanSet) -> None:
    plot, heard = ParetoPlot(plans), []
    plot.observe(lambda change: heard.append((change.name, change.new)), ["selected", "compared", "latency_limit_s"])
    plot.set_state({"selected": 0, "compared": 1, "latency_limit_s": 12.5})
    plot.set_state({"latency_limit_s": None})
    assert set(heard) == {("selected", 0), ("compared", 1), ("latency_limit_s", 12.5), ("latency_limit_s", None)}


def test_without_a_kernel_there_is_a_picture(plans: PlanSet) -> None:
    html = ParetoPlot(plans)._repr_html_()
    assert "<svg" in html
    assert html.count("<circle") >= len(plans)
    assert "<svg" not in ParetoPlot()._repr_html_()


def test_nothing_is_fetched_and_every_colour_is_the_themes() -> None:
    script, style = str(ParetoPlot._esm), str(ParetoPlot._css)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|\bimport\b[^/*]*from|fetch\(|XMLHttpRequest", script)
    assert not re.search(r"@import|url\(", style)
    used = set(re.findall(r"var\((--dora-[\w-]+)", static_text("pareto.css")))
    assert used <= set(re.findall(r"(--dora-[\w-]+):", static_text("theme.css")))
    assert not re.search(r"#[0-9a-fA-F]{3,8}\b", static_text("pareto.css"))
