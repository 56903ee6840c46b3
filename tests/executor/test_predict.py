from __future__ import annotations

import itertools

import pytest
import torch

from dora_nb.costs import evaluate
from dora_nb.costs.buckets import bucket_layers, summed_parameters
from dora_nb.costs.operations import Shape
from dora_nb.costs.precedence import operations_of
from dora_nb.domain.run_record import Link
from dora_nb.domain.transfer import Transfer
from dora_nb.errors import InputError
from dora_nb.executor import emulation, execute
from dora_nb.executor.measuring.profile import LayerTimes, profile_layers
from dora_nb.executor.predict import machine_cluster, measured_table, predict, targets_of
from dora_nb.executor.tasks.assemble import random_task
from dora_nb.executor.tasks.scale import for_inference, scale_down

STAGES = [(0, 2, [(0, 3), (1, 1)], 3, ("ring", 1)), (2, 4, [(2, 4)], 2, None), (4, 6, [(3, 1), (4, 3)], 1, ("star", 4))]
IN_BUCKETS = [(0, 2, [(0, 3), (1, 1)], 3, ("ring", 1, 2)), STAGES[1], (4, 6, [(3, 1), (4, 3)], 1, ("star", 4, 2))]
LINK = Link(latency_s=1e-4, rate_bytes_per_s=1e9)


@pytest.fixture(params=[STAGES, IN_BUCKETS], ids=["at once", "in buckets"])
def scaled(lab, request):
    return scale_down(
        lab.plan(request.param, 4, "synchronised"), lab.workload(lab.architectures["tied"], "training", 16)
    )


def made_up_times(workload) -> tuple[LayerTimes, ...]:
    counts = (1, 3, 4)
    return tuple(
        LayerTimes({n: 1e-3 * (n + index) for n in counts}, {n: 2e-3 * (n + index) for n in counts}, 5e-4)
        for index, _ in enumerate(workload.layers)
    )


@pytest.mark.parametrize("rate", [1e9, 1e6])
def test_prediction_is_that_of_the_cost_model(lab, scaled, rate):
    """In the plan's order, where turns take no time; passed on for real they take some, by receivers the most."""
    workload, plan = scaled
    link = LINK.replace(rate_bytes_per_s=rate)
    cluster = machine_cluster(plan, lab.cluster([1e12] * 5), link)
    table = measured_table(made_up_times(workload), plan, cluster, dict.fromkeys(plan.devices, 2.0))
    operations = operations_of(Shape.of(plan, workload))
    ordered = plan.replace(
        transfer_order=tuple(
            Transfer(kind=each.kind, stage=each.stage, micro_batch=each.micro_batch, part=each.part)
            for each in (operations.operations[index] for index in operations.transfers)
        )
    )
    evaluated = evaluate(ordered, workload, cluster, table)
    predicted = predict(ordered, workload, cluster, table)
    assert predicted.makespan_s == pytest.approx(evaluated.prediction.makespan_s, rel=1e-12)
    for found, expected in zip(predicted.transfers, evaluated.scheduled.prediction.schedule, strict=True):
        assert found.replace(start_s=0, end_s=0) == expected.replace(start_s=0, end_s=0)
        assert (found.start_s, found.end_s) == pytest.approx((expected.start_s, expected.end_s), rel=1e-12)
    by_sender, by_receiver = (
        predict(ordered, workload, cluster, table, passed_by=each).makespan_s for each in ("sender", "receiver")
    )
    assert predicted.makespan_s <= by_sender < by_receiver
    with pytest.raises(InputError, match="transfer_order"):
        predict(ordered.replace(transfer_order=ordered.transfer_order[:-1]), workload, cluster, table)


def test_every_device_is_predicted_with_its_own_seconds(lab, scaled):
    workload, plan = scaled
    cluster = machine_cluster(plan, lab.cluster([1e12] * 5), LINK)
    slower = {"d0": 1.0, "d1": 3.0, "d2": 1, "d3": 1, "d4": 1}
    table = measured_table(made_up_times(workload), plan, cluster, slower)
    predicted = predict(plan, workload, cluster, table)
    for device in plan.devices:
        own = [each for each in predicted.computations if each.device == device]
        stage = next(index for index, each in enumerate(plan.stages) if device in each.devices)
        assert [(each.kind, each.stage, each.micro_batch) for each in own if each.part <= 1] == [
            *plan.compute_order(stage, True),
            ("step", stage, 0),
        ]
        targets = targets_of(device, plan, workload, cluster, table)
        seconds = {(each.phase, each.stage): each.seconds for each in targets if not each.part}
        for each in own:
            assert each.part or each.end_s - each.start_s == pytest.approx(seconds[each.kind, each.stage])
        buckets = plan.stages[stage].buckets
        for parts in ([each.seconds for each in targets if each.part], [a.end_s - a.start_s for a in own if a.part]):
            assert len(parts) == (buckets if buckets > 1 else 0)
            assert not parts or sum(parts) == pytest.approx(seconds["backward", stage])
    starts = {(each.device, each.kind, each.micro_batch): each.start_s for each in predicted.computations}
    assert all(
        starts["d0", kind, index] == starts["d1", kind, index] for kind, index in [("forward", 0), ("backward", 3)]
    )


def test_order_of_transfers_carries_over_without_source_and_sink(lab):
    plan = lab.plan([(0, 3, [(0, 2)], 2, None), (3, 6, [(1, 2)], 1, None)], 1)
    order = [
        Transfer(kind=kind, stage=stage, micro_batch=0)
        for kind, stage in (("input", 0), ("activation", 0), ("gradient", 0))
    ]
    workload = lab.workload(lab.architectures["untied"], "training", 2).replace(source="d1", sink="d1")
    small, cut = scale_down(plan.replace(transfer_order=order), workload)
    assert [each.kind for each in cut.transfer_order] == ["activation", "gradient"]
    assert (small.source, small.sink) == (None, None)
    inference, _ = for_inference(cut, small)
    assert [each.kind for each in inference.transfer_order] == ["activation"]


def test_targets_are_the_table_s_seconds(lab, scaled):
    workload, plan = scaled
    cluster = machine_cluster(plan, lab.cluster([1e12] * 5), LINK)
    times = made_up_times(workload)
    table = measured_table(times, plan, cluster, {"d0": 1.0, "d1": 3.0, "d2": 1.0, "d3": 1.0, "d4": 1.0})
    targets = {
        (each.phase, each.stage, each.part): each.seconds for each in targets_of("d1", plan, workload, cluster, table)
    }
    own = range(plan.stages[0].stop_layer)
    assert targets["forward", 0, 0] == pytest.approx(3 * sum(times[index].forward_s[1] for index in own))
    assert targets["backward", 0, 0] == pytest.approx(3 * sum(times[index].backward_s[1] for index in own))
    assert targets["step", 0, 0] == pytest.approx(3 * sum(times[index].step_s for index in own))
    if plan.stages[0].buckets > 1:  # with layers of its own each, the last ones first
        cuts = bucket_layers(plan.stages[0], summed_parameters(workload))
        for part, (stop, first) in enumerate(itertools.pairwise(cuts), start=1):
            filled_s = 3 * sum(times[index].backward_s[1] for index in range(first, stop))
            assert targets["backward", 0, part] == pytest.approx(filled_s)


def test_hosts_are_given_time_for_the_first_layer(lab):
    workload, plan = scale_down(
        lab.plan([(1, 3, [(0, 4)], 2, None), (3, 6, [(1, 4)], 1, None)], 4, "hosted"),
        lab.workload(lab.architectures["tied"], "training", 16),
    )
    cluster = machine_cluster(plan, lab.cluster([1e12] * 2), LINK)
    times = made_up_times(workload)
    table = measured_table(times, plan, cluster, {"d0": 1.0, "d1": 1.0})
    targets = {(each.phase, each.stage): each.seconds for each in targets_of("d1", plan, workload, cluster, table)}
    assert targets["forward", -1] == pytest.approx(times[0].forward_s[4])
    assert targets["backward", -1] == pytest.approx(times[0].backward_s[4])
    for each, of in ((plan, workload), for_inference(plan, workload)):
        assert predict(each, of, cluster, table).makespan_s > 0


@pytest.mark.parametrize("mode", ["training", "inference"])
def test_profile_times_every_layer(lab, mode):
    workload, _ = scale_down(
        lab.plan([(0, 6, [(0, 4)], 1, None)], 2), lab.workload(lab.architectures["untied"], mode, 8)
    )
    threads = torch.get_num_threads()
    times = profile_layers(random_task(workload, 0), [4, 1])
    assert torch.get_num_threads() == threads
    assert len(times) == len(workload.layers)
    assert all(set(each.forward_s) == {1, 4} for each in times)
    assert all(each.forward_s[4] > 0 for each in times)
    assert all((each.step_s > 0) == (mode == "training") for each in times)
    assert all(bool(each.backward_s) == (mode == "training") for each in times)


def test_emulated_devices_fit_the_cores_and_keep_their_ratios(lab, monkeypatch):
    monkeypatch.setattr(emulation, "usable_cores", lambda: 2)
    plan = lab.plan([(0, 6, [(index, 1) for index in range(12)], 1, ("ring", 0))], 1)
    workload = lab.workload(lab.architectures["untied"], "training", 12)
    factors = emulation.slow_down(plan.devices, workload, lab.cluster([1e12] * 11 + [2.5e11]))
    assert sum(1 / each for each in factors.values()) <= 0.8 * 2 * (1 + 1e-12)
    assert factors["d11"] == pytest.approx(4 * factors["d0"])
    far = emulation.slow_down(plan.devices, workload, lab.cluster([1e12] * 11 + [1e8]))
    assert far["d11"] == pytest.approx(16 * far["d0"])
    assert "beyond 16x" in emulation.Emulation(far).describe()
    with pytest.raises(InputError, match=r"matmul\.fp16"):
        emulation.slow_down(plan.devices, workload.replace(precision="fp16"), lab.cluster([1e12] * 12))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"architecture": None}, "workload.architecture"),
    ],
)
def test_what_cannot_be_run_is_refused(lab, change, field):
    workload = lab.workload(lab.architectures["untied"], "training", 8)
    with pytest.raises(InputError) as caught:
        scale_down(lab.plan([(0, 6, [(0, 4)], 1, None)], 2), workload.replace(**change))
    assert caught.value.field == field


def test_a_plan_for_another_batch_is_refused_before_anything_starts(lab):
    workload = lab.workload(lab.architectures["untied"], "training", 6)
    with pytest.raises(InputError, match=r"plan.micro_batches: got 2; allowed: micro-batches of 4"):
        execute(lab.plan([(0, 6, [(0, 4)], 1, None)], 2), workload, lab.cluster([1e12]))


def test_a_plan_for_another_depth_is_refused(lab):
    with pytest.raises(InputError, match="first layer, 4 blocks and head"):
        scale_down(lab.plan([(0, 5, [(0, 4)], 1, None)], 2), lab.workload(lab.architectures["untied"], "training", 8))
