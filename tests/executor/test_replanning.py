"""The whole loop: profile, plan, execute, compare, and plan again with what was measured."""

from __future__ import annotations

import pytest

import dora_nb as dora


def test_what_a_run_measured_is_planned_with_again(lab, pool, tmp_path):
    workload = lab.workload(lab.architectures["untied"], "training", 8, 32)
    cluster = lab.cluster([1e12, 5e11])
    plan = lab.plan([(0, 3, [(0, 4)], 2, None), (3, 6, [(1, 4)], 1, None)], 2)
    record = dora.execute(plan, workload, cluster, steps=2, emulate="devices", workers=pool).wait()

    comparison = dora.compare(plan, record)
    assert [each.step for each in comparison.steps] == [-1, 0, 1]
    assert {(each.kind, each.stage) for each in comparison.stages} == {
        (kind, stage) for kind in ("forward", "backward", "step") for stage in (0, 1)
    }
    assert {each.kind for each in comparison.transfers} == {"activation", "gradient"}
    assert all(each.measured_s > 0 for each in comparison.stages)
    for each in comparison.devices:
        assert 0 < each.measured_busy <= 1

    assert {each.scope for each in record.energy if each.status == "estimated"} == {"device d0", "device d1", "network"}
    assert all(each.joules > 0 for each in record.energy if each.scope.startswith("device"))
    assert "energy" in repr(record)

    table = record.as_cost_table()
    assert table.status == "measured"
    again = dora.plan(record.workload, record.cluster, table=table, most_plans=1, solver="highs")
    measured = {(each.kind, each.stage): each.measured_s for each in comparison.stages}
    sums = table.forward_s[:3, 0, 4].sum(), table.backward_s[3:, 1, 4].sum()
    assert sums == pytest.approx((measured["forward", 0], measured["backward", 1]))
    assert again.best.prediction.makespan_s > 0
    assert record.to_trace(tmp_path / "run.json").stat().st_size > 1000
