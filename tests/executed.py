"""Notebooks that were run, and what must hold of them where there is neither a kernel nor a network."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import nbconvert
import nbformat
import pytest
from nbmake.nb_run import NotebookRun

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FOLDER = Path(__file__).parents[1] / "notebooks"

#: Seconds that a cell may take on a busy machine. A whole notebook takes less than 90 s where two cores are free.
TIMEOUT_S = 180

#: What would make a browser ask somebody for something.
_FETCHES = re.compile(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//|url\(\s*["']?(?:https?:)?//|@import|<link\b""", re.I)

_WIDGET = "application/vnd.jupyter.widget-view+json"
_WIDGET_STATE = re.compile(r'<script type="application/vnd.jupyter.widget-state\+json">.*?</script>', re.S)


def executed(path: Path) -> nbformat.NotebookNode:
    """A notebook, run in a kernel of its own; a cell that raises fails the test."""
    result = NotebookRun(path, TIMEOUT_S).execute()
    if result.error is not None:
        pytest.fail(result.error.trace, pytrace=False)
    return result.nb


def check_it_says_what_it_shows_and_fetches_nothing(notebook: nbformat.NotebookNode) -> None:
    assert notebook.cells[0].cell_type == "markdown"
    shown = [text for output in _outputs(notebook) if (text := output.get("data", {}).get("text/html"))]
    assert any("<svg" in text or 'class="dora-figure"' in text for text in shown), "no picture"
    assert [found.group() for text in shown for found in _FETCHES.finditer(text)] == []


def check_every_result_is_exported(notebook: nbformat.NotebookNode) -> None:
    exported, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
    exported = _WIDGET_STATE.sub("", exported)  # for a kernel-less viewer of widgets, which has to be fetched
    words, pictures, before = _words(exported), 0, {}
    for output in _outputs(notebook):
        data = output.get("data", {})
        # Of one output nbconvert would take the widget alone: what stands for it is the output before it.
        assert _WIDGET not in data or "text/html" in before, "a widget has no fallback"
        pictures += data.get("text/html", "").count("<svg")
        assert _words(data.get("text/html", "")) in words
        before = data
    assert exported.count("<svg") == pictures


def check_it_opens_in(browser: Browser, notebook: nbformat.NotebookNode, folder: Path) -> None:
    """From its file and without a network: no error on the console, nothing asked for, every picture drawn."""
    # What nbconvert itself would fetch, to typeset formulas and to draw diagrams and widgets, stays out.
    exporter = nbconvert.HTMLExporter(
        mathjax_url="", require_js_url="", mermaid_js_url="", widget_renderer_url="data:text/javascript,"
    )
    exported, _ = exporter.from_notebook_node(notebook)
    file = folder / "notebook.html"
    file.write_text(_WIDGET_STATE.sub("", exported), encoding="utf-8")
    asked, said = list[str](), list[str]()
    page = browser.new_page(viewport={"width": 1280, "height": 800}, offline=True)
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(file.as_uri())
    figures = page.locator(".dora-figure").count()
    drawn = "count => document.querySelectorAll('.dora-figure .main-svg').length >= count"
    page.wait_for_function(drawn, arg=figures, timeout=120_000)
    boxes = [each.bounding_box() for each in page.locator(".jp-OutputArea-output svg[role=img]").all()]
    page.close()
    assert figures or boxes
    assert all(box is not None and box["width"] > 50 and box["height"] > 10 for box in boxes), boxes
    assert [url for url in asked if url != file.as_uri() and not url.startswith(("data:", "blob:"))] == []
    assert said == []


def _outputs(notebook: nbformat.NotebookNode) -> Iterator[nbformat.NotebookNode]:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            yield from cell.outputs


def _words(page: str) -> str:
    """What a person can read of a page, one blank between words: exporting lays the text of a page out anew."""
    bare = re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.S)
    return " ".join(html.unescape(bare).split())
