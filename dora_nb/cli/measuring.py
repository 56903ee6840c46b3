"""Commands that measure what plans rest on: ``profile`` for devices, ``probe`` for the network between them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dora_nb.cli.options import (
    ClusterName,
    ImagePx,
    Json,
    Listen,
    Precision,
    SequenceLength,
    TlsCa,
    TlsCert,
    TlsKey,
    TokenFile,
    certificates,
    check_output,
)
from dora_nb.cli.talk import Talk
from dora_nb.errors import InputError


def profile(
    model: Annotated[
        str,
        typer.Argument(help="Model in the catalogue; 'module:function' that makes your own; a checkpoint's directory."),
    ],
    mode: Annotated[
        Literal["training", "inference"], typer.Option(help="With backward passes and optimizer steps, or without.")
    ] = "inference",
    batch: Annotated[int, typer.Option(help="Samples per iteration or batch.")] = 1,
    sequence: SequenceLength = None,
    image_px: ImagePx = None,
    precision: Precision = "fp32",
    sample: Annotated[
        str | None, typer.Option(help="'module:name' of a tensor that goes in, or of its maker (your own model).")
    ] = None,
    samples: Annotated[
        list[int] | None, typer.Option(help="Number of samples to time, once for each; powers of two unless given.")
    ] = None,
    repetitions: Annotated[int, typer.Option(help="Passes of each layer that are timed.")] = 9,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="fp16, bf16 or int8: time layers with weights held so as well (not training), once for each."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the profile to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Measure every layer of a model on this device, one at a time and at its real size.

    Example: dora-nb profile bert-base --mode training --batch 4 --out laptop.json
    """
    from dora_nb import catalog
    from dora_nb.domain.plan import checked_weights
    from dora_nb.domain.profile_file import save_profile
    from dora_nb.executor.pool import require_torch
    from dora_nb.render.profiles import profile_facts, profile_lines

    say = Talk(as_json)
    check_output(out, model)
    kinds = checked_weights(weights or (), trains=mode == "training")
    own = ":" in model or Path(model).is_dir()
    if own != (sample is not None):
        raise InputError("sample", sample, "'module:name' of a tensor for your own model, nothing for the catalogue's")
    sizes = {"sequence": sequence, "image_px": image_px, "precision": None if precision == "fp32" else precision}
    for name, given in sizes.items():
        if own and given is not None:
            raise InputError(name, given, "nothing with your own model: its sample has a size and a precision")
    require_torch()
    with say.progress("profiling") as update:
        if sample is not None:
            from dora_nb.executor.measuring.named_model import profile_named

            found = profile_named(
                model,
                sample,
                mode=mode,
                batch=batch,
                samples=samples,
                repetitions=repetitions,
                weights=kinds,
            )
        else:
            from dora_nb.executor.measuring.real_size import profile_workload

            size = {"sequence": sequence, "image_px": image_px, "precision": precision}
            job = catalog.load_workload(model, mode=mode, batch=batch, **size)  # type: ignore[arg-type]
            found = profile_workload(job, samples=samples, repetitions=repetitions, weights=kinds, on_progress=update)
    say.lines(profile_lines(found))
    if out is not None:
        save_profile(out, found)
        say.lines([f"{out}  the profile; plan with it: dora-nb plan --profile DEVICE='{out}' ..."])
    say.json(profile_facts(found))


def probe(
    cluster: ClusterName,
    listen: Listen = None,
    token_file: TokenFile = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_ca: TlsCa = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the measured cluster to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Measure the network between the devices of a cluster, alone and contended: a measured cluster file.

    With '--listen' every device's host runs 'dora-nb worker --name DEVICE'. Without it all workers run here, and what
    is measured is this machine's loopback.

    Example: dora-nb probe --cluster smart-home --out measured.json
    """
    from dora_nb import catalog
    from dora_nb.domain.cluster_file import save_cluster
    from dora_nb.executor.measuring.survey import probe_network, workers_at
    from dora_nb.render.words import domain_lines

    say = Talk(as_json)
    check_output(out, cluster)
    devices = catalog.load_cluster(cluster)
    tls = certificates(tls_cert, tls_key, tls_ca)
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
