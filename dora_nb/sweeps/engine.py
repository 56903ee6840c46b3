"""How papermill runs a point: a kernel with an environment of its own, ended in time and without widget state."""

from __future__ import annotations

import time
from typing import Any

import papermill
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, papermill_engines
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


papermill_engines.register(NAME, OneKernel)


def execute(
    given: str,
    executed: str,
    parameters: dict[str, Any],
    *,
    kernel: str,
    environment: dict[str, str],
    folder: str,
    limit_s: float | None,
) -> None:
    """Run a notebook with parameters.

    Parameters
    ----------
    given, executed
        Path of the notebook, and where it goes with its outputs: after every cell, so that what fails is kept.
    parameters
        By name.
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
    papermill.execute_notebook(
        given,
        executed,
        parameters=parameters,
        engine_name=NAME,
        kernel_name=kernel,
        progress_bar=False,
        start_timeout=_START_S,
        environment=environment,
        folder=folder,
        limit_s=limit_s,
    )
