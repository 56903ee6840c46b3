"""The report of a sweep, opened from its file by a browser without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
from swept import made_up_tables

from dora_nb.sweeps.reporting import report_page
from dora_nb.sweeps.views import sweep_view

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_draws_all_its_plots_and_asks_for_nothing(
    browser: Browser, tmp_path: Path, scheme: Literal["light", "dark"]
) -> None:
    path = tmp_path / "report.html"
    path.write_text(report_page(sweep_view(*made_up_tables())), encoding="utf-8")
    page, asked, said = browser.new_page(color_scheme=scheme), list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_function("document.querySelectorAll('.dora-figure .main-svg').length >= 7", timeout=120_000)
    assert page.locator(".dora-figure").count() == 7
    assert page.locator(".dora-figure .heatmaplayer image").count() == 4
    assert page.get_by_text("no plan", exact=True).count() == 4
    assert [url for url in asked if url != path.as_uri() and not url.startswith(("data:", "blob:"))] == []
    assert said == []
    page.close()
