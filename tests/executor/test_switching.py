"""Plans are changed between steps, and nothing is lost: what is trained equals one process all along."""

from __future__ import annotations

from collections.abc import Sequence

from dora_nb.domain.controller import StepReport
from dora_nb.domain.plan import Plan
from dora_nb.executor import execute
from dora_nb.executor.faults.moves import Move, holders_of, layers_of, moves_to

ONE = [(0, 6, [(0, 4)], 1, None)]
TWO = [(0, 3, [(0, 4)], 2, None), (3, 6, [(1, 4)], 1, None)]
TURNED = [(0, 2, [(1, 4)], 2, None), (2, 6, [(0, 4)], 1, None)]
SHARED = [(0, 2, [(2, 4)], 3, None), (2, 5, [(0, 3), (1, 1)], 2, ("ring", 0, 3)), (5, 6, [(3, 4)], 1, None)]


class Script:
    """Runs plans in a given order, and keeps what it is told."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self.plans, self.reports = list(plans), list[StepReport]()

    def next_plan(self, now_s: float, present: frozenset[str]) -> Plan | None:
        assert now_s >= 0
        return self.plans[min(len(self.reports), len(self.plans) - 1)] if self.plans else None

    def observe(self, report: StepReport) -> None:
        self.reports.append(report)


def test_training_goes_on_unchanged_across_switches(lab, pool):
    workload = lab.workload(lab.architectures["tied"], "training", 8)
    plans = [
        lab.plan(TWO, 2, "synchronised"),
        lab.plan(SHARED, 2, "synchronised"),
        lab.plan(ONE, 2, "one-stage"),
        lab.plan(TURNED, 2, "synchronised"),
    ]
    script = Script([plans[0], plans[0], plans[1], plans[1], plans[2], plans[3], plans[0]])
    run = execute(
        plans[0],
        workload,
        lab.cluster([2e12, 1e12, 1e12, 1e12]),
        steps=6,
        controller=script,
        plans=plans[1:],
        emulate="nothing",
        workers=pool,
    ).wait()
    switches = [each for each in run.incidents if each.kind == "switch"]
    assert [each.completed for each in switches] == [1, 3, 4, 5]
    assert all(each.layers_moved > 0 for each in switches)
    pairs = zip(run.losses, run.reference_losses, strict=True)
    assert all(abs(ours - one) <= 1e-12 * abs(one) for ours, one in pairs)
    assert run.differences.parameters <= 1e-10
    assert run.differences.outputs <= 1e-12
    assert [report.plan for report in script.reports[1:]] == script.plans[1:7]


def test_an_inference_switches_too_and_the_controller_sees_slow_devices(lab, pool):
    workload = lab.workload(lab.architectures["untied"], "inference", 8)
    plans = [lab.plan(TWO, 2), lab.plan(TURNED, 2)]
    script = Script([plans[0], plans[1], plans[1]])
    run = execute(
        plans[0],
        workload,
        lab.cluster([1e12, 5e11]),
        steps=3,
        controller=script,
        plans=plans[1:],
        emulate="devices",
        workers=pool,
    ).wait()
    assert run.max_abs_diff <= 1e-12
    assert [each.kind for each in run.incidents] == ["switch"]
    for report in script.reports:
        assert report.completed
        assert set(report.measured_s) == {"d0", "d1"}
        for device, seconds in report.measured_s.items():
            # Emulated time is slept. A process that wakes up late on a busy machine makes a pass look shorter.
            assert seconds >= 0.5 * report.expected_s[device]


def test_a_controller_without_a_plan_leaves_the_one_that_runs(lab, pool):
    workload = lab.workload(lab.architectures["untied"], "inference", 8)
    run = execute(
        lab.plan(TWO, 2), workload, lab.cluster([1e12, 1e12]), controller=Script([]), emulate="nothing", workers=pool
    )
    assert run.wait().max_abs_diff <= 1e-12
    assert sum("the controller has no plan" in line for line in run.lines) == 1


def test_moves_are_the_fewest_and_shared_out(lab):
    before, after = lab.plan(TWO, 2), lab.plan(SHARED, 2)
    holders = holders_of(before)
    assert holders[0] == ("d0",)
    assert layers_of(lab.plan(TWO, 2, "synchronised"), "d1") == (3, 4, 5)
    assert moves_to(before, holders) == ()
    moves = moves_to(after, holders)
    wanted = {(layer, device) for layer, devices in holders_of(after).items() for device in devices}
    had = {(layer, device) for layer, devices in holders.items() for device in devices}
    assert {(move.layer, device) for move in moves for device in move.receivers} == wanted - had
    assert all(move.sender in holders[move.layer] for move in moves)
    both = dict.fromkeys(range(6), ("d0", "d1"))
    assert {move.sender for move in moves_to(lab.plan([(0, 6, [(2, 4)], 1, None)], 2), both)} == {"d0", "d1"}
    assert moves_to(after, {}) == ()
    assert isinstance(moves[0], Move)
