"""A run next to its prediction, in words."""

from __future__ import annotations

from dora_nb.domain.run_record import RunRecord
from dora_nb.render.html import fragment, pairs
from dora_nb.units import format_seconds


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
    found.append(("inference batch", _times(record.inference_predicted_s, record.inference_measured_s)))
    return [*found, ("devices", record.emulation)]


def _times(predicted_s: float, measured_s: float) -> str:
    error = 100 * (measured_s / predicted_s - 1)
    return f"predicted {format_seconds(predicted_s)}, measured {format_seconds(measured_s)} ({error:+.1f} %)"


def run_text(record: RunRecord) -> str:
    """The pairs as lines."""
    return "\n".join(f"{name:<16} {text}" for name, text in run_pairs(record))


def run_html(record: RunRecord) -> str:
    """The pairs as a fragment of HTML."""
    return fragment([pairs(run_pairs(record))])
