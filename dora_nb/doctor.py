"""What is installed, which solver may be used, and what is missing for what."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
from dataclasses import dataclass

from dora_nb import catalog, solvers
from dora_nb.errors import DoraError

#: Packages by what they are needed for; the extra that installs them.
PACKAGES = {
    "planning": ("", ("numpy", "pandas", "pydantic", "linopy", "highspy", "gurobipy")),
    "running plans": ("exec", ("torch", "safetensors")),
    "Hugging Face models": ("hf", ("transformers",)),
    "notebooks": ("explore", ("jupyterlab", "ipywidgets", "anywidget", "plotly")),
    "sweeps": ("sweep", ("papermill", "joblib", "ipykernel", "pyarrow")),
    "sweeps on a cluster": ("dask", ("distributed",)),
    "measured energy": ("meters", ("nvidia-ml-py",)),
}

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    topic, name
        What it belongs to, and what it is.
    ok
        Whether it is there and usable.
    detail
        Version, licence, place, or what to do.
    """

    topic: str
    name: str
    ok: bool
    detail: str


def examine() -> list[Finding]:
    """Look at Python, packages, solvers, data and browser; nothing is changed and nothing large is solved."""
    findings = [
        Finding("system", "python", sys.version_info >= (3, 11), f"{platform.python_version()}, {sys.executable}")
    ]
    for topic, (extra, packages) in PACKAGES.items():
        findings.extend(_package(topic, name, extra) for name in packages)
    findings.extend(
        Finding("solvers", each.name, each.usable, f"{each.version or ''} {each.detail}".strip())
        for each in solvers.available()
    )
    findings.append(_data())
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    findings.append(
        Finding("browser tests", "chromium", browser is not None, browser or "not found; only needed for browser tests")
    )
    return findings


def _package(topic: str, name: str, extra: str) -> Finding:
    try:
        return Finding(topic, name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        target = f"dora-nb[{extra}]" if extra else "dora-nb"
        return Finding(topic, name, False, f"not installed; pip install '{target}'")


def _data() -> Finding:
    try:
        found = {kind: len(catalog.names(kind)) for kind in ("devices", "models", "deployments")}
    except (DoraError, OSError) as error:
        return Finding("data", "catalogue", False, str(error))
    counts = ", ".join(f"{count} {kind}" for kind, count in found.items())
    return Finding("data", "catalogue", all(found.values()), f"{counts} in {catalog.data_dir()}")
