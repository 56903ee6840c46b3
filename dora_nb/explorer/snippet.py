"""The Python that gives a question and a plan in a fresh kernel, with names that anybody has."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from dora_nb import catalog
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import DoraError
from dora_nb.explorer.known import Known
from dora_nb.explorer.solving import Effort
from dora_nb.explorer.whatif import WhatIf
from dora_nb.formulation.problem import Problem
from dora_nb.planning.question import Question
from dora_nb.solvers import SolverChoice, SolverOptions

#: What :func:`dora_nb.plan` does unless it is told otherwise.
_DEFAULT = Effort()


class Snippet(NamedTuple):
    """Python text.

    Attributes
    ----------
    text
        Ends with ``workload``, ``cluster``, ``qoe`` and ``plan`` as they are looked at.
    reads_file
        Whether it reads a plan file, which then has to be there.
    """

    text: str
    reads_file: bool


def snippet(
    asked: Question, known: Known, what_if: WhatIf, qoe: QoE, effort: Effort, path: str | Path = "plan.json"
) -> Snippet:
    """Python that gives a plan and the question that is looked at.

    From the catalogue's names and a plan made anew where that gives the same; from a plan file where workload or
    cluster are not those of the catalogue, compute times were measured, the plan was made for another batch, or it is a
    provisional one.

    Parameters
    ----------
    asked
        The question asked first.
    known
        The plan that is looked at, and how it was found.
    what_if, qoe
        What is other now.
    effort
        How well plans are solved.
    path
        Of the plan file.
    """
    found = known.found
    workload, cluster = _workload_call(asked.workload), _cluster_call(asked.cluster)
    other_batch, unproven = found.what_if.batch != what_if.batch, found.kind == "provisional"
    if workload is None or cluster is None or asked.table is not None or other_batch or unproven:
        return Snippet(_from_file(asked, path), True)
    lines = ["import dora_nb as dora", "", *_case_lines(asked, found.what_if, cluster), f"qoe = {_qoe_call(found.qoe)}"]
    lines += _plan_lines(known, asked, effort)
    if found.what_if != what_if:
        lines += [
            "",
            "# the case that is looked at, for which this plan was not made",
            *_case_lines(asked, what_if, cluster),
        ]
    if found.qoe != qoe:
        lines += ["# the limits that are looked at", f"qoe = {_qoe_call(qoe)}"]
    lines.append("dora.evaluate(plan, workload, cluster).prediction" if found.what_if != what_if else "plan")
    return Snippet("\n".join(lines) + "\n", False)


def _from_file(asked: Question, path: str | Path) -> str:
    lines = [
        "import dora_nb as dora",
        "",
        f"saved = dora.load_plan({str(path)!r})",
        "workload, cluster, qoe, plan = saved.workload, saved.cluster, saved.qoe, saved.plan",
    ]
    if asked.table is not None:
        lines.append(
            "# planned with measured compute times, which no plan file holds: give them as table= to plan again"
        )
    return "\n".join([*lines, "plan"]) + "\n"


def _case_lines(asked: Question, what_if: WhatIf, cluster_call: str) -> list[str]:
    lines = [f"workload = {_workload_call(what_if.workload(asked.workload))}", f"cluster = {cluster_call}"]
    if what_if.off:
        lines.append(f"cluster = cluster.without({list(what_if.off)!r})")
    there = {name for name in asked.cluster.device_ids if name not in what_if.off}
    factors: dict[str, Any] = {
        "rates": what_if.bandwidth,
        "speeds": {name: factor for name, factor in what_if.speed.items() if name in there},
        "memory": {name: factor for name, factor in what_if.memory.items() if name in there},
    }
    given = {name: factor for name, factor in factors.items() if factor not in (1.0, {})}
    return lines + ([f"cluster = cluster.scaled({_arguments(given)})"] if given else [])


def _plan_lines(known: Known, asked: Question, effort: Effort) -> list[str]:
    """Plan anew as it was planned, and take the plan at its place."""
    found = known.found
    options: dict[str, Any] = {"most_plans": found.most_plans, "gap": effort.gap}
    options = {name: value for name, value in options.items() if value != getattr(_DEFAULT, name)}
    options |= {} if asked.overlap else {"overlap": False}
    parts = [_arguments(options), _solver_argument(asked.solver), _space_argument(asked)]
    call = ", ".join(["workload, cluster, qoe", *filter(None, parts)])
    plans = f"plans = dora.plan({call})"
    if found.kind == "answer":
        return [plans, "plan = plans.best  # of equally good plans the better one at the other figure"]
    return [plans, f"plan = plans[{found.place}]"]


def _solver_argument(choice: SolverChoice) -> str:
    """Which solver, unless it is the usual one as it usually is."""
    chosen = SolverOptions.of(choice)
    if chosen == SolverOptions(chosen.name):
        return "" if chosen.name == "auto" else f"solver={chosen.name!r}"
    said = {name: getattr(chosen, name) for name in ("name", "threads", "seed", "log")}
    said = {name: str(value) if isinstance(value, Path) else value for name, value in said.items()}
    usual = SolverOptions()
    return f"solver=dora.SolverOptions({_arguments({n: v for n, v in said.items() if v != getattr(usual, n)})})"


def _space_argument(asked: Question) -> str:
    """The plans that were considered, unless they are those that always are."""
    accounting, table, overlap = asked.qoe.energy_accounting, asked.table, asked.overlap
    problem = Problem.of(asked.workload, asked.cluster, accounting, qoe=asked.qoe, table=table, overlap=overlap)
    space = asked.space
    if space == problem.space:
        return ""
    return f"space=dora.SearchSpace({_arguments({each.name: getattr(space, each.name) for each in fields(space)})})"


def _workload_call(workload: Workload) -> str | None:
    """How the catalogue gives a workload; None where it does not."""
    if workload.name not in catalog.names("models"):
        return None
    fields = ("mode", "batch", "sequence", "image_px", "precision", "new_tokens", "requests_per_s", "source", "sink")
    given = {name: getattr(workload, name) for name in fields}
    plain = {"precision": "fp32", "new_tokens": 0, "sequence": catalog.DEFAULT_SEQUENCE}
    short = {name: value for name, value in given.items() if value is not None and value != plain.get(name)}
    for arguments in (_without(short, "image_px"), short, given):
        try:
            if catalog.load_workload(workload.name, **arguments) == workload:
                return f"dora.load_workload({', '.join([repr(workload.name), _arguments(arguments)])})"
        except DoraError:
            continue
    return None


def _without(fields: dict[str, Any], name: str) -> dict[str, Any]:
    return {field: value for field, value in fields.items() if field != name}


def _cluster_call(cluster: Cluster) -> str | None:
    """How the catalogue gives a cluster; None where it does not."""
    if cluster.name in catalog.names("deployments") and catalog.load_cluster(cluster.name) == cluster:
        return f"dora.load_cluster({cluster.name!r})"
    return None


def _qoe_call(qoe: QoE) -> str:
    plain = QoE.model_fields
    given = {name: getattr(qoe, name) for name in plain}
    changed = {
        name: value for name, value in given.items() if value != plain[name].get_default(call_default_factory=True)
    }
    return f"dora.QoE({_arguments(changed)})"


def _arguments(given: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in given.items())
