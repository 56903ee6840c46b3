"""Runs a plan for real on this machine and holds it against one process and against its prediction."""

from __future__ import annotations

import contextlib
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.fits import check_fits
from dora_nb.domain.plan import Plan
from dora_nb.domain.run_record import INFERENCE, Environment, Link, RunEvent, RunRecord
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.executor.emulation import describe, slow_down, usable_cores
from dora_nb.executor.instructions import compile_plan
from dora_nb.executor.messages import Finished, IterationReport, Job, Probe, Probed, Ready, Reply, Run, StepDone, Target
from dora_nb.executor.pool import WorkerPool, require_torch
from dora_nb.executor.scale import for_inference, scale_down

if TYPE_CHECKING:  # torch is loaded once it is known to be there
    from torch import Tensor

#: Least seconds a worker waits for a peer, and the margin on what a run is predicted to take at most.
PEER_S, MARGIN = 60.0, 3.0

Progress = Callable[[str], None]


def execute(
    plan: Plan,
    workload: Workload,
    cluster: Cluster,
    *,
    steps: int = 3,
    seed: int = 0,
    emulate: bool = True,
    on_progress: Progress | None = None,
    workers: WorkerPool | None = None,
) -> RunRecord:
    """Run a plan for real, on a small random network of the same structure.

    One single-threaded process per participating device, on this machine. One inference batch and, if the workload
    trains, some AdamW steps, in fp64; then the same in one process, and the differences. The time a step takes is
    predicted from a profile of the layers and a probe of the network before the run begins.

    A transfer leaves as soon as its sender is ready and its receiver waits: the plan's order of transfers is what the
    prediction reckons with, and is not imposed on the network here, which is loopback and not the planned one.

    Parameters
    ----------
    plan, workload, cluster
        What was planned, for what, on what.
    steps
        Training steps, at least 1; without meaning when the workload does not train.
    seed
        Of weights and data.
    emulate
        Imitate the relative speeds of the devices (see :mod:`dora_nb.executor.emulation`); else all compute at this
        machine's speed.
    on_progress
        Called with a line of text as the run goes on.
    workers
        Warm workers to use, at least one per device; a run that fails halfway ends them. None: started for this run
        and ended with it.

    Returns
    -------
    RunRecord

    Raises
    ------
    InputError
        If the plan does not fit the workload or cannot be run, or the network is not a transformer.
    MissingDependencyError
        If torch is not installed.
    ExecutionError
        If a worker fails.
    """
    began_s = time.monotonic()
    if steps < 1:
        raise InputError("steps", steps, "at least 1")
    check_fits(plan, workload, cluster)
    require_torch()
    tell = on_progress or (lambda _: None)
    small, small_plan = scale_down(plan, workload)
    steps = steps if small.trains else 0
    compile_plan(small_plan, trains=small.trains)
    factors = slow_down(plan, workload, cluster) if emulate else dict.fromkeys(plan.devices, 1.0)
    with _workers(len(plan.devices), workers, tell) as pool:
        rehearsal = _rehearse(small_plan, small, cluster, factors, seed, pool, tell)
        targets = rehearsal.targets if emulate else {}
        finished = _run(small_plan, steps, targets, rehearsal.longest_s, pool, tell)
        results = _results(small_plan, pool)
    tell("running the same network in one process")
    return _record(
        plan=small_plan,
        workload=small,
        steps=steps,
        seed=seed,
        emulation=describe(factors, emulate),
        factors=factors,
        rehearsal=rehearsal,
        finished=finished,
        results=results,
        began_s=began_s,
    )


@dataclass(frozen=True)
class _Rehearsal:
    """Everything known before the run begins.

    Attributes
    ----------
    link
        The network between two workers; None with one device.
    targets
        Seconds of the computations of each device: of the inference batch, and of a training step.
    inference_s, training_s
        Predicted makespans; no training, no second one.
    longest_s
        Seconds after which a wait for a peer is hopeless.
    """

    link: Link | None
    targets: Mapping[str, tuple[tuple[Target, ...], tuple[Target, ...]]]
    inference_s: float
    training_s: float | None
    longest_s: float


@contextlib.contextmanager
def _workers(count: int, given: WorkerPool | None, tell: Progress) -> Iterator[WorkerPool]:
    if given is not None:
        if len(given) < count:
            raise InputError("workers", len(given), f"at least {count} workers, one per device")
        try:
            yield given
        except BaseException:
            given.close()  # interrupted halfway, they would answer the next run with what is left of this one
            raise
        return
    tell(f"starting {count} workers")
    with WorkerPool(count) as pool:
        yield pool


def _rehearse(
    plan: Plan,
    workload: Workload,
    cluster: Cluster,
    factors: Mapping[str, float],
    seed: int,
    pool: WorkerPool,
    tell: Progress,
) -> _Rehearsal:
    """Profile the layers, prepare the workers, probe the network, and predict."""
    import torch

    from dora_nb.executor.predict import busy_bound_s, machine_cluster, measured_table, predict, targets_of
    from dora_nb.executor.profile import profile_layers

    tell("profiling the layers")
    samples = {replica.samples for stage in plan.stages for replica in stage.replicas}
    # One entry per pass: (plan, workload, times of its layers). Inference keeps no graph, so it is timed apart.
    passes = [for_inference(plan, workload)] + ([(plan, workload)] if workload.trains else [])
    timed = [(each, of, profile_layers(of, samples, torch.float64)) for each, of in passes]
    # The longest run is bounded before there is a link: the group's time limit is set when it forms.
    assumed = machine_cluster(
        plan, cluster, Link(latency_s=1e-3, rate_bytes_per_s=1e8) if len(plan.devices) > 1 else None
    )
    longest_s = PEER_S + MARGIN * max(
        busy_bound_s(each, of, assumed, measured_table(times, each, assumed, factors)) for each, of, times in timed
    )
    tell("preparing the workers")
    link = _prepare(plan, workload, seed, longest_s, pool)
    here = machine_cluster(plan, cluster, link)
    tables = [measured_table(times, each, here, factors) for each, _, times in timed]
    predicted_s = [predict(each, of, here, table) for (each, of, _), table in zip(timed, tables, strict=True)]
    targets = {}
    for device in plan.devices:
        own = [targets_of(device, each, of, here, table) for (each, of, _), table in zip(timed, tables, strict=True)]
        targets[device] = (own[0], own[1] if workload.trains else ())
    training_s = predicted_s[1] if workload.trains else None
    return _Rehearsal(link, targets, predicted_s[0], training_s, longest_s)


def _prepare(plan: Plan, workload: Workload, seed: int, longest_s: float, pool: WorkerPool) -> Link | None:
    devices = plan.devices
    generation = pool.next_generation()
    jobs = {
        rank: Job(
            generation=generation,
            devices=devices,
            device=device,
            store_port=pool.store_port,
            timeout_s=longest_s,
            workload=workload,
            plan=plan,
            seed=seed,
        )
        for rank, device in enumerate(devices)
    }
    pool.ask(jobs, Ready, doing="preparing", timeout_s=longest_s)
    if len(devices) == 1:
        return None
    probed = pool.ask(dict.fromkeys((0, 1), Probe()), Probed, doing="probing the network", timeout_s=longest_s)
    return Link(latency_s=probed[0].latency_s, rate_bytes_per_s=probed[0].rate_bytes_per_s)


def _run(
    plan: Plan,
    steps: int,
    targets: Mapping[str, tuple[tuple[Target, ...], tuple[Target, ...]]],
    longest_s: float,
    pool: WorkerPool,
    tell: Progress,
) -> dict[str, Finished]:
    tell("running")
    orders = {}
    for rank, device in enumerate(plan.devices):
        inference, training = targets.get(device, ((), ()))
        orders[rank] = Run(
            steps=steps,
            inference_targets=inference,
            training_targets=training,
            results=str(_results_path(pool, rank)),
        )

    def on_other(rank: int, reply: Reply) -> None:
        if rank == 0 and isinstance(reply, StepDone):
            what = "inference batch" if reply.step == INFERENCE else f"step {reply.step + 1} of {steps}"
            tell(f"{what} done")

    finished = pool.ask(orders, Finished, doing="running", timeout_s=(steps + 1) * longest_s, on_other=on_other)
    return {device: finished[rank] for rank, device in enumerate(plan.devices)}


def _results_path(pool: WorkerPool, rank: int) -> pathlib.Path:
    return pool.directory / f"worker{rank}.safetensors"


def _results(plan: Plan, pool: WorkerPool) -> dict[str, dict[str, Tensor]]:
    """What the workers wrote, by device."""
    from safetensors.torch import load_file

    results = {}
    for rank, device in enumerate(plan.devices):
        path = _results_path(pool, rank)
        results[device] = load_file(path)
        path.unlink()
    return results


def _record(
    *,
    plan: Plan,
    workload: Workload,
    steps: int,
    seed: int,
    emulation: str,
    factors: dict[str, float],
    rehearsal: _Rehearsal,
    finished: Mapping[str, Finished],
    results: Mapping[str, Mapping[str, Tensor]],
    began_s: float,
) -> RunRecord:
    """Compare with one process and write everything down."""
    import torch

    from dora_nb.executor.compare import differences
    from dora_nb.executor.reference import reference_run
    from dora_nb.executor.threads import one_thread

    with one_thread():
        reference = reference_run(workload, plan, steps, seed, torch.float64)
    by_step = {
        step: {device: _iteration(each, step) for device, each in finished.items()} for step in range(INFERENCE, steps)
    }
    losses = tuple(sum(each.loss for each in by_step[step].values()) for step in range(steps))
    step_s = tuple(_duration_s(by_step[step]) for step in range(steps))
    inference_s = _duration_s(by_step[INFERENCE])
    apart = differences(reference, plan, results, losses)
    return RunRecord(
        workload=workload,
        plan=plan,
        steps=steps,
        seed=seed,
        differences=apart,
        max_abs_diff=apart.largest,
        predicted_s=rehearsal.inference_s if rehearsal.training_s is None else rehearsal.training_s,
        measured_s=statistics.median(step_s) if step_s else inference_s,
        step_s=step_s,
        inference_predicted_s=rehearsal.inference_s,
        inference_measured_s=inference_s,
        losses=losses,
        reference_losses=tuple(reference.losses),
        emulation=emulation,
        slow_down=factors,
        overruns=sum(each.late for devices in by_step.values() for each in devices.values()),
        link=rehearsal.link,
        environment=Environment(
            torch=str(torch.__version__),
            python=platform.python_version(),
            platform=platform.platform(),
            cores=usable_cores(),
        ),
        events=tuple(event for step, devices in by_step.items() for event in _events(step, devices)),
        wall_s=time.monotonic() - began_s,
    )


def _iteration(finished: Finished, step: int) -> IterationReport:
    return next(each for each in finished.iterations if each.step == step)


def _duration_s(devices: Mapping[str, IterationReport]) -> float:
    """From the first device's start to the last one's end; one host, so one clock."""
    return max(each.end_s for each in devices.values()) - _start_s(devices)


def _start_s(devices: Mapping[str, IterationReport]) -> float:
    return min(each.start_s for each in devices.values())


def _events(step: int, devices: Mapping[str, IterationReport]) -> Iterator[RunEvent]:
    origin_s = _start_s(devices)
    for device, iteration in devices.items():
        for event in iteration.events:
            yield RunEvent(
                device=device,
                kind=event.kind,
                stage=event.stage,
                micro_batch=event.micro_batch,
                step=step,
                start_s=event.start_s - origin_s,
                end_s=event.end_s - origin_s,
            )
