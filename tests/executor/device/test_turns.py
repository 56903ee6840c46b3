"""Turns on a medium: nobody sends before the plan says so, and everything still arrives."""

from __future__ import annotations

import itertools
import threading
import time
from typing import get_args

import pytest
import torch

from dora_nb.costs.network import Network
from dora_nb.costs.operations import Shape
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.start_times import start_times
from dora_nb.costs.table import cost_table
from dora_nb.costs.timing import timing_of
from dora_nb.domain.cluster import ContentionDomain
from dora_nb.domain.plan import MOST_CHUNKS
from dora_nb.domain.transfer import Transfer
from dora_nb.executor.device.courier import AsReady, InOrder, key_of
from dora_nb.executor.device.instructions import Recv, Send, compile_plan
from dora_nb.executor.device.medium import EmulatedTransport, Medium
from dora_nb.executor.device.turns import PassedBy, schedules_of
from dora_nb.executor.tasks.scale import executable

STAGES = [(0, 2, [(0, 4)], 3, None), (2, 5, [(1, 3), (2, 1)], 2, ("ring", 1)), (5, 6, [(3, 4)], 1, None)]


def planned(lab, chunks: int = 1, kind: str = "shared", buckets: int = 1):
    """A plan with a feasible transfer order, its workload and a cluster."""
    workload = lab.workload(lab.architectures["tied"], "training", 12)
    cluster = lab.cluster([1e12] * 4)
    if kind == "switch":
        rates = cluster.domains[0].rates_bytes_per_s
        cluster = cluster.replace(domains=(ContentionDomain(id="lan", kind="switch", rates_bytes_per_s=rates),))
    first, (*whose, sums), last = STAGES
    plan = lab.plan([first, (*whose, (*sums, buckets)), last], 3, "synchronised").replace(chunks=chunks)
    operations = operations_of(Shape.of(plan, workload))
    timing = timing_of(plan, workload, cluster, cost_table(workload, cluster))
    position = {each: index for index, each in enumerate(operations.operations)}
    order = [
        Transfer(kind=each.kind, stage=each.stage, micro_batch=each.micro_batch, part=each.part)
        for each in (operations.operations[index] for index in operations.transfers)
    ]
    order.sort(key=lambda each: position[(each.kind, each.stage, each.micro_batch, each.part)])
    start_times(operations, timing, order)  # raises where the order contradicts the precedence
    return plan.replace(transfer_order=tuple(order)), workload, cluster


@pytest.mark.parametrize("passed_by", get_args(PassedBy))
@pytest.mark.parametrize("chunks", [1, 3])
def test_on_one_medium_every_transfer_waits_for_the_one_before(lab, chunks, passed_by):
    plan, workload, cluster = planned(lab, chunks)
    schedules = schedules_of(plan, workload, cluster, trains=True, passed_by=passed_by)
    waited_for = {key for each in schedules.values() for key in each.takes}
    names = [(each.kind, each.stage, each.micro_batch, each.part) for each in plan.transfer_order]
    assert waited_for == set(names[1:])
    for device, schedule in schedules.items():
        handed = [handing for each in schedule.gives.values() for handing in each]
        for handing in handed:
            taken = [each for own in schedules[handing.peer].takes.values() for each in own]
            assert any(each.tag == handing.tag and each.peer == device for each in taken)
        tags = [(handing.peer, handing.tag) for handing in handed]
        assert len(tags) == len(set(tags))


def test_on_a_switch_disjoint_pairs_do_not_wait_for_each_other(lab):
    plan, workload, cluster = planned(lab, kind="switch")
    takes = schedules_of(plan, workload, cluster, trains=True, passed_by="receiver")["d3"].takes
    assert all(key[0] != "activation" for key in takes)  # nobody but d3 receives there, and it sends gradients


@pytest.mark.parametrize(("chunks", "buckets"), [(1, 1), (2, 1), (1, 3)])
@pytest.mark.parametrize("passed_by", [*get_args(PassedBy), None])
def test_every_sample_arrives_where_it_belongs_and_in_the_plans_order(lab, tmp_path, chunks, buckets, passed_by):
    """Devices exchange numbered tensors as the plan says, on an imitated medium: what is received is what was sent.

    Where turns are passed on, the medium carries one transfer after the other in the plan's order.
    """
    plan, workload, cluster = planned(lab, chunks, buckets=buckets)
    network = Network.of(cluster)
    schedules = {}
    if passed_by is not None:
        schedules = schedules_of(plan, workload, cluster, trains=True, passed_by=passed_by)
    programs = compile_plan(plan, trains=True)
    log, lock = [], threading.Lock()
    carried = []  # when the medium begins to carry what, by which sender

    class Noted(Medium):
        def reserve(self, ready_s, seconds):
            end_s = super().reserve(ready_s, seconds)
            if seconds:
                with lock:
                    carried.append((end_s - max(seconds.values()), threading.get_ident()))
            return end_s

    class NotedTransport(EmulatedTransport):
        def send(self, tensor, peer, tag, channel, *, in_turn=False):
            before = len(carried)
            super().send(tensor, peer, tag, channel, in_turn=in_turn)
            own = [start_s for start_s, thread in carried[before:] if thread == threading.get_ident()]
            sent.extend((start_s, tag) for start_s in own if channel == "hand-over")

    sent = []

    def work(device, local):
        transport = NotedTransport(local, device, network, Noted(tmp_path / "medium", tuple(sorted(network.domain_of))))
        stage = next(each for each in plan.stages if device in each.devices)
        low, high = stage.intervals[stage.devices.index(device)]

        def empty(receive):
            return torch.empty(high - low, 5, dtype=torch.float64)

        program = programs[device]
        if passed_by is not None:
            courier = InOrder(program, (low, high), empty, transport, schedules[device], device, chunks)
        else:
            courier = AsReady(program, (low, high), empty, transport)
        transport.common_start()
        for instruction in program:
            if isinstance(instruction, Send):
                samples = torch.arange(low, high, dtype=torch.float64)[:, None]
                time.sleep(0.001 * torch.rand(()).item())
                courier.send(instruction, (100 * instruction.tag + samples).expand(-1, 5).contiguous())
            elif isinstance(instruction, Recv):
                received = courier.receive(instruction)
                expected = 100 * instruction.tag + torch.arange(low, high, dtype=torch.float64)[:, None]
                assert torch.equal(received, expected.expand(-1, 5))
                with lock:
                    log.append((device, key_of(instruction)))
            elif (kind := getattr(instruction, "algorithm", None)) is not None:
                with courier.turn(("all-reduce", instruction.stage, 0, instruction.part)):
                    assert kind == "ring"
            elif hasattr(instruction, "partner"):
                for name, stage_index in (
                    ("tied-reduce", instruction.stage),
                    ("tied-exchange", instruction.last),
                    ("tied-broadcast", instruction.stage),
                ):
                    if name != "tied-exchange" or device == instruction.leader:
                        with courier.turn((name, stage_index, 0, 0)):
                            pass
        courier.end()
        transport.close()

    office = lab.in_threads(plan.devices, work)
    assert office.left_over == 0
    received = [Recv for own in programs.values() for each in own if isinstance(each, Recv)]
    assert len(log) == len(received)
    if passed_by is not None:
        tag_of = {key_of(each): each.tag for own in programs.values() for each in own if isinstance(each, Send)}
        hand_overs = [each for each in plan.transfer_order if each.kind in ("activation", "gradient")]
        names = [(tag_of[each.kind, each.stage, each.micro_batch], each.part) for each in hand_overs]
        tags = [tag * (MOST_CHUNKS + 1) + part for tag, part in names]
        assert [tag for tag, _ in itertools.groupby(tag for _, tag in sorted(sent))] == tags


def test_a_device_sums_its_own_gradients_before_tied_ones(lab):
    """As its one thread does, wherever the planner put them: else each would wait for the other forever."""
    stages = [(0, 3, [(0, 3), (1, 1)], 2, ("ring", 0)), (3, 6, [(2, 4)], 1, None)]
    kinds = [("tied-reduce", 0), ("gradient", 0), ("all-reduce", 0), ("tied-exchange", 1), ("tied-broadcast", 0)]
    order = tuple(Transfer(kind=kind, stage=stage, micro_batch=0) for kind, stage in kinds)
    run = executable(lab.plan(stages, 1, "synchronised").replace(transfer_order=order))
    assert [each.kind for each in run.transfer_order][:3] == ["all-reduce", "tied-reduce", "gradient"]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (1, ["gradient", 0, "tied-reduce"]),
        (2, [1, "gradient", 2, "tied-reduce"]),
        (3, [1, "gradient", 2, 3, "tied-reduce"]),
        (4, [1, 2, "gradient", 3, 4, "tied-reduce"]),
    ],
)
def test_buckets_leave_one_after_the_other_and_are_no_more_than_layers(lab, layers, expected):
    """In the places that the plan has for some of its buckets, however it orders them."""
    stages = [(0, layers, [(0, 3), (1, 1)], 2, ("ring", 0, 4)), (layers, 6, [(2, 4)], 1, None)]
    sums = [("all-reduce", part) for part in (3, 1)], [("all-reduce", part) for part in (2, 4)]
    kinds = [*sums[0], ("gradient", 0), ("tied-reduce", 0), *sums[1], ("tied-exchange", 1), ("tied-broadcast", 0)]
    order = tuple(Transfer(kind=kind, stage=kind == "tied-exchange", micro_batch=0, part=part) for kind, part in kinds)
    run = executable(lab.plan(stages, 1, "synchronised").replace(transfer_order=order))
    assert run.stages[0].buckets == layers
    assert run.transfer_order[-2:] == order[-2:]
    assert [each.part if each.kind == "all-reduce" else each.kind for each in run.transfer_order[:-2]] == expected


def test_what_is_given_up_wakes_everybody(lab):
    plan, workload, cluster = planned(lab)
    schedules = schedules_of(plan, workload, cluster, trains=True, passed_by="receiver")
    programs = compile_plan(plan, trains=True)

    def work(device, transport):
        if device != "d1":
            return
        courier = InOrder(
            programs[device], (0, 3), lambda receive: torch.empty(3, 5), transport, schedules[device], device, 1
        )
        threading.Timer(0.05, courier.give_up).start()
        receive = next(each for each in programs[device] if isinstance(each, Recv))
        with pytest.raises(Exception, match="given up"):
            courier.receive(receive)

    lab.in_threads(["d1"], work)
