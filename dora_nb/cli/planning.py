"""Commands that plan: ``plan``, ``share``, ``compose`` and ``explain``."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from dora_nb.cli.facts import composition_facts, explanation_facts, plans_facts
from dora_nb.cli.options import (
    Accounting,
    ClusterName,
    Gap,
    ImagePx,
    Json,
    Precision,
    Seed,
    SequenceLength,
    Sink,
    Solver,
    SolverLog,
    Source,
    Threads,
    TimeLimit,
    WorkloadName,
    check_output,
    solver_options,
)
from dora_nb.cli.questions import measured_times, question, search_space, setting_lines
from dora_nb.cli.talk import Talk
from dora_nb.errors import InputError

Command = TypeVar("Command", bound=Callable[..., None])

#: What a price of a soft limit is, as the help of each says.
_PRICE = "what each unit beyond it adds to the objective"


def plan(
    cluster: Annotated[
        str | None, typer.Option(help="Deployment in the catalogue, or a file of the same form.")
    ] = None,
    workload: Annotated[str | None, typer.Option(help="Model in the catalogue, or a file of the same form.")] = None,
    mode: Annotated[
        Literal["training", "inference", "stream", "generate"],
        typer.Option(help="A training iteration, an inference batch, requests at a rate, or tokens one at a time."),
    ] = "inference",
    batch: Annotated[int, typer.Option(help="Samples per iteration, batch or request.")] = 1,
    rate: Annotated[str | None, typer.Option(help="How often requests arrive (mode stream), e.g. '5 /s'.")] = None,
    new_tokens: Annotated[int, typer.Option(help="Tokens to generate per sample (mode generate; Qwen models).")] = 0,
    sequence: SequenceLength = None,
    image_px: ImagePx = None,
    precision: Precision = "fp32",
    source: Source = None,
    sink: Sink = None,
    latency: Annotated[str | None, typer.Option(help="Longest makespan allowed, e.g. '30 s' or '80 ms'.")] = None,
    energy: Annotated[str | None, typer.Option(help="Largest energy allowed, e.g. '900 J'.")] = None,
    throughput: Annotated[str | None, typer.Option(help="Least throughput, e.g. '2 samples/s'.")] = None,
    battery: Annotated[
        list[str] | None, typer.Option(help="Most a device may draw, e.g. 'phone=300 J'; once for each device.")
    ] = None,
    headroom: Annotated[
        str | None, typer.Option(help="Usable memory to keep free on every device, e.g. '10%' or '500 MB'.")
    ] = None,
    objective: Annotated[str, typer.Option(help="latency, energy, or a price between them.")] = "latency",
    joules_per_second: Annotated[
        str | None, typer.Option(help="What a second is worth in joules, for '--objective price', e.g. 5 or '5 J/s'.")
    ] = None,
    latency_price: Annotated[
        str | None, typer.Option(help=f"Softens the latency limit: {_PRICE}, e.g. '5 J/s'.")
    ] = None,
    throughput_price: Annotated[
        str | None, typer.Option(help=f"Softens the throughput limit: {_PRICE}, e.g. '5 J/(samples/s)'.")
    ] = None,
    energy_price: Annotated[
        str | None, typer.Option(help=f"Softens the energy limit: {_PRICE}, e.g. '0.1 s/J'.")
    ] = None,
    battery_price: Annotated[
        str | None, typer.Option(help=f"Softens every battery limit: {_PRICE}, e.g. '2 J/J'.")
    ] = None,
    headroom_price: Annotated[str | None, typer.Option(help=f"Softens the headroom: {_PRICE}, e.g. '3 J/GB'.")] = None,
    accounting: Accounting = "participating",
    weights: Annotated[
        list[str] | None,
        typer.Option(help="fp16, bf16 or int8: what stages may hold weights in where it helps, once for each."),
    ] = None,
    shards: Annotated[int, typer.Option(help="Over how many devices a stage's layers may be sliced.")] = 1,
    most_plans: Annotated[
        int, typer.Option(help="How many plans to show; they cover the trade-offs as well as so many can.")
    ] = 5,
    gap: Gap = 1e-4,
    time_limit: TimeLimit = "60 s",
    solver: Solver = "auto",
    threads: Threads = None,
    seed: Seed = None,
    solver_log: SolverLog = None,
    algorithm: Annotated[
        Literal["auto", "decomposed", "monolithic"],
        typer.Option(help="monolithic: the joint program as it stands, for small questions; auto: decomposed."),
    ] = "auto",
    overlap: Annotated[
        bool, typer.Option(help="Whether devices compute while they send, or wait until all has arrived.")
    ] = True,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help="Measured times: 'device=FILE' with a file of 'dora-nb profile'; once for every device. Without "
            "'--workload' for the network profiled."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the best plan to this plan file.")] = None,
    problem: Annotated[
        Path | None,
        typer.Option(
            help="Own numbers instead of cluster and workload: a problem file, JSON or YAML (data/README.md)."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find plans for a workload on a cluster, each with a bound and a gap; or the placement of a problem file.

    Example: dora-nb plan --cluster edge-cluster --workload vit-b-16 --batch 16 --out plan.json
    """
    if problem is not None:
        _plan_problem(problem, locals())
        return
    started = time.monotonic()
    check_output(out, cluster, workload, *(each.partition("=")[2] for each in profile or []))
    job, devices, qoe = question(locals())
    table = measured_times(profile or [], job, devices)
    chosen, space = solver_options(solver, threads, seed, solver_log), search_space(job, devices, weights, shards)
    from dora_nb.domain.plan_file import save_plan
    from dora_nb.planning.plan import check_effort
    from dora_nb.planning.plan import plan as make_plan
    from dora_nb.units import parse_field

    time_limit_s = parse_field("time_limit", time_limit, "time")
    check_effort(gap, time_limit_s, chosen, most_plans)
    say = Talk(as_json)
    say.lines(setting_lines(job, devices, qoe))
    with say.progress("planning") as update:
        plans = make_plan(
            job,
            devices,
            qoe,
            most_plans=most_plans,
            gap=gap,
            time_limit_s=time_limit_s,
            solver=chosen,
            algorithm=algorithm,
            overlap=overlap,
            table=table,
            space=space,
            on_progress=update,
        )
    say.plans(plans)
    if out is not None:
        save_plan(out, plans.best, job, devices, qoe)
        say.lines([f"{out}  the best plan; run it with: dora-nb execute '{out}'"])
    say.json(plans_facts(plans) | {"wall_s": time.monotonic() - started})


#: Options of ``plan`` that say something about a problem file too.
_OF_PROBLEMS = {"problem", "gap", "time_limit", "solver", "threads", "seed", "solver_log", "as_json"}


def _plan_problem(path: Path, options: Mapping[str, Any]) -> None:
    """Place the layers of a problem file."""
    for name, parameter in inspect.signature(plan).parameters.items():
        if name not in _OF_PROBLEMS and options[name] != parameter.default:
            raise InputError(
                name, options[name], "nothing with --problem: the file says what to place, and by which rules"
            )
    from dora_nb.domain.problem_file import load_problem
    from dora_nb.planning.placement.place import place
    from dora_nb.render.placement import placement_lines
    from dora_nb.units import parse_field

    say = Talk(options["as_json"])
    question = load_problem(path)
    with say.progress("planning") as update:
        answer = place(
            question,
            gap=options["gap"],
            time_limit_s=parse_field("time_limit", options["time_limit"], "time"),
            solver=solver_options(*(options[name] for name in ("solver", "threads", "seed", "solver_log"))),
            on_progress=update,
        )
    say.lines(placement_lines(answer))
    say.json(answer.model_dump())


def share(
    cluster: ClusterName,
    streams: Annotated[str, typer.Option(help="Streams in the catalogue, or a file of the same form.")],
    objective: Annotated[
        Literal["energy", "latency"], typer.Option(help="Mean watts or mean latency; deadlines are kept either way.")
    ] = "energy",
    accounting: Accounting = "participating",
    gap: Gap = 1e-4,
    time_limit: TimeLimit = "60 s",
    solver: Solver = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Write plans and timetable to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Plan several streams of requests together: a plan for every camera and one timetable, with a bound and a gap.

    Example: dora-nb share --cluster traffic-analytics --streams traffic-cameras
    """
    from dora_nb import catalog
    from dora_nb.domain.sharing_file import save_sharing
    from dora_nb.planning.sharing.share import share as share_cluster
    from dora_nb.render.sharing import sharing_lines
    from dora_nb.units import parse_field

    say = Talk(as_json)
    check_output(out, cluster, streams)
    devices, asked = catalog.load_cluster(cluster), catalog.load_streams(streams)
    with say.progress("sharing") as update:
        answer = share_cluster(
            asked,
            devices,
            objective=objective,
            energy_accounting=accounting,  # type: ignore[arg-type]
            gap=gap,
            time_limit_s=parse_field("time_limit", time_limit, "time"),
            solver=solver,
            on_progress=update,
        )
    say.lines(sharing_lines(answer))
    if out is not None:
        save_sharing(out, answer)
        say.lines([f"{out}  plans and timetable"])
    say.json(answer.model_dump(mode="json"))


def compose(
    cluster: ClusterName,
    workload: WorkloadName,
    conditions: Annotated[str, typer.Option(help="Conditions in the catalogue, or a file of the same form.")],
    mode: Annotated[
        Literal["training", "inference"], typer.Option(help="A training iteration or an inference batch.")
    ] = "inference",
    batch: Annotated[int, typer.Option(help="Samples per iteration or batch.")] = 1,
    sequence: SequenceLength = None,
    image_px: ImagePx = None,
    precision: Precision = "fp32",
    source: Source = None,
    sink: Sink = None,
    latency: Annotated[str | None, typer.Option(help="Latency to keep, e.g. '30 s' or '80 ms'.")] = None,
    energy: Annotated[str | None, typer.Option(help="Energy to keep, e.g. '900 J'.")] = None,
    objective: Annotated[str, typer.Option(help="latency or energy.")] = "energy",
    accounting: Accounting = "participating",
    keep: Annotated[
        Literal["mean", "tail"], typer.Option(help="Keep limits on the mean, or request by request but for a share.")
    ] = "mean",
    missed_share: Annotated[float, typer.Option(help="That share.")] = 0.05,
    most_plans: Annotated[int, typer.Option(help="Plans that may be resident.")] = 3,
    window: Annotated[int, typer.Option(help="Requests over which counts are whole numbers.")] = 20,
    gap: Gap = 1e-3,
    time_limit: TimeLimit = "60 s",
    solver: Solver = "auto",
    threads: Threads = None,
    seed: Seed = None,
    solver_log: SolverLog = None,
    as_json: Json = False,
) -> None:
    """Choose a few plans and how often to use each in which condition, with a bound and a gap.

    Example: dora-nb compose --cluster smart-home --workload qwen3-0.6b --conditions smart-home-evening --latency '5 s'
    """
    from dora_nb import catalog
    from dora_nb.domain.qoe import QoE
    from dora_nb.planning.composition.compose import compose as mix_plans
    from dora_nb.units import parse_field

    say = Talk(as_json)
    devices = catalog.load_cluster(cluster)
    job = catalog.load_workload(
        workload,
        mode=mode,
        batch=batch,
        sequence=sequence,
        image_px=image_px,
        precision=precision,
        source=source,
        sink=sink,
    )
    qoe = QoE(latency_s=latency, energy_j=energy, objective=objective, energy_accounting=accounting)
    with say.progress("composing") as update:
        mix = mix_plans(
            job,
            devices,
            qoe,
            catalog.load_conditions(conditions),
            most_plans=most_plans,
            window=window,
            keep=keep,
            missed_share=missed_share,
            gap=gap,
            time_limit_s=parse_field("time_limit", time_limit, "time"),
            solver=solver_options(solver, threads, seed, solver_log),
            on_progress=update,
        )
    say.lines(repr(mix).splitlines())
    say.json(composition_facts(mix))


def _options_of(like: Callable[..., None], but: set[str]) -> Callable[[Command], Command]:
    """Give a command that takes any options the options of another one, some left out."""

    def dressed(function: Command) -> Command:
        known = inspect.signature(like, eval_str=True).parameters.values()
        taken = [parameter for parameter in known if parameter.name not in but]
        function.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
        function.__annotations__ = {parameter.name: parameter.annotation for parameter in taken}
        return function

    return dressed


@_options_of(plan, but={"most_plans", "algorithm", "out", "problem"})
def explain(**options: Any) -> None:
    """What more of each limit, device and rate is worth; where no plan keeps the limits, what would have to give.

    Example: dora-nb explain --cluster smart-home --workload bert-base --mode training --batch 4 --latency '2 s'
    """
    started = time.monotonic()
    job, devices, qoe = question(options)
    table = measured_times(options["profile"] or [], job, devices)
    from dora_nb.planning.explanation.explain import explain as make_explanation
    from dora_nb.render.explanations import explanation_text
    from dora_nb.units import parse_field

    say = Talk(options["as_json"])
    with say.progress("explaining") as update:
        explanation = make_explanation(
            job,
            devices,
            qoe,
            gap=options["gap"],
            time_limit_s=parse_field("time_limit", options["time_limit"], "time"),
            solver=solver_options(*(options[name] for name in ("solver", "threads", "seed", "solver_log"))),
            overlap=options["overlap"],
            table=table,
            space=search_space(job, devices, options["weights"], options["shards"]),
            on_progress=update,
        )
    say.lines(explanation_text(explanation, say.width).splitlines())
    say.json(explanation_facts(explanation) | {"wall_s": time.monotonic() - started})
