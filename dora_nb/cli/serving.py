"""The command that plans for requests that want tokens: ``serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dora_nb.cli.options import (
    Accounting,
    ClusterName,
    Gap,
    Json,
    Precision,
    SequenceLength,
    Sink,
    Source,
    TimeLimit,
    WorkloadName,
    check_output,
)
from dora_nb.cli.talk import Talk


def serve(
    cluster: ClusterName,
    workload: WorkloadName,
    new_tokens: Annotated[int, typer.Option(help="Tokens that a request wants.")],
    rate: Annotated[
        str | None, typer.Option(help="How often a request arrives, e.g. '0.5 /s'; none for '--objective rate'.")
    ] = None,
    sequence: SequenceLength = None,
    precision: Precision = "fp32",
    source: Source = None,
    sink: Sink = None,
    first_token: Annotated[str | None, typer.Option(help="Longest time to a request's first token.")] = None,
    token: Annotated[str | None, typer.Option(help="Longest time from token to token, mean of a request.")] = None,
    latency: Annotated[str | None, typer.Option(help="Longest time to a request's last token.")] = None,
    objective: Annotated[
        Literal["latency", "energy", "rate"], typer.Option(help="Seconds or joules of a request, or requests a second.")
    ] = "latency",
    accounting: Accounting = "participating",
    slots: Annotated[list[int], typer.Option(help="Requests that a group has at once; once for each number.")] = [  # noqa: B006 as the help shows it
        1,
        2,
        4,
        8,
    ],
    groups: Annotated[list[int], typer.Option(help="Groups that follow each other; once for each number.")] = [  # noqa: B006
        1,
        2,
        3,
        4,
    ],
    batching: Annotated[
        Literal["continuous", "static"] | None,
        typer.Option(help="Requests join at token boundaries, or as a whole batch; whichever is better unless given."),
    ] = None,
    waves: Annotated[
        list[int] | None,
        typer.Option(help="Requests that join together at least; once for each number, 1, 4 and 16 unless given."),
    ] = None,
    requests: Annotated[int, typer.Option(help="Requests that a prediction is made of.")] = 120,
    gap: Gap = 0.01,
    time_limit: TimeLimit = "60 s",
    out: Annotated[Path | None, typer.Option("--out", help="Write the answer to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Plan for requests that want tokens and arrive over time: stages, slots and groups, with a bound and a gap.

    Example: dora-nb serve --cluster smart-home --workload qwen3-0.6b --new-tokens 64 --rate '0.2 /s'
    """
    from dora_nb import catalog
    from dora_nb.domain.serving import ServingGoal
    from dora_nb.domain.serving_file import save_serving
    from dora_nb.planning.serving.serve import serve as serve_cluster
    from dora_nb.render.serving import serving_lines
    from dora_nb.units import parse_field

    say = Talk(as_json)
    check_output(out, cluster, workload)
    goal = ServingGoal(
        objective=objective,
        requests_per_s=rate,
        first_token_s=first_token,
        token_s=token,
        latency_s=latency,
        energy_accounting=accounting,
    )
    devices = catalog.load_cluster(cluster)
    request = catalog.load_workload(
        workload,
        mode="generate",
        sequence=sequence,
        precision=precision,
        new_tokens=new_tokens,
        source=source,
        sink=sink,
    )
    with say.progress("serving") as update:
        answer = serve_cluster(
            request,
            devices,
            goal,
            slots=slots,
            groups=groups,
            batching=batching,
            waves=waves,
            requests=requests,
            gap=gap,
            time_limit_s=parse_field("time_limit", time_limit, "time"),
            on_progress=update,
        )
    say.lines(serving_lines(answer))
    if out is not None:
        save_serving(out, answer)
        say.lines([f"{out}  plan and figures"])
    say.json(answer.model_dump(mode="json"))
