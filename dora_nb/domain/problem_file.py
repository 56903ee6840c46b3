"""Problem files: a planning problem in own numbers, as JSON or YAML, read with messages that name the place."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from dora_nb.domain.document import check_format, format_name, from_fields, read_fields, schema_of, write_json
from dora_nb.domain.problem import MeasuredProblem

#: The version of a problem file that this release writes and reads.
VERSION = 1


class _ProblemFile(MeasuredProblem):
    """What a problem file holds.

    Attributes
    ----------
    format, version
        What the file is: ``dora-nb/problem``, version 1.
    """

    format: Literal["dora-nb/problem"]
    version: Literal[1]


def load_problem(path: str | Path) -> MeasuredProblem:
    """Read a problem file.

    Parameters
    ----------
    path
        A JSON file, or a YAML one (``.yaml``, ``.yml``) of the same content.

    Returns
    -------
    MeasuredProblem

    Raises
    ------
    DocumentError
        If there is no such file, it is no problem file, or a field of it cannot be used; the message names the field by
        its path in the file, what stands there and what is allowed.
    MissingDependencyError
        For YAML without the package pyyaml.
    """
    path = Path(path)
    document = read_fields(path, "problem")
    check_format(path, document, "problem", VERSION)
    fields = {key: value for key, value in document.items() if key not in ("format", "version")}
    return from_fields(path, MeasuredProblem, fields)


def save_problem(path: str | Path, problem: MeasuredProblem) -> Path:
    """Write a problem to a JSON file, as a whole or not at all.

    Parameters
    ----------
    path
        Where to; an existing file is replaced once the new one is complete.
    problem
        What to write; what is as it would be without a word is left out.

    Returns
    -------
    Path
        Where it is now.

    Raises
    ------
    DocumentError
        If the file cannot be written.
    """
    content: dict[str, Any] = {"format": format_name("problem"), "version": VERSION}
    content |= problem.model_dump(mode="json", exclude_defaults=True)
    content["layers"] = [{"name": layer["name"]} | layer for layer in content["layers"]]  # names first, for readers
    return write_json(path, content)


def problem_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a problem file."""
    return schema_of(
        _ProblemFile,
        "problem",
        VERSION,
        "What to place on which devices, in measured numbers. Numbers are in SI units, named at the end "
        "of each field; what reads the file also takes text with a unit, such as '80 ms'. What a schema cannot say "
        "(that names are known, that nothing waits in a circle, that options go together) is checked then too.",
    )
