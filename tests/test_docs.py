"""What is written about the package is complete and true: docstrings, examples in them, help, data, citation."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import inspect
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import dora_nb
from dora_nb.cli import app
from dora_nb.domain.record import Record

ROOT = Path(__file__).parents[1]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]

FUNCTIONS = [name for name in dora_nb.__all__ if inspect.isfunction(getattr(dora_nb, name))]
CLASSES = [name for name in dora_nb.__all__ if inspect.isclass(getattr(dora_nb, name))]


def sections(of: object) -> dict[str, str]:
    """Sections of a numpydoc docstring by heading; what comes before them under an empty one."""
    parts = re.split(r"^([A-Z][A-Za-z ]+)\n-{3,}\n", inspect.getdoc(of) or "", flags=re.MULTILINE)
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def named_in(section: str) -> list[str]:
    """What a section explains: words of lines that are not indented."""
    heads = re.findall(r"^(\S.*)$", section, flags=re.MULTILINE)
    return [name.lstrip("*") for head in heads for name in head.split(" : ")[0].split(", ")]


@pytest.mark.parametrize("package", ["domain", "costs", "formulation", "planning", "render", "executor"])
def test_large_packages_say_where_everything_is(package: str) -> None:
    """Each module and folder stands once in the list that the package's docstring is."""
    listed = re.findall(r"``(\w+)``", importlib.import_module(f"dora_nb.{package}").__doc__ or "")
    there = [path.stem for path in (ROOT / "dora_nb" / package).iterdir() if not path.name.startswith("__")]
    assert sorted(listed) == sorted(there)


def test_all_exported_names_are_functions_or_classes() -> None:
    assert {*FUNCTIONS, *CLASSES} == set(dora_nb.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_say_what_they_take_give_and_refuse(name: str) -> None:
    function: Callable[..., object] = getattr(dora_nb, name)
    told, signature = sections(function), inspect.signature(function)
    assert told[""].strip(), "a sentence about what it does"
    assert sorted(named_in(told.get("Parameters", ""))) == sorted(signature.parameters)
    assert ("Returns" in told) == (signature.return_annotation not in (None, "None"))


@pytest.mark.parametrize("name", CLASSES)
def test_classes_say_what_they_hold(name: str) -> None:
    cls = getattr(dora_nb, name)
    told = sections(cls)
    assert told[""].strip(), "a sentence about what it is"
    if issubclass(cls, Record):
        held = list(cls.model_fields)
    elif dataclasses.is_dataclass(cls):
        held = [field.name for field in dataclasses.fields(cls) if field.init and not field.name.startswith("_")]
    else:
        held = [each for each in inspect.signature(cls).parameters if not each.startswith("_")]
    explained = named_in(told.get("Parameters", "")) + named_in(told.get("Attributes", ""))
    assert not set(held) - set(explained)


# ------------------------------------------------------------------ examples in docstrings


def modules_with_examples() -> list[str]:
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / "dora_nb").rglob("*.py"))
        if re.search(r"^\s*>>> ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    ]


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings_run(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert tried > 0
    assert failed == 0


# ------------------------------------------------------------------ the command line


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_teaches_by_an_example_that_parses(name: str) -> None:
    command = COMMANDS[name]
    (example,) = re.findall(r"^Example: dora-nb (.+)$", inspect.getdoc(command.callback) or "", flags=re.MULTILINE)
    called, *arguments = shlex.split(example)
    assert called == name
    command.make_context(name, list(arguments))  # refuses options there are not, and what is missing
    for option in command.params:
        assert option.name == "help" or getattr(option, "help", None), f"{option.name} explains itself"


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "data/README.md", "docs/hosts.md"])
def test_commands_in_documents_are_there(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^(?:.*&& \.venv/bin/|)dora-nb (\w+ .*)$", text, flags=re.MULTILINE):
        called, *arguments = shlex.split(line)
        COMMANDS[called].make_context(called, arguments)


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "CONTRIBUTING.md",
        "GLOSSARY.md",
        "data/README.md",
        *(f"docs/{name}.md" for name in ("fleets", "hosts", "limits", "sweeps")),
    ],
)
def test_files_named_in_documents_exist(document: str) -> None:
    """Links are checked beside the README's other promises; these are names in code style."""
    text = (ROOT / document).read_text(encoding="utf-8")
    homes = [ROOT, ROOT / "dora_nb", ROOT / "data", ROOT / "tests"]
    text = text.replace("NAME", "*")
    for name in set(re.findall(r"`((?:[\w.-]+/)+[\w.*-]*\.(?:py|json|csv|ipynb|md))`", text)):
        assert any(list(home.glob(name)) for home in homes), name


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_links_in_notebooks_lead_somewhere(notebook: Path) -> None:
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "markdown":
            for target in re.findall(r"\]\(([^)#\s]+)\)", "".join(cell["source"])):
                assert target.startswith(("http://", "https://")) or (notebook.parent / target).exists(), target


def test_the_table_of_notebooks_is_complete() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for notebook in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        assert f"(notebooks/{notebook.name})" in text


# ------------------------------------------------------------------ data and citation


def test_every_file_of_data_is_spoken_of() -> None:
    text = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    folders = set(re.findall(r"^\| `(\w+)/` \|", text, flags=re.MULTILINE))
    found = {path.relative_to(ROOT / "data").parts[0] for path in (ROOT / "data").glob("*/*")}
    assert folders == found
    assert [path.name for path in (ROOT / "data").iterdir() if path.is_file()] == ["README.md"]


def sources_in(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["source"]} if isinstance(value.get("source"), str) else set()
        return own.union(*map(sources_in, value.values()))
    return set().union(*map(sources_in, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "data").glob("*/*.json")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_repositories_that_numbers_come_from_are_in_the_table_of_sources(path: Path) -> None:
    if path.parent.name in ("schemas", "problems"):
        return
    table = (ROOT / "data" / "README.md").read_text(encoding="utf-8").partition("## Sources")[2]
    for source in sources_in(json.loads(path.read_text(encoding="utf-8"))):
        for repository in re.findall(r"github ([\w.-]+/[\w.-]+)", source):
            assert repository in table, source


def test_the_citation_is_valid() -> None:
    """What version 1.2.0 of the format requires; the rest is free."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0"
    known = {"abstract", "authors", "cff-version", "date-released", "identifiers", "keywords", "license", "message"}
    known |= {"references", "repository-code", "title", "type", "url", "version"}
    assert set(cited) <= known
    for entry in (cited, *cited["references"]):
        assert entry["title"]
        assert entry["authors"]
        assert all({"name"} <= set(each) or {"family-names", "given-names"} <= set(each) for each in entry["authors"])
    assert cited["message"]
    assert cited["type"] in ("software", "dataset")
    assert isinstance(cited["version"], str)
    assert all(each["type"] for each in cited["references"])
