"""Commands that tell how things are.

``compare`` for a run beside its prediction, ``reproduce`` for the headline comparison, ``doctor`` for this
installation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dora_nb.cli.facts import comparison_facts
from dora_nb.cli.options import Json, Solver, check_output
from dora_nb.cli.talk import Talk


def compare(
    plan_file: Annotated[Path, typer.Argument(help="Plan file that was executed.")],
    run_file: Annotated[Path, typer.Argument(help="Run file written by 'execute --out' or 'dora.save_run'.")],
    as_json: Json = False,
) -> None:
    """Predicted against measured of a run: the error of every step, stage and transfer, and how busy devices were.

    Example: dora-nb compare plan.json run.json
    """
    from dora_nb.costs.comparison import compare as compare_with
    from dora_nb.domain.plan_file import load_plan
    from dora_nb.domain.run_file import load_run
    from dora_nb.render.comparison import comparison_text

    found = compare_with(load_plan(plan_file).plan, load_run(run_file))
    say = Talk(as_json)
    say.lines(comparison_text(found, say.width).splitlines())
    say.json(comparison_facts(found))


def reproduce(
    quick: Annotated[bool, typer.Option("--quick", help="Three settings instead of 24: within a minute.")] = False,
    jobs: Annotated[int | None, typer.Option(help="Processes; as many as there are cores unless given.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for what is computed; one in the user's cache unless given.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Compute everything again.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write tables and charts to this HTML file.")] = None,
    solver: Solver = "auto",
    as_json: Json = False,
) -> None:
    """The paper's headline comparison: our plans against every baseline's, with and without dynamics, simulated.

    Example: dora-nb reproduce --quick --out results.html
    """
    from dora_nb.domain.document import write_whole
    from dora_nb.render.html import page
    from dora_nb.render.reproduction import reproduction_sentences, reproduction_tables
    from dora_nb.reproduction import reproduce as compare

    say = Talk(as_json)
    check_output(out)
    with say.bar("settings") as update:
        found = compare(quick=quick, solver=solver, jobs=jobs, cache=cache, fresh=fresh, on_progress=update)
    for table in reproduction_tables(found):
        say.table(table)
    say.lines(reproduction_sentences(found))
    if out is not None:
        write_whole(out, page("dora_nb: the headline comparison", found._repr_html_()))
        say.lines([f"{out}  tables and charts; open it in a browser"])
    say.json(found.to_json())


def doctor(as_json: Json = False) -> None:
    """What is installed, which solver may be used, and what is missing for what.

    Example: dora-nb doctor
    """
    from dora_nb import __version__
    from dora_nb.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps({"version": __version__, "findings": [vars(finding) for finding in findings]}, indent=2))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"dora-nb {__version__}", title_justify="left", header_style="bold", box=None, pad_edge=False)
    for heading in ("for", "what", "", "detail"):
        table.add_column(heading, overflow="fold")
    topic = ""
    for finding in findings:
        mark = Text("ok", "green") if finding.ok else Text("--", "yellow")
        # Details hold square brackets, which rich would take for its own markup.
        table.add_row(finding.topic if finding.topic != topic else "", finding.name, mark, Text(finding.detail))
        topic = finding.topic
    Talk(as_json).console.print(table)
