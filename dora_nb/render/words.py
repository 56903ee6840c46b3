"""Sentences about plans: what was asked, who runs what, and how plans compare. Every number is computed here."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence

from dora_nb.domain.plan import Plan, Stage
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import EnergyAccounting, QoE
from dora_nb.domain.workload import Workload
from dora_nb.units import format_joules, format_seconds

#: What a cell says when there is no figure.
NOTHING = "-"

#: Who counts under each accounting, in words.
COUNTED: dict[EnergyAccounting, str] = {
    "participating": "counting the plan's devices",
    "all-on": "counting every device of the cluster",
}

_MOST_RUNS = 4  # runs of layers that are named one by one
_NUMBERED = re.compile(r"(.*?)(\d+)")


def asked_lines(plan_set: PlanSet) -> list[str]:
    """What was asked: the workload on the cluster, and the limits."""
    cluster, domain = plan_set.cluster, plan_set.cluster.domain
    medium = f" on {domain.id}" if domain is not None else ""
    devices = count(len(cluster.devices), "device")
    return [
        f"{workload_words(plan_set.workload)}; {cluster.name}: {devices}{medium}",
        qoe_words(plan_set.qoe),
    ]


def workload_words(workload: Workload) -> str:
    """A workload in a few words: name, mode, batch, size of a sample, precision."""
    parts = [workload.name, workload.mode, f"batch {workload.batch}"]
    if workload.sequence is not None:
        parts.append(f"{workload.sequence} tokens")
    if workload.image_px is not None:
        parts.append(f"{workload.image_px} px images")
    return ", ".join([*parts, workload.precision])


def qoe_words(qoe: QoE) -> str:
    """The objective, the limits and whose energy counts."""
    limits = []
    if qoe.latency_s is not None:
        limits.append(f"latency at most {format_seconds(qoe.latency_s)}")
    if qoe.energy_j is not None:
        limits.append(f"energy at most {format_joules(qoe.energy_j)}")
    aim = "lowest latency" if qoe.objective == "latency" else "least energy"
    return f"Asked for: {aim}, {' and '.join(limits) or 'no limits'}; energy {COUNTED[qoe.energy_accounting]}"


def solved_lines(plan_set: PlanSet) -> list[str]:
    """What the bounds hold for, what proved them and why that solver; one line per different answer."""
    certificates = [plan.certificate for plan in plan_set.plans if plan.certificate is not None]
    solvers = dict.fromkeys(f"{each.solver} ({each.solver_reason})" for each in certificates)
    scopes = dict.fromkeys(each.scope for each in certificates)
    lines = [f"Bound: no plan considered can be below it ({scope})." for scope in scopes]
    found = f"Found in {format_seconds(plan_set.wall_s)}"
    return [*lines, f"{found} by {'; '.join(solvers)}." if solvers else f"{found}."]


def comparison_lines(plan_set: PlanSet) -> list[str]:
    """How the fastest and the thriftiest plan compare with the baseline that is strongest at the same figure.

    Latency, then energy under both accountings. Nothing without baselines.
    """
    lines = []
    plans = [plan for plan in plan_set.plans if plan.prediction is not None]
    baselines = [plan for plan in plan_set.baselines if plan.prediction is not None]
    if not plans or not baselines:
        return []
    fastest, rival = min(plans, key=makespan_s), min(baselines, key=makespan_s)
    ours, theirs = makespan_s(fastest), makespan_s(rival)
    lines.append(
        f"'{fastest.label}' {_speed(ours, theirs)} '{rival.label}', the fastest baseline "
        f"({format_seconds(ours)} against {format_seconds(theirs)})."
    )
    chosen = plan_set.qoe.energy_accounting
    thriftiest = min(plans, key=energy_of(chosen))
    order: list[EnergyAccounting] = ["participating", "all-on"]
    for accounting in sorted(order, key=lambda each: each != chosen):
        energy_j = energy_of(accounting)
        rival = min(baselines, key=energy_j)
        ours, theirs = energy_j(thriftiest), energy_j(rival)
        lines.append(
            f"'{thriftiest.label}' takes {_saving(ours, theirs)} '{rival.label}', the thriftiest baseline, "
            f"{COUNTED[accounting]} ({format_joules(ours)} against {format_joules(theirs)})."
        )
    return lines


def plan_mark(index: int) -> str:
    """What a plan is called in a table and a figure that belong together: 1, 2, 3."""
    return str(index + 1)


def baseline_mark(index: int) -> str:
    """What a baseline is called there: a, b, ..., z, a2, b2."""
    letter = "abcdefghijklmnopqrstuvwxyz"[index % 26]
    return letter if index < 26 else f"{letter}{index // 26 + 1}"


def makespan_s(plan: Plan) -> float:
    """Predicted makespan; not a number for a plan that was not evaluated."""
    return math.nan if plan.prediction is None else plan.prediction.makespan_s


def energy_of(accounting: EnergyAccounting) -> Callable[[Plan], float]:
    """The function that gives a plan's energy in joules under an accounting (NaN if it was not evaluated)."""
    return lambda plan: math.nan if plan.prediction is None else plan.prediction.energy_j(accounting)


def seconds_words(seconds: float) -> str:
    """A duration, or a dash when there is none."""
    return format_seconds(seconds) if math.isfinite(seconds) else NOTHING


def joules_words(joules: float) -> str:
    """An energy, or a dash when there is none."""
    return format_joules(joules) if math.isfinite(joules) else NOTHING


def bound_words(plan: Plan) -> str:
    """The bound with its unit, or a dash."""
    if plan.certificate is None:
        return NOTHING
    return (seconds_words if plan.certificate.unit == "s" else joules_words)(plan.certificate.bound)


def gap_words(plan: Plan) -> str:
    """The gap in per cent, or a dash."""
    return NOTHING if plan.certificate is None else f"{100 * plan.certificate.gap:.1f} %"


def status_words(plan: Plan, qoe: QoE) -> str:
    """How a plan is proven; of a plan without a proof, which limits it misses."""
    if plan.certificate is not None:
        return plan.certificate.status
    missed = []
    if qoe.latency_s is not None and makespan_s(plan) > qoe.latency_s:
        missed.append("latency")
    if qoe.energy_j is not None and energy_of(qoe.energy_accounting)(plan) > qoe.energy_j:
        missed.append("energy")
    return f"misses {'both limits' if len(missed) > 1 else missed[0]}" if missed else NOTHING


def describe_stages(plan: Plan, names: Sequence[str]) -> list[str]:
    """One sentence fragment per stage: which layers (by name), on which devices, how many samples each."""
    several = len(str(len(plan.stages) - 1))
    lines = []
    if plan.tied == "hosted":
        where = " and ".join(plan.stages[-1].devices)
        lines.append(f"first:  {names[0]} on {where}, next to the last layer, which shares its parameters")
    for index, stage in enumerate(plan.stages):
        layers = layer_words(names[stage.first_layer : stage.stop_layer])
        lines.append(f"stage {index:>{several}}: {layers} on {_replica_words(stage, plan.micro_batch)}")
    return lines


def layer_words(names: Sequence[str]) -> str:
    """Layers by name, numbered runs written as one: ``embedding, block.0-9``."""
    runs: list[tuple[str, int, int] | str] = []
    for name in names:
        numbered = _NUMBERED.fullmatch(name)
        if numbered is None:
            runs.append(name)
            continue
        stem, number = numbered[1], int(numbered[2])
        last = runs[-1] if runs else ""
        if not isinstance(last, str) and last[0] == stem and last[2] + 1 == number:
            runs[-1] = (stem, last[1], number)
        else:
            runs.append((stem, number, number))
    if len(runs) > _MOST_RUNS:
        return f"{names[0]} to {names[-1]} ({len(names)} layers)"
    words = [run if isinstance(run, str) else f"{run[0]}{_range(run[1], run[2])}" for run in runs]
    return ", ".join(words)


def count(number: int, noun: str) -> str:
    """A number with its noun: ``1 device``, ``2 devices``, ``3 micro-batches``."""
    plural = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def shorten(text: str, longest: int) -> str:
    """Text of at most so many characters."""
    return text if len(text) <= longest else f"{text[: longest - 3].rstrip()}..."


def one_line(text: str) -> str:
    """Text without line breaks and control characters, which would break a table."""
    return "".join(character if character.isprintable() else " " for character in text)


def sentence(parts: Iterable[str]) -> str:
    """``a, b and c``."""
    parts = list(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)


def _replica_words(stage: Stage, micro_batch: int) -> str:
    if len(stage.replicas) == 1:
        return f"{stage.replicas[0].device} (all {count(micro_batch, 'sample')})"
    return sentence(f"{each.device} ({each.samples} of {count(micro_batch, 'sample')})" for each in stage.replicas)


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _speed(ours_s: float, theirs_s: float) -> str:
    if theirs_s >= 1.05 * ours_s > 0:
        return f"is {theirs_s / ours_s:.1f} times as fast as"
    if ours_s > 1.05 * theirs_s > 0:
        return f"takes {ours_s / theirs_s:.1f} times as long as"
    return "is about as fast as"


def _saving(ours_j: float, theirs_j: float) -> str:
    if theirs_j <= 0 or abs(ours_j - theirs_j) < 0.005 * theirs_j:
        return "about as much energy as"
    percent = 100 * abs(ours_j - theirs_j) / theirs_j
    return f"{percent:.0f} % {'less' if ours_j < theirs_j else 'more'} energy than"
