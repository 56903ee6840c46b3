"""The runtime adapter that drives the simulator drives real workers too."""

from __future__ import annotations

from dora_nb.adaptation import Adapter
from dora_nb.costs.evaluate import evaluate
from dora_nb.domain.qoe import QoE
from dora_nb.domain.transfer import Transfer
from dora_nb.executor import execute


def test_the_adapter_leaves_a_device_that_gets_slow(lab, pool):
    workload = lab.workload(lab.architectures["untied"], "inference", 8, 32)
    cluster = lab.cluster([2e12, 1e12, 1e12])
    crossing = tuple(Transfer(kind="activation", stage=0, micro_batch=index) for index in range(2))
    plans = [
        evaluate(lab.plan(stages, 2).replace(label=label, transfer_order=order), workload, cluster).scheduled
        for label, stages, order in (
            ("fast", [(0, 6, [(0, 4)], 1, None)], ()),
            ("steady", [(0, 3, [(1, 4)], 2, None), (3, 6, [(2, 4)], 1, None)], crossing),
        )
    ]
    fast_s, steady_s = (plan.prediction.makespan_s for plan in plans)
    limit_s = 1.5 * max(fast_s, steady_s)
    adapter = Adapter(workload, cluster, QoE(latency_s=limit_s), plans, window_s=20 * limit_s)
    heat = 4 * limit_s / fast_s
    run = execute(
        plans[0],
        workload,
        cluster,
        steps=12,
        controller=adapter,
        plans=plans[1:],
        slow_down_at=lambda step: {"d0": heat} if step >= 4 else {},
        emulate="devices",
        workers=pool,
    ).wait()
    assert run.max_abs_diff <= 1e-12
    told = "\n".join(str(event) for event in adapter.log)
    assert "d0" in told, told
    switches = [each for each in run.incidents if each.kind == "switch"]
    assert any("steady" in each.text for each in switches), told
