"""Every notebook runs to its end, and what it found can be read where there is neither a kernel nor a network.

The quickstart runs in JupyterLab: see ``browser/test_quickstart.py``.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from browser.lab import CHROMIUM_ARGUMENTS
from executed import (
    FOLDER,
    check_every_result_is_exported,
    check_it_opens_in,
    check_it_says_what_it_shows_and_fetches_nothing,
    executed,
)

NOTEBOOKS = sorted(path for path in FOLDER.glob("*.ipynb") if path.stem != "01_quickstart")


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    """A notebook, executed."""
    return executed(request.param)


def test_it_says_what_it_shows_and_shows_it_offline(notebook: nbformat.NotebookNode) -> None:
    check_it_says_what_it_shows_and_fetches_nothing(notebook)


def test_exported_it_still_shows_every_result(notebook: nbformat.NotebookNode) -> None:
    check_every_result_is_exported(notebook)


@pytest.mark.browser
def test_exported_it_opens_in_a_browser_that_has_nothing_to_complain_about(
    notebook: nbformat.NotebookNode, chromium: str, tmp_path: Path
) -> None:
    from playwright.sync_api import sync_playwright

    # Started here and not for all tests: while playwright is there, asyncio is taken to be running.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM_ARGUMENTS))
        check_it_opens_in(browser, notebook, tmp_path)
        browser.close()
