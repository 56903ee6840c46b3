"""Plans for other programs: the executor's plan file, schedules, traces, tables, and models for any solver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from dora_nb.costs.evaluate import evaluate
from dora_nb.costs.table import CostTable
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.document import write_whole
from dora_nb.domain.fits import check_fits
from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_file import save_plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.executor.control.address import parse_address
from dora_nb.exporting.hosts import run_commands
from dora_nb.exporting.models import ModelFormat, write_model
from dora_nb.exporting.pipelining import pipelining_csv, pipelining_rows
from dora_nb.planning.exact.programs import ProgramName, program_of
from dora_nb.render.frames import schedule_frame, stage_frame
from dora_nb.render.trace import trace_events, write_trace

__all__ = ["ExportFormat", "Exported", "export", "pipelining_csv", "pipelining_rows"]

ExportFormat: TypeAlias = Literal["plan", "pipelining", "perfetto", "lp", "mps", "stages", "schedule"]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes
    ----------
    path
        Where it is.
    lines
        What to do with it, and what it does not say.
    """

    path: Path
    lines: tuple[str, ...]

    def __repr__(self) -> str:
        return "\n".join([str(self.path), *(f"  {line}" for line in self.lines)])


def export(
    path: str | Path,
    plan: Plan,
    workload: Workload,
    cluster: Cluster,
    qoe: QoE | None = None,
    *,
    to: ExportFormat,
    program: ProgramName = "joint",
    table: CostTable | None = None,
    coordinator: str = "127.0.0.1:4242",
) -> Exported:
    """Write a plan, or the program that it answers, for another program; as a whole or not at all.

    Parameters
    ----------
    path
        Where to; an existing file is replaced.
    plan, workload, cluster, qoe
        The plan and what it was made for; ``qoe`` None: no limits, lowest latency.
    to
        ``plan``: a plan file, with the command lines that run it, torchrun's among them. ``pipelining``: a schedule of
        ``torch.distributed.pipelining``, CSV with a line a rank. ``perfetto``: the predicted timeline, for
        https://ui.perfetto.dev. ``lp``, ``mps``: an exact program. ``stages``, ``schedule``: tables, CSV with units in
        the column names, as :meth:`Plan.stage_frame <dora_nb.domain.plan.Plan.stage_frame>` and
        :meth:`~dora_nb.domain.plan.Plan.schedule_frame` give them.
    program
        Which program, for ``lp`` and ``mps``; see :class:`~dora_nb.planning.exact.programs.Program`.
    table
        Measured compute times; None: the roofline estimate.
    coordinator
        ``host:port`` at which workers connect, for the commands of ``plan``.

    Returns
    -------
    Exported

    Raises
    ------
    InputError
        If the plan cannot be written in this form (it says why), does not fit, or ``coordinator`` is no address.
    DocumentError
        If the file cannot be written.
    """
    path = Path(path)
    check_fits(plan, workload, cluster)
    parse_address(coordinator)

    def as_plan() -> list[str]:
        save_plan(path, plan, workload, cluster, qoe)
        here, waits, workers = run_commands(path, plan, coordinator)
        return [f"on this machine: {here}", f"or wait for workers: {waits}", f"and start them: {workers}"]

    def as_pipelining() -> list[str]:
        write_whole(path, pipelining_csv(plan, workload))
        ranks = ", ".join(f"{rank} {device}" for rank, device in enumerate(plan.devices))
        first = int(plan.tied == "hosted")
        stages = [f"{at + first}: {each.first_layer}-{each.stop_layer - 1}" for at, each in enumerate(plan.stages)]
        lines = [f"ranks: {ranks}", f"layers by stage: {', '.join(['0: 0'] * first + stages)}"]
        if first:
            lines.append("stage 0 and the last one, on the last rank, share the tied parameters: make them one tensor")
        again = [str(at + first) for at, stage in enumerate(plan.stages) if stage.recomputes]
        if again:
            lines.append(f"stages that recompute, to be wrapped in torch.utils.checkpoint: {', '.join(again)}")
        return [*lines, 'load it with format="compute_comms"; the order on shared media and chunks are not in it']

    def as_perfetto() -> list[str]:
        timeline = evaluate(plan, workload, cluster, table).timeline
        write_trace(path, [trace_events(timeline, "predicted: one iteration", 1)])
        return ["open it at https://ui.perfetto.dev"]

    def as_model(form: ModelFormat) -> list[str]:
        found = program_of(plan, workload, cluster, qoe, which=program, table=table)
        write_model(path, found, form)
        return [found.words]

    def as_stages() -> list[str]:
        write_whole(path, stage_frame(_predicted()).to_csv(index=False, lineterminator="\n"))
        return ["a row for every device of every stage"]

    def as_schedule() -> list[str]:
        write_whole(path, schedule_frame(_predicted()).to_csv(index=False, lineterminator="\n"))
        return ["a row for every transfer, by start; predicted"]

    def _predicted() -> Plan:
        return evaluate(plan, workload, cluster, table).scheduled

    writers: dict[str, Callable[[], list[str]]] = {
        "plan": as_plan,
        "pipelining": as_pipelining,
        "perfetto": as_perfetto,
        "lp": lambda: as_model("lp"),
        "mps": lambda: as_model("mps"),
        "stages": as_stages,
        "schedule": as_schedule,
    }
    if to not in writers:
        raise InputError("to", to, ", ".join(get_args(ExportFormat)))
    return Exported(path, tuple(writers[to]()))
