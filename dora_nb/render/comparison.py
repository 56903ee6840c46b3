"""A comparison of a run with its prediction as a table, as text and as HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from dora_nb.domain.comparison import Comparison, StageComparison, StepComparison, TransferComparison, relative_error
from dora_nb.domain.run_timeline import INFERENCE
from dora_nb.render import words
from dora_nb.render.html import fragment
from dora_nb.render.markup import head, items, table
from dora_nb.render.trace import stage_words
from dora_nb.render.wrapping import WIDTH, wrapped
from dora_nb.units import format_seconds

if TYPE_CHECKING:
    import pandas as pd


_HEADING = ("what", "predicted", "measured", "error", "how often")


def comparison_frame(comparison: Comparison) -> pd.DataFrame:
    """One row a figure; ``what`` says of what, ``count`` how many were measured. What has no value is empty."""
    import pandas as pd

    rows: list[dict[str, object]] = [
        {"what": "step", "step": each.step, "count": 1, **_seconds(each.predicted_s, each.measured_s)}
        for each in comparison.steps
    ]
    parts: tuple[StageComparison | TransferComparison, ...] = (*comparison.stages, *comparison.transfers)
    for part in parts:
        what = "stage" if isinstance(part, StageComparison) else "transfer"
        figures = _seconds(part.predicted_s, part.measured_s)
        row: dict[str, object] = {"what": what, "kind": part.kind, "stage": part.stage, "count": part.count, **figures}
        if isinstance(part, TransferComparison) and part.part:
            row["bucket"] = part.part
        rows.append(row)
    rows += [
        {
            "what": "device",
            "device": each.device,
            "predicted_busy": each.predicted_busy,
            "measured_busy": each.measured_busy,
        }
        for each in comparison.devices
    ]
    columns = ("what", "step", "stage", "kind", "bucket", "device", "count", "predicted_s", "measured_s", "error")
    return pd.DataFrame(rows, columns=[*columns, "predicted_busy", "measured_busy"])


def _seconds(predicted_s: float, measured_s: float | None) -> dict[str, object]:
    return {"predicted_s": predicted_s, "measured_s": measured_s, "error": relative_error(predicted_s, measured_s)}


def comparison_text(comparison: Comparison, width: int = WIDTH) -> str:
    """A comparison as plain text; its table takes as many columns as it needs."""
    rows = [_HEADING, *_cells(comparison)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for cells in rows:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        lines.append("  ".join([cells[0].ljust(widths[0]), *padded[1:]]).rstrip())
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    said = [wrapped(line, width) for line in _said(comparison)]
    return "\n".join([words.one_line(_title(comparison)), "", *lines, "", *said])


def comparison_html(comparison: Comparison) -> str:
    """A comparison as a fragment of HTML."""
    return fragment([head(_title(comparison)), table(_HEADING, _cells(comparison)), items(_said(comparison))])


def _title(comparison: Comparison) -> str:
    return (
        f"{comparison.label or 'a plan'}, {comparison.what}: predicted {format_seconds(comparison.predicted_s)}, "
        f"measured {format_seconds(comparison.measured_s)} ({error_words(comparison.error)})"
    )


def _cells(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    for step in comparison.steps:
        yield _row(_step_name(step, comparison), step.predicted_s, step.measured_s, "")
    for part in comparison.stages:
        yield _row(f"{part.kind}, {stage_words(part.stage)}", part.predicted_s, part.measured_s, str(part.count))
    for transfer in comparison.transfers:
        waited = f"{transfer.waited} of {transfer.count}"
        yield _row(_transfer_name(transfer), transfer.predicted_s, transfer.measured_s, waited)
    for device in comparison.devices:
        yield (
            f"busy, {words.one_line(device.device)}",
            f"{100 * device.predicted_busy:.1f} %",
            f"{100 * device.measured_busy:.1f} %",
            words.NOTHING,
            "",
        )


def _row(name: str, predicted_s: float, measured_s: float | None, of: str) -> tuple[str, ...]:
    measured = words.NOTHING if measured_s is None else format_seconds(measured_s)
    return name, format_seconds(predicted_s), measured, error_words(relative_error(predicted_s, measured_s)), of


def _step_name(step: StepComparison, comparison: Comparison) -> str:
    if step.step != INFERENCE:
        return f"training step {step.step + 1}"
    return "inference batch" if comparison.what == "training step" else comparison.what


def _transfer_name(transfer: TransferComparison) -> str:
    towards = {"activation": "behind", "token": "behind", "gradient": "back to"}.get(transfer.kind, "of")
    bucket = f", bucket {transfer.part}" if transfer.part else ""
    where = "" if transfer.kind == "tied-sum" else f" {towards} {stage_words(transfer.stage)}"
    return f"{transfer.kind}{where}{bucket}"


def error_words(error: float | None) -> str:
    """A relative error in per cent; of a figure that is ten times the other or more, how many times."""
    if error is None:
        return words.NOTHING
    return f"x {1 + error:,.0f}" if error >= 9 else f"{100 * error:+,.{0 if error >= 1 else 1}f} %"


def _said(comparison: Comparison) -> Iterable[str]:
    if comparison.planned_s is not None:
        yield (
            f"The plan itself is predicted to take {format_seconds(comparison.planned_s)} on the planned devices and "
            "network, which nothing here measures."
        )
    yield "Predictions were frozen before the run; measured figures are medians over micro-batches and steps."
    part = [each for each in comparison.transfers if each.waited < each.count]
    if part:
        yield (
            "Transfers count from the sender's having it to the receiver's having it, and only where the receiver "
            "waited: when the others arrived is not known."
        )
    worst = max(
        (each for each in comparison.stages if each.error is not None),
        key=lambda each: abs(each.error or 0),
        default=None,
    )
    if worst is not None and worst.error is not None and math.isfinite(worst.error):
        furthest = f"{worst.kind} of {stage_words(worst.stage)}, {error_words(worst.error)}"
        yield f"Furthest off of what is computed: {furthest}."
    yield comparison.emulation
