"""Commands that run plans for real: ``demo``, ``execute``, and ``worker`` on other hosts."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dora_nb.cli.facts import plans_facts, run_facts
from dora_nb.cli.options import Json, Listen, TlsCa, TlsCert, TlsKey, TokenFile, certificates, check_output
from dora_nb.cli.questions import setting_lines
from dora_nb.cli.talk import Talk

if TYPE_CHECKING:
    from dora_nb.domain.plan_set import PlanSet
    from dora_nb.domain.run_record import RunRecord


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for plan.json and trace.json.")] = Path("dora-demo"),
    as_json: Json = False,
) -> None:
    """The whole job in a minute: load a smart home, plan, compare, run the plan for real, write what was found.

    Example: dora-nb demo --out dora-demo
    """
    from dora_nb import catalog
    from dora_nb.domain.qoe import QoE
    from dora_nb.executor.launch import execute as run_plan
    from dora_nb.planning.plan import plan as make_plan
    from dora_nb.render.tables import describe_plan
    from dora_nb.units import format_seconds

    started = time.monotonic()
    say = Talk(as_json)
    out.mkdir(parents=True, exist_ok=True)  # fail before the work, not after it
    say.heading("1  Load the smart home and a transformer")
    cluster = catalog.load_cluster("smart-home")
    workload = catalog.load_workload("qwen3-0.6b", mode="training", batch=16)
    qoe = QoE(latency_s=30.0, objective="energy")
    say.lines(setting_lines(workload, cluster, qoe))

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
            **plans_facts(plans),
            "execution": run_facts(record),
            "files": [str(path) for path in files],
            "wall_s": time.monotonic() - started,
        }
    )


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]


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


def execute(
    plan_file: Annotated[Path, typer.Argument(help="Plan file written by 'plan --out' or 'demo'.")],
    steps: Annotated[int, typer.Option(help="Training steps, batches, or requests of a stream.")] = 3,
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
        bool, typer.Option("--as-ready", help="Transfers leave as soon as they can, also where in order is faster.")
    ] = False,
    copies: Annotated[
        Literal["none", "replicas", "neighbours"], typer.Option(help="Who keeps states, so that no step is lost.")
    ] = "replicas",
    checkpoints: Annotated[Path | None, typer.Option(help="Folder in which training is written down.")] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Behind every so many steps.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the latest checkpoint there.")] = False,
    listen: Listen = None,
    token_file: TokenFile = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_ca: TlsCa = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the run's record, for 'dora-nb compare'.")] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write predicted and measured timelines for ui.perfetto.dev.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a plan for real, one process a device, compared with a single process and with its prediction.

    On this machine, which imitates the devices and their network, or with '--listen' on hosts that each run
    'dora-nb worker --name DEVICE', where nothing is imitated.

    Example: dora-nb execute plan.json --steps 3 --trace trace.json --out run.json
    """
    from dora_nb.domain.plan_file import load_plan
    from dora_nb.domain.run_file import save_run
    from dora_nb.executor.launch import execute as run_plan
    from dora_nb.executor.measuring.survey import workers_at

    say = Talk(as_json)
    check_output(out, plan_file)
    check_output(trace, plan_file, out)
    loaded = load_plan(plan_file)
    tls = certificates(tls_cert, tls_key, tls_ca)
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
    if out is not None:
        save_run(out, record)
        say.lines([f"{out}  the record; 'dora-nb compare {plan_file} {out}' shows the error of every part"])
    if trace is not None:
        record.to_trace(trace)
        say.lines([f"{trace}  predicted and measured timelines; open it at https://ui.perfetto.dev"])
    say.json(run_facts(record))


def worker(
    coordinator: Annotated[str, typer.Option(help="Where to connect: HOST:PORT, as the coordinator says.")],
    token_file: Annotated[Path, typer.Option(help="Your copy of the coordinator's token file; chmod 600.")],
    name: Annotated[
        str | None, typer.Option(help="Device this host plays; under torchrun: one per process, with commas.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="This worker's certificate, PEM.")] = None,
    tls_key: TlsKey = None,
    tls_ca: TlsCa = None,
    wait: Annotated[str, typer.Option(help="How long to try while nobody answers.")] = "60 s",
) -> None:
    """Play one device of a plan that another host executes.

    Both sides prove that they know the token. Unless the coordinator is on this host, mutual TLS is required: give all
    three certificate options. TLS protects orders and files, not the tensors: those pass between the workers in the
    clear, readable and alterable by whoever is on that network. Use a VPN such as WireGuard, or a network you trust.

    Example: dora-nb worker --coordinator 127.0.0.1:4242 --token-file token --name phone
    """
    from dora_nb.executor.control.join import join
    from dora_nb.units import parse_field

    tls = certificates(tls_cert, tls_key, tls_ca)
    join(coordinator, token_file, name=name, tls=tls, wait_s=parse_field("wait", wait, "time"))
