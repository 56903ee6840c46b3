"""The explorer in the browser: every way to look, ask, keep and run, on a small case and a real run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from browser.lab import FIND_BUILDERS, Notebook, Opener

import dora_nb
from dora_nb.units import format_seconds

if TYPE_CHECKING:
    from playwright.sync_api import Locator

expect = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright").expect

#: Cells: what is needed; the explorer; one that waits so long before it solves that it can be cancelled; one that runs.
EXPLORER, PATIENT, RUNS = 1, 2, 3
CELLS = [
    f"{FIND_BUILDERS}import threading\nimport dora_nb as dora\n"
    "from builders import cluster, pipeline, workload\nfrom explorer_cases import small_plans\n"
    "plans = small_plans(dora.QoE(latency_s=60.0, objective='energy'))\n"
    "states = [dora.Condition(name='calm', probability=0.75),\n"
    "          dora.Condition(name='b away', probability=0.25, absent_devices=('b',))]\n"
    "mix = dora.compose(workload(2, mode='inference', batch=4), cluster(2), dora.QoE(objective='latency'), states,\n"
    "                   restrict=[pipeline((0, 2, {name: 4})).replace(label=f'all on {name}') for name in 'ab'])\n"
    "former = explorer = None",
    "former, explorer = explorer, plans.explore(mix)\nexplorer",
    "from dora_nb.explorer import Explorer\npatient = Explorer(plans, pause_s=600.0)\npatient",
    "real = dora.plan(dora.load_workload('vit-b-16', mode='training', batch=2), dora.load_cluster('smart-home'),\n"
    "                 dora.QoE(objective='latency'), most_plans=1)\nreal.explore()",
]

#: Milliseconds for a solve, and for a run with the import of torch, on a machine that has much else to do.
SOLVE_MS, RUN_MS = 60_000, 180_000


@pytest.fixture(scope="module")
def notebook(open_notebook: Opener) -> Notebook:
    found = open_notebook(CELLS)
    found.run_all()
    expect.set_options(timeout=20_000)
    return found


@pytest.fixture
def screen(notebook: Notebook) -> Locator:
    """The explorer, all of it as at first."""
    found = shown(notebook, EXPLORER)
    button(found, "As asked first").click()
    in_state(found, "done")
    expect(found.locator(".dora-question")).to_contain_text("latency at most 60 s")
    notebook.wait_for_value("explorer.busy", False)
    choose_tab(found, "Plans")
    return found


def shown(notebook: Notebook, cell: int) -> Locator:
    found = notebook.output(cell).locator(".dora-explorer")
    found.locator(".dora-headline[data-painted]").wait_for()
    return found


def button(screen: Locator, name: str) -> Locator:
    return screen.get_by_role("button", name=name, exact=True)


def choose_tab(screen: Locator, name: str) -> Locator:
    """Show a tab; what is on it."""
    screen.get_by_role("tab", name=name, exact=True).click()
    return screen.locator(".widget-tab-contents > :not(.lm-mod-hidden)")


def in_state(screen: Locator, *states: str) -> None:
    """Wait until the solve is in one of these states."""
    pattern = re.compile("|".join(states))
    expect(screen.locator(".dora-headline")).to_have_attribute("data-state", pattern, timeout=SOLVE_MS)


def picks(screen: Locator, label: str) -> None:
    """Wait until this is the plan that headline, plot, timeline and map show."""
    expect(screen.locator(".dora-plan")).to_contain_text(label)
    expect(screen.locator(".dora-picked")).to_have_attribute("aria-label", re.compile(re.escape(label)))
    expect(screen.locator(".dora-gantt-title")).to_have_text(re.compile(f"{re.escape(label)}, predicted"))
    expect(screen.locator(".dora-map-head b")).to_have_text(label)


def click_point(screen: Locator, label: str) -> None:
    point = screen.locator(f'.dora-point[aria-label*="{label}"] .dora-dot').first
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    assert box is not None
    screen.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def slider(where: Locator, name: str) -> Locator:
    found = where.get_by_role("slider", name=name, exact=True)
    found.scroll_into_view_if_needed()
    return found


def drag(handle: Locator, by_x: float, by_y: float = 0.0) -> None:
    handle.scroll_into_view_if_needed()
    box, mouse = handle.bounding_box(), handle.page.mouse
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    mouse.move(x, y)
    mouse.down()
    mouse.move(x + by_x, y + by_y, steps=6)
    mouse.up()


def told(screen: Locator) -> None:
    """From now on note what the headline says, one after the other."""
    screen.locator(".dora-headline").evaluate("""root => {
      window.told = [];
      const note = () => window.told.push([root.dataset.state, root.querySelector('.dora-plan').textContent]);
      new MutationObserver(note).observe(root, {attributes: true, attributeFilter: ['data-state', 'data-painted']});
    }""")


def test_a_click_or_a_key_picks_a_plan_and_all_follow(notebook: Notebook, screen: Locator) -> None:
    picks(screen, "energy-optimal")
    click_point(screen, "latency-optimal")
    picks(screen, "latency-optimal")
    notebook.wait_for_value("explorer.plan.label", "latency-optimal")
    used = screen.locator(".dora-card.dora-used")
    expect(used).to_have_count(2)
    screen.locator(".dora-points").focus()
    for place in (1, 2):
        notebook.page.keyboard.press("ArrowRight")
        picks(screen, notebook.value(f"explorer.plans[{place}].label"))
        expect(used).to_have_count(notebook.value(f"len(explorer.plans[{place}].devices)"))


def test_two_plans_side_by_side(notebook: Notebook, screen: Locator) -> None:
    notebook.page.keyboard.down("Shift")
    click_point(screen, "latency-optimal")
    notebook.page.keyboard.up("Shift")
    panel = choose_tab(screen, "Compare")
    expect(panel).to_contain_text(re.compile("latency-optimal against .* energy-optimal"))
    expect(panel.locator("table")).to_have_count(2)
    panel.locator("select").select_option("no other plan")
    expect(panel.locator("table")).to_have_count(0)
    notebook.wait_for_value("explorer.compared", -1)


def test_a_slider_shows_the_nearest_plan_and_then_the_exact_answer(notebook: Notebook, screen: Locator) -> None:
    told(screen)
    known = notebook.value("[plan.label for plan in explorer.plans]")
    handle = slider(screen, "At most (s)")
    handle.focus()
    for _ in range(12):
        notebook.page.keyboard.press("PageDown")
    notebook.wait_for_value("explorer.qoe.latency_s < 54", True)
    in_state(screen, "done")
    notebook.wait_for_value("explorer.busy", False)
    expect(screen.locator(".dora-sentence")).to_have_text(re.compile("^Solved: best .*none can be below .*gap "))
    expect(screen.locator(".dora-plan")).to_contain_text("the best for this question")
    said = notebook.page.evaluate("window.told")
    nearest = next(plan for state, plan in said if state == "running" and "energy-optimal" not in plan)
    assert any(label in nearest for label in known), "a plan that was known before"
    assert "keeps the limits" in nearest


def test_a_limit_is_dragged_in_the_plot(notebook: Notebook, screen: Locator) -> None:
    drag(screen.locator('.dora-handle[aria-orientation="horizontal"] .dora-grip'), -120, 20)
    notebook.wait_for_value("30 < explorer.qoe.latency_s < 60", True)
    limit = notebook.value("explorer.qoe.latency_s")
    expect(screen.locator(".dora-question")).to_contain_text(format_seconds(limit))
    in_state(screen, "done", "infeasible")
    expect(slider(screen, "At most (s)")).to_have_attribute("aria-valuenow", re.compile(f"^{limit:.0f}"))


def test_what_cannot_be_asks_for_the_smallest_change(notebook: Notebook, screen: Locator) -> None:
    handle = slider(screen, "At most (s)")
    handle.focus()
    notebook.page.keyboard.press("Home")
    in_state(screen, "infeasible")
    expect(screen.locator(".dora-sentence")).to_contain_text("No plan keeps these limits (proven).")
    expect(screen.locator(".dora-plan")).to_contain_text("misses latency")
    offer = screen.locator(".dora-offer").first
    offer.click()
    in_state(screen, "done")
    expect(screen.locator(".dora-plan")).to_contain_text("keeps the limits")
    expect(screen.locator(".dora-offer")).to_have_count(0)
    notebook.wait_for_value("explorer.qoe.latency_s", 27.0)


def test_what_if_the_network_were_slower(notebook: Notebook, screen: Locator) -> None:
    panel = choose_tab(screen, "What if")
    slider(panel, "Bandwidth x").focus()
    for _ in range(4):
        notebook.page.keyboard.press("ArrowLeft")
    notebook.wait_for_value("explorer.changed.bandwidth < 0.8", True)
    in_state(screen, "done", "infeasible")
    expect(screen.locator(".dora-effect")).to_contain_text("Against what was asked first, with")
    expect(screen.locator(".dora-question")).to_contain_text("What if:")
    button(panel, "As it was").click()
    notebook.wait_for_value("explorer.changed.bandwidth", 1.0)
    expect(screen.locator(".dora-effect")).to_have_count(0)
    in_state(screen, "done")


def test_a_device_is_switched_off_and_on(notebook: Notebook, screen: Locator) -> None:
    card = screen.locator('.dora-card[data-id="middle"]')
    expect(card).to_have_class(re.compile("dora-used"))
    card.click()
    expect(card).to_have_attribute("aria-checked", "false")
    notebook.wait_for_value("explorer.changed.off", ("middle",))
    in_state(screen, "done")
    expect(card).not_to_have_class(re.compile("dora-used"))
    expect(screen.locator(".dora-plan")).to_contain_text("the best for this question")
    card.click()
    notebook.wait_for_value("explorer.changed.off", ())
    in_state(screen, "done")
    expect(card).to_have_attribute("aria-checked", "true")


def test_a_device_is_moved(notebook: Notebook, screen: Locator) -> None:
    card = screen.locator('.dora-card[data-id="thrifty"]')
    card.scroll_into_view_if_needed()
    before = card.bounding_box()
    drag(card, 0, -12)
    after = card.bounding_box()
    assert before is not None
    assert after is not None
    assert after["y"] < before["y"]
    notebook.wait_for_value("[*explorer.screen.network.positions]", ["thrifty"])
    assert notebook.value("explorer.changed.off") == ()


def test_a_composition(screen: Locator) -> None:
    panel = choose_tab(screen, "Composition")
    expect(panel).to_contain_text("all on a")
    expect(panel).to_contain_text("b away")
    expect(panel.locator("svg").first).to_be_visible()


def test_plan_file_and_python_to_keep(notebook: Notebook, screen: Locator, monkeypatch: pytest.MonkeyPatch) -> None:
    panel = choose_tab(screen, "Keep")
    button(panel, "Save plan file").click()
    expect(panel).to_contain_text("Saved to")
    kept = dora_nb.load_plan(notebook.path.parent / "plan.json")
    assert kept.plan.label == "energy-optimal"
    button(panel, "Show Python").click()
    python = panel.get_by_label("Python", exact=True)
    expect(python).to_have_value(re.compile("load_plan"))
    monkeypatch.chdir(notebook.path.parent)
    made: dict[str, object] = {}
    exec(python.input_value(), made)
    assert made["plan"] == kept.plan


def test_the_timeline_has_nothing_picked_in_another_plan(notebook: Notebook, screen: Locator) -> None:
    gantt = screen.locator(".dora-gantt")
    gantt.locator(".dora-gantt-plot").focus()
    notebook.page.keyboard.press("ArrowRight")
    expect(gantt.locator(".dora-gantt-status")).to_contain_text("stage")
    click_point(screen, "latency-optimal")
    picks(screen, "latency-optimal")
    expect(gantt.locator(".dora-gantt-hint")).to_be_visible()


@pytest.mark.parametrize("width_px", [1280, 760])
def test_everything_fits_and_can_be_read_in_light_and_dark(notebook: Notebook, screen: Locator, width_px: int) -> None:
    notebook.page.set_viewport_size({"width": width_px, "height": 800})
    wider = """root => [root, ...root.children].filter(each => each.scrollWidth > each.clientWidth + 1)
      .map(each => `${each.className}: ${each.scrollWidth} of ${each.clientWidth} px`)"""
    assert screen.evaluate(wider) == []
    unnamed = """root => [...root.querySelectorAll('input, select, textarea, button, [role=slider]')].filter(each =>
      each.getClientRects().length && !each.ariaLabel && !each.textContent.trim() && !each.labels?.length)
      .map(each => each.outerHTML.slice(0, 120))"""
    assert screen.evaluate(unnamed) == []
    for theme in ("dark", "light"):
        notebook.change_theme(theme)
        assert notebook.pale_texts() == []
    notebook.page.set_viewport_size({"width": 1280, "height": 800})


def test_a_cell_that_runs_again_closes_the_former_explorer(notebook: Notebook, screen: Locator) -> None:
    threads = "sum(each.name == 'dora_nb explorer' for each in threading.enumerate())"
    before = notebook.value(threads)
    notebook.run(EXPLORER)
    again = shown(notebook, EXPLORER)
    expect(again).to_have_count(1)
    picks(again, "energy-optimal")
    assert notebook.value("(former.closed, explorer.closed)") == (True, False)
    notebook.wait_for_value("explorer.busy", False)
    notebook.wait_for_value(threads, before)
    click_point(again, "latency-optimal")
    picks(again, "latency-optimal")


def test_a_solve_is_cancelled(notebook: Notebook) -> None:
    screen = shown(notebook, PATIENT)
    cancel = button(screen, "Cancel")
    expect(cancel).to_be_disabled()
    slider(screen, "At most (s)").focus()
    notebook.page.keyboard.press("ArrowLeft")
    in_state(screen, "running")
    cancel.click()
    in_state(screen, "cancelled")
    expect(cancel).to_be_disabled()
    expect(screen.locator(".dora-sentence")).to_contain_text("Cancelled")
    button(screen, "As asked first").click()
    in_state(screen, "done")


def test_a_plan_runs_and_what_is_measured_is_laid_over_it(notebook: Notebook) -> None:
    pytest.importorskip("torch")
    screen = shown(notebook, RUNS)
    panel = choose_tab(screen, "Run")
    panel.get_by_label("Steps", exact=True).fill("2")
    panel.get_by_label("Steps", exact=True).press("Enter")
    button(panel, "Run this plan").click()
    expect(panel.locator("[role=status]")).to_contain_text("The run is over.", timeout=RUN_MS)
    expect(screen.locator(".dora-gantt-title")).to_have_text(
        "Training step 2 on this machine: predicted above, measured below"
    )
    expect(screen.locator(".dora-gantt-legend")).to_contain_text("below: measured")
    expect(panel.locator("table").first).to_be_visible()
    panel.get_by_role("button", name="Prediction").click()
    expect(screen.locator(".dora-gantt-title")).to_have_text(re.compile("predicted$"))
    expect(screen.locator(".dora-gantt-legend")).not_to_contain_text("measured")
