"""Runs a plan for real and holds it against one process and against its prediction."""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from dora_nb.costs.table import CostTable, cost_table
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.controller import Controller
from dora_nb.domain.fits import check_fits
from dora_nb.domain.plan import Plan
from dora_nb.domain.run_record import RunRecord
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.executor.conduct import Conductor
from dora_nb.executor.control.orders import NetworkUse
from dora_nb.executor.control.process import expect_workers
from dora_nb.executor.course import Copies, Course, Tell
from dora_nb.executor.device.instructions import compile_plan
from dora_nb.executor.device.shard_stages import check_shards_stay
from dora_nb.executor.emulation import Emulation, slow_down
from dora_nb.executor.faults.checkpoint import check_room
from dora_nb.executor.measuring.energy import metered, with_energy
from dora_nb.executor.pool import WorkerPool, require_torch
from dora_nb.executor.recording import record_of, reference_of
from dora_nb.executor.rehearsal import Rehearsal
from dora_nb.executor.run import Run
from dora_nb.executor.session import Session
from dora_nb.executor.system import usable_cores
from dora_nb.executor.tasks.scale import scaling_of
from dora_nb.units import counted

if TYPE_CHECKING:  # torch is loaded once it is known to be there
    from dora_nb.executor.tasks.assemble import Assembled
    from dora_nb.executor.tasks.task import Optimizer, Source

#: What is imitated on this machine: devices and network, devices alone, or nothing.
Imitated = Literal["cluster", "devices", "nothing"]


def execute(
    plan: Plan,
    workload: Workload,
    cluster: Cluster,
    model: object = None,
    *,
    data: object = None,
    loss: str | Source | Callable[..., Any] | None = None,
    steps: int = 3,
    seed: int = 0,
    dtype: str | None = None,
    optimizer: Optimizer | None = None,
    torch_devices: Mapping[str, str] | None = None,
    emulate: Imitated = "cluster",
    in_order: bool | None = None,
    table: CostTable | None = None,
    controller: Controller | None = None,
    plans: Sequence[Plan] = (),
    copies: Copies = "replicas",
    copy_every: int = 1,
    checkpoints: pathlib.Path | str | None = None,
    checkpoint_every: int = 1,
    resume: bool = False,
    slow_down_at: Callable[[int], Mapping[str, float]] | None = None,
    workers: WorkerPool | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Run:
    """Run a plan for real, and hold it against one process and against its prediction.

    One single-threaded process per device: one inference batch, then, if the workload trains, some AdamW steps; if it
    does not, as many batches as steps, each with all of its tokens if it generates; of a stream as many requests, at
    its rate, stretched as time is for slower devices. Then the same in one process, and the differences. How long it
    takes is predicted from a profile of the layers and a probe of the network before the first one. Returns at once:
    the run goes on in the background.

    Parameters
    ----------
    plan, workload, cluster
        What was planned, for what, on what.
    model, data, loss, dtype, optimizer, torch_devices
        What is computed; see :func:`~dora_nb.executor.tasks.assemble.task_of`. Without a model: a small random network
        of the workload's structure, in fp64, on random data.
    steps
        Training steps; batches, or requests of a stream, if the workload does not train; at least 1.
    seed
        Of weights and data, where these are random.
    emulate
        What this machine imitates: the planned ``cluster`` with its relative speeds and its network (see
        :mod:`dora_nb.executor.emulation` and :mod:`dora_nb.executor.device.medium`), its ``devices`` alone on loopback,
        or ``nothing``.
    in_order
        Whether transfers leave in the plan's order, each when it is its turn on the medium, or as soon as their sender
        is ready. None: both are predicted before the first step, and again of every plan that is changed to; the order
        is taken where it is predicted to be faster. The record's ``ordering`` says which it was, and why.
    table
        Compute times that the plan was made with; None: the roofline estimate. They set the share of an iteration that
        the imitated network takes.
    controller
        Says before every step which of the ``plans`` runs, for example a :class:`dora_nb.adaptation.Adapter`.
    plans
        Other plans of the same workload: for the controller to switch to, and, best first, to fall back to when devices
        are lost. Where none of them will do, the plan is changed as little as possible.
    copies, copy_every
        So that steps behind a fault are not lost: ``none``, the ``replicas`` of a stage, or also ``neighbours``, to
        which every device that is alone in its stage gives a copy behind every so many steps.
    checkpoints, checkpoint_every, resume
        A directory in which training is written down behind every so many steps, and whether to go on from there:
        without, it must hold no checkpoint yet.
    slow_down_at
        How many times as long emulated devices compute in a step (or batch), by its number; those not named as usual.
        Heat, or another program, to see a controller react to it.
    workers
        Warm workers to use, at least one per device; None: started for this run and ended with it.
    on_progress
        Called with a line of text as the run goes on, from another thread.

    Returns
    -------
    Run
        Its ``wait()`` gives the :class:`~dora_nb.domain.run_record.RunRecord`, or raises what went wrong:
        :class:`~dora_nb.errors.ExecutionError` if a worker failed and the run could not go on.

    Raises
    ------
    InputError
        If the plan does not fit the workload or cannot be run, or something else given cannot be used.
    MissingDependencyError
        If torch is not installed.
    """
    began_s = time.monotonic()
    for field, value in (("steps", steps), ("copy_every", copy_every), ("checkpoint_every", checkpoint_every)):
        if value < 1:
            raise InputError(field, value, "at least 1")
    if resume and checkpoints is None:
        raise InputError("checkpoints", None, "the directory to resume from")
    if checkpoints is not None:
        check_room(pathlib.Path(checkpoints), steps, resume=resume, trains=workload.trains)
    _check_plans(plan, plans, workload, cluster)
    devices = tuple(dict.fromkeys(device for each in (plan, *plans) for device in each.devices))
    if workers is not None:
        workers.check_open()
        if len(workers) < len(devices):
            raise InputError("workers", len(workers), f"at least {counted(len(devices), 'worker')}, one per device")
    require_torch()
    if workers is None:
        expect_workers()
    if model is None:  # what cannot be run is better known before anything starts
        scaling_of([plan, *plans], workload)
    course = Course(
        steps=steps,
        controller=controller,
        fallbacks=tuple(plans),
        copies=copies,
        copy_every=copy_every,
        checkpoints=None if checkpoints is None else pathlib.Path(checkpoints),
        checkpoint_every=checkpoint_every,
        resume=resume,
        slow_down_at=slow_down_at,
        in_order=in_order,
    )

    def work(run: Run) -> RunRecord:
        from dora_nb.executor.tasks.assemble import task_of

        with _workers(len(devices), workers, run) as pool:
            assembled = task_of(
                model,
                plan,
                workload,
                directory=pool.directory,
                data=data,
                loss=loss,
                steps=steps,
                seed=seed,
                dtype=dtype,
                optimizer=optimizer,
                torch_devices=torch_devices,
                others=plans,
                every_block=controller is not None,
            )
            compile_plan(assembled.plan, trains=workload.trains)
            rehearsal = _rehearsal(
                assembled, (plan, workload, table), cluster, devices, emulate, run.tell, elsewhere=bool(pool.connected)
            )
            network = _network(rehearsal, pool, in_order=emulate == "cluster" if in_order is None else in_order)
            session = Session(pool, assembled.task, network, pool.seats(devices), rehearsal.longest_s)
            conductor = Conductor(
                session,
                rehearsal,
                replace(course, in_run_form=assembled.in_run_form),
                run.tell,
                run.events.extend,
                run.stopping,
                run.expect,
            )
            with metered() as counted:  # not the timing before it, nor the one process behind it
                conducted = conductor.run(assembled.plan)
            run.tell("running the same network in one process")
            training_steps = steps if workload.trains else 0
            reference, accuracy = reference_of(rehearsal, assembled.plan, training_steps)
        record = record_of(rehearsal, assembled.plan, conducted, reference, steps=training_steps, began_s=began_s)
        record = record.replace(scaled_down=model is None, accuracy=accuracy)
        if len(assembled.plan.devices) > 1:
            record = record.replace(ordering=conducted.first.ordering)
        return with_energy(record, cluster, counted, emulated=emulate != "nothing")

    return Run(work, on_progress)


def _check_plans(plan: Plan, others: Sequence[Plan], workload: Workload, cluster: Cluster) -> None:
    """Refuse plans that do not fit, or that a run could not change between."""
    for candidate in (plan, *others):
        check_fits(candidate, workload, cluster)
        check_shards_stay(plan, candidate)
        held = next((stage.weights for stage in candidate.stages if stage.weights), None)
        if held is not None and others:
            raise InputError(
                "plans", held, "none where a stage holds its weights in fewer bits: layers could not change place"
            )


def _rehearsal(
    assembled: Assembled,
    planned: tuple[Plan, Workload, CostTable | None],
    cluster: Cluster,
    devices: Sequence[str],
    emulate: Imitated,
    tell: Tell,
    *,
    elsewhere: bool,
) -> Rehearsal:
    """Time the layers, and decide what is imitated how; workers on other hosts have cores of their own."""
    tell("profiling the layers")
    plan, workload, table = planned
    if emulate == "nothing":
        cores = None if elsewhere else usable_cores()
        emulation = Emulation(dict.fromkeys(devices, 1.0), devices=False, cores=cores)
    else:
        emulation = Emulation(slow_down(devices, workload, cluster))
    rehearsal = Rehearsal(assembled.task, assembled.workload, cluster, emulation)
    if emulate != "nothing":
        known = cost_table(workload, cluster) if table is None else table
        rehearsal.make_room(assembled.plan)
        imitates = emulate == "cluster" and len(devices) > 1
        rehearsal.keep_time(assembled.plan, (plan, workload, known), with_network=imitates)
    return rehearsal


def _network(rehearsal: Rehearsal, pool: WorkerPool, *, in_order: bool) -> NetworkUse:
    imitated = rehearsal.emulation.network
    return NetworkUse(
        cluster=rehearsal.cluster if imitated is None else imitated,
        workload=rehearsal.workload,
        in_order=in_order,
        medium=None if imitated is None else str(pool.directory / "medium"),
    )


@contextlib.contextmanager
def _workers(count: int, given: WorkerPool | None, run: Run) -> Iterator[WorkerPool]:
    if given is not None:
        try:
            yield given
        except BaseException:
            given.close()  # interrupted halfway, they would answer the next run with what is left of this one
            raise
        return
    run.tell(f"starting {counted(count, 'worker')}")
    with WorkerPool(count) as pool:
        run.on_cancel(pool.close)
        yield pool
