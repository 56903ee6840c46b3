"""The schedules that are written are what torch's own runtime reads, in the order of our instructions."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import Dice, examples, pipeline, workload
from hypothesis import given, settings
from hypothesis import strategies as st

from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.executor.device.instructions import Backward, Forward, Recv, Send, Step, compile_plan
from dora_nb.exporting import pipelining_csv, pipelining_rows

schedules = pytest.importorskip("torch.distributed.pipelining.schedules")


def loaded(plan: Plan, work: Workload, folder: Path) -> Any:
    """The runtime of ``torch.distributed.pipelining`` after it has read the file; its stages are not run."""
    count = len(plan.stages) + (plan.tied == "hosted")
    stage = SimpleNamespace(num_stages=count, group_size=len(plan.devices), group_rank=0, is_last=False)
    runtime = schedules._PipelineScheduleRuntime([stage], plan.micro_batches, loss_fn=lambda a, b: a)
    path = folder / "schedule.csv"
    path.write_text(pipelining_csv(plan, work))
    runtime._load_csv(str(path), format="compute_comms")
    return runtime


def words(action: Any) -> tuple[str, int, int | None]:
    return action.computation_type.value, action.stage_index, action.microbatch_index


def own_words(each: object) -> tuple[str, int, int | None]:
    """An instruction in the library's words, written down a second time; no hosted layer."""
    match each:
        case Recv(kind="activation"):
            return "RECV_F", each.stage + 1, each.micro_batch
        case Recv():
            return "RECV_B", each.stage, each.micro_batch
        case Send(kind="activation"):
            return "SEND_F", each.stage, each.micro_batch
        case Send():
            return "SEND_B", each.stage + 1, each.micro_batch
        case Forward():
            return "F", each.stage, each.micro_batch
        case Backward():
            return "B", each.stage, each.micro_batch
        case Step():
            return "REDUCE_GRAD", each.stage, None
    raise AssertionError(each)


@settings(derandomize=True, max_examples=examples(10), deadline=None)
@given(st.integers(0, 10_000))
def test_torch_reads_our_instruction_list(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    dice = Dice(seed)
    count, batches = dice.number(1, 4), dice.number(1, 6)
    held = sorted((dice.number(1, batches + 2) for _ in range(count)), reverse=True)
    held = [max(each, count - index) for index, each in enumerate(held)]  # or stages would wait for each other
    stages = [(index, index + 1, {"abcd"[index]: 1}) for index in range(count)]
    plan = pipeline(*stages, micro_batches=batches, in_flight=held)
    work = workload(count, batch=batches)
    runtime = loaded(plan, work, tmp_path_factory.mktemp("csv"))
    programs = compile_plan(plan, trains=True)
    for rank, device in enumerate(plan.devices):
        ours = [own_words(each) for each in programs[device]]
        assert [words(each) for each in runtime.pipeline_order_with_comms[rank]] == ours
    assert runtime.stage_index_to_group_rank == {stage: stage for stage in range(count)}
    runtime.pipeline_order_with_comms = without_sums(runtime)
    runtime._simulate()  # raises where an action could never run


def without_sums(runtime: Any) -> dict[int, list[Any]]:
    """The actions that the library's own dry run knows."""
    order = runtime.pipeline_order_with_comms
    return {rank: [a for a in own if a.computation_type.value != "REDUCE_GRAD"] for rank, own in order.items()}


@pytest.mark.parametrize("count", [2, 3])
def test_a_hosted_first_layer_is_a_stage_of_the_last_rank(count: int, tmp_path: Path) -> None:
    stages = [(1 + index, 2 + index if index < count - 1 else 6, {"abc"[index]: 1}) for index in range(count)]
    plan = pipeline(*stages, micro_batches=4, tied="hosted")
    work = workload(6, batch=4)
    runtime = loaded(plan, work, tmp_path)
    assert runtime.stage_index_to_group_rank == {0: count - 1} | {1 + rank: rank for rank in range(count)}
    order = {rank: [str(each) for each in own] for rank, own in runtime.pipeline_order_with_comms.items()}
    hosting = order[count - 1]
    assert hosting[:4] == ["0F0", "0SEND_F0", "0F1", "0SEND_F1"]
    assert hosting[-2:] == [f"{count}REDUCE_GRAD", "0REDUCE_GRAD"]
    # Between two ranks what is sent first is received first, since nothing else tells messages apart.
    at = runtime.stage_index_to_group_rank
    for sender, receiver in itertools.product(order, order):
        sent = [each for each in map(arrives_as, order[sender]) if each and at[each[1]] == receiver]
        taken = [
            each for each in map(parsed, order[receiver]) if each[0] in FROM and at[each[1] + FROM[each[0]]] == sender
        ]
        assert sent == taken
    # No action of a device is lost, none is added, and computing keeps its order.
    programs = compile_plan(plan, trains=True)
    for rank, device in enumerate(plan.devices):
        computed = [each for each in order[rank] if parsed(each)[0] in ("F", "B")]
        own = [each for each in programs[device] if isinstance(each, Forward | Backward)]
        assert computed == [
            f"{each.stage + 1}{'F' if isinstance(each, Forward) else 'B'}{each.micro_batch}" for each in own
        ]
        assert len(order[rank]) == len(programs[device]) + (rank == count - 1)  # one sum more
    runtime.pipeline_order_with_comms = without_sums(runtime)
    runtime._simulate()


#: The stage a receive comes from, counted from its own.
FROM = {"RECV_F": -1, "RECV_B": 1}


def parsed(action: str) -> tuple[str, int, int | None]:
    return words(schedules._Action.from_str(action))


def arrives_as(action: str) -> tuple[str, int, int | None] | None:
    """What a send is received as; None of anything else."""
    what, stage, batch = parsed(action)
    return {"SEND_F": ("RECV_F", stage + 1, batch), "SEND_B": ("RECV_B", stage - 1, batch)}.get(what)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"mode": "inference"}, "workload.mode"),
        ({"replicas": True}, r"stages\[0\].replicas"),
        ({"tied": "synchronised"}, "tied"),
        ({"overlap": False}, "overlap"),
    ],
)
def test_what_the_library_cannot_do_is_refused_with_the_reason(changes: dict[str, Any], field: str) -> None:
    work = workload(6, batch=4, mode=changes.get("mode", "training"))
    first = {"a": 1, "c": 1} if changes.get("replicas") else {"a": 2}
    plan = pipeline((0, 3, first), (3, 6, {"b": 2}), micro_batches=2, tied=changes.get("tied", "none"))
    plan = plan.replace(overlap=changes.get("overlap", True))
    with pytest.raises(InputError, match=f"{field}.*torch.distributed.pipelining"):
        pipelining_rows(plan, work)


def test_the_file_has_a_line_a_rank() -> None:
    plan = pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1}), micro_batches=2)
    assert pipelining_csv(plan, workload(2, batch=2)) == (
        "0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1,0REDUCE_GRAD\n"
        "1RECV_F0,1F0,1B0,1SEND_B0,1RECV_F1,1F1,1B1,1SEND_B1,1REDUCE_GRAD\n"
    )
