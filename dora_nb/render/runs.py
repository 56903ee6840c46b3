"""A run next to its prediction, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dora_nb.domain.run_record import EnergyFigure, RunRecord
from dora_nb.render.html import fragment, pairs
from dora_nb.units import format_joules, format_seconds


def run_pairs(record: RunRecord) -> list[tuple[str, str]]:
    """What ran, how it compares with one process, and measured against predicted time: (name, text)."""
    workload = record.workload
    work = f"{record.steps} training steps and one inference batch" if record.steps else "one inference batch"
    size = f"{len(workload.layers)} layers, {workload.parameters / 1e3:,.0f} k parameters, {workload.precision}"
    found = [
        ("ran", f"{work} of {workload.name} scaled down ({size}) on {len(record.plan.devices)} workers"),
        ("difference", f"at most {record.max_abs_diff:.1e} from the same network in one process"),
    ]
    if record.steps:
        found.append(("training step", _times(record.predicted_s, record.measured_s)))
    if record.inference_measured_s > 0:  # none where training was resumed
        found.append(("inference batch", _times(record.inference_predicted_s, record.inference_measured_s)))
    found += [(each.kind, f"after step {each.completed}: {each.text}") for each in record.incidents]
    if record.energy:
        found.append(("energy", "; ".join(_energy(record.energy))))
    return [*found, ("devices", record.emulation)]


def _energy(figures: Sequence[EnergyFigure]) -> Iterator[str]:
    """Each meter's figure by itself, since meters overlap, and those of the model together."""
    for each in figures:
        if each.status == "measured":
            joules, seconds = format_joules(each.joules), format_seconds(each.seconds)
            yield f"measured {joules} in {seconds} ({each.meter}, {each.scope})"
    estimated = [each for each in figures if each.status == "estimated"]
    if estimated:
        joules = format_joules(sum(each.joules for each in estimated))
        seconds = format_seconds(max(each.seconds for each in estimated))
        scopes = ", ".join(each.scope.removeprefix("device ") for each in estimated)
        yield f"estimated {joules} in {seconds} ({scopes}; {estimated[0].meter})"


def _times(predicted_s: float, measured_s: float) -> str:
    error = 100 * (measured_s / predicted_s - 1)
    return f"predicted {format_seconds(predicted_s)}, measured {format_seconds(measured_s)} ({error:+.1f} %)"


def run_text(record: RunRecord) -> str:
    """The pairs as lines."""
    return "\n".join(f"{name:<16} {text}" for name, text in run_pairs(record))


def run_html(record: RunRecord) -> str:
    """The pairs as a fragment of HTML."""
    return fragment([pairs(run_pairs(record))])
