"""The programs that are handed out have the optimum they should have, and names that people read."""

from __future__ import annotations

import re

import pytest
from builders import cluster, device, layer, workload

from dora_nb.catalog import load_cluster, load_workload
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.errors import InputError
from dora_nb.planning.exact import programs
from dora_nb.planning.exact.programs import program_of
from dora_nb.planning.plan import plan
from dora_nb.solvers import Options, solve


@pytest.fixture(scope="module")
def fast() -> PlanSet:
    """Five layers over three unlike devices, fastest."""
    work = workload([layer(f"l{n}", flops=(n + 1) * 1e9) for n in range(5)], batch=4)
    place = cluster([device("a", 1e9), device("b", 2e9), device("c", 3e9)], rates=4e6)
    return plan(work, place, most_plans=1, gap=1e-6)


def optimum(program: object) -> float:
    outcome = solve(program.model, Options(mip_gap=1e-7), solver="highs")  # type: ignore[attr-defined]
    assert outcome.objective is not None
    return outcome.objective * program.unit  # type: ignore[attr-defined, no-any-return]


def test_the_joint_program_has_the_plans_value_as_its_optimum(fast: PlanSet) -> None:
    program = program_of(fast.best, fast.workload, fast.cluster)
    assert fast.best.certificate is not None
    assert optimum(program) == pytest.approx(fast.best.certificate.value, rel=1e-5)
    assert program.unit_name == "s"
    assert f"{program.model.nvars:,} variables" in program.words


def test_a_plan_that_is_not_the_best_does_not_change_the_optimum(fast: PlanSet) -> None:
    """Columns are screened against the plan in hand; a worse one leaves more of them, and the same optimum."""
    best = fast.best
    sizes = [len(stage.replicas) for stage in best.stages]
    if sizes != [1] * len(sizes):
        pytest.skip("moves a border between single devices")
    bounds = [best.stages[0].stop_layer - 1, best.stages[0].stop_layer]
    worse = best.replace(
        stages=(
            best.stages[0].replace(stop_layer=bounds[0]),
            best.stages[1].replace(first_layer=bounds[0]),
            *best.stages[2:],
        ),
        transfer_order=(),
        prediction=None,
        certificate=None,
    )
    program = program_of(worse, fast.workload, fast.cluster)
    assert program.model.nvars > program_of(best, fast.workload, fast.cluster).model.nvars
    assert optimum(program) == pytest.approx(best.prediction.makespan_s, rel=1e-5)


def test_the_partition_program_bounds_and_the_transfer_program_equals(fast: PlanSet) -> None:
    makespan_s = fast.best.prediction.makespan_s
    parts = program_of(fast.best, fast.workload, fast.cluster, which="partition")
    assert optimum(parts) <= makespan_s * (1 + 1e-6)
    order = program_of(fast.best, fast.workload, fast.cluster, which="transfers")
    assert optimum(order) == pytest.approx(makespan_s, rel=1e-5)


def test_energy_within_a_latency_limit() -> None:
    work, place = load_workload("vit-b-16", batch=4), load_cluster("edge-cluster")
    qoe = QoE(objective="energy", latency_s=1.0)
    best = plan(work, place, qoe, most_plans=1, gap=1e-6).best
    assert best.certificate is not None
    program = program_of(best, work, place, qoe)
    assert program.unit_name == "J"
    assert optimum(program) == pytest.approx(best.certificate.value, rel=1e-4)


def test_names_say_layers_devices_and_operations(fast: PlanSet) -> None:
    model = program_of(fast.best, fast.workload, fast.cluster).model
    for stage, each in enumerate(fast.best.stages):
        own = "".join(f".{replica.device}_{replica.samples}" for replica in each.replicas)
        name = f"m{fast.best.micro_batch}.l{each.first_layer}_{each.stop_layer - 1}{own}"
        assert name in model.variables[f"place{stage}"].coords[f"place{stage}_0"].values
    starts = model.variables["start"].coords["start_0"].values
    assert {"forward.s0.b0"} <= set(starts)
    assert len(set(starts)) == len(starts)
    assert all(re.fullmatch(r"[A-Za-z0-9_.]+", name) for name in starts)


@pytest.mark.parametrize(
    ("which", "changes", "message"),
    [
        ("dual", {}, "joint, partition, transfers"),
        ("joint", {"latency_s": 1.0, "latency_price": 5.0}, "'partition' where limits or the objective have prices"),
    ],
)
def test_what_cannot_be_asked_is_refused(fast: PlanSet, which: str, changes: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        program_of(fast.best, fast.workload, fast.cluster, QoE(**changes), which=which)  # type: ignore[arg-type]


def test_a_large_question_has_no_joint_program(fast: PlanSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "MOST_SIZE", 10)
    with pytest.raises(InputError, match=r"'partition' or 'transfers' for this question.*than the 10 that"):
        program_of(fast.best, fast.workload, fast.cluster)


def test_times_that_are_not_the_plans_are_noticed(fast: PlanSet) -> None:
    slower = fast.cluster.scaled(speeds={"a": 0.5, "b": 0.5, "c": 0.5})
    with pytest.raises(InputError, match="the compute times that the plan was made with"):
        program_of(fast.best, fast.workload, slower)
