"""The quickstart as a person meets it: every cell runs, tables and pictures are shown and can be read, also offline."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import nbconvert
import nbformat
import pytest
from browser.lab import Notebook, Opener, Theme
from executed import (
    FOLDER,
    check_every_result_is_exported,
    check_it_opens_in,
    check_it_says_what_it_shows_and_fetches_nothing,
    executed,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser

QUICKSTART = FOLDER / "01_quickstart.ipynb"


@pytest.fixture(scope="module")
def quickstart(open_notebook: Opener) -> Notebook:
    notebook = open_notebook(QUICKSTART)
    notebook.run_all()
    return notebook


@pytest.fixture(scope="module")
def saved(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    """As JupyterLab saves it, or run without one where there is no browser to drive it."""
    if importlib.util.find_spec("playwright") is None or shutil.which("chromium") is None:
        return executed(QUICKSTART)
    return nbformat.read(request.getfixturevalue("quickstart").save(), as_version=4)


def test_it_runs_and_shows_tables_and_pictures(quickstart: Notebook) -> None:
    plans = quickstart.output(cell=8)
    assert "5 plans for qwen3-0.6b on smart-home" in plans.inner_text()
    assert plans.locator("table.dora-plans tbody tr").count() >= 5
    front, schedule = plans.locator("svg").first, quickstart.output(cell=15).locator("svg").first
    for picture in (front, schedule):
        box = picture.bounding_box()
        assert box is not None
        assert box["width"] > 600
        assert box["height"] > 100
    assert "from the same network in one process" in quickstart.output(cell=18).inner_text()
    assert "predicted" in quickstart.output(cell=20).inner_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_can_be_read(quickstart: Notebook, theme: Theme) -> None:
    quickstart.change_theme(theme)
    assert quickstart.pale_texts() == []


def test_it_says_what_it_shows_and_shows_it_offline(saved: nbformat.NotebookNode) -> None:
    check_it_says_what_it_shows_and_fetches_nothing(saved)


def test_exported_it_still_shows_every_result(saved: nbformat.NotebookNode) -> None:
    check_every_result_is_exported(saved)


def test_exported_it_opens_in_a_browser_that_has_nothing_to_complain_about(
    saved: nbformat.NotebookNode, browser: Browser, tmp_path: Path
) -> None:
    check_it_opens_in(browser, saved, tmp_path)


def test_exported_as_a_person_does_it_is_shown_offline(
    saved: nbformat.NotebookNode, browser: Browser, tmp_path: Path
) -> None:
    exported, _ = nbconvert.HTMLExporter().from_notebook_node(saved)
    file = tmp_path / "quickstart.html"
    file.write_text(exported, encoding="utf-8")
    page = browser.new_page(viewport={"width": 1280, "height": 800}, offline=True)
    page.goto(file.as_uri())
    assert page.locator("table.dora-plans tbody tr").count() >= 5
    pictures = page.locator(".jp-OutputArea-output svg[role=img]")
    assert pictures.count() >= 2
    for picture in pictures.all():
        box = picture.bounding_box()
        assert box is not None
        assert box["width"] > 300
        assert box["x"] + box["width"] <= 1280
    assert "from the same network in one process" in page.locator("main").inner_text()
    page.close()
