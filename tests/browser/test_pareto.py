"""The plot of trade-offs and the figures to take away, in the browser: pick, compare, drag, and draw offline."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
from browser.lab import FIND_BUILDERS, Notebook, Opener
from explorer_cases import small_plans
from nbconvert import HTMLExporter

from dora_nb.domain.qoe import QoE
from dora_nb.explorer.figures import pareto_figure

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

CELLS = [
    f"{FIND_BUILDERS}from explorer_cases import small_plans\n"
    "from dora_nb.explorer import ParetoPlot\nfrom dora_nb.domain.qoe import QoE\n"
    "plot = ParetoPlot(small_plans(QoE(latency_s=60.0, objective='energy')), selected=0)\nplot",
    "print(plot.selected, plot.compared, plot.latency_limit_s, plot.energy_limit_j)",
]

#: Seconds that a change may take from a key or a click until it is painted and the kernel knows.
SOON_S = 5.0


@pytest.fixture(scope="module")
def notebook(open_notebook: Opener) -> Notebook:
    found = open_notebook(CELLS)
    found.run_all()
    found.output(0).locator(".dora-pareto[data-painted]").wait_for()
    return found


@pytest.fixture
def plot(notebook: Notebook) -> Locator:
    return notebook.output(0).locator(".dora-pareto")


def kernel_says(notebook: Notebook) -> list[str]:
    """Selected, compared and both limits, as the kernel has them."""
    notebook.run(1)
    return notebook.output(1).inner_text().split()


def until(notebook: Notebook, expected: list[str]) -> None:
    """Wait for the kernel to have them: what a widget tells it comes over another channel."""
    end = time.monotonic() + SOON_S
    while (said := kernel_says(notebook)) != expected and time.monotonic() < end:
        notebook.page.wait_for_timeout(50)
    assert said == expected


def until_limit(notebook: Notebook, expected_s: float | None) -> None:
    """The same for the latency limit."""
    end = time.monotonic() + SOON_S
    while not same(said := kernel_says(notebook)[2], expected_s) and time.monotonic() < end:
        notebook.page.wait_for_timeout(50)
    assert same(said, expected_s)


def same(said: str, expected_s: float | None) -> bool:
    return said == "None" if expected_s is None else said != "None" and abs(float(said) - expected_s) < 1e-6


def test_what_a_solve_has_proven_by_now_is_a_line_that_moves(notebook: Notebook, plot: Locator) -> None:
    line = plot.locator("path.dora-bound")
    heights = []
    low_j, high_j = notebook.value("(plot.view['energy']['low'], plot.view['energy']['high'])")
    for share in (0.25, 0.5):
        bound_j = low_j + share * (high_j - low_j)
        corners = f"[[0.0, {bound_j}], [60.0, {bound_j}]]"
        notebook.value(f"[setattr(plot, 'bound', {corners}), setattr(plot, 'bound_words', 'none below')][0]")
        notebook.wait_for_value("plot.bound[0][1]", bound_j)
        line.wait_for()
        notebook.page.wait_for_timeout(300)
        box = line.bounding_box()
        assert box is not None
        heights.append(box["y"])
    assert heights[0] > heights[1], "it rises"
    notebook.value("setattr(plot, 'bound', [])")
    line.wait_for(state="detached")


def dot(plot: Locator, index: int) -> tuple[float, float]:
    box = plot.locator(".dora-point .dora-dot").nth(index).bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_a_click_picks_and_with_shift_compares(notebook: Notebook, plot: Locator) -> None:
    plot.scroll_into_view_if_needed()
    notebook.page.mouse.click(*dot(plot, 1))
    assert "dora-picked" in (plot.locator(".dora-point").nth(1).get_attribute("class") or "")
    assert plot.locator(".dora-spoken").inner_text().startswith("Picked: 2 ")
    notebook.page.keyboard.down("Shift")
    notebook.page.mouse.click(*dot(plot, 0))
    notebook.page.keyboard.up("Shift")
    assert "Compared with: 1 " in plot.locator(".dora-spoken").inner_text()
    until(notebook, ["1", "0", "60.0", "None"])


def test_arrow_keys_do_the_same(notebook: Notebook, plot: Locator) -> None:
    plot.locator(".dora-points").focus()
    for key in ("Home", "ArrowRight", "Shift+ArrowRight", "Escape", "Home", "Shift+End"):
        notebook.page.keyboard.press(key)
    last = plot.locator(".dora-point").count() - 1
    until(notebook, ["0", str(last), "60.0", "None"])


def test_a_limit_is_dragged_moved_by_keys_and_removed(notebook: Notebook, plot: Locator) -> None:
    plot.scroll_into_view_if_needed()
    line = plot.locator('.dora-handle[aria-orientation="horizontal"]')
    grip = line.locator(".dora-grip").bounding_box()
    assert grip is not None
    x, y = grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2
    mouse = notebook.page.mouse
    mouse.move(x, y)
    mouse.down()
    mouse.move(x - 200, y + 30, steps=8)
    assert "dora-beyond" in (plot.locator(".dora-point").last.get_attribute("class") or ""), "seen while dragging"
    mouse.up()
    dragged_s = float(line.get_attribute("aria-valuenow") or "nan")
    assert dragged_s < 60.0
    until_limit(notebook, dragged_s)
    line.focus()
    notebook.page.keyboard.press("ArrowLeft")
    assert float(line.get_attribute("aria-valuenow") or "nan") < dragged_s
    notebook.page.keyboard.press("Delete")
    assert line.get_attribute("aria-valuetext") == "no latency limit"
    until_limit(notebook, None)


def test_the_pointer_is_told_what_it_is_on(notebook: Notebook, plot: Locator) -> None:
    plot.scroll_into_view_if_needed()
    notebook.page.mouse.move(*dot(plot, 1))
    tip = plot.locator(".dora-tip")
    assert "(predicted)" in tip.inner_text()
    notebook.page.mouse.move(5, 5)
    assert tip.is_hidden()


def test_exported_html_draws_offline(browser: Browser, tmp_path: Path) -> None:
    """No cable at all: what nbconvert's own page asks for stays away, and the figures are there."""
    figure = pareto_figure(small_plans(QoE(latency_s=60.0, objective="energy")))
    shown = [nbformat.v4.new_output("display_data", data=figure._repr_mimebundle_()) for _ in range(2)]
    cells = [nbformat.v4.new_code_cell("figure", outputs=[each]) for each in shown]
    html = HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=cells))[0]  # type: ignore[no-untyped-call]
    path = tmp_path / "exported.html"
    path.write_text(html, encoding="utf-8")
    context = browser.new_context(offline=True)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri(), wait_until="domcontentloaded")
    page.wait_for_function("document.querySelectorAll('.dora-figure .scatterlayer').length === 2")
    page.wait_for_function("document.querySelectorAll('.dora-figure .scatterlayer .points path').length > 8")
    assert page.get_by_text("latency (s)").count() == 2
    assert errors == []
    context.close()
