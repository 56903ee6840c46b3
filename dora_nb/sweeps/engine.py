"""How papermill runs a point: a kernel with an environment of its own, ended in time and without widget state."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

import papermill
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, papermill_engines
from papermill.iorw import papermill_io
from traitlets.config import Config

NAME = "dora-nb"

#: Seconds that a kernel may take to start, on a busy machine.
_START_S = 120

#: What goes between here and a kernel is nobody else's business, where both sides can encrypt.
_CONFIG = Config({"KernelManager": {"transport_encryption": "auto"}})


class OneKernel(Engine):  # type: ignore[misc]
    """A fresh kernel a notebook; papermill's own engine takes neither an environment nor a limit for the whole."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> None:
        """Run all cells until one fails.

        Parameters
        ----------
        nb_man
            Papermill's record of the notebook.
        kernel_name
            Which kernel.
        options
            ``environment``, ``folder`` and ``limit_s``, as :func:`execute` was given them.
        """
        until = None if options["limit_s"] is None else time.monotonic() + options["limit_s"]
        client = PapermillNotebookClient(
            nb_man,
            config=_CONFIG,
            kernel_name=kernel_name,
            startup_timeout=options["start_timeout"],
            timeout_func=None if until is None else lambda _: max(until - time.monotonic(), 1e-3),
            resources={"metadata": {"path": options["folder"]}},
            store_widget_state=False,  # megabytes that a viewer without the kernel can do nothing with
            shutdown_kernel="immediate",
        )
        client.execute(env=options["environment"])


class _Memory:
    """Where papermill reads notebooks and writes them to: no files, which a killed process would leave behind."""

    def __init__(self) -> None:
        self.notebooks: dict[str, str] = {}
        self.tell: dict[str, Callable[[str], None]] = {}

    def read(self, path: str) -> str:
        return self.notebooks[path]

    def write(self, notebook: str, path: str) -> None:
        self.tell[path](notebook)

    def pretty_path(self, path: str) -> str:
        return path


_MEMORY, _SCHEME = _Memory(), f"{NAME}://"

papermill_engines.register(NAME, OneKernel)
papermill_io.register(_SCHEME, _MEMORY)


def execute(
    notebook: str,
    parameters: dict[str, Any],
    tell: Callable[[str], None],
    *,
    kernel: str,
    environment: dict[str, str],
    folder: str,
    limit_s: float | None,
) -> None:
    """Run a notebook with parameters.

    Parameters
    ----------
    notebook
        Its JSON.
    parameters
        By name.
    tell
        Called with the JSON of the notebook and its outputs, after every cell, so that what fails is known as well.
    kernel
        Name of the kernel.
    environment, folder
        Of the kernel.
    limit_s
        Seconds after which it is ended; None: never.

    Raises
    ------
    Exception
        Papermill's or nbclient's, where a cell fails, the kernel dies or time is up.
    """
    path = f"{_SCHEME}{secrets.token_hex(8)}.ipynb"
    _MEMORY.notebooks[path], _MEMORY.tell[path] = notebook, tell
    try:
        papermill.execute_notebook(
            path,
            path,
            parameters=parameters,
            engine_name=NAME,
            kernel_name=kernel,
            progress_bar=False,
            start_timeout=_START_S,
            environment=environment,
            folder=folder,
            limit_s=limit_s,
        )
    finally:
        del _MEMORY.notebooks[path], _MEMORY.tell[path]
