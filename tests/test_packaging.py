"""The wheel carries the data, and works in an environment that has nothing of the clone."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_package_data_and_schema_but_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "dora_nb/data/deployments/smart-home.json" in names
    assert "dora_nb/data/schemas/plan.schema.json" in names
    assert "dora_nb/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "notebooks"))]


def test_a_deployment_loads_from_the_installed_wheel_in_a_clean_environment(wheel, tmp_path):
    """A fresh environment with the wheel alone; what it depends on comes from this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "clean env")], check=True)
    clean = next((tmp_path / "clean env").glob("lib/python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(clean)
    (clean / "dependencies.pth").write_text(next(path for path in sys.path if path.endswith("site-packages")) + "\n")
    program = (
        "import dora_nb, dora_nb.catalog as catalog; cluster = catalog.load_cluster('smart-home'); "
        "print(dora_nb.__file__, catalog.data_dir(), len(cluster.devices), sep='\\n')"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    python = tmp_path / "clean env" / "bin" / "python"
    ran = subprocess.run([python, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert ran.returncode == 0, ran.stderr
    module, data, devices = ran.stdout.split("\n")[:3]
    assert Path(module).is_relative_to(clean)
    assert Path(data) == clean / "dora_nb" / "data"
    assert devices == "5"


def test_conda_users_get_the_same_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = ("exec", "hf", "explore", "sweep", "dask")
    wanted = [*project["dependencies"], *(each for name in named for each in extras[name])]
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    listed = [entry for entry in listed if isinstance(entry, str)] + listed[-1]["pip"]
    normal = {re.sub(r"\s+", "", entry) for entry in listed}
    assert {re.sub(r"\s+", "", entry) for entry in wanted} <= normal


def test_without_extras_nothing_pulls_torch():
    """What the package depends on, what that depends on, and so on, as installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting, needed = [Requirement(each) for each in project["dependencies"]], set()
    while waiting:
        each = waiting.pop()
        if each.name not in needed and (each.marker is None or each.marker.evaluate({"extra": ""})):
            needed.add(each.name)
            waiting += map(Requirement, metadata.requires(each.name) or ())
    assert {"numpy", "pandas", "linopy", "highspy", "gurobipy"} <= needed
    assert not needed & {"torch", "transformers", "plotly", "jupyterlab", "ipywidgets", "anywidget"}


def test_versions_agree():
    import dora_nb

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == dora_nb.__version__
    assert f"version: {dora_nb.__version__}" in (ROOT / "CITATION.cff").read_text()


def test_the_top_level_holds_what_it_should():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {name.split("/")[0] for name in listed.stdout.split("\n") if name and not name.startswith(".")}
    folders = {"dora_nb", "notebooks", "data", "docs", "tests"}
    files = {
        "pyproject.toml",
        "environment.yml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "GLOSSARY.md",
        "CITATION.cff",
    }
    assert top == folders | files
