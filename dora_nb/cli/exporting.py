"""The command ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dora_nb.cli.options import Json, check_output
from dora_nb.cli.talk import Talk
from dora_nb.errors import InputError


def export(
    plan_file: Annotated[Path, typer.Argument(help="Plan file written by 'plan --out' or 'demo'.")],
    to: Annotated[
        Literal["plan", "pipelining", "perfetto", "lp", "mps", "stages", "schedule"],
        typer.Option(
            help="plan: a plan file and the commands that run it, torchrun's among them. pipelining: a schedule of "
            "torch.distributed.pipelining, CSV. perfetto: the predicted timeline. lp, mps: an exact program for any "
            "solver. stages, schedule: tables, CSV."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Where to.")],
    program: Annotated[
        Literal["joint", "partition", "transfers"] | None,
        typer.Option(
            help="For lp and mps: stages and start times together (unless given), stages alone, or the order of "
            "transfers."
        ),
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(help="HOST:PORT at which workers connect, for the commands of plan; 127.0.0.1:4242 unless given."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a plan for another program: commands, a schedule, a trace, a model for any solver, a table.

    Example: dora-nb export plan.json --to mps --out model.mps
    """
    from dora_nb.domain.plan_file import load_plan
    from dora_nb.exporting import export as write

    say = Talk(as_json)
    check_output(out, plan_file)
    if program is not None and to not in ("lp", "mps"):
        raise InputError("program", program, f"nothing with '--to {to}': only lp and mps write a program")
    if coordinator is not None and to != "plan":
        raise InputError("coordinator", coordinator, f"nothing with '--to {to}': only plan has commands for workers")
    loaded = load_plan(plan_file)
    given = {"program": program, "coordinator": coordinator}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    written = write(out, loaded.plan, loaded.workload, loaded.cluster, loaded.qoe, to=to, **options)
    say.lines(repr(written).splitlines())
    say.json({"path": str(written.path), "to": to, "lines": list(written.lines)})
