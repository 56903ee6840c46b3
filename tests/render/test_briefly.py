"""What a person sees of a part of a question or an answer: lines, not fields."""

import pytest

import dora_nb as dora
from dora_nb.domain.transfer import ScheduledTransfer


def sent(**fields):
    given = {"kind": "activation", "stage": 0, "micro_batch": 1, "part": 0, "senders": ("laptop",)}
    given |= {"receivers": ("phone", "hub"), "media": ("wifi",), "start_s": 0.0, "end_s": 0.25}
    return ScheduledTransfer(**(given | fields))


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "0 s to 250 ms: activation, stage 0, micro-batch 1, laptop to phone and hub over wifi"),
        ({"stage": -1, "part": 2}, "activation, hosted first layer, micro-batch 1, part 2, laptop"),
        ({"kind": "all-reduce", "micro_batch": 0}, "250 ms: all-reduce, stage 0, laptop to"),
        ({"kind": "token", "micro_batch": 3}, "token, stage 0, step 3, laptop"),
        ({"senders": ("a\nb",), "media": ()}, "a b to phone and hub"),
    ],
)
def test_a_transfer_is_one_line(fields, line):
    text = repr(sent(**fields))
    assert line in text
    assert str(sent(**fields)) == text
    assert "\n" not in text


def test_a_prediction_has_a_line_for_every_device():
    cluster, workload = dora.load_cluster("traffic-analytics"), dora.load_workload("vit-b-16", batch=4)
    plan = dora.plan(workload, cluster, most_plans=1).best
    first, *lines = repr(plan.prediction).splitlines()
    assert first.startswith("Predicted: latency ")
    assert [line.split(":")[0].strip() for line in lines] == [each.device for each in plan.prediction.devices]


def test_streams_chains_and_tables_say_what_they_are():
    lanes = dora.load_streams("traffic-cameras")[0]
    told = "lanes: 4 cameras, mobilenet-v2, a request every 50 ms, from camera-1, to gateway, within 150 ms"
    assert (repr(lanes), str(lanes)) == (told, told)
    heat = repr(dora.load_dynamics("heat")).splitlines()
    assert heat[0] == "heat: 2 states, steps of 10 s"
    assert heat[-2:] == ["  cool: level 1, in a step 5 % to hot", "  hot: level 0.5, in a step 10 % to cool"]
    table = dora.cost_table(dora.load_workload("vit-b-16", batch=4), dora.load_cluster("smart-home"))
    assert repr(table) == "CostTable: 14 layers on 5 devices, up to 4 samples at once, estimated"
