"""Sentences about plans: what was asked, who runs what, and how plans compare. Every number is computed here."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from dora_nb.domain.cluster import Cluster, ContentionDomain
from dora_nb.domain.coverage import Coverage
from dora_nb.domain.limit import Limit
from dora_nb.domain.plan import Algorithm, Plan, Stage, Weights
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import EnergyAccounting, QoE
from dora_nb.domain.rating import qoe_value
from dora_nb.domain.workload import Workload
from dora_nb.units import counted, format_bandwidth, format_bytes, format_joules, format_rate, format_seconds

#: What a cell says when there is no figure.
NOTHING = "-"

#: What is said of a stage that holds its weights in fewer bits.
WEIGHTS: dict[Weights, str] = {"fp16": "FP16", "bf16": "BF16", "int8": "weights in 8 bits"}

#: How a stage's shards are put together.
SUMMED: dict[Algorithm, str] = {"ring": "outputs summed in a ring", "star": "outputs summed by the first"}

#: What is said of a stage that runs layers forward again before their backward pass.
RECOMPUTES = "recomputes activations"

#: Who counts under each accounting, in words.
COUNTED: dict[EnergyAccounting, str] = {
    "participating": "counting the plan's devices",
    "all-on": "counting every device of the cluster",
}

_MOST_RUNS = 4  # runs of layers that are named one by one
_NUMBERED = re.compile(r"(.*?)(\d+)")


def asked_lines(plan_set: PlanSet) -> list[str]:
    """What was asked: the workload on the cluster, and the limits."""
    devices = counted(len(plan_set.cluster.devices), "device")
    return [
        f"{workload_words(plan_set.workload)}; {plan_set.cluster.name}: {devices}{network_words(plan_set.cluster)}",
        qoe_words(plan_set.qoe),
    ]


def network_words(cluster: Cluster) -> str:
    """What the devices are on: `` on wifi``, or `` on lan, with wifi and cell behind it``; nothing for one device."""
    top = cluster.domain
    if top is None:
        return ""
    behind = [domain.id for domain in cluster.domains if domain is not top]
    return f" on {top.id}, with {sentence(behind)} behind it" if behind else f" on {top.id}"


def domain_lines(domain: ContentionDomain) -> list[str]:
    """A contention domain: its kind and latency, then the rate of every member, or of every link."""
    lines = [f"  {domain.id}: {domain.kind}, {format_seconds(domain.latency_s)} a message"]
    for member in domain.members:
        if domain.kind == "links":
            links = ((other, domain.link_bytes_per_s(member, other)) for other in domain.members if other != member)
            rate = ", ".join(f"{format_bandwidth(each)} to {other}" for other, each in links if each is not None)
        else:
            rate = format_bandwidth(domain.rates_bytes_per_s[member])
            if domain.kind == "cell":
                rate += f" up, {format_bandwidth(domain.down_rates_bytes_per_s[member])} down"
        lines.append(f"    {member:<12} {rate}")
    return lines


def workload_words(workload: Workload) -> str:
    """A workload in a few words: name, mode, batch, size of a sample, precision."""
    parts = [workload.name, workload.mode, f"batch {workload.batch}"]
    if workload.sequence is not None:
        parts.append(counted(workload.sequence, "token"))
    if workload.image_px is not None:
        parts.append(f"{workload.image_px} px images")
    return ", ".join([*parts, *demand_words(workload), workload.precision])


def demand_words(workload: Workload) -> list[str]:
    """How much is to be generated, or how often requests arrive."""
    words = [counted(workload.new_tokens, "new token")] if workload.generates else []
    if workload.arrival_s is not None:
        words.append(f"a request every {format_seconds(workload.arrival_s)}")
    return words


def qoe_words(qoe: QoE) -> str:
    """The objective, the limits and whose energy counts."""
    limits = sentence(_limit_words(qoe)) or "no limits"
    return f"Asked for: {aim_words(qoe)}, {limits}; energy {COUNTED[qoe.energy_accounting]}"


def aim_words(qoe: QoE) -> str:
    """The objective alone: ``least energy``."""
    if qoe.joules_per_s is not None:
        return f"lowest price of energy and latency at {qoe.joules_per_s:.6g} J/s"
    return "lowest latency" if qoe.objective == "latency" else "least energy"


def _limit_words(qoe: QoE) -> Iterator[str]:
    if qoe.latency_s is not None:
        yield f"latency at most {format_seconds(qoe.latency_s)}{_price(qoe.latency_price, qoe, 's')}"
    if qoe.samples_per_s is not None:
        price = _price(qoe.throughput_price, qoe, "(samples/s)")
        yield f"throughput at least {format_rate(qoe.samples_per_s)}{price}"
    if qoe.energy_j is not None:
        yield f"energy at most {format_joules(qoe.energy_j)}{_price(qoe.energy_price, qoe, 'J')}"
    for device, joules in qoe.battery_j.items():
        yield f"battery of {device} at most {format_joules(joules)}{_price(qoe.battery_price, qoe, 'J')}"
    if qoe.headroom_bytes is not None:
        free = f"{format_bytes(qoe.headroom_bytes)} free on every device"
        yield free + _price(qoe.headroom_price, qoe, "GB", 1e9)
    if qoe.headroom_fraction is not None:
        free = f"{100 * qoe.headroom_fraction:.3g} % of usable memory free on every device"
        yield free + _price(qoe.headroom_price, qoe, "GB", 1e9)


def _price(price: float | None, qoe: QoE, per: str, units: float = 1.0) -> str:
    """What going beyond a limit costs; nothing for a hard one."""
    return "" if price is None else f" (soft, {price * units:.6g} {qoe.unit}/{per} beyond)"


def limit_words(limit: Limit) -> str:
    """A limit with what a plan reaches: ``battery of phone at most 300 J: 280 J, kept``."""
    say = {"s": format_seconds, "J": format_joules, "samples/s": format_rate, "bytes": format_bytes}[limit.unit]
    name = {"battery": "battery of {}", "headroom": "memory of {}"}.get(limit.term, limit.term).format(limit.device)
    side = "at least" if limit.term == "throughput" else "at most"
    state = "kept" if limit.kept else f"not kept, costs {limit.cost:.6g}" if limit.price is not None else "broken"
    return f"{name} {side} {say(limit.limit)}: {say(limit.value)}, {state}"


def value_lines(plan_set: PlanSet) -> list[str]:
    """What plans are worth at an objective that no column shows: a price, or with soft limits priced."""
    lines = []
    for plan in plan_set.plans:
        proof = plan.certificate
        if proof is None or not (proof.with_prices or proof.objective == "price"):
            continue
        say = seconds_words if proof.unit == "s" else joules_words
        beyond = [limit_words(limit) for limit in proof.limits if not limit.kept]
        costs = f" ({'; '.join(beyond)})" if beyond else ""
        lines.append(
            f"'{plan.label}' is worth {say(proof.value)} at the objective, its bound {say(proof.bound)}{costs}."
        )
    return lines


def coverage_words(coverage: Coverage) -> str:
    """What a set of plans stands for."""
    allowed = f"at most {counted(coverage.most_plans, 'plan')}"
    if coverage.delta is None:
        return f"How much of all trade-offs the set covers is not proven ({allowed} asked for)."
    percent = round(100 * coverage.delta, 3)  # without the last bits of a division
    shown = f"{percent:.2g}" if percent < 100 else f"{percent:,.0f}"
    return (
        f"Whatever plan there is within the limits, one of these is at most {shown} % slower and at most "
        f"{shown} % hungrier: proven, with {allowed}."
    )


def solved_lines(plan_set: PlanSet) -> list[str]:
    """What the bounds hold for, what proved them and why that solver; one line per different answer."""
    certificates = [plan.certificate for plan in plan_set.plans if plan.certificate is not None]
    solvers = dict.fromkeys(f"{each.solver} ({each.solver_reason})" for each in certificates)
    scopes = dict.fromkeys(each.scope for each in certificates)
    lines = [f"Bound: no plan considered can be below it ({scope})." for scope in scopes]
    found = f"Found in {format_seconds(plan_set.wall_s)}"
    lines.extend(value_lines(plan_set))
    if plan_set.coverage is not None and plan_set.plans:
        lines.append(coverage_words(plan_set.coverage))
    return [*lines, f"{found} by {'; '.join(solvers)}." if solvers else f"{found}."]


def split_words(plan: Plan) -> str:
    """How a plan splits the batch."""
    split = f"{counted(plan.micro_batches, 'micro-batch')} of {counted(plan.micro_batch, 'sample')}"
    return split if plan.token_groups == 1 else f"{split}, tokens in {plan.token_groups} groups"


def pace_lines(plan_set: PlanSet) -> list[str]:
    """Of plans that generate, when tokens come; of plans for a stream, how close together requests may be."""
    return [f"'{plan.label}': {pace}." for plan in plan_set.plans if (pace := pace_words(plan, plan_set.workload.mode))]


def pace_words(plan: Plan, mode: str) -> str:
    """The pace of one plan; nothing in other modes."""
    figures = plan.prediction
    if figures is None:
        return ""
    if mode == "stream":
        return f"would keep up with a request every {format_seconds(figures.period_s)}"
    if figures.first_token_s is None:
        return ""
    further = "" if figures.token_s is None else f", then one every {format_seconds(figures.token_s)}"
    return f"first token after {format_seconds(figures.first_token_s)}{further}"


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
        f"'{fastest.label}' {_speed(ours, theirs)} {_rival(rival, 'fastest', plan_set.qoe)} "
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
            f"'{thriftiest.label}' takes {_saving(ours, theirs)} {_rival(rival, 'thriftiest', plan_set.qoe)}, "
            f"{COUNTED[accounting]} ({format_joules(ours)} against {format_joules(theirs)})."
        )
    return lines


def _rival(baseline: Plan, what: str, qoe: QoE) -> str:
    """A baseline by name; that it misses a limit, which plans have to keep, is said of it."""
    misses = baseline.prediction is not None and qoe_value(baseline.prediction, qoe).broken
    return f"'{baseline.label}', the {what} baseline" + (", which misses a limit" if misses else "")


#: What stands above the baselines in a table of plans.
BASELINES_HEAD = "Without a planner, and the strongest of other planners, on the same cost model"


def plan_mark(index: int) -> str:
    """What a plan is called in a table and a figure that belong together: 1, 2, 3."""
    return str(index + 1)


def baseline_mark(index: int) -> str:
    """What a baseline is called there: B1, B2, B3."""
    return f"B{index + 1}"


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
    if plan.prediction is None:
        return NOTHING
    missed = list(dict.fromkeys(limit.term for limit in qoe_value(plan.prediction, qoe).broken))
    if len(missed) > 1:
        return f"misses {'both' if len(missed) == 2 else len(missed)} limits"
    return f"misses {missed[0]}" if missed else NOTHING


def describe_stages(plan: Plan, names: Sequence[str]) -> list[str]:
    """One sentence fragment per stage: which layers (by name), on which devices, how many samples each."""
    several = len(str(len(plan.stages) - 1))
    lines = []
    if plan.tied == "hosted":
        where = " and ".join(plan.stages[-1].devices)
        lines.append(f"first:  {names[0]} on {where}, next to the last layer, which shares its parameters")
    for index, stage in enumerate(plan.stages):
        layers = layer_words(names[stage.first_layer : stage.stop_layer])
        how = "".join(f", {words}" for words in ways_words(stage))
        lines.append(f"stage {index:>{several}}: {layers} on {_replica_words(stage, plan.micro_batch)}{how}")
    return lines


def ways_words(stage: Stage) -> list[str]:
    """How a stage is run, where it is not as usual."""
    return [*([RECOMPUTES] if stage.recomputes else []), *([WEIGHTS[stage.weights]] if stage.weights else [])]


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
    words = [run if isinstance(run, str) else _run_words(*run) for run in runs]
    return ", ".join(words)


def shorten(text: str, longest: int) -> str:
    """Text of at most so many characters."""
    return text if len(text) <= longest else f"{text[: longest - 3].rstrip()}..."


def shorten_middle(text: str, longest: int) -> str:
    """Text of at most so many characters, its end kept: ports of one switch differ there."""
    end = longest // 2
    return text if len(text) <= longest else f"{text[: longest - end - 3].rstrip()}...{text[-end:]}"


def one_line(text: str) -> str:
    """Text without line breaks and control characters, which would break a table."""
    return "".join(character if character.isprintable() else " " for character in text)


def sentence(parts: Iterable[str]) -> str:
    """``a, b and c``."""
    parts = list(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)


def part_words(stage: Stage, place: int) -> str:
    """What a device holds of every sliced layer: ``3 of 8 parts``."""
    return f"{stage.shards[place]} of {counted(sum(stage.shards), 'part')}"


def _replica_words(stage: Stage, micro_batch: int) -> str:
    if stage.shards:
        who = (f"{name} ({part_words(stage, place)})" for place, name in enumerate(stage.devices))
        return f"{sentence(who)}, {SUMMED[stage.shard_sum or 'ring']}"
    if len(stage.replicas) == 1:
        whole = f" (all {counted(micro_batch, 'sample')})" if micro_batch > 1 else ""
        return f"{stage.replicas[0].device}{whole}"
    return sentence(f"{each.device} ({each.samples} of {counted(micro_batch, 'sample')})" for each in stage.replicas)


def _run_words(stem: str, first: int, last: int) -> str:
    """Names that are numbered: ``block.0-9``; where they are a word and a number, ``layer 0`` or ``layers 0-9``."""
    if first == last:
        return f"{stem}{first}"
    return f"{stem.rstrip()}s {first}-{last}" if stem.endswith(" ") else f"{stem}{first}-{last}"


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
