"""What notebooks hand over, and what tables are made of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from explorer_cases import small_plans

from dora_nb.domain.qoe import QoE
from dora_nb.errors import DocumentError, InputError
from dora_nb.sweeps import plan_rows, read_table, record_rows
from dora_nb.sweeps.folder import Folder, parquet, read_rows
from dora_nb.sweeps.placements import placement_change
from dora_nb.sweeps.rows import MIME, Rows, no_plan_row, rows_of, stage_text


def executed(*outputs: dict[str, Any]) -> dict[str, Any]:
    return {"cells": [{"outputs": [{"data": output} for output in outputs]}]}


def test_rows_add_up_and_are_read_back() -> None:
    first = Rows([{"a": 1, "b": None}], {"planning_wall_s": 2.0})._repr_mimebundle_()
    second = Rows([{"a": 0.1}], {"other_s": 1.0})._repr_mimebundle_()
    found = rows_of(executed(first, {"text/plain": "nothing"}, second))
    assert found == ([{"a": 1, "b": None}, {"a": 0.1}], {"planning_wall_s": 2.0, "other_s": 1.0})
    assert rows_of(executed({"text/plain": "x"})) is None
    assert first["text/plain"].startswith("1 row for the sweep")
    with pytest.raises(InputError, match="what record_rows hands over"):
        rows_of(executed({MIME: []}))


@pytest.mark.parametrize("row", [{"a": math.nan}, {"a": [1]}, {"A": 1}, {"a b": 1}, 3])
def test_what_no_column_holds_is_refused(row: Any) -> None:
    with pytest.raises(InputError, match=r"rows\[0\]"):
        record_rows([row])


def test_a_row_a_plan() -> None:
    plans = small_plans(QoE(latency_s=100.0, objective="energy"))
    rows = plan_rows(plans)
    assert [row["makespan_s"] for row in rows] == [plan.prediction.makespan_s for plan in plans if plan.prediction]
    (best,) = [row for row in rows if row["is_best"]]
    assert best["placement"] == stage_text(plans.best)
    assert best["value"] == pytest.approx(best["energy_j"])
    assert set(no_plan_row("why")) <= set(rows[0])
    assert not [name for name in rows[0] if "wall" in name]


def test_tables_have_one_type_a_column_and_the_same_bytes() -> None:
    rows = [{"a": 1, "b": "80 ms", "c": True, "d": {"phone": 3}}, {"a": 1.5, "b": 2, "c": None}]
    assert parquet(rows) == parquet([dict(row) for row in rows])
    assert parquet(rows) != parquet(rows[::-1])


def test_tables_are_read_back(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "sweep")
    with pytest.raises(DocumentError, match="when all of its points were run"):
        read_rows(folder.root, "results")
    folder.write_tables([("k" * 64, {"x": 1}, [{"a": 1.5}, {"a": None}], {"wall_s": 2.0})], [("f" * 64, {"x": 2}, 3.0)])
    name, failed = "k" * 16, "f" * 16
    assert read_rows(folder.root, "results") == [
        {"point": name, "x": 1, "a": 1.5},
        {"point": name, "x": 1, "a": None},
    ]
    assert read_rows(folder.root, "timings") == [
        {"point": name, "x": 1, "status": "done", "wall_s": 2.0},
        {"point": failed, "x": 2, "status": "failed", "wall_s": 3.0},
    ]
    assert list(read_table(folder.root, "results")["a"].dropna()) == [1.5]
    (folder.root / "results.parquet").write_text("no table")
    with pytest.raises(DocumentError, match="is not a table of a sweep"):
        read_rows(folder.root, "results")


def test_what_changes_between_two_placements() -> None:
    change = placement_change("0-11:laptop", "0-7:laptop|8-11:phone*2+hub*1")
    assert (change.joined, change.left, change.moved) == (("hub", "phone"), (), (("8-11", "laptop", "hub+phone"),))
    assert str(change) == "hub, phone join; layers 8-11 go from laptop to hub+phone"
    assert str(placement_change("0-3:a*1+b*3", "0-3:a*2+b*2")) == "other shares of the samples"
    assert str(placement_change("", "0-3:a")) == "a plan keeps the limits"
    assert str(placement_change("0-3:a", "")) == "no plan keeps the limits any more"


def test_rows_stand_side_by_side_without_empty_columns() -> None:
    shown = repr(Rows([{"plan": "fast", "makespan_s": 0.123456, "note": None}, {"plan": "x" * 99, "other": True}], {}))
    assert shown.splitlines() == [
        "2 rows for the sweep",
        f"  plan        fast    {'x' * 29}...",
        "  makespan_s  0.1235  -",
        "  other       -       True",
    ]
    assert repr(Rows([], {})) == "0 rows for the sweep"
    assert repr(Rows([{"a": 1}] * 7, {})).endswith("and 2 more rows")
