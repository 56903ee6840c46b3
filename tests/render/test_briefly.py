"""What a person sees of a part of a question or an answer: lines, not fields."""

import pytest

import dora_nb as dora
from dora_nb.domain.problem import DeviceType, MeasuredLayer, Medium
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


def test_a_certificate_says_what_is_proven_line_by_line():
    cluster, workload = dora.load_cluster("traffic-analytics"), dora.load_workload("vit-b-16", batch=4)
    proof = dora.plan(workload, cluster, dora.QoE(latency_s=30), most_plans=1).best.certificate
    lines = {line[:16].strip(): line[16:].strip() for line in repr(proof).splitlines()}
    assert str(proof) == repr(proof)
    assert lines["minimised"] == "latency, in s"
    assert lines["within"] == "no limit on the whole plan"
    assert lines["limits asked for"].startswith("latency at most 30 s: ")
    assert lines["this plan"] == f"{1e3 * proof.value:,.6g} ms"
    assert lines["proved by"] == f"{proof.solver} ({proof.solver_reason})"


def test_a_plan_file_is_shown_as_what_was_asked_and_the_plan(tmp_path):
    cluster, workload = dora.load_cluster("traffic-analytics"), dora.load_workload("vit-b-16", batch=4)
    plan = dora.plan(workload, cluster, most_plans=1).best
    shown = repr(dora.load_plan(dora.save_plan(tmp_path / "plan.json", plan, workload, cluster)))
    assert shown.startswith(
        f"Plan file of dora-nb {dora.__version__}\nvit-b-16, inference, batch 4, 224 px images, fp32\n"
    )
    assert "\ntraffic-analytics: " in shown
    assert shown.endswith(repr(plan))


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"requests_per_s": "0.4 /s"},
            "Asked for: lowest latency at 0.4 requests/s, no limits; energy counting the plan",
        ),
        (
            {"objective": "rate", "first_token_s": "2 s", "token_s": "80 ms", "energy_accounting": "all-on"},
            "Asked for: largest rate, time to first token at most 2 s and time per token at most 80 ms; energy "
            "counting every device",
        ),
    ],
)
def test_a_goal_of_serving_is_one_line(fields, line):
    shown = repr(dora.ServingGoal(**fields))
    assert shown.startswith(line)
    assert "\n" not in shown


def test_a_space_and_its_numbers_agree():
    workload, cluster = dora.load_workload("vit-b-16", batch=4), dora.load_cluster("smart-home")
    space = dora.SearchSpace.of(workload, cluster, most_replicas=1, most_chunks=1)
    assert repr(space) == f"Plans considered: {space.describe()}"
    assert "up to 1 replica a stage" in repr(space)
    assert "in up to 1 chunk" in repr(space)


def test_a_problem_is_a_few_lines_however_large():
    layers = [MeasuredLayer(name=f"layer-{index}", time_s={"board": 1e-3}) for index in range(200)]
    boards = DeviceType(type="board", count=3, memory_bytes=2e9, bytes_per_s="100 Mbit/s")
    problem = dora.MeasuredProblem(
        name="long", note="a note " * 100, layers=layers, devices=[boards], media=[Medium(bytes_per_s={"board": 1e6})]
    )
    first, note, *others = repr(problem).splitlines()
    assert first == "long: 200 layers and 0 tensors on 3 devices"
    assert len(note) <= 200
    assert others == [
        "Asked for: least period, contiguous stages, computing and transfers one after the other",
        "  3 x board, 2 GB each, 100 Mbit/s",
        "  medium, shared: 8 Mbit/s from and to board",
    ]
