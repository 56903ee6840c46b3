"""Cells of the headline comparison made by hand."""

from __future__ import annotations

from typing import Any

from dora_nb.reproduction import OURS, Cell


def cell(planner: str = OURS, value: float | None = 1.0, kept: float = 1.0, **changes: Any) -> Cell:
    """One figure; ``value`` is what the objective is about, the other figure is 1."""
    objective = changes.pop("objective", "latency")
    figures = {"makespan_s": 1.0, "energy_j": 1.0} | {
        "makespan_s" if objective == "latency" else "energy_j": value,
    }
    facts = {
        "deployment": "home",
        "model": "net",
        "mode": "training",
        "batch": 16,
        "sequence": None,
        "image_px": 224,
        "precision": "fp32",
        "network": "wifi (shared)",
        "dynamic": False,
        "energy_accounting": "participating",
        "transfers": "list-scheduled",
        "latency_limit_s": 1.5,
    }
    return Cell(**(facts | figures | {"objective": objective, "planner": planner, "qoe_kept": kept} | changes))
