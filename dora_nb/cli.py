"""The command line: planning, measuring, running and comparing from a terminal; ``dora-nb --help`` lists what there is.

People read what goes to standard output; with ``--json`` that is one JSON object and nothing else, while progress
goes to standard error. Whatever goes wrong ends in one message and a non-zero exit status.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from dora_nb.errors import DocumentError, DoraError, InputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dora_nb.costs.table import CostTable
    from dora_nb.domain.cluster import Cluster
    from dora_nb.domain.composition import Composition
    from dora_nb.domain.explanation import Explanation
    from dora_nb.domain.plan import Plan
    from dora_nb.domain.plan_set import PlanSet
    from dora_nb.domain.qoe import QoE
    from dora_nb.domain.run_record import RunRecord
    from dora_nb.domain.workload import Workload
    from dora_nb.executor.control.tls import Tls

app = typer.Typer(
    name="dora-nb",
    help=(
        "Plan how a neural network is split over unlike devices that share a network, and run the plan.\n\n"
        "Start with 'dora-nb demo'. Then: 'dora-nb plan' for your own question, 'dora-nb execute' for its plan file, "
        "'dora-nb doctor' if something is missing."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

#: What a price of a soft limit is, as the help of each says.
_PRICE = "what each unit beyond it adds to the objective"

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


def main() -> None:
    """Run the command line."""
    app()


Command = TypeVar("Command", bound=Callable[..., None])


def _command(function: Command) -> Command:
    """Register a command; every failure of it is one message on standard error and a non-zero exit status."""

    @functools.wraps(function)
    def tidy(*arguments: Any, **options: Any) -> None:
        try:
            function(*arguments, **options)
        except KeyboardInterrupt:
            _fail("interrupted; nothing half-written was left behind", 130)
        except DoraError as error:
            _fail(str(error), 1)
        except BrokenPipeError:  # the reader of our output went away, e.g. 'dora-nb plan | head'
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        except OSError as error:
            _fail(f"{error.filename or 'file'}: {error.strerror or error}", 1)

    app.command()(tidy)
    return function


def _options_of(like: Callable[..., None], but: set[str]) -> Callable[[Command], Command]:
    """Give a command that takes any options the options of another one, some left out."""

    def dressed(function: Command) -> Command:
        known = inspect.signature(like, eval_str=True).parameters.values()
        taken = [parameter for parameter in known if parameter.name not in but]
        function.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
        function.__annotations__ = {parameter.name: parameter.annotation for parameter in taken}
        return function

    return dressed


def _fail(message: str, status: int) -> None:
    print(f"dora-nb: {message}", file=sys.stderr)
    sys.exit(status)


@_command
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for plan.json and trace.json.")] = Path("dora-demo"),
    as_json: Json = False,
) -> None:
    """The whole job in a minute: load a smart home, plan, compare, run the plan for real, write what was found."""
    from dora_nb import catalog
    from dora_nb.domain.qoe import QoE
    from dora_nb.executor.launch import execute as run_plan
    from dora_nb.planning.plan import plan as make_plan
    from dora_nb.render.tables import describe_plan
    from dora_nb.units import format_seconds

    started = time.monotonic()
    say = _Talk(as_json)
    out.mkdir(parents=True, exist_ok=True)  # fail before the work, not after it
    say.heading("1  Load the smart home and a transformer")
    cluster = catalog.load_cluster("smart-home")
    workload = catalog.load_workload("qwen3-0.6b", mode="training", batch=16)
    qoe = QoE(latency_s=30.0, objective="energy")
    say.lines(_setting(workload, cluster, qoe))

    say.heading("2  Plan: the fastest, the thriftiest within the latency limit, and trade-offs between them")
    with say.progress("planning") as update:
        plans = make_plan(workload, cluster, qoe, on_progress=update)
    say.plans(plans)
    say.lines(["", f"The plan to run, {plans.best.label}:", *_indented(describe_plan(plans.best, workload))])

    say.heading("3  Run the thriftiest plan for real: one process a device, torch.distributed on this machine")
    with say.progress("running") as update:
        record = run_plan(plans.best, workload, cluster, on_progress=update).wait()
    say.record(record)

    files = _write_results(out, plans, record)
    say.heading("4  Written")
    say.lines([f"{path}  {what}" for path, what in files.items()])
    say.lines(
        [
            "",
            f"Done in {format_seconds(time.monotonic() - started)}. Next:",
            f"  dora-nb execute '{out / 'plan.json'}'             run the plan again",
            "  dora-nb plan --cluster edge-cluster --workload vit-b-16 --mode inference --batch 16",
            "  jupyter lab notebooks/01_quickstart.ipynb        the same job in a notebook",
        ]
    )
    say.json(
        {
            **_plans_json(plans),
            "execution": _run_json(record),
            "files": [str(path) for path in files],
            "wall_s": time.monotonic() - started,
        }
    )


@_command
def plan(
    cluster: Annotated[str, typer.Option(help="Deployment in the catalogue, or a JSON file of the same form.")],
    workload: Annotated[str, typer.Option(help="Model in the catalogue, or a JSON file of the same form.")],
    mode: Annotated[
        Literal["training", "inference", "stream", "generate"],
        typer.Option(help="A training iteration, an inference batch, requests at a rate, or tokens one at a time."),
    ] = "inference",
    batch: Annotated[int, typer.Option(help="Samples per iteration, batch or request.")] = 1,
    rate: Annotated[str | None, typer.Option(help="How often requests arrive (mode stream), e.g. '5 /s'.")] = None,
    new_tokens: Annotated[int, typer.Option(help="Tokens to generate per sample (mode generate; Qwen models).")] = 0,
    sequence: Annotated[int | None, typer.Option(help="Tokens per sample (language models; default 128).")] = None,
    image_px: Annotated[int | None, typer.Option("--image-px", help="Side of the input image (vision models).")] = None,
    precision: Annotated[Literal["fp64", "fp32", "fp16"], typer.Option(help="Number format.")] = "fp32",
    source: Annotated[str | None, typer.Option(help="Device that holds inputs and labels.")] = None,
    sink: Annotated[str | None, typer.Option(help="Device that needs the outputs.")] = None,
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
    accounting: Annotated[str, typer.Option(help="Whose energy counts: participating or all-on.")] = "participating",
    most_plans: Annotated[
        int, typer.Option(help="How many plans to show; they cover the trade-offs as well as so many can.")
    ] = 5,
    gap: Annotated[float, typer.Option(help="Relative gap that is good enough.")] = 1e-4,
    time_limit: Annotated[str, typer.Option(help="After this the best so far is returned with its gap.")] = "60 s",
    solver: Annotated[
        Literal["auto", "gurobi", "highs"], typer.Option(help="auto: Gurobi where licensed, else HiGHS.")
    ] = "auto",
    algorithm: Annotated[
        Literal["auto", "decomposed", "monolithic"],
        typer.Option(help="monolithic: the joint program as it stands, for small questions; auto: decomposed."),
    ] = "auto",
    overlap: Annotated[
        bool, typer.Option(help="Whether devices compute while they send, or wait until all has arrived.")
    ] = True,
    profile: Annotated[
        list[str] | None,
        typer.Option(help="Measured times: 'device=FILE' with a file of 'dora-nb profile'; once for every device."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the best plan to this plan file.")] = None,
    as_json: Json = False,
) -> None:
    """Find plans for a workload on a cluster, each with a bound and a gap."""
    started = time.monotonic()
    job, devices, qoe = _question(locals())
    table = _measured(profile or [], job, devices)
    from dora_nb.domain.plan_file import save_plan
    from dora_nb.planning.plan import plan as make_plan
    from dora_nb.units import parse_field

    say = _Talk(as_json)
    _check_folder(out)
    say.lines(_setting(job, devices, qoe))
    with say.progress("planning") as update:
        plans = make_plan(
            job,
            devices,
            qoe,
            most_plans=most_plans,
            gap=gap,
            time_limit_s=parse_field("time_limit", time_limit, "time"),
            solver=solver,
            algorithm=algorithm,
            overlap=overlap,
            table=table,
            on_progress=update,
        )
    say.plans(plans)
    if out is not None:
        save_plan(out, plans.best, job, devices, qoe)
        say.lines([f"{out}  the best plan; run it with: dora-nb execute '{out}'"])
    say.json(_plans_json(plans) | {"wall_s": time.monotonic() - started})


@_command
def compose(
    cluster: Annotated[str, typer.Option(help="Deployment in the catalogue, or a JSON file of the same form.")],
    workload: Annotated[str, typer.Option(help="Model in the catalogue, or a JSON file of the same form.")],
    conditions: Annotated[str, typer.Option(help="Conditions in the catalogue, or a JSON file of the same form.")],
    mode: Annotated[
        Literal["training", "inference"], typer.Option(help="A training iteration or an inference batch.")
    ] = "inference",
    batch: Annotated[int, typer.Option(help="Samples per iteration or batch.")] = 1,
    sequence: Annotated[int | None, typer.Option(help="Tokens per sample (language models; default 128).")] = None,
    image_px: Annotated[int | None, typer.Option("--image-px", help="Side of the input image (vision models).")] = None,
    precision: Annotated[Literal["fp64", "fp32", "fp16"], typer.Option(help="Number format.")] = "fp32",
    source: Annotated[str | None, typer.Option(help="Device that holds inputs and labels.")] = None,
    sink: Annotated[str | None, typer.Option(help="Device that needs the outputs.")] = None,
    latency: Annotated[str | None, typer.Option(help="Latency to keep, e.g. '30 s' or '80 ms'.")] = None,
    energy: Annotated[str | None, typer.Option(help="Energy to keep, e.g. '900 J'.")] = None,
    objective: Annotated[str, typer.Option(help="latency or energy.")] = "energy",
    accounting: Annotated[str, typer.Option(help="Whose energy counts: participating or all-on.")] = "participating",
    keep: Annotated[
        Literal["mean", "tail"], typer.Option(help="Keep limits on the mean, or request by request but for a share.")
    ] = "mean",
    missed_share: Annotated[float, typer.Option(help="That share.")] = 0.05,
    most_plans: Annotated[int, typer.Option(help="Plans that may be resident.")] = 3,
    window: Annotated[int, typer.Option(help="Requests over which counts are whole numbers.")] = 20,
    gap: Annotated[float, typer.Option(help="Relative gap that is good enough.")] = 1e-3,
    time_limit: Annotated[str, typer.Option(help="After this the best so far is returned with its gap.")] = "60 s",
    solver: Annotated[
        Literal["auto", "gurobi", "highs"], typer.Option(help="auto: Gurobi where licensed, else HiGHS.")
    ] = "auto",
    as_json: Json = False,
) -> None:
    """Choose a few plans and how often to use each in which condition, with a bound and a gap."""
    from dora_nb import catalog
    from dora_nb.domain.qoe import QoE
    from dora_nb.planning.compose import compose as mix_plans
    from dora_nb.units import parse_field

    say = _Talk(as_json)
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
            solver=solver,
            on_progress=update,
        )
    say.lines(repr(mix).splitlines())
    say.json(_composition_json(mix))


@_command
@_options_of(plan, but={"most_plans", "algorithm", "out"})
def explain(**options: Any) -> None:
    """What more of each limit, device and rate is worth; where no plan keeps the limits, what would have to give."""
    started = time.monotonic()
    job, devices, qoe = _question(options)
    table = _measured(options["profile"] or [], job, devices)
    from dora_nb.planning.explain import explain as make_explanation
    from dora_nb.units import parse_field

    say = _Talk(options["as_json"])
    with say.progress("explaining") as update:
        explanation = make_explanation(
            job,
            devices,
            qoe,
            gap=options["gap"],
            time_limit_s=parse_field("time_limit", options["time_limit"], "time"),
            solver=options["solver"],
            overlap=options["overlap"],
            table=table,
            on_progress=update,
        )
    say.lines([repr(explanation)])
    say.json(_explanation_json(explanation) | {"wall_s": time.monotonic() - started})


def _question(options: Mapping[str, Any]) -> tuple[Workload, Cluster, QoE]:
    """What the options of ``plan`` and ``explain`` ask."""
    from dora_nb import catalog
    from dora_nb.domain.qoe import QoE

    cluster = catalog.load_cluster(options["cluster"])
    names = ("mode", "batch", "sequence", "image_px", "precision", "new_tokens", "source", "sink")
    chosen = {name: options[name] for name in names}
    workload = catalog.load_workload(options["workload"], requests_per_s=options["rate"], **chosen)
    qoe = QoE(
        objective=options["objective"],
        joules_per_s=options["joules_per_second"],
        latency_s=options["latency"],
        latency_price=options["latency_price"],
        samples_per_s=options["throughput"],
        throughput_price=options["throughput_price"],
        energy_j=options["energy"],
        energy_price=options["energy_price"],
        battery_j=_batteries(options["battery"] or []),
        battery_price=options["battery_price"],
        **_headroom(options["headroom"]),
        headroom_price=options["headroom_price"],
        energy_accounting=options["accounting"],
    )
    return workload, cluster, qoe


def _measured(written: list[str], workload: Workload, cluster: Cluster) -> CostTable | None:
    """Compute times from profile files, where there are any."""
    from dora_nb.costs.measured import measured_table
    from dora_nb.domain.profile_file import load_profile

    profiles = {}
    for each in written:
        device, found, path = each.partition("=")
        if not found or not device or device in profiles:
            raise InputError("profile", each, "device=FILE, e.g. 'phone=phone.json', once for each device")
        profiles[device] = load_profile(path)
    return measured_table(workload, cluster, profiles) if profiles else None


@_command
def profile(
    model: Annotated[
        str,
        typer.Argument(help="Model in the catalogue; 'module:function' that makes your own; a checkpoint's directory."),
    ],
    mode: Annotated[
        Literal["training", "inference"], typer.Option(help="With backward passes and optimizer steps, or without.")
    ] = "inference",
    batch: Annotated[int, typer.Option(help="Samples per iteration or batch.")] = 1,
    sequence: Annotated[int | None, typer.Option(help="Tokens per sample (language models; default 128).")] = None,
    image_px: Annotated[int | None, typer.Option("--image-px", help="Side of the input image (vision models).")] = None,
    precision: Annotated[Literal["fp64", "fp32", "fp16"], typer.Option(help="Number format (catalogue).")] = "fp32",
    sample: Annotated[
        str | None, typer.Option(help="'module:name' of a tensor that goes in, or of its maker (your own model).")
    ] = None,
    samples: Annotated[
        list[int] | None, typer.Option(help="Number of samples to time, once for each; powers of two unless given.")
    ] = None,
    repetitions: Annotated[int, typer.Option(help="Passes of each layer that are timed.")] = 9,
    out: Annotated[Path | None, typer.Option("--out", help="Write the profile to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Measure every layer of a model on this device, one at a time and at its real size."""
    from dora_nb import catalog
    from dora_nb.domain.profile_file import save_profile
    from dora_nb.executor.pool import require_torch
    from dora_nb.render.profiles import profile_facts, profile_lines

    say = _Talk(as_json)
    _check_folder(out)
    own = ":" in model or Path(model).is_dir()
    if own != (sample is not None):
        raise InputError("sample", sample, "'module:name' of a tensor for your own model, nothing for the catalogue's")
    require_torch()
    with say.progress("profiling") as update:
        if sample is not None:
            from dora_nb.executor.named_model import profile_named

            found = profile_named(model, sample, mode=mode, batch=batch, samples=samples, repetitions=repetitions)
        else:
            from dora_nb.executor.real_size import profile_workload

            size = {"sequence": sequence, "image_px": image_px, "precision": precision}
            job = catalog.load_workload(model, mode=mode, batch=batch, **size)  # type: ignore[arg-type]
            found = profile_workload(job, samples=samples, repetitions=repetitions, on_progress=update)
    say.lines(profile_lines(found))
    if out is not None:
        save_profile(out, found)
        say.lines([f"{out}  the profile; plan with it: dora-nb plan --profile DEVICE='{out}' ..."])
    say.json(profile_facts(found))


@_command
def probe(
    cluster: Annotated[str, typer.Option(help="Deployment in the catalogue, or a JSON file of the same form.")],
    listen: Annotated[
        str | None, typer.Option(help="HOST:PORT at which one worker a device connects; else all on this machine.")
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="Where to write the token for the workers.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="This host's certificate, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM; chmod 600.")] = None,
    tls_ca: Annotated[Path | None, typer.Option(help="Certificate of the authority that signed both sides'.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the measured cluster to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Measure the network between the devices of a cluster, alone and contended: a measured cluster file.

    With '--listen' every device's host runs 'dora-nb worker --name DEVICE'. Without it all workers run here, and what
    is measured is this machine's loopback.
    """
    from dora_nb import catalog
    from dora_nb.domain.cluster_file import save_cluster
    from dora_nb.executor.survey import probe_network, workers_at
    from dora_nb.render.words import domain_lines

    say = _Talk(as_json)
    _check_folder(out)
    devices = catalog.load_cluster(cluster)
    tls = _tls(tls_cert, tls_key, tls_ca)
    with say.progress("probing") as update:
        if listen is None:
            found = probe_network(devices, on_progress=update)
        else:
            with workers_at(listen, devices.device_ids, token_file=token_file, tls=tls, on_progress=update) as workers:
                found = probe_network(devices, workers=workers, on_progress=update)
    domain = found.cluster.domains[0]
    say.lines([*domain_lines(domain), *found.notes])
    if out is not None:
        save_cluster(out, found.cluster)
        say.lines([f"{out}  the measured cluster; plan on it: dora-nb plan --cluster '{out}' ..."])
    facts = domain.model_dump(exclude={"sources"}, mode="json")
    say.json(facts | {"disturbed": found.disturbed, "misfit": found.misfit, "notes": list(found.notes)})


@_command
def execute(
    plan_file: Annotated[Path, typer.Argument(help="Plan file written by 'plan --out' or 'demo'.")],
    steps: Annotated[int, typer.Option(help="Training steps, or batches of a plan that does not train.")] = 3,
    model: Annotated[
        str | None,
        typer.Option(help="'module:function' that makes your network, or a checkpoint's directory; else a small one."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="'module:function' that makes your data.")] = None,
    loss: Annotated[str | None, typer.Option(help="'module:function' of outputs and labels.")] = None,
    emulate: Annotated[
        Literal["cluster", "devices", "nothing"],
        typer.Option(help="What this machine imitates: devices and network, devices alone, or nothing."),
    ] = "cluster",
    as_ready: Annotated[
        bool, typer.Option("--as-ready", help="Transfers leave as soon as they can, not in the plan's order.")
    ] = False,
    copies: Annotated[
        Literal["none", "replicas", "neighbours"], typer.Option(help="Who keeps states, so that no step is lost.")
    ] = "replicas",
    checkpoints: Annotated[Path | None, typer.Option(help="Folder in which training is written down.")] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Behind every so many steps.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the latest checkpoint there.")] = False,
    listen: Annotated[
        str | None, typer.Option(help="HOST:PORT at which one worker a device connects; else all on this machine.")
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="Where to write the token for the workers.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="This host's certificate, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM; chmod 600.")] = None,
    tls_ca: Annotated[Path | None, typer.Option(help="Certificate of the authority that signed both sides'.")] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write predicted and measured timelines for ui.perfetto.dev.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a plan for real, one process a device, compared with a single process and with its prediction.

    On this machine, which imitates the devices and their network, or with '--listen' on hosts that each run
    'dora-nb worker --name DEVICE', where nothing is imitated.
    """
    from dora_nb.domain.plan_file import load_plan
    from dora_nb.executor.launch import execute as run_plan
    from dora_nb.executor.survey import workers_at

    say = _Talk(as_json)
    _check_folder(trace)
    loaded = load_plan(plan_file)
    tls = _tls(tls_cert, tls_key, tls_ca)
    with contextlib.ExitStack() as stack:
        update = stack.enter_context(say.progress("running"))
        workers = None
        if listen is not None:
            devices = loaded.plan.devices
            pool = workers_at(listen, devices, token_file=token_file, tls=tls, on_progress=update)
            workers = stack.enter_context(pool)
        record = run_plan(
            loaded.plan,
            loaded.workload,
            loaded.cluster,
            model,
            data=data,
            loss=loss,
            steps=steps,
            emulate=emulate if listen is None else "nothing",
            in_order=False if as_ready else None if listen is None else True,
            copies=copies,
            checkpoints=checkpoints,
            checkpoint_every=checkpoint_every,
            resume=resume,
            workers=workers,
            on_progress=update,
        ).wait()
    say.record(record)
    if trace is not None:
        record.to_trace(trace)
        say.lines([f"{trace}  predicted and measured timelines; open it at https://ui.perfetto.dev"])
    say.json(_run_json(record))


@_command
def worker(
    coordinator: Annotated[str, typer.Option(help="Where to connect: HOST:PORT, as the coordinator says.")],
    token_file: Annotated[Path, typer.Option(help="Your copy of the coordinator's token file; chmod 600.")],
    name: Annotated[
        str | None, typer.Option(help="Device this host plays; under torchrun: one per process, with commas.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="This worker's certificate, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM; chmod 600.")] = None,
    tls_ca: Annotated[Path | None, typer.Option(help="Certificate of the authority that signed both sides'.")] = None,
    wait: Annotated[str, typer.Option(help="How long to try while nobody answers.")] = "60 s",
) -> None:
    """Play one device of a plan that another host executes.

    Both sides prove that they know the token. Unless the coordinator is on this host, mutual TLS is required: give all
    three certificate options. TLS protects orders and files, not the tensors: those pass between the workers in the
    clear, readable and alterable by whoever is on that network. Use a VPN such as WireGuard, or a network you trust.
    """
    from dora_nb.executor.control.join import join
    from dora_nb.units import parse_field

    tls = _tls(tls_cert, tls_key, tls_ca)
    join(coordinator, token_file, name=name, tls=tls, wait_s=parse_field("wait", wait, "time"))


def _tls(cert: Path | None, key: Path | None, ca: Path | None) -> Tls | None:
    """Certificates for mutual TLS, where there are any."""
    from dora_nb.executor.control.tls import Tls

    if cert is not None and key is not None and ca is not None:
        return Tls(cert=cert, key=key, ca=ca)
    if any(each is not None for each in (cert, key, ca)):
        raise InputError("tls", None, "--tls-cert, --tls-key and --tls-ca together, or none of them")
    return None


@_command
def reproduce(
    quick: Annotated[bool, typer.Option("--quick", help="One model instead of four: within a minute.")] = False,
    jobs: Annotated[int | None, typer.Option(help="Processes; as many as there are cores unless given.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for what is computed; one in the user's cache unless given.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Compute everything again.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write tables and charts to this HTML file.")] = None,
    solver: Annotated[
        Literal["auto", "gurobi", "highs"], typer.Option(help="auto: Gurobi where licensed, else HiGHS.")
    ] = "auto",
    as_json: Json = False,
) -> None:
    """The paper's headline comparison: our plans against every baseline's, with and without dynamics, simulated."""
    from dora_nb.domain.document import write_whole
    from dora_nb.render.html import page
    from dora_nb.render.reproduction import reproduction_sentences, reproduction_tables
    from dora_nb.reproduction import reproduce as compare

    say = _Talk(as_json)
    _check_folder(out)
    with say.bar("settings") as update:
        found = compare(quick=quick, solver=solver, jobs=jobs, cache=cache, fresh=fresh, on_progress=update)
    for table in reproduction_tables(found):
        say.table(table)
    say.lines(reproduction_sentences(found))
    if out is not None:
        write_whole(out, page("dora_nb: the headline comparison", found._repr_html_()))
        say.lines([f"{out}  tables and charts; open it in a browser"])
    say.json(found.to_json())


@_command
def doctor(as_json: Json = False) -> None:
    """What is installed, which solver may be used, and what is missing for what."""
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
    _Talk(as_json).console.print(table)


class _Talk:
    """Where words go: tables and lines to standard output, or only JSON there; progress to standard error."""

    def __init__(self, as_json: bool) -> None:
        from rich.console import Console

        self.as_json = as_json
        self.errors: Console = Console(stderr=True, highlight=False)
        # Without a terminal rich assumes 80 columns, where tables do not fit.
        width = None if sys.stdout.isatty() else 110
        self.console: Console = Console(highlight=False, width=width)

    def heading(self, text: str) -> None:
        """Start a part."""
        self.errors.print(f"[bold]{text}[/bold]") if self.as_json else self.console.print(f"\n[bold]{text}[/bold]")

    def lines(self, lines: list[str]) -> None:
        """Plain lines."""
        if not self.as_json:
            for line in lines:
                self.console.print(line, markup=False)

    def plans(self, plans: PlanSet) -> None:
        """The table of plans with what it says."""
        if not self.as_json:
            from dora_nb.render.tables import plan_sentences, rich_table

            self.console.print(rich_table(plans))
            self.lines(plan_sentences(plans))

    def record(self, record: RunRecord) -> None:
        """What a run was, and how it compares."""
        if not self.as_json:
            from rich.table import Table

            from dora_nb.render.runs import run_pairs

            table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
            for name, text in run_pairs(record):
                table.add_row(name, text)
            self.console.print(table, markup=False)

    def table(self, table: Table) -> None:
        """A table."""
        if not self.as_json:
            self.console.print(table)

    def json(self, facts: dict[str, Any]) -> None:
        """The facts as one JSON object, if that was asked for."""
        if self.as_json:
            print(json.dumps(facts, indent=2, allow_nan=False))

    @contextmanager
    def bar(self, what: str) -> Iterator[Callable[[int, int, str], None]]:
        """Show how much of many like things is done, on a terminal with a bar, else one line each."""
        if not self.errors.is_terminal:
            yield lambda done, total, text: self.errors.print(f"  {done} of {total} {what}: {text}", markup=False)
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(what),
            TimeElapsedColumn(),
            TextColumn("{task.fields[last]}"),
        )
        with Progress(*columns, console=self.errors, transient=True) as bar:
            task = bar.add_task(what, total=None, last="")
            yield lambda done, total, text: bar.update(task, completed=done, total=total, last=text)

    @contextmanager
    def progress(self, what: str) -> Iterator[Any]:
        """Show what is being done, on a terminal with a spinner, else one line each."""
        if self.errors.is_terminal:
            from rich.text import Text

            with self.errors.status(what) as status:
                yield lambda text: status.update(Text(f"{what}: {text}"))
        else:
            yield lambda text: self.errors.print(f"  {what}: {text}", markup=False, soft_wrap=True)


def _setting(workload: Any, cluster: Any, qoe: Any) -> list[str]:
    from dora_nb.render.words import demand_words, qoe_words

    size = f"{workload.sequence} tokens" if workload.sequence else f"{workload.image_px} px images"
    size += "".join(f", {part}" for part in demand_words(workload))
    return [
        f"  workload  {workload.name}, {workload.mode}, batch {workload.batch} x {size}, {workload.precision}: "
        f"{len(workload.layers)} layers, {workload.parameters / 1e6:,.0f} M parameters",
        f"  cluster   {cluster.name}: {', '.join(cluster.device_ids)}",
        f"  QoE       {qoe_words(qoe).removeprefix('Asked for: ')}",
    ]


def _batteries(written: list[str]) -> dict[str, str]:
    """Battery limits by device."""
    limits: dict[str, str] = {}
    for each in written:
        device, found, limit = each.rpartition("=")
        if not found or not device or device in limits:
            raise InputError("battery", each, "device=energy, e.g. 'phone=300 J', once for each device")
        limits[device] = limit
    return limits


def _headroom(written: str | None) -> dict[str, float]:
    """Headroom as a share, where it is written as one, or in bytes."""
    from dora_nb.units import parse, parse_field

    if written is None:
        return {}
    try:
        return {"headroom_fraction": parse(written, "fraction")}
    except ValueError:
        return {"headroom_bytes": parse_field("headroom", written, "size")}


def _check_folder(path: Path | None) -> None:
    """Fail before the work rather than after it if a result could not be written."""
    if path is not None and not path.parent.is_dir():
        raise DocumentError(path, f"cannot be written: there is no folder {path.parent}")


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]


def _plans_json(plans: PlanSet) -> dict[str, Any]:
    accounting, certificate = plans.qoe.energy_accounting, plans.best.certificate
    assert certificate is not None, "the best plan carries its certificate"
    return {
        **certificate.model_dump(
            include={"objective", "value", "bound", "unit", "gap", "status", "algorithm", "solver"}
        ),
        "workload": {
            key: getattr(plans.workload, key)
            for key in ("name", "mode", "batch", "sequence", "image_px", "precision", "new_tokens", "requests_per_s")
        },
        "cluster": plans.cluster.name,
        "qoe": plans.qoe.model_dump(),
        "plans": [_plan_json(each, accounting) for each in plans.plans],
        "baselines": [_plan_json(each, accounting) for each in plans.baselines],
        "best": plans.best.label,
        "coverage": plans.coverage
        and {
            "delta": plans.coverage.delta,
            "most_plans": plans.coverage.most_plans,
            "proven": plans.coverage.proven,
        },
        "planning_wall_s": plans.wall_s,
    }


def _composition_json(mix: Composition) -> dict[str, Any]:
    proof = mix.certificate
    return {
        "cluster": mix.cluster.name,
        "qoe": mix.qoe.model_dump(),
        "keep": mix.keep,
        "missed_share": mix.missed_share,
        "window": mix.window,
        **proof.model_dump(include={"objective", "unit", "value", "bound", "gap", "status", "scope", "solver"}),
        "plans": [_plan_json(each, mix.qoe.energy_accounting) for each in mix.plans],
        "conditions": [
            {
                "name": condition.name,
                "probability": condition.probability,
                "weights": list(figures.weights),
                "counts": list(figures.counts),
                "order": list(figures.order),
                "makespan_s": list(figures.makespan_s),
                "energy_j": list(figures.energy_j),
                "mean_s": figures.mean_s,
                "mean_j": figures.mean_j,
                "switch_s": figures.switch_s,
                "missed_share": figures.missed_share,
                "kept": figures.kept,
                "bound": figures.bound,
            }
            for condition, figures in zip(mix.conditions.conditions, mix.figures, strict=True)
        ],
        "expected_s": mix.expected_s,
        "expected_j": mix.expected_j,
        "single": None if mix.single is None else {"label": mix.single.label, "value": mix.single_value},
        "resident_bytes": mix.resident_bytes,
        "usable_bytes": mix.usable_bytes,
        "wall_s": mix.wall_s,
    }


def _plan_json(each: Plan, accounting: Any) -> dict[str, Any]:
    assert each.prediction is not None, "planned plans carry their prediction"
    certificate = each.certificate
    facts: dict[str, Any] = {
        "label": each.label,
        "makespan_s": each.prediction.makespan_s,
        "period_s": each.prediction.period_s,
        "first_token_s": each.prediction.first_token_s,
        "token_s": each.prediction.token_s,
        "energy_j": each.prediction.energy_j(accounting),
        "energy_accounting": accounting,
        "devices": list(each.devices),
        "micro_batch": each.micro_batch,
        "micro_batches": each.micro_batches,
        "tied": each.tied,
        "overlap": each.overlap,
        "chunks": each.chunks,
        "stages": [stage.model_dump() for stage in each.stages],
        "schedule": [transfer.model_dump() for transfer in each.prediction.schedule],
    }
    if certificate is not None:
        facts |= certificate.model_dump()
    return facts


def _explanation_json(explanation: Explanation) -> dict[str, Any]:
    accounting = explanation.qoe.energy_accounting
    facts: dict[str, Any] = {
        "workload": explanation.workload.name,
        "cluster": explanation.cluster.name,
        "qoe": explanation.qoe.model_dump(),
        "feasible": explanation.feasible,
        "solves": explanation.solves,
        "stopped": explanation.stopped,
    }
    if explanation.best is not None:
        margins = [
            each.model_dump(exclude={"plan"})
            | {name: getattr(each, name) for name in ("change", "per_unit", "uncertainty", "proven", "binds")}
            for each in explanation.margins
        ]
        return facts | {"best": _plan_json(explanation.best, accounting), "margins": margins}
    relaxations = [
        {"changes": [change.model_dump() for change in each.changes], "plan": _plan_json(each.plan, accounting)}
        for each in explanation.relaxations
    ]
    ruled_out = [each.model_dump() for each in explanation.ruled_out]
    return facts | {"message": explanation.message, "relaxations": relaxations, "ruled_out": ruled_out}


def _run_json(record: RunRecord) -> dict[str, Any]:
    return {
        **record.model_dump(
            mode="json",
            include={
                "max_abs_diff",
                "differences",
                "predicted_s",
                "measured_s",
                "inference_predicted_s",
                "inference_measured_s",
                "steps",
                "step_s",
                "losses",
                "emulation",
                "energy",
                "not_metered",
                "environment",
            },
        ),
        "ran": {"layers": len(record.workload.layers), "parameters": record.workload.parameters, "precision": "fp64"},
    }


def _write_results(out: Path, plans: PlanSet, record: RunRecord) -> dict[Path, str]:
    from dora_nb.costs.evaluate import evaluate
    from dora_nb.domain.plan_file import save_plan
    from dora_nb.render.trace import trace_events, write_trace

    plan_path, trace_path = out / "plan.json", out / "trace.json"
    save_plan(plan_path, plans.best, plans.workload, plans.cluster, plans.qoe)
    timeline = evaluate(plans.best, plans.workload, plans.cluster).timeline
    write_trace(
        trace_path,
        [
            trace_events(timeline, "predicted: one iteration of the planned network", 1),
            trace_events(record.events, "measured: the network scaled down, on this machine", 2),
        ],
    )
    return {
        plan_path: "the chosen plan",
        trace_path: "its predicted timeline and the measured one; open it at https://ui.perfetto.dev",
    }
