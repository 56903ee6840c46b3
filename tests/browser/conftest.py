"""One JupyterLab for all tests here, one chromium for those of a file, and what is left of a test that failed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser.lab import CHROMIUM_ARGUMENTS, Lab, Notebook, Opener, Theme

if TYPE_CHECKING:
    from playwright.sync_api import Browser

#: Of the laptop that the screens are made for.
SIZE = (1280, 800)

_ARTEFACTS = ".artefacts"

_open: list[Notebook] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def lab(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    server = Lab(tmp_path_factory.mktemp("lab"))
    yield server
    server.close()


# Of a file, not of the session: while playwright is there, asyncio is taken to be running, and others need it.
@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM_ARGUMENTS))
        yield found
        found.close()


@pytest.fixture(scope="module")
def open_notebook(lab: Lab, browser: Browser) -> Iterator[Opener]:
    """Open a copy of a notebook, or one made of code cells; what is still open at the end of the file is closed."""

    def opened(notebook: Path | Sequence[str], *, theme: Theme = "light", size: tuple[int, int] = SIZE) -> Notebook:
        page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        found = Notebook(page, lab, lab.put(notebook), theme)
        _open.append(found)
        return found

    yield opened
    while _open:
        _open.pop().close()


@pytest.fixture(autouse=True)
def _nothing_went_wrong(request: pytest.FixtureRequest) -> Iterator[None]:
    """No error on any page's console, no request that leaves the machine."""
    yield
    problems = [problem for each in _open for problem in each.problems]
    for each in _open:
        each.problems.clear()
    if problems:
        pytest.fail("\n".join([*problems, *_keep(request.node)]), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: pytest.TestReport = yield
    if report.when != "teardown" and report.failed:
        report.sections.append(("browser", "\n".join(_keep(item))))
    return report


def _keep(item: pytest.Item) -> list[str]:
    """Keep what every open page shows, and what it said; where, in words."""
    folder = item.config.rootpath / _ARTEFACTS / re.sub(r"[^\w.-]+", "-", item.name)
    kept = []
    for place, each in enumerate(_open):
        folder.mkdir(parents=True, exist_ok=True)
        shot = folder / f"{place}-{each.path.stem}.png"
        each.page.screenshot(path=shot)
        kept.append(f"screenshot: {shot}")
    return kept
