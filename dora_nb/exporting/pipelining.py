"""A plan as a schedule of ``torch.distributed.pipelining``, for those who run their own stages there.

That library knows stages on ranks, micro-batches, and an order of actions for every rank. The order in which each
device computes, and with it how many micro-batches are in flight, is carried over whole. It has no replicas of a
stage of its own, no chunks and no order of transfers on a shared medium: the first is refused, of the others the file
says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from dora_nb.domain.plan import Plan
from dora_nb.domain.transfer import HOSTED
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.executor.device.instructions import Backward, Forward, Instruction, Recv, Send, Step, compile_plan


def pipelining_rows(plan: Plan, workload: Workload) -> dict[str, list[str]]:
    """The actions of every device, in the words of ``torch.distributed.pipelining``.

    A device is a rank, in the order of the plan's stages. Stages are numbered as in the plan; a hosted first layer is
    stage 0 of the last rank, and the others count from 1. A stage ends with ``REDUCE_GRAD``, behind which its optimizer
    steps.

    Parameters
    ----------
    plan
        What to write down.
    workload
        What it was made for.

    Returns
    -------
    dict
        Actions such as ``1RECV_F0``, ``1F0``, ``1SEND_F0`` by device, first rank first. Every receive stands where its
        sender sends it, so that the two match without tags.

    Raises
    ------
    InputError
        If the library cannot run such a plan; it says why.
    """
    _check(plan, workload)
    shift = 1 if plan.tied == "hosted" else 0
    programs = compile_plan(plan, trains=True)
    sent = {device: _sends(programs[device], shift) for device in plan.devices}
    rows = {}
    for device in plan.devices:
        waiting = {peer: iter(own.get(device, [])) for peer, own in sent.items()}
        received: set[str] = set()
        row: list[str] = []
        for instruction in programs[device]:
            match instruction:
                case Recv():
                    # Whoever sends has several things for this device only if it hosts the first layer: what it
                    # sent before is received before.
                    action = _received(instruction, shift)
                    (peer,) = (piece.peer for piece in instruction.pieces)
                    while action not in received:
                        earlier = next(waiting[peer])
                        received.add(earlier)
                        row.append(earlier)
                case Send():
                    way = "F" if instruction.kind == "activation" else "B"
                    sender = _stage(instruction.stage + (instruction.kind == "gradient"), shift)
                    row.append(f"{sender}SEND_{way}{instruction.micro_batch}")
                case Forward():
                    row.append(f"{_stage(instruction.stage, shift)}F{instruction.micro_batch}")
                case Backward():
                    row.append(f"{_stage(instruction.stage, shift)}B{instruction.micro_batch}")
                case Step():
                    row.extend(f"{stage}REDUCE_GRAD" for stage in _stages(plan, instruction.stage, shift))
        rows[device] = row
    return rows


def pipelining_csv(plan: Plan, workload: Workload) -> str:
    """The rows of :func:`pipelining_rows` as a file: a line a rank. To be loaded with the format ``compute_comms``.

    ::

        schedule = torch.distributed.pipelining.schedules._PipelineScheduleRuntime([stage], micro_batches, loss)
        schedule._load_csv("schedule.csv", format="compute_comms")

    Parameters
    ----------
    plan, workload
        As for :func:`pipelining_rows`.

    Raises
    ------
    InputError
        If the library cannot run such a plan; it says why.
    """
    return "".join(",".join(row) + "\n" for row in pipelining_rows(plan, workload).values())


def _check(plan: Plan, workload: Workload) -> None:
    def refuse(field: str, value: object, allowed: str) -> InputError:
        return InputError(field, value, f"{allowed}, in a schedule of torch.distributed.pipelining")

    if not workload.trains:
        raise refuse("workload.mode", workload.mode, "training, whose forward and backward passes its runtime checks")
    for index, stage in enumerate(plan.stages):
        if len(stage.replicas) > 1:
            raise refuse(f"stages[{index}].replicas", list(stage.devices), "one device a stage")
    if plan.tied == "synchronised":
        raise refuse("tied", plan.tied, "'none', 'one-stage' or 'hosted': nothing sums gradients of two stages")
    if not plan.overlap:
        raise refuse("overlap", plan.overlap, "True: what is sent is not waited for")


def _stage(stage: int, shift: int) -> int:
    """The library's number of a stage."""
    return 0 if stage == HOSTED else stage + shift


def _stages(plan: Plan, stage: int, shift: int) -> Iterator[int]:
    """The library's numbers of what a stage's device runs."""
    yield _stage(stage, shift)
    if plan.hosts_first_layer(stage):
        yield 0


def _received(receive: Recv, shift: int) -> str:
    """What a receive is called: after the stage that receives."""
    if receive.kind == "activation":
        return f"{_stage(receive.stage, shift) + 1}RECV_F{receive.micro_batch}"
    return f"{_stage(receive.stage, shift)}RECV_B{receive.micro_batch}"


def _sends(program: tuple[Instruction, ...], shift: int) -> dict[str, list[str]]:
    """What a device sends, by receiver and in its order, as the receives that take it."""
    sends: dict[str, list[str]] = {}
    for instruction in program:
        if isinstance(instruction, Send):
            (peer,) = (piece.peer for piece in instruction.pieces)
            same = Recv(instruction.kind, instruction.stage, instruction.micro_batch, instruction.pieces)
            sends.setdefault(peer, []).append(_received(same, shift))
    return sends
