"""The same notebook as an application, without its code: voila shows what JupyterLab shows."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser.lab import START_S, free_port, write_notebook

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytest.importorskip("voila", reason="needs voila: pip install -e '.[test]'")

CELLS = (
    "import dora_nb as dora",
    "workload = dora.load_workload('vit-b-16', batch=4)",
    "plans = dora.plan(workload, dora.load_cluster('edge-cluster'), most_plans=2)",
    "plans",
)

#: Its own page asks for a font of icons that notebooks do not need.
VOILAS_OWN = "https://cdn.jsdelivr.net/npm/@fortawesome/"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    write_notebook(tmp_path / "cells.ipynb", CELLS)
    port = free_port()
    own = {f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    command = [sys.executable, "-m", "voila", "cells.ipynb", f"--port={port}", "--no-browser", "--Voila.ip=127.0.0.1"]
    with (tmp_path / "voila.log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | own, stdout=log, stderr=log)
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/voila/static/", timeout=5):
                break
        except urllib.error.HTTPError:
            break
        except OSError:
            time.sleep(0.1)
    yield f"http://127.0.0.1:{port}/"
    process.terminate()
    process.wait(20)


def test_voila_shows_tables_and_pictures_and_no_code(address: str, browser: Browser) -> None:
    page, asked = browser.new_page(viewport={"width": 1280, "height": 800}), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("table.dora-plans")
    assert page.locator("svg[role=img]").count() == 1
    assert "load_workload" not in page.locator("body").inner_text()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:", VOILAS_OWN))] == []
    page.close()
