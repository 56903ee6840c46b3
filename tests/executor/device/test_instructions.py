from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dora_nb.domain.plan import AllReduce, Plan, Replica, Stage
from dora_nb.domain.transfer import HOSTED
from dora_nb.errors import InputError
from dora_nb.executor.device import instructions as ins


@st.composite
def plans(draw) -> tuple[Plan, dict[str, int]]:
    count = draw(st.integers(1, 4))
    micro_batch = draw(st.integers(1, 9))
    trains = draw(st.booleans())
    options = ["none", "one-stage"] if count == 1 else ["none", "synchronised", "hosted"]
    tied = draw(st.sampled_from(options))
    in_flight = sorted(draw(st.lists(st.integers(1, 7), min_size=count, max_size=count)), reverse=True)
    position, device = (1 if tied == "hosted" else 0), 0
    stages = []
    for index in range(count):
        cuts = draw(st.sets(st.integers(1, micro_batch - 1), max_size=3)) if micro_batch > 1 else set()
        bounds = [0, *sorted(cuts), micro_batch]
        shares = [b - a for a, b in itertools.pairwise(bounds)]
        replicas = [Replica(device=f"d{device + i}", samples=share) for i, share in enumerate(shares)]
        device += len(shares)
        choice = None
        if len(shares) > 1:
            leader = draw(st.sampled_from([replica.device for replica in replicas]))
            buckets = 1 if tied == "hosted" and index == count - 1 else draw(st.integers(1, 4))
            choice = AllReduce(algorithm=draw(st.sampled_from(["ring", "star"])), leader=leader, buckets=buckets)
        layers = draw(st.integers(1, 3))
        stages.append(
            Stage(
                first_layer=position,
                stop_layer=position + layers,
                replicas=replicas,
                in_flight=in_flight[index],
                all_reduce=choice,
            )
        )
        position += layers
    plan = Plan(micro_batch=micro_batch, micro_batches=draw(st.integers(1, 6)), stages=stages, tied=tied)
    return plan, {"trains": trains, "decode_steps": 0 if trains or tied == "hosted" else draw(st.integers(0, 3))}


def pieces(programs, kind):
    return [
        (
            sender_first(device, piece.peer, kind),
            each.kind,
            each.stage,
            each.micro_batch,
            each.tag,
            piece.start,
            piece.stop,
        )
        for device, program in programs.items()
        for each in program
        if isinstance(each, kind)
        for piece in each.pieces
    ]


def sender_first(device, peer, kind):
    return (device, peer) if kind is ins.Send else (peer, device)


@given(plans())
def test_every_piece_sent_is_received_once(drawn):
    plan, how = drawn
    programs = ins.compile_plan(plan, **how)
    sent, received = pieces(programs, ins.Send), pieces(programs, ins.Recv)
    assert len(sent) == len(set(sent))
    assert sorted(sent) == sorted(received)
    # Between two devices a tag names one message.
    named = [(pair, tag) for pair, _, _, _, tag, _, _ in sent]
    assert len(named) == len(set(named))


@given(plans())
def test_pieces_of_a_hand_over_cover_each_device_s_samples(drawn):
    plan, how = drawn
    for device, program in ins.compile_plan(plan, **how).items():
        stage = next(each for each in plan.stages if device in each.devices)
        low, high = stage.intervals[stage.devices.index(device)]
        for each in program:
            if isinstance(each, ins.HandOver):
                bounds = sorted((piece.start, piece.stop) for piece in each.pieces)
                assert bounds[0][0] == low
                assert bounds[-1][1] == high
                assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))


@given(plans())
def test_every_pass_is_there_once_and_sums_as_soon_as_they_can_be(drawn):
    plan, how = drawn
    last = len(plan.stages) - 1
    programs = ins.compile_plan(plan, **how)
    assert set(programs) == set(plan.devices)
    for index, stage in enumerate(plan.stages):
        for device in stage.devices:
            program = programs[device]
            computing = [index] + ([HOSTED] if plan.tied == "hosted" and index == last else [])
            for kind in (ins.Forward, ins.Backward) if how["trains"] else (ins.Forward,):
                passes = [each for each in program if isinstance(each, kind) and getattr(each, "part", 0) <= 1]
                got = sorted((each.stage, each.micro_batch) for each in passes)
                assert got == sorted((each, m) for each in computing for m in range(plan.micro_batches))
            steps = [each.micro_batch for each in program if isinstance(each, ins.Decode)]
            assert steps == list(range(how["decode_steps"]))
            in_buckets = how["trains"] and stage.buckets > 1
            sums = (ins.TiedSum, ins.Step) if in_buckets else (ins.AllReduce, ins.TiedSum, ins.Step)
            ends = [type(each) for each in program if isinstance(each, sums)]
            expected = []
            if how["trains"]:
                expected += [ins.AllReduce] if len(stage.replicas) > 1 and not in_buckets else []
                expected += [ins.TiedSum] if plan.tied == "synchronised" and index in (0, last) else []
                expected += [ins.Step]
            assert ends == expected
            assert [type(each) for each in program[len(program) - len(ends) :]] == ends
            if in_buckets:
                check_buckets(program, index, plan.micro_batches - 1, stage.buckets)


def check_buckets(program, stage, micro_batch, buckets):
    """The parts of the last pass follow one another, and the sum of each bucket begins behind the part that fills it.

    What the pass needs is received before the first part, and what it returns is sent behind the last one.
    """
    parts = [n for n, each in enumerate(program) if getattr(each, "part", 0)]
    assert parts == list(range(parts[0], parts[0] + 2 * buckets))
    for part in range(1, buckets + 1):
        computes, sums = program[parts[2 * part - 2]], program[parts[2 * part - 1]]
        assert computes == ins.Backward(stage, micro_batch, part)
        assert isinstance(sums, ins.AllReduce)
        assert (sums.stage, sums.part) == (stage, part)
    gradients = {
        each: n for n, each in enumerate(program) if isinstance(each, ins.HandOver) and each.kind == "gradient"
    }
    for each, n in gradients.items():
        if each.micro_batch == micro_batch:
            assert (n < parts[0]) if isinstance(each, ins.Recv) else (n > parts[-1])


@given(plans())
def test_a_stage_never_holds_more_than_its_in_flight_count(drawn):
    plan, _ = drawn
    programs = ins.compile_plan(plan, trains=True)
    for index, stage in enumerate(plan.stages):
        held = 0
        for each in programs[stage.devices[0]]:
            if isinstance(each, ins.Forward | ins.Backward) and each.stage == index and getattr(each, "part", 0) <= 1:
                held += 1 if isinstance(each, ins.Forward) else -1
                assert 0 <= held <= stage.in_flight


@given(plans())
def test_no_devices_wait_for_each_other_forever(drawn):
    """All programs walked side by side: a send never waits, a receive waits for its pieces.

    Sums come after everything else and in one order on all devices, so only hand-overs could block.
    """
    plan, how = drawn
    programs = ins.compile_plan(plan, **how)
    sent: set[tuple[str, str, int]] = set()
    left = {device: list(program) for device, program in programs.items()}
    moved = True
    while moved:
        moved = False
        for device, program in left.items():
            while program:
                head = program[0]
                needed = head.pieces if isinstance(head, ins.Recv) else ()
                if any((piece.peer, device, head.tag) not in sent for piece in needed):
                    break
                if isinstance(head, ins.Send):
                    sent.update((device, piece.peer, head.tag) for piece in head.pieces)
                program.pop(0)
                moved = True
    assert not any(left.values())


def test_a_stage_that_would_wait_for_more_than_it_is_sent_is_refused(lab):
    with pytest.raises(InputError, match=r"stages\[1\].in_flight: got 2; allowed: at most 1"):
        lab.plan([(0, 2, [(0, 1)], 1, None), (2, 4, [(1, 1)], 2, None)], 3)


def test_replicas_that_train_need_a_sum(lab):
    plan = lab.plan([(0, 2, [(0, 1), (1, 1)], 1, None)], 3)
    with pytest.raises(InputError, match="all_reduce"):
        ins.compile_plan(plan, trains=True)
