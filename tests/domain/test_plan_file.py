"""Plan files: what goes in comes out, nothing half-written is left, and every fault is named."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import jsonschema
import pytest
from builders import examples, pipeline, random_plan, random_question, seeded, workload
from hypothesis import given, settings

from dora_nb.catalog import data_dir, load_cluster, load_workload
from dora_nb.costs.evaluate import evaluate
from dora_nb.costs.operations import Shape
from dora_nb.costs.precedence import operations_of
from dora_nb.domain import document, plan_file
from dora_nb.domain.certificate import Certificate
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.document import write_whole
from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_file import PlanFile, load_plan, plan_schema, save_plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.transfer import Transfer
from dora_nb.domain.workload import Workload
from dora_nb.errors import DocumentError, InputError, UnknownNameError

SCHEMA = data_dir() / "schemas" / "plan.schema.json"

Edit = Callable[[dict[str, Any]], object]


def with_figures(plan: Plan, work: Workload, place: Cluster) -> Plan:
    """A plan as a planner returns it: transfers in an order that works, a prediction and a certificate."""
    operations = operations_of(Shape.of(plan, work))
    transfers = [operations.operations[index] for index in sorted(operations.transfers)]
    order = tuple(Transfer(kind=kind, stage=stage, micro_batch=batch) for kind, stage, batch, _ in transfers)
    plan = plan.replace(label="fast", transfer_order=order)
    prediction = evaluate(plan, work, place).prediction
    certificate = Certificate(
        objective="latency",
        unit="s",
        value=prediction.makespan_s,
        bound=prediction.makespan_s / 3,
        gap=2 / 3,
        status="feasible",
        scope="these",
        solver="none",
        solver_reason="a test",
    )
    return plan.replace(prediction=prediction, certificate=certificate)


HOME = load_cluster("smart-home")
QWEN = load_workload("qwen3-0.6b", mode="training", batch=4)
FAST = with_figures(
    pipeline((1, 20, {"phone": 2}), (20, 30, {"laptop": 1, "hub": 1}), micro_batches=2, tied="hosted"), QWEN, HOME
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_plan(tmp_path / "plan.json", FAST, QWEN, HOME, QoE(latency_s="1 min", objective="energy"))


def edited(path: Path, edit: Edit) -> Path:
    """The file with its JSON changed."""
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    return path


def problem(path: Path) -> str:
    """What loading a file complains about."""
    with pytest.raises(DocumentError) as caught:
        load_plan(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


# ---------------------------------------------------------------------------------------------- there and back


def test_everything_comes_back_equal(saved: Path) -> None:
    loaded = load_plan(saved)
    assert loaded.plan == FAST
    assert isinstance(loaded.plan.stages, tuple)
    assert (loaded.workload, loaded.cluster) == (QWEN, HOME)
    assert loaded.qoe == QoE(latency_s=60, objective="energy")
    assert loaded.created_by.startswith("dora-nb")
    assert loaded.hashes.plan == FAST.digest()
    assert evaluate(loaded.plan, loaded.workload, loaded.cluster).prediction == FAST.prediction


def test_where_numbers_come_from_survives(saved: Path) -> None:
    for before, after in zip(HOME.devices, load_plan(saved).cluster.devices, strict=True):
        assert before.sources
        assert after.sources == before.sources
    assert load_plan(saved).cluster.domains[0].sources == HOME.domains[0].sources


@pytest.mark.parametrize("name", ["bert-base", "vit-b-16", "resnet-50", "mobilenet-v2", "qwen2.5-3b"])
def test_every_kind_of_architecture_survives(name: str, tmp_path: Path) -> None:
    work = load_workload(name, mode="inference", batch=2)
    plan = pipeline((0, len(work.layers), {"phone": 2}))
    assert load_plan(save_plan(tmp_path / "plan.json", plan, work, HOME)).workload == work


@settings(max_examples=examples(12))
@given(case=seeded(lambda dice: (*(question := random_question(dice)), random_plan(dice, *question))))
def test_any_plan_comes_back_to_the_last_bit(
    case: tuple[Workload, Cluster, Plan], tmp_path_factory: pytest.TempPathFactory
) -> None:
    work, place, plan = case
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    loaded = load_plan(save_plan(path, plan, work, place))
    assert (loaded.workload, loaded.cluster, loaded.plan) == (work, place, plan)
    assert loaded.qoe == QoE()
    again = path.with_name("again.json")
    save_plan(again, loaded.plan, loaded.workload, loaded.cluster, loaded.qoe)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("number", [0.1 + 0.2, 5e-324, 1.7976931348623157e308, 1 / 3, 2.0**53 + 2])
def test_floats_are_exact(number: float, tmp_path: Path) -> None:
    work = workload(2, input_bytes=number)
    path = save_plan(tmp_path / "plan.json", pipeline((0, 2, {"phone": 4})), work, HOME)
    assert load_plan(path).workload.input_bytes == number


def test_text_in_any_script_comes_back(tmp_path: Path) -> None:
    plan = pipeline((0, 2, {"phone": 4})).replace(label="schnell \U0001f680 \u4e00 \u2028 <b> \"'")
    assert load_plan(save_plan(tmp_path / "plan.json", plan, workload(2), HOME)).plan == plan


# ---------------------------------------------------------------------------------------------- schema


def test_the_schema_file_is_the_generated_one() -> None:
    generated = json.dumps(plan_schema(), indent=2, ensure_ascii=False) + "\n"
    assert SCHEMA.read_text(encoding="utf-8") == generated, "write plan_schema() to data/schemas/plan.schema.json"


def test_a_saved_plan_fits_the_schema_and_a_damaged_one_does_not(saved: Path) -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)
    checker = jsonschema.Draft202012Validator(schema)
    document = json.loads(saved.read_text())
    checker.validate(document)
    document["plan"]["stages"][0]["in_flight"] = 0
    assert not checker.is_valid(document)


# ---------------------------------------------------------------------------------------------- faults


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert problem(tmp_path / "none.json") == "there is no such file"
    assert problem(tmp_path) == "is a folder, not a plan file"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert problem(tmp_path / "pipe") == "is not a regular file"


def test_an_unreadable_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> NoReturn:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", denied)
    assert problem(saved) == "cannot be read: Permission denied"


def test_a_large_file_is_refused_before_it_is_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "LARGEST_BYTES", 1000)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: pytest.fail("was read"))
    assert "is too large for a plan file" in problem(saved)
    assert "at most 1,000" in problem(saved)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is not JSON: Expecting value at line 1, column 1"),
        (b'{"format": "dora-nb/plan",\n  oops}', "at line 2, column 3"),
        (b"\xff\xfe", "is not JSON: not UTF-8 text (byte 0)"),
        (b"[1, 2]", "not an object in braces"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": 1, "a": 2}', "the key 'a' stands twice in one object"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON that a plan file may hold"),
        (b"{}", "is not a plan of dora_nb (no field 'format'; a plan file says 'dora-nb/plan')"),
        (b'{"format": "other/thing"}', "is not a plan of dora_nb (its field 'format' is 'other/thing'"),
        (b'{"format": {"a": []}}', "is not a plan of dora_nb"),
    ],
)
def test_what_is_not_a_plan_file(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    assert expected in problem(path)


def test_half_a_file(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-500])
    assert problem(saved).startswith("is not JSON")


def test_a_newer_version_says_to_upgrade(saved: Path) -> None:
    message = problem(edited(saved, lambda document: document.update(version=3, something_new=1)))
    assert message.startswith("is a plan file of version 3; this release (dora-nb")
    assert "reads version 2" in message
    assert "pip install --upgrade dora-nb" in message


def test_an_earlier_version_says_to_plan_again(saved: Path) -> None:
    for other in (0, "two", None, True):
        assert "this release" in problem(edited(saved, lambda document, other=other: document.update(version=other)))
    message = problem(edited(saved, lambda document: document.update(version=1)))
    assert message.startswith("is a plan file of version 1; this release (dora-nb")
    assert "Plan again" in message


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda d: d.pop("plan"), "plan: got None; allowed: this field is required"),
        (lambda d: d.update(extra=1), "extra: got 1; allowed: no such field"),
        (lambda d: d["plan"]["stages"][1].update(in_flight=0), "plan.stages[1].in_flight: got 0; allowed:"),
        (lambda d: d["cluster"]["devices"][2].update(idle_w=-1), "cluster.devices[2].idle_w: got -1"),
        (lambda d: d["plan"]["stages"][1].update(first_layer=21), "plan.stages[1].first_layer: got (21, 30); allowed:"),
        (lambda d: d["hashes"].update(plan="short"), "hashes.plan: got 'short'; allowed:"),
        (lambda d: d.update(workload=[0] * 10_000), "workload: got [0, 0,"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(edit: Edit, expected: str, saved: Path) -> None:
    message = problem(edited(saved, edit))
    assert message.startswith("has a field that cannot be used: ")
    assert expected in message
    assert len(message) < 600


@pytest.mark.parametrize(
    ("part", "edit"),
    [
        ("workload", lambda d: d["workload"].update(input_bytes=7)),
        ("cluster", lambda d: d["cluster"]["devices"][0].update(memory_bytes=1e12)),
        ("qoe", lambda d: d["qoe"].update(latency_s=1)),
        ("plan", lambda d: d["plan"]["certificate"].update(bound=0.0)),
        ("plan", lambda d: d["plan"]["transfer_order"].reverse()),
    ],
)
def test_an_edited_part_is_named(part: str, edit: Edit, saved: Path) -> None:
    message = problem(edited(saved, edit))
    assert message.startswith(f"its {part} was edited or damaged since the file was saved")


MISFITS: list[tuple[Plan, Workload, str]] = [
    (pipeline((0, 2, {"toaster": 4})), workload(2), "plan.stages[0].replicas.device: got 'toaster'"),
    (pipeline((0, 2, {"phone": 4})), workload(3), "plan.stages[0].stop_layer: got 2; allowed: 3"),
    (pipeline((0, 2, {"phone": 4}), micro_batches=2), workload(2), "micro-batches of 4 that make up the batch of 4"),
    (pipeline((0, 2, {"phone": 4})), workload(2, source="toaster"), "workload.source: got 'toaster'"),
]


@pytest.mark.parametrize(("plan", "work", "expected"), MISFITS)
def test_a_plan_that_does_not_fit_is_neither_saved_nor_loaded(
    plan: Plan, work: Workload, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(InputError, match=r"got ") as caught:
        save_plan(path, plan, work, HOME)
    assert expected in str(caught.value)
    assert not path.exists()
    with monkeypatch.context() as patched:
        patched.setattr(plan_file, "check_fits", lambda *_: None)
        save_plan(path, plan, work, HOME)
    message = problem(path)
    assert message.startswith("its plan does not fit its workload and cluster: ")
    assert expected in message


def test_a_wrong_device_comes_with_the_names_there_are(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'phone'"):
        save_plan(tmp_path / "plan.json", pipeline((0, 2, {"phon": 4})), workload(2), HOME)


# ---------------------------------------------------------------------------------------------- whole or not at all


def test_a_failed_rename_leaves_the_old_file_and_no_other(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(*_: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DocumentError, match=r"plan\.json: cannot be written: No space left on device"):
        save_plan(saved, FAST, QWEN, HOME)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["plan.json"]


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_plan(tmp_path / "plan.json", FAST, QWEN, HOME)
    assert list(tmp_path.iterdir()) == []


def test_saving_replaces_what_was_there_and_nothing_else(saved: Path) -> None:
    save_plan(str(saved), FAST.replace(label="another"), QWEN, HOME)
    assert load_plan(saved).plan.label == "another"
    assert [path.name for path in saved.parent.iterdir()] == ["plan.json"]


def test_where_nothing_can_be_written(saved: Path) -> None:
    with pytest.raises(DocumentError, match="cannot be written: No such file or directory"):
        save_plan(saved.parent / "none" / "plan.json", FAST, QWEN, HOME)
    with pytest.raises(DocumentError, match="cannot be written"):
        write_whole(saved.parent, "a folder cannot be replaced")
    assert [path.name for path in saved.parent.iterdir()] == ["plan.json"]


def test_readers_never_see_half_a_file(saved: Path) -> None:
    done = threading.Event()
    faults: list[Exception] = []

    def read() -> None:
        while not done.is_set():
            try:
                load_plan(saved)
            except DocumentError as error:
                faults.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        save_plan(saved, FAST, QWEN, HOME)
    done.set()
    reader.join()
    assert not faults


def test_a_plan_file_is_a_record() -> None:
    with pytest.raises(InputError, match=r"format: got 'x'"):
        PlanFile(format="x", version=1)  # type: ignore[call-arg]
