"""A real JupyterLab and a page object for the notebooks in it: what tests in this folder drive.

Everything is local: the server has its own folders, a token and no news; the browser resolves no name but this machine.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import nbformat

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Locator, Page

Theme = Literal["light", "dark"]

#: First line of a cell that imports what tests build from.
FIND_BUILDERS = f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"

#: Chromium started by root (as in a container) has no sandbox; no name but this machine's resolves.
CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)

#: Seconds until the server answers, until the page stands, and until a notebook has run.
START_S, LOAD_S, RUN_S = 120.0, 60.0, 180.0

_THEMES: dict[Theme, str] = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}

#: The notebook in front: its cells' state, errors told in full.
_STATE = """() => {
  const cells = window.jupyterapp.shell.currentWidget.content.widgets.filter(each => each.model.type === 'code');
  const errors = cells.flatMap((cell, place) => cell.model.outputs.toJSON()
    .filter(output => output.output_type === 'error')
    .map(output => `code cell ${place}: ${output.ename}: ${output.evalue}\\n${output.traceback.join('\\n')}`));
  const running = cells.map((cell, place) => [cell.model, place])
    .filter(([model]) => model.sharedModel.getSource().trim() !== '')
    .filter(([model]) => model.executionState !== 'idle' || model.executionCount === null)
    .map(([model, place]) => `code cell ${place}: ${model.executionState}, count ${model.executionCount}`);
  return {errors, running};
}"""

_ENDED = f"() => {{ const state = ({_STATE})(); return !state.running.length || state.errors.length > 0; }}"

_EVALUATE = """async expression => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const asked = {code: '', silent: true, user_expressions: {value: expression}};
  return (await kernel.requestExecute(asked).done).content.user_expressions.value;
}"""

_READY = """() => {
  const open = window.jupyterapp && window.jupyterapp.shell.currentWidget;
  if (!open || !open.content || !open.content.widgets || !open.content.widgets.length) return false;
  const session = open.sessionContext && open.sessionContext.session;
  return Boolean(session && session.kernel && session.kernel.connectionStatus === 'connected'
    && session.kernel.status === 'idle');
}"""


#: Texts of outputs with their contrast, where it is below what is asked for. In a picture only text in the page's own
#: colour counts: what is written on a bar has the bar behind it.
_PALE = """least => {
  const rgb = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
  const mixed = (over, under, alpha) => over.slice(0, 3).map((part, at) => alpha * part + (1 - alpha) * under[at]);
  const light = colour => {
    const [r, g, b] = colour.map(part => part / 255)
      .map(part => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = node => {
    for (let at = node; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const pale = [];
  for (const node of document.querySelectorAll('.jp-OutputArea-output *')) {
    const own = [...node.childNodes].filter(child => child.nodeType === 3 && child.data.trim());
    if (!own.length || !node.getClientRects().length || ['STYLE', 'SCRIPT', 'TITLE'].includes(node.nodeName)) continue;
    const style = getComputedStyle(node), drawn = node instanceof SVGElement;
    if (drawn && style.fill !== style.color) continue;
    let alpha = drawn ? Number(style.fillOpacity) : 1;
    for (let at = node; at && !at.classList.contains('jp-OutputArea'); at = at.parentElement) {
      alpha *= Number(getComputedStyle(at).opacity);
    }
    const under = behind(node), ink = rgb(style.color);
    const [one, other] = [light(under), light(mixed(ink, under, alpha * (ink.length > 3 ? ink[3] : 1)))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < least) pale.push(`${contrast.toFixed(2)}: ${own[0].data.trim().slice(0, 60)}`);
  }
  return [...new Set(pale)];
}"""


class Lab:
    """A JupyterLab server on a free port, in folders of its own.

    Attributes
    ----------
    root
        Folder of the notebooks it serves.
    url, token
        Where it is, and what opens it.
    log
        File of what it says.
    """

    def __init__(self, folder: Path) -> None:
        self.root, self.log = folder / "notebooks", folder / "jupyterlab.log"
        self._settings = folder / "config" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
        self.root.mkdir(parents=True)
        self._settings.mkdir(parents=True)
        pages = folder / "config" / "labconfig"
        pages.mkdir()
        # The question whether to receive news would lie over the notebook.
        pages.joinpath("page_config.json").write_text(
            '{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}'
        )
        self.token, port = secrets.token_hex(16), free_port()
        self.url = f"http://127.0.0.1:{port}"
        own = {
            "JUPYTER_CONFIG_DIR": folder / "config",
            "JUPYTER_DATA_DIR": folder / "data",
            "JUPYTER_RUNTIME_DIR": folder / "runtime",
            "JUPYTERLAB_SETTINGS_DIR": folder / "config" / "lab" / "user-settings",
            "JUPYTERLAB_WORKSPACES_DIR": folder / "config" / "lab" / "workspaces",
            "IPYTHONDIR": folder / "ipython",
        }
        options = {
            "--ServerApp.ip": "127.0.0.1",
            "--ServerApp.port": port,
            "--ServerApp.port_retries": 0,
            "--ServerApp.root_dir": self.root,
            "--ServerApp.open_browser": False,
            "--ServerApp.allow_root": True,
            "--IdentityProvider.token": self.token,
            "--LabApp.expose_app_in_browser": True,
            "--LabApp.extension_manager": "readonly",
            "--LabApp.news_url": "",
            "--LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        }
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", *(f"{name}={value}" for name, value in options.items())],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {name: str(value) for name, value in own.items()},
            )
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + START_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                self._ask("api/status")
                return
            except OSError:
                time.sleep(0.05)
        self.close()
        raise RuntimeError(f"JupyterLab did not start:\n{self.log.read_text()}")

    def _ask(self, path: str, method: str = "GET") -> None:
        headers = {"Authorization": f"token {self.token}"}
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/{path}", headers=headers, method=method)):
            pass

    def put(self, notebook: Path | Sequence[str]) -> str:
        """Put a copy of a notebook, or one of these code cells, where it is served; its name there."""
        folder = self.root / secrets.token_hex(4)
        folder.mkdir()
        if isinstance(notebook, Path):
            shutil.copy(notebook, folder)
            return f"{folder.name}/{notebook.name}"
        write_notebook(folder / "cells.ipynb", notebook)
        return f"{folder.name}/cells.ipynb"

    def wear(self, theme: Theme) -> None:
        """The theme of pages opened from now on."""
        self._settings.joinpath("themes.jupyterlab-settings").write_text(f'{{"theme": "{_THEMES[theme]}"}}')

    def end_session(self, session: str) -> None:
        """End a notebook's kernel."""
        self._ask(f"api/sessions/{session}", "DELETE")

    def close(self) -> None:
        """End the server, and with it every kernel."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


#: Opens a copy of a notebook, or one made of code cells: ``open_notebook(cells, theme="dark", size=(560, 800))``.
Opener = Callable[..., "Notebook"]


def write_notebook(path: Path, cells: Sequence[str]) -> None:
    """A notebook of these code cells."""
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    made = [nbformat.v4.new_code_cell(source) for source in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": kernel}), path)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Notebook:
    """A notebook open in JupyterLab.

    Attributes
    ----------
    page
        The browser's page.
    path
        Where the notebook is.
    problems
        What went wrong that nobody asked for: errors on the console, and requests that leave this machine.
    """

    def __init__(self, page: Page, lab: Lab, name: str, theme: Theme) -> None:
        self.page, self.path, self.problems, self._lab = page, lab.root / name, list[str](), lab
        page.set_default_timeout(1_000 * LOAD_S)
        page.on("console", self._note_console)
        page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}\n{error.stack}"))
        page.on("request", lambda request: self._note_request(request.url))
        page.on("websocket", lambda socket: self._note_request(socket.url))
        lab.wear(theme)
        page.goto(f"{lab.url}/lab/tree/{name}?reset&token={lab.token}")
        page.wait_for_function(_READY)
        self._session: str = page.evaluate("jupyterapp.shell.currentWidget.sessionContext.session.id")

    def _note_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.problems.append(f"console: {message.text} ({message.location.get('url', '')})")

    def _note_request(self, url: str) -> None:
        here = self._lab.url.removeprefix("http")
        if not url.startswith((f"http{here}/", f"ws{here}/", "data:", "blob:")):
            self.problems.append(f"a request left the machine: {url}")

    def run_all(self, timeout_s: float = RUN_S) -> None:
        """Run every cell and wait for the last one; a cell that raises fails the test."""
        self.page.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")
        self.wait_for_cells(timeout_s)

    def run(self, cell: int, timeout_s: float = RUN_S) -> None:
        """Run one cell, by its place among all cells, and wait for it."""
        self.page.evaluate("place => { jupyterapp.shell.currentWidget.content.activeCellIndex = place; }", cell)
        self.page.evaluate("void jupyterapp.commands.execute('notebook:run-cell')")
        self.wait_for_cells(timeout_s)

    def wait_for_cells(self, timeout_s: float = RUN_S) -> None:
        """Wait until no cell runs any more (the kernel's status does not tell)."""
        from playwright.sync_api import TimeoutError as TooLate

        with contextlib.suppress(TooLate):
            self.page.wait_for_function(_ENDED, timeout=1_000 * timeout_s, polling=50)
        state = self.page.evaluate(_STATE)
        if state["errors"]:
            raise AssertionError(re.sub(r"\x1b\[[\d;]*m", "", "\n".join(state["errors"])))
        if state["running"]:
            raise AssertionError("\n".join([f"not over after {timeout_s:g} s:", *state["running"]]))

    def cell(self, cell: int) -> Locator:
        """A cell, by its place among all cells, brought into view: what is outside cannot be clicked."""
        self.page.evaluate(
            "async place => { await jupyterapp.shell.currentWidget.content.scrollToItem(place, 'start'); }", cell
        )
        return self.page.locator(f'.jp-Notebook .jp-Cell[data-windowed-list-index="{cell}"]')

    def output(self, cell: int) -> Locator:
        """What a cell shows."""
        return self.cell(cell).locator(".jp-Cell-outputArea")

    def outputs(self, cell: int) -> list[dict[str, Any]]:
        """What a cell has for outputs, as they would be saved."""
        found: list[dict[str, Any]] = self.page.evaluate(
            "place => jupyterapp.shell.currentWidget.content.widgets[place].model.outputs.toJSON()", cell
        )
        return found

    def value(self, expression: str) -> Any:
        """What an expression is in the kernel, without a cell: a number, a text, None, or tuples and lists of them."""
        reply = self.page.evaluate(_EVALUATE, expression)
        if reply["status"] != "ok":
            raise AssertionError(f"{expression}: {reply['ename']}: {reply['evalue']}")
        return ast.literal_eval(reply["data"]["text/plain"])

    def wait_for_value(self, expression: str, expected: Any, timeout_s: float = LOAD_S) -> None:
        """Wait until the kernel has it: what widgets tell it comes over another channel."""
        until = time.monotonic() + timeout_s
        while (value := self.value(expression)) != expected:
            assert time.monotonic() < until, f"{expression}: {value!r}, not {expected!r}"
            self.page.wait_for_timeout(50)

    def change_theme(self, theme: Theme) -> None:
        """Change the theme as its menu does.

        Each change shows JupyterLab's splash and takes it away 0.2 s later; another one meanwhile makes JupyterLab take
        it away twice, which is an error on the page that is not ours.
        """
        self.page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", _THEMES[theme])
        light = str(theme == "light").lower()
        self.page.wait_for_function(f"document.body.dataset.jpThemeLight === '{light}'")
        self.page.locator("#jupyterlab-splash").wait_for(state="detached")

    def pale_texts(self, least: float = 4.5) -> list[str]:
        """Texts of outputs whose contrast with the page is too low to read easily (WCAG 2.2 asks for 4.5)."""
        found: list[str] = self.page.evaluate(_PALE, least)
        return found

    def save(self) -> Path:
        """Save the notebook with its outputs."""
        self.page.evaluate("jupyterapp.commands.execute('docmanager:save')")
        return self.path

    def close(self) -> None:
        """Close the page and end its kernel."""
        self.page.close()
        self._lab.end_session(self._session)
