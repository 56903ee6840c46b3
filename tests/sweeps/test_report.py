"""What a report shows, before it is drawn, and the page as text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from swept import made_up_tables

from dora_nb.sweeps import changes_figure, effort_figure, front_figure, heat_figure, report
from dora_nb.sweeps.folder import parquet
from dora_nb.sweeps.reporting import report_page, summary_words
from dora_nb.sweeps.views import SweepView, sweep_view


@pytest.fixture(scope="module")
def view() -> SweepView:
    return sweep_view(*made_up_tables())


def test_a_front_for_each_deployment_holds_what_nothing_beats(view: SweepView) -> None:
    assert [front.title for front in view.fronts] == ["edge-cluster", "smart-home"]
    for front in view.fronts:
        for point in front.points:
            beaten = any(
                other.latency_s <= point.latency_s
                and other.energy_j <= point.energy_j
                and (other.latency_s, other.energy_j) != (point.latency_s, point.energy_j)
                for other in front.points
            )
            assert not (point.is_front and beaten)
            assert point.is_front or beaten or point in front.points
        assert [(point.latency_s, point.energy_j) for point in front.front] == [(1.125, 90.0), (2.05, 15.0)]


def test_a_heat_map_over_bandwidth_and_limit(view: SweepView) -> None:
    heat = view.maps[0]
    assert (heat.xs, heat.ys, heat.unit, heat.is_grid) == ((0.25, 0.5, 1.0, 2.0, 4.0), (2.0, 4.0, None), "J", True)
    assert heat.values[0] == (None, 120.0, 60.0, 30.0, 15.0)
    assert heat.placements[0][0] == ""
    assert heat.distinct == ("0-11:laptop", "0-7:laptop|8-11:phone")
    changes = dict(heat.changes())
    assert len(changes) == 6
    assert str(changes["bandwidth_scale 1 to 2, at latency_limit_s 2"]) == (
        "phone joins; layers 8-11 go from laptop to phone"
    )
    assert str(changes["latency_limit_s 4 to none, at bandwidth_scale 2"]).startswith("phone leaves")
    assert str(changes["bandwidth_scale 0.25 to 0.5, at latency_limit_s 2"]) == "a plan keeps the limits"


def test_figures_draw_what_the_views_say(view: SweepView) -> None:
    heat = heat_figure(view.maps[0])
    assert [list(row) for row in heat.data[0].z] == [list(row) for row in view.maps[0].values]
    assert list(heat.data[0].y) == ["2", "4", "none"]
    changes = changes_figure(view.maps[0])
    assert list(changes.data[0].text[0]) == ["", "A", "A", "B", "B"]
    assert [(each.x, each.y, each.text) for each in changes.layout.annotations] == [(0, 0, "no plan")]
    assert len(front_figure(view.fronts[0]).data[1].x) == 2
    assert [len(trace.x) for trace in effort_figure(view.efforts).data] == [28, 2]


def test_one_page_with_the_library_once_and_nothing_to_fetch(view: SweepView, tmp_path: Path) -> None:
    text = report_page(view)
    assert summary_words(view).startswith("56 plans found; 2 points without a plan")
    assert [len(packed) > 100 for packed in re.findall(r'packed = "([^"]*)"', text)] == [True] + [False] * 6
    assert not re.search(r"""(?:src|href)\s*=|@import|url\(""", text)
    results, timings = made_up_tables()
    for name, rows in (("results", results), ("timings", timings)):
        (tmp_path / f"{name}.parquet").write_bytes(parquet(rows))
    written = report(tmp_path)
    assert written == tmp_path / "report.html"
    assert len(written.read_text()) == pytest.approx(len(text), rel=0.01)


def test_a_sample_is_drawn_as_points(view: SweepView) -> None:
    results, timings = made_up_tables()
    for index, row in enumerate(timings):
        new = {"bandwidth_scale": 1 + index / 7, "latency_limit_s": 30.0 - index}
        row |= new
        for each in results:
            if each["point"] == row["point"]:
                each |= new
    heat = sweep_view(results, timings).maps[0]
    assert not heat.is_grid
    assert heat_figure(heat).data[0].type == "scatter"


def test_rows_without_figures_are_told() -> None:
    empty = sweep_view([{"point": "a", "x": 1}], [{"point": "a", "x": 1, "status": "done", "wall_s": 1.0}])
    assert "nothing to draw" in report_page(empty)
