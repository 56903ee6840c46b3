"""Makes the picture of the explorer in the README: ``cd tests && python -m browser.picture``.

The case of the quickstart in a real JupyterLab, after every solve is over.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from browser.lab import CHROMIUM_ARGUMENTS, Lab, Notebook
from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parents[2] / "notebooks" / "pictures" / "explorer.png"

#: Of the picture, in pixels, and the margin around the explorer in it.
WIDTH, HEIGHT, MARGIN = 1280, 800, 5

CELLS = (
    "import dora_nb as dora\nworkload = dora.load_workload('qwen3-0.6b', mode='training', batch=16)\n"
    "plans = dora.plan(workload, dora.load_cluster('smart-home'), dora.QoE(latency_s=30.0, objective='energy'),\n"
    "                  time_limit_s=600.0)",
    "explorer = plans.explore()\nexplorer",
)


def main() -> None:
    """Make it."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        lab = Lab(Path(folder) / "lab")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(CHROMIUM_ARGUMENTS))
        page = browser.new_page(viewport={"width": 1500, "height": 1100})
        notebook = Notebook(page, lab, lab.put(CELLS), "light")
        page.evaluate("void jupyterapp.commands.execute('application:toggle-left-area')")
        notebook.run_all(timeout_s=600.0)
        explorer = notebook.output(1).locator(".dora-explorer")
        explorer.locator(".dora-gantt[data-painted]").wait_for()
        notebook.wait_for_value("explorer.busy", False, timeout_s=600.0)
        wide = explorer.bounding_box()
        assert wide is not None
        page.set_viewport_size({"width": round(1500 + WIDTH - 2 * MARGIN - wide["width"]), "height": 1100})
        page.wait_for_timeout(1000)  # until all of it has its new width
        notebook.output(1)
        box = explorer.bounding_box()
        assert box is not None
        clip = {"x": box["x"] - MARGIN, "y": box["y"] - MARGIN, "width": WIDTH, "height": HEIGHT}
        PICTURE.parent.mkdir(exist_ok=True)
        page.screenshot(path=PICTURE, clip=clip)
        notebook.close()
        browser.close()
        lab.close()


if __name__ == "__main__":
    main()
