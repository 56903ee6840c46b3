"""Options that several commands take, each said once, and what is made of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dora_nb.errors import DocumentError, InputError

if TYPE_CHECKING:
    from dora_nb.executor.control.tls import Tls
    from dora_nb.solvers import SolverOptions

ClusterName = Annotated[str, typer.Option(help="Deployment in the catalogue, or a file of the same form.")]
WorkloadName = Annotated[str, typer.Option(help="Model in the catalogue, or a file of the same form.")]
SequenceLength = Annotated[int | None, typer.Option(help="Tokens per sample (language models; default 128).")]
ImagePx = Annotated[int | None, typer.Option("--image-px", help="Side of the input image (vision models).")]
Precision = Annotated[Literal["fp64", "fp32", "fp16", "bf16"], typer.Option(help="Number format.")]
Source = Annotated[str | None, typer.Option(help="Device that holds inputs and labels.")]
Sink = Annotated[str | None, typer.Option(help="Device that needs the outputs.")]
Accounting = Annotated[str, typer.Option(help="Whose energy counts: participating or all-on.")]
Gap = Annotated[float, typer.Option(help="Relative gap that is good enough.")]
TimeLimit = Annotated[str, typer.Option(help="After this the best so far is returned with its gap.")]
Solver = Annotated[Literal["auto", "gurobi", "highs"], typer.Option(help="auto: Gurobi where licensed, else HiGHS.")]
Threads = Annotated[int | None, typer.Option(help="Threads of the solver; else its own choice.")]
Seed = Annotated[int | None, typer.Option(help="Random seed of the solver; else its default.")]
SolverLog = Annotated[Path | None, typer.Option("--solver-log", help="Append the solver's own log to this file.")]
Listen = Annotated[
    str | None, typer.Option(help="HOST:PORT at which one worker a device connects; else all on this machine.")
]
TokenFile = Annotated[Path | None, typer.Option(help="Where to write the token for the workers.")]
TlsCert = Annotated[Path | None, typer.Option(help="This host's certificate, PEM.")]
TlsKey = Annotated[Path | None, typer.Option(help="Its private key, PEM; chmod 600.")]
TlsCa = Annotated[Path | None, typer.Option(help="Certificate of the authority that signed both sides'.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


def check_output(path: Path | None, *inputs: str | Path | None) -> None:
    """Fail before the work rather than after it if a result could not be written, or would replace what it is made of.

    Parameters
    ----------
    path
        Where the result goes; None: nowhere.
    inputs
        What the command reads, and where else it writes; names in the catalogue among them do no harm.

    Raises
    ------
    DocumentError
        If there is no such folder, it is not ours to write into, the path is a folder, or the path is that of an input.
    """
    if path is None:
        return
    if not path.parent.is_dir():
        raise DocumentError(path, f"cannot be written: there is no folder {path.parent}")
    if path.is_dir():
        raise DocumentError(path, "cannot be written: it is a folder; give the name of a file in it")
    if not os.access(path.parent, os.W_OK):
        raise DocumentError(path, f"cannot be written: you may not write into the folder {path.parent}")
    if any(other is not None and path.resolve() == Path(other).resolve() for other in inputs):
        raise DocumentError(path, "would be replaced, and this command needs it for something else; give another file")


def certificates(cert: Path | None, key: Path | None, ca: Path | None) -> Tls | None:
    """Certificates for mutual TLS, where there are any.

    Raises
    ------
    InputError
        If some are there and some are not.
    """
    from dora_nb.executor.control.tls import Tls

    if cert is not None and key is not None and ca is not None:
        return Tls(cert=cert, key=key, ca=ca)
    if any(each is not None for each in (cert, key, ca)):
        raise InputError("tls", None, "--tls-cert, --tls-key and --tls-ca together, or none of them")
    return None


def solver_options(solver: str, threads: int | None, seed: int | None, log: Path | None) -> SolverOptions:
    """What was said about the solver.

    Raises
    ------
    InputError
        If a number is out of its range, or there is no folder for the log.
    """
    from dora_nb.solvers import SolverOptions

    return SolverOptions(solver, threads=threads, seed=seed, log=log or False)
