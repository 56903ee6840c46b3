"""Plan files: a plan with what it was made for, as versioned JSON that notices damage.

A file is written whole or not at all. Reading it back gives equal objects, to the last bit of every number, or says
what is wrong with the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.document import (
    check_format,
    format_name,
    from_fields,
    read_document,
    release,
    schema_of,
    write_json,
)
from dora_nb.domain.fits import check_fits
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.record import Record
from dora_nb.domain.workload import Workload
from dora_nb.errors import DocumentError, InputError

#: The version of a plan file that this release writes and reads.
VERSION = 2

_PARTS = ("workload", "cluster", "qoe", "plan")
_DIGEST = r"^[0-9a-f]{64}$"


class Hashes(Record):
    """SHA-256 of each part of a plan file, as :meth:`~dora_nb.domain.record.Record.digest` gives it."""

    workload: str = Field(pattern=_DIGEST)
    cluster: str = Field(pattern=_DIGEST)
    qoe: str = Field(pattern=_DIGEST)
    plan: str = Field(pattern=_DIGEST)


class PlanFile(Record):
    """What a plan file holds.

    Attributes
    ----------
    format, version
        What the file is: ``dora-nb/plan``, version 2.
    created_by
        The release that wrote it.
    workload, cluster, qoe, plan
        The plan, and what it was made for.
    hashes
        Of these four parts, so that a later change of any of them is noticed.
    """

    format: Literal["dora-nb/plan"]
    version: Literal[2]
    created_by: str
    workload: Workload
    cluster: Cluster
    qoe: QoE
    plan: Plan
    hashes: Hashes

    def __repr__(self) -> str:
        from dora_nb.render.briefly import plan_file_text  # a method that looks up a room: imported when called

        return plan_file_text(self)

    __str__ = __repr__


def save_plan(path: str | Path, plan: Plan, workload: Workload, cluster: Cluster, qoe: QoE | None = None) -> Path:
    """Write a plan and what it was made for to a file.

    The file is written under another name in the same folder and then renamed, so that no half-written file is ever
    there under ``path`` and a file that was there stays until the new one is complete.

    Parameters
    ----------
    path
        Where to; an existing file is replaced.
    plan
        The plan.
    workload, cluster, qoe
        What it was made for; ``qoe`` None: no limits, lowest latency.

    Returns
    -------
    Path
        Where the plan is now.

    Raises
    ------
    InputError
        If the plan is not one for this workload on this cluster.
    DocumentError
        If the file cannot be written.
    """
    check_fits(plan, workload, cluster)
    parts = {"workload": workload, "cluster": cluster, "qoe": QoE() if qoe is None else qoe, "plan": plan}
    content = PlanFile(
        format="dora-nb/plan",
        version=2,
        created_by=release(),
        hashes=Hashes(**{name: part.digest() for name, part in parts.items()}),
        **parts,
    )
    return write_json(path, content.model_dump(mode="json"))


def load_plan(path: str | Path) -> PlanFile:
    """Read a plan file.

    Parameters
    ----------
    path
        A file written by :func:`save_plan`.

    Returns
    -------
    PlanFile

    Raises
    ------
    DocumentError
        If there is no such file or it cannot be read, is not a plan file, is of a newer version, has a field that
        cannot be used, was changed since it was saved, or holds a plan that does not fit its workload or cluster.
    """
    path = Path(path)
    document = read_document(path, "plan")
    if document.get("format") == format_name("plan") and document.get("version") == 1:
        raise DocumentError(
            path,
            f"is a plan file of version 1; this release ({release()}) reads version {VERSION}, whose QoE and "
            "predictions say more. Plan again with: dora-nb plan",
        )
    check_format(path, document, "plan", VERSION)
    content = from_fields(path, PlanFile, document)
    for name in _PARTS:
        recorded, actual = getattr(content.hashes, name), getattr(content, name).digest()
        if recorded != actual:
            raise DocumentError(
                path,
                f"its {name} was edited or damaged since the file was saved (SHA-256 {actual[:12]}..., recorded as "
                f"{recorded[:12]}...). Restore the file, or save the plan again",
            )
    try:
        check_fits(content.plan, content.workload, content.cluster)
    except InputError as error:
        raise DocumentError(path, f"its plan does not fit its workload and cluster: {error}") from None
    return content


def plan_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a plan file."""
    return schema_of(
        PlanFile,
        "plan",
        VERSION,
        "A plan of dora_nb with the workload, cluster and quality of experience it was made for. "
        "Numbers are in SI units, named at the end of each field. What a schema cannot say (that stages follow one "
        "another, that hashes match, that the plan fits) is checked when the file is loaded.",
    )
