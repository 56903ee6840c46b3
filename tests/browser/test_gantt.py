"""The timeline in the browser: pointer, wheel and keys, measured beside predicted, themes and a narrow column."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import pytest
from browser.lab import FIND_BUILDERS, Notebook, Opener

if TYPE_CHECKING:
    from playwright.sync_api import Locator

expect = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright").expect

CELLS = [
    f"{FIND_BUILDERS}from runs import made_up_run\n"
    "from dora_nb.explorer import Gantt\n"
    "gantt = Gantt(made_up_run({'a': 1.0, 'b': 1.2, 'c': 1.0}))\ngantt",
    "Gantt(made_up_run({'a': 1.0, 'b': 1.2, 'c': 1.0}, transfer_s=5e4))",
]

#: Remember where numbers are written on bars.
NOTE_NUMBERS = """() => {
  const write = CanvasRenderingContext2D.prototype.fillText;
  window.numbers = new Map();
  CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
    const row = `${[...document.querySelectorAll('canvas')].indexOf(this.canvas)}, ${y}`;
    if (this.textBaseline === 'middle' && this.textAlign === 'center') {
      window.numbers.set([text, x, row].join(), [x, row, this.measureText(text).width]);
    }
    return write.apply(this, arguments);
  };
}"""


@pytest.fixture(scope="module")
def notebook(open_notebook: Opener) -> Notebook:
    found = open_notebook(CELLS)
    found.run_all()
    found.output(0).locator(".dora-gantt[data-painted]").wait_for()
    return found


@pytest.fixture
def gantt(notebook: Notebook) -> Locator:
    """The widget, all of its time shown and nothing picked."""
    found = notebook.output(0).locator(".dora-gantt")
    plot = found.locator(".dora-gantt-plot")
    plot.scroll_into_view_if_needed()
    plot.focus()
    for key in ("Escape", "Home"):
        notebook.page.keyboard.press(key)
    return found


def picture(gantt: Locator) -> str:
    """What is drawn; zoomed in it is another one."""
    found: str = gantt.locator("canvas").first.evaluate("canvas => canvas.toDataURL()")
    return found


def words(gantt: Locator) -> str:
    return str(gantt.locator(".dora-gantt-status").inner_text())


def middle_of_picked(gantt: Locator) -> tuple[float, float]:
    """Where the bar that is picked stands in the page: in the middle of what the overlay outlines."""
    x, y = (
        gantt.locator("canvas")
        .nth(1)
        .evaluate("""canvas => {
      const {data, width, height} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      const marked = [...Array(width * height).keys()].filter(at => data[4 * at + 3] > 0);
      const middle = values => (values.reduce((a, b) => Math.min(a, b)) + values.reduce((a, b) => Math.max(a, b))) / 2;
      const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
      return [box.left + middle(marked.map(at => at % width)) / scale,
              box.top + middle(marked.map(at => Math.floor(at / width))) / scale];
    }""")
    )
    return x, y


def test_keys_go_from_bar_to_bar_and_the_kernel_knows(notebook: Notebook, gantt: Locator) -> None:
    press, said = notebook.page.keyboard.press, []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowUp", "ArrowLeft"):
        press(key)
        said.append(words(gantt))
    assert "stage 0" in said[0]
    assert "predicted" in said[0]
    assert "measured" in said[2], "below what is predicted is what was measured of it"
    assert len(set(said[:3])) == 3
    assert said[-1] == said[0]
    notebook.wait_for_value("gantt.picked >= 0", True)
    press("Escape")
    expect(gantt.locator(".dora-gantt-hint")).to_be_visible()
    notebook.wait_for_value("gantt.picked", -1)


def test_the_pointer_is_told_of_a_bar_and_picks_it(notebook: Notebook, gantt: Locator) -> None:
    notebook.page.keyboard.press("ArrowRight")
    said, at = words(gantt), middle_of_picked(gantt)
    notebook.page.keyboard.press("Escape")
    tip = gantt.locator(".dora-tip")
    notebook.page.mouse.move(*at)
    expect(tip).to_be_visible()
    assert "; ".join(tip.inner_text().splitlines()) == said
    notebook.page.mouse.click(*at)
    assert words(gantt) == said
    notebook.page.mouse.move(5, 5)
    expect(tip).to_be_hidden()


def test_zoom_and_pan(notebook: Notebook, gantt: Locator) -> None:
    keyboard, mouse = notebook.page.keyboard, notebook.page.mouse
    box = gantt.locator("canvas").first.bounding_box()
    assert box is not None
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    whole = picture(gantt)
    keyboard.press("+")
    keyed = picture(gantt)
    keyboard.press("Shift+ArrowLeft")
    moved = picture(gantt)
    mouse.move(*middle)
    mouse.down()
    mouse.move(middle[0] - 120, middle[1], steps=4)
    mouse.up()
    dragged = picture(gantt)
    mouse.wheel(0, -300)  # the timeline has the focus
    notebook.page.wait_for_function(
        "before => document.querySelector('.dora-gantt canvas').toDataURL() !== before", arg=dragged
    )
    wheeled = picture(gantt)
    gantt.get_by_role("button", name="Zoom in").click()
    assert len({whole, keyed, moved, dragged, wheeled, picture(gantt)}) == 6
    gantt.get_by_role("button", name="Show everything").click()
    assert picture(gantt) == whole
    keyboard.press("-")
    assert picture(gantt) == whole, "there is nothing left to zoom out"


def test_lanes_as_a_table(gantt: Locator) -> None:
    gantt.locator("summary").click()
    rows = gantt.locator("details tbody tr")
    expect(rows.first).to_be_visible()
    assert rows.count() >= 3
    gantt.locator("summary").click()


def test_no_number_is_written_over_another(open_notebook: Opener) -> None:
    notebook = open_notebook(CELLS)
    notebook.run_all()
    notebook.output(1).locator(".dora-gantt[data-painted]").wait_for()
    notebook.page.evaluate(NOTE_NUMBERS)
    notebook.change_theme("dark")
    notebook.page.wait_for_function("() => window.numbers.size > 0")
    notebook.page.wait_for_timeout(200)
    written = notebook.page.evaluate("() => [...window.numbers.values()]")
    near = [(a, b) for a, b in combinations(written, 2) if a[1] == b[1] and abs(a[0] - b[0]) < (a[2] + b[2]) / 2]
    assert len(written) > 3
    assert not near


def test_light_dark_and_narrow(notebook: Notebook, gantt: Locator) -> None:
    light = picture(gantt)
    notebook.change_theme("dark")
    differs = "before => document.querySelector('.dora-gantt canvas').toDataURL() !== before"
    notebook.page.wait_for_function(differs, arg=light)
    assert notebook.pale_texts() == []
    notebook.change_theme("light")
    notebook.page.wait_for_function(f"before => !({differs})(before)", arg=light)
    assert notebook.pale_texts() == []
    notebook.page.set_viewport_size({"width": 760, "height": 800})
    notebook.page.wait_for_function(differs, arg=light)
    assert gantt.evaluate("root => root.scrollWidth <= root.clientWidth")
    notebook.page.set_viewport_size({"width": 1280, "height": 800})
