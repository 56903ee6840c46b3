"""Commands around sweeps: ``sweep`` runs a notebook at many points, ``report`` makes one page of what it gave."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dora_nb.cli.options import Json, check_output
from dora_nb.cli.talk import Talk
from dora_nb.errors import InputError
from dora_nb.units import counted

if TYPE_CHECKING:
    from dora_nb.sweeps.grid import Grid


def sweep(
    notebook: Annotated[Path, typer.Argument(help="Notebook with a cell tagged 'parameters' that records rows.")],
    grid: Annotated[Path, typer.Option(help="The points: a YAML or JSON file with fixed, vary, points, sample.")],
    out: Annotated[Path, typer.Option(help="Folder for the tables and the executed notebooks.")],
    jobs: Annotated[int | None, typer.Option(help="Points at a time; as many as there are cores unless given.")] = None,
    sample: Annotated[
        int | None, typer.Option(help="Draw so many points of what varies, instead of every combination.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sample.")] = None,
    method: Annotated[
        Literal["latin-hypercube", "random"] | None, typer.Option(help="How the sample is drawn; latin-hypercube.")
    ] = None,
    limit: Annotated[str | None, typer.Option(help="After this a point fails, e.g. '10 min'.")] = None,
    dask: Annotated[
        str | None, typer.Option(help="Run the points on this Dask scheduler, e.g. tcp://127.0.0.1:8786.")
    ] = None,
    dask_remote: Annotated[
        bool,
        typer.Option(
            "--dask-remote", help="Let that be an unprotected one elsewhere: whoever reaches it can run code."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a notebook at many points and put their rows into one table; run again, it goes on with what is missing.

    Example: dora-nb sweep notebooks/sweep_point.ipynb --grid grid.yaml --out sweep --jobs 2

    where grid.yaml says, for instance,

      fixed: {deployment: smart-home, model: vit-b-16}

      vary: {bandwidth_scale: {low: 0.25, high: 4, steps: 5, scale: log}}
    """
    from dora_nb.sweeps.grid import load_grid
    from dora_nb.sweeps.run import sweep as run_sweep
    from dora_nb.units import parse_field

    say = Talk(as_json)
    points = _sampled(load_grid(grid), sample, seed, method)
    with say.bar("points") as update:
        found = run_sweep(
            notebook,
            points,
            out,
            jobs=jobs,
            dask=dask,
            dask_remote=dask_remote,
            limit_s=None if limit is None else parse_field("limit", limit, "time"),
            on_progress=update,
        )
    say.lines(repr(found).splitlines())
    say.lines([f"{out / 'results.parquet'}  one row a plan; 'dora-nb report {out}' makes a page of it"])
    say.json(found.model_dump(mode="json"))
    if found.failures:
        print(f"dora-nb: {len(found.failures)} of {counted(found.points, 'point')} failed", file=sys.stderr)
        raise typer.Exit(1)


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a sweep.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The HTML file; report.html in the folder unless given.")
    ] = None,
) -> None:
    """Make one HTML page of a sweep, with plots that need no network: trade-offs, heat maps, where plans change.

    Example: dora-nb report sweep
    """
    from dora_nb.sweeps.reporting import report as write_report

    check_output(out)
    written = write_report(folder, out)
    Talk(False).lines([f"{written}  open it in a browser"])


def _sampled(grid: Grid, points: int | None, seed: int | None, method: str | None) -> Grid:
    """The grid with what was said about a sample in place of what its file says."""
    from dora_nb.sweeps.grid import Sample

    said_now = {"points": points, "seed": seed, "method": method}
    given = {name: value for name, value in said_now.items() if value is not None}
    if not given:
        return grid
    said = {} if grid.sample is None else grid.sample.model_dump()
    if "points" not in said | given:
        raise InputError("--sample", None, "how many points to draw, next to --seed and --method")
    return grid.replace(sample=Sample(**(said | given)))
