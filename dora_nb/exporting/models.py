"""The exact programs of a question as LP or MPS files, for any other solver."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

from dora_nb.domain.document import release, write_whole
from dora_nb.planning.exact.programs import Program
from dora_nb.solvers.highs import rewrite

ModelFormat = Literal["lp", "mps"]

#: What a line of comment starts with.
_COMMENT = {"lp": "\\ ", "mps": "* "}


def write_model(path: str | Path, program: Program, form: ModelFormat) -> Path:
    """Write a program, as a whole or not at all; comments at the head say what it is and in which unit.

    Parameters
    ----------
    path
        Where to; an existing file is replaced.
    program
        What to write.
    form
        ``lp`` or ``mps``.

    Raises
    ------
    DocumentError
        If it cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "model.lp"
        program.model.to_file(written, explicit_coordinate_names=True, progress=False)
        if form == "mps":  # linopy's own way prints to standard output
            lp, written = written, written.with_suffix(".mps")
            rewrite(lp, written)
        text = written.read_text(encoding="utf-8")
    head = f"{program.name} program, {release()}", program.words
    return write_whole(path, "".join(f"{_COMMENT[form]}{line}\n" for line in head) + text)
