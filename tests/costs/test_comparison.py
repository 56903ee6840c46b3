"""A run that is off its prediction by known factors: they are found again, part by part."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builders import cluster, pipeline
from runs import made_up_plan, made_up_run

import dora_nb
from dora_nb.costs.comparison import compare
from dora_nb.costs.table import cost_table
from dora_nb.domain.plan import Plan
from dora_nb.domain.run_record import Incident, RunRecord
from dora_nb.domain.run_timeline import INFERENCE
from dora_nb.errors import InputError
from dora_nb.planning.plan import plan

FACTORS = {"a": 1.1, "b": 1.2, "c": 0.5}


@pytest.fixture(scope="module")
def record() -> RunRecord:
    return made_up_run(FACTORS)


def test_stages_are_as_far_off_as_their_slowest_replica(record: RunRecord) -> None:
    found = {(each.kind, each.stage): each for each in compare(made_up_plan(), record).stages}
    assert found.keys() == {(kind, stage) for kind in ("forward", "backward", "step") for stage in (0, 1)}
    for (kind, stage), each in found.items():
        factor = {"forward": 1, "backward": 2, "step": 3}[kind] * FACTORS["ab"[stage]]
        assert each.error == pytest.approx(factor - 1), (kind, stage)
        assert each.count == (2 if kind == "step" else 4)
        assert each.devices == record.plan.stages[stage].devices
    # Four samples through two layers of 1 s a sample, three of them on the slower replica.
    assert found["forward", 0].predicted_s == pytest.approx(8)
    assert found["backward", 1].predicted_s == pytest.approx(12)


def test_transfers_count_from_sending_to_having(record: RunRecord) -> None:
    """8 MB at 1 MB/s over one medium and both hops take 16 s; the second activation waits 8 s for the medium."""
    found = {(each.kind, each.stage): each for each in compare(made_up_plan(), record).transfers}
    assert found.keys() == {("activation", 0), ("gradient", 0), ("all-reduce", 1)}
    assert [found[key].count for key in found] == [4, 4, 2]
    assert all(each.measured_s == pytest.approx(0.5) for each in found.values())
    assert all(each.waited == each.count for each in found.values())
    assert found["activation", 0].predicted_s == pytest.approx((16 + 24) / 2)
    # The sum of 80 kB to and fro shares the medium with the last gradient, slice by slice.
    assert found["all-reduce", 1].predicted_s == pytest.approx(2 * 2 * 2 * 5000 * 8 / 1e6, abs=5e-3)


def test_buckets_of_gradients_are_compared_one_by_one() -> None:
    """And the parts of the pass that fill them as one pass, also where times become a table to plan with."""
    plan, run, whole = made_up_plan(2), made_up_run(FACTORS, buckets=2), made_up_run(FACTORS)
    comparison = compare(plan, run)
    found = {(each.kind, each.stage, each.part): each for each in comparison.transfers}
    assert [key for key in found if key[0] == "all-reduce"] == [("all-reduce", 1, 1), ("all-reduce", 1, 2)]
    assert all(found["all-reduce", 1, part].measured_s == pytest.approx(0.5) for part in (1, 2))
    # The last layer has 3,000 parameters, the one before 2,000; both meet a gradient that is sent back.
    for part, parameters in ((1, 3000), (2, 2000)):
        expected_s = pytest.approx(2 * 2 * 2 * parameters * 8 / 1e6, abs=5e-3)
        assert found["all-reduce", 1, part].predicted_s == expected_s
    for each, same in zip(comparison.stages, compare(made_up_plan(), whole).stages, strict=True):
        assert (each.kind, each.stage, each.count) == (same.kind, same.stage, same.count)
        assert (each.predicted_s, each.measured_s) == pytest.approx((same.predicted_s, same.measured_s), rel=1e-9)
    assert run.as_cost_table().backward_s == pytest.approx(whole.as_cost_table().backward_s, rel=1e-9)
    frame = comparison.to_frame()
    assert sorted(frame[frame.kind == "all-reduce"].bucket) == [1, 2]
    assert "all-reduce of stage 1, bucket 2" in repr(comparison)
    assert RunRecord.model_validate_json(run.model_dump_json()) == run


def test_of_what_was_there_before_it_was_wanted_nobody_knows_when_it_came() -> None:
    comparison = compare(made_up_plan(), made_up_run(FACTORS, waits=False))
    found = {each.kind: each for each in comparison.transfers}
    assert (found["activation"].waited, found["activation"].measured_s, found["activation"].error) == (0, None, None)
    assert found["all-reduce"].measured_s == pytest.approx(0.5)
    assert "0 of 4" in repr(comparison)
    assert "is not known" in comparison._repr_html_()


def test_steps_and_bubbles(record: RunRecord) -> None:
    comparison = compare(made_up_plan(), record)
    assert comparison.what == "training step"
    assert (comparison.predicted_s, comparison.measured_s) == (record.predicted_s, 1.5)
    assert comparison.error == pytest.approx(1.5 / record.predicted_s - 1)
    assert [(each.step, each.measured_s) for each in comparison.steps] == [(INFERENCE, 0.7), (0, 1.0), (1, 2.0)]
    assert comparison.steps[2].predicted_s == record.predicted_s != comparison.steps[0].predicted_s
    busy = {each.device: each for each in comparison.devices}
    # Two micro-batches forward and backward: 8 s and 16 s each of them on "a", and no time to speak of for the step.
    assert busy["a"].predicted_busy == pytest.approx(48 / record.predicted_s)
    seconds = 2 * 1.1 * (8 + 2 * 16)
    assert busy["a"].measured_busy == pytest.approx((seconds / 1 + seconds / 2) / 2, rel=1e-6)


def test_an_inference_run_is_compared_by_its_batch(record: RunRecord) -> None:
    events = [event for event in record.events if event.step == INFERENCE]
    run = record.replace(steps=0, step_s=(), predicted_training=None, events=events, measured_s=0.7)
    comparison = compare(made_up_plan(), run)
    assert comparison.what == "inference batch"
    assert comparison.predicted_s == record.inference_predicted_s
    assert {each.kind for each in comparison.stages} == {"forward"}
    assert {each.kind for each in comparison.transfers} == {"activation"}
    assert len(comparison.steps) == 1


def test_only_steps_under_the_plan_are_compared(record: RunRecord) -> None:
    """What came after a change of plans was not predicted; a run that was resumed does not begin with step 0."""
    switch = Incident(kind="switch", completed=1, at_s=3.0, text="another plan")
    changed = record.replace(incidents=(switch,))
    comparison = compare(made_up_plan(), changed)
    assert [each.step for each in comparison.steps] == [INFERENCE, 0]
    assert comparison.measured_s == 1.0
    assert {each.count for each in comparison.stages} == {1, 2}
    with pytest.raises(InputError, match="no step under its first plan"):
        compare(made_up_plan(), record.replace(incidents=(switch.replace(completed=0),)))
    later = [event.replace(step=event.step + 5) for event in record.events if event.step != INFERENCE]
    resumed = record.replace(events=later, inference_measured_s=0.0)
    assert [each.step for each in compare(made_up_plan(), resumed).steps] == [5, 6]


def test_what_is_shown(record: RunRecord) -> None:
    comparison = dora_nb.compare(made_up_plan(), record)
    text = repr(comparison)
    assert text == str(comparison)
    assert "made up, training step: predicted 92.2 s, measured 1.5 s (-98.4 %)" in text
    assert "Furthest off of what is computed: step of stage 1, +260 %." in text
    assert max(map(len, text.splitlines())) <= 110
    for shown in ("backward, stage 0", "activation behind stage 0", "busy, c", "+10.0 %"):
        assert shown in text
        assert shown in comparison._repr_html_()
    frame = comparison.to_frame()
    assert frame.what.value_counts().to_dict() == {"step": 3, "stage": 6, "transfer": 3, "device": 3}
    row = frame[(frame.what == "stage") & (frame.kind == "forward") & (frame.stage == 1)].iloc[0]
    assert row.error == pytest.approx(0.2)


def test_a_run_that_is_waited_for_and_what_is_no_run(record: RunRecord) -> None:
    class Handle:
        def wait(self) -> RunRecord:
            return record

    assert compare(made_up_plan(), Handle()) == compare(made_up_plan(), record)
    with pytest.raises(InputError, match="run: got 'int'"):
        compare(made_up_plan(), 3)  # type: ignore[arg-type]
    other: Plan = pipeline((0, 2, {"a": 4}), (2, 4, {"b": 4}), micro_batches=2)
    with pytest.raises(InputError, match="the plan that was run"):
        compare(other, record)


def test_what_was_measured_becomes_a_table(record: RunRecord) -> None:
    table = record.as_cost_table()
    profiled = cost_table(record.workload, record.cluster)
    assert table.status == "measured"
    for index, device in enumerate(record.cluster.device_ids):
        factor = FACTORS[device]
        assert table.forward_s[:, index] == pytest.approx(factor * profiled.forward_s[:, index], rel=1e-9)
        assert table.backward_s[:, index] == pytest.approx(2 * factor * profiled.backward_s[:, index], rel=1e-9)
        assert table.step_s[:, index] == pytest.approx(3 * factor * profiled.step_s[:, index], rel=1e-6)
    best = plan(record.workload, record.cluster, table=table, most_plans=1, solver="highs").best
    shares = {replica.device: replica.samples for stage in best.stages for replica in stage.replicas}
    assert max(shares, key=lambda device: shares[device]) == "c", "the fastest, which the profile does not know as such"


def test_a_table_for_more_devices_than_took_part(record: RunRecord) -> None:
    larger = cluster(4).replace(devices=tuple(reversed(cluster(4).devices)))
    with pytest.raises(InputError, match=r"cluster: got \['d'\]"):
        record.as_cost_table(larger)
    base = cost_table(record.workload.replace(precision="fp32"), larger)
    table = record.as_cost_table(larger, base)
    assert table.status == "estimated"
    assert table.forward_s[0, :, 1] == pytest.approx([1.0, FACTORS["c"], FACTORS["b"], FACTORS["a"]])
    with pytest.raises(InputError, match="base"):
        record.as_cost_table(larger, cost_table(record.workload.replace(precision="fp32"), cluster(3)))


def test_a_table_for_the_planned_cluster_is_in_its_own_seconds(record: RunRecord) -> None:
    """Imitated, a second of the plan took four here."""
    imitated, planned = record.replace(dilation=4.0), record.cluster.replace(name="planned")
    here, there = imitated.as_cost_table(), imitated.as_cost_table(planned)
    for name in ("forward_s", "backward_s", "step_s"):
        assert getattr(here, name) == pytest.approx(getattr(record.as_cost_table(), name))
        assert 4 * getattr(there, name) == pytest.approx(getattr(here, name))


def test_a_base_says_how_times_grow_with_the_samples(record: RunRecord) -> None:
    """The run measured one number of samples; what a call costs whatever it is given is known from before."""
    planned = record.cluster.replace(name="planned")
    base = cost_table(record.workload, planned)
    base.forward_s[:, :, 1:] += 0.1
    table = record.as_cost_table(planned, base)
    growth = table.forward_s[:, :, 1:] / base.forward_s[:, :, 1:]
    assert growth == pytest.approx(np.broadcast_to(growth[:1, :, :1], growth.shape))
    (stage, *_), device = record.plan.stages, planned.device_ids.index(record.plan.stages[0].devices[0])
    own = slice(stage.first_layer, stage.stop_layer), device, stage.replicas[0].samples
    assert table.forward_s[own].sum() == pytest.approx(record.as_cost_table(planned).forward_s[own].sum())


def test_a_record_reads_back(record: RunRecord) -> None:
    text = record.model_dump_json()
    assert RunRecord(**json.loads(text)) == record
