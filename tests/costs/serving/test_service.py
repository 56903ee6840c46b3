"""Requests that want tokens: figures by hand, against a batch generated alone, and what no plan can beat."""

from __future__ import annotations

import numpy as np
import pytest
from builders import Dice, examples, seeded
from hypothesis import given, settings
from served import Case, case_of, random_arrivals, random_served, service_of, two_layers

import dora_nb as dora
from dora_nb.costs.evaluate import evaluate
from dora_nb.costs.operations import Shape
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.serving.figures import needed_bytes, serving_figures
from dora_nb.costs.serving.rounds import evenly_spaced, least_wait_s, play_rounds
from dora_nb.costs.serving.service import serving_plan
from dora_nb.costs.timing import timing_of
from dora_nb.domain.plan import Plan
from dora_nb.domain.serving import AT_ONCE, Joining
from dora_nb.errors import InputError
from dora_nb.formulation.schedules.list_schedule import list_schedule

ALONE = [(0, 2, "a")]
SPLIT = [(0, 1, "a"), (1, 2, "b")]


def test_a_request_that_joins_delays_the_tokens_of_who_is_there() -> None:
    """One device, 2 s a prompt, 0.2 s a token of one request and 0.4 s of two, three tokens each; one comes at 2.1 s.

    The first has a token at 2 and 2.2 s. Then the second joins: 2 s for its prompt and 0.2 s for the first one's last
    token, at 4.4 s; its own tokens follow at 4.6 and 4.8 s.
    """
    service = service_of(two_layers(), serving_plan(ALONE, 2, 1))
    played = play_rounds(service, [0.0, 2.1])
    assert played.first_token_s == pytest.approx([2.0, 4.4])
    assert played.last_token_s == pytest.approx([4.4, 4.8])
    assert played.joined_s == pytest.approx([0.0, 2.2])
    assert np.array_equal(played.end_s, played.last_token_s)
    assert played.busy_s == pytest.approx((4.8,))
    assert (played.rounds, played.together) == (5, 2)


def test_without_a_free_slot_a_request_waits_until_one_has_all_its_tokens() -> None:
    played = play_rounds(service_of(two_layers(), serving_plan(ALONE, 1, 1)), [0.0, 0.1, 0.2])
    assert played.first_token_s == pytest.approx([2.0, 4.4, 6.8])
    assert played.last_token_s == pytest.approx([2.4, 4.8, 7.2])


def test_static_batching_waits_for_the_whole_batch_and_until_all_have_their_tokens() -> None:
    service = service_of(two_layers(), serving_plan(ALONE, 2, 1))
    played = play_rounds(service, [0.0, 1.0, 1.5], Joining("static"))
    # Two together at 1 s: 4 s of prompts and twice 0.4 s; then the last one, which nobody follows.
    assert played.first_token_s == pytest.approx([5.0, 5.0, 5.8 + 2.0])
    assert played.last_token_s == pytest.approx([5.8, 5.8, 8.2])


def test_a_wave_joins_one_a_round_once_as_many_wait_and_slots_are_free() -> None:
    """Nobody joins before 1 s; the first then has its prompt passed, the second follows a round later.

    The third waits for a slot, until the first has left at 5.6 s; as it is the last one, it is a wave by itself.
    """
    service = service_of(two_layers(), serving_plan(ALONE, 2, 1))
    played = play_rounds(service, [0.0, 1.0, 1.5], Joining(wave=2))
    assert played.joined_s == pytest.approx([1.0, 3.0, 5.6])
    assert played.first_token_s == pytest.approx([3.0, 5.2, 7.8])
    assert played.last_token_s == pytest.approx([5.6, 7.8, 8.2])


def test_two_groups_compute_while_the_other_is_elsewhere() -> None:
    """Two stages of 1 s a prompt; 1 MB over two hops of 1 MB/s is 2 s. The second group's prompt is a stage behind."""
    case = two_layers(tokens=1)
    one, two = (play_rounds(service_of(case, serving_plan(SPLIT, 1, n)), [0.0, 0.0]) for n in (1, 2))
    assert one.end_s == pytest.approx([4.0, 8.0])
    assert two.end_s == pytest.approx([4.0, 6.0])  # the medium carries the first one's activations for 2 s
    assert two.held_s == pytest.approx({"net": 4.0})


def test_inputs_and_outputs_travel() -> None:
    case = two_layers()
    work = case.work.replace(source="b", sink="b", input_bytes=5e4, output_bytes=1e4)
    service = service_of(case_of(work, case.place, 1), serving_plan(ALONE, 1, 1))
    played = play_rounds(service, [0.0])
    assert played.first_token_s == pytest.approx([0.1 + 2.0])
    assert played.end_s - played.last_token_s == pytest.approx([3 * 0.02])
    assert played.end_s == pytest.approx([service.alone_s])
    assert service.held_s == pytest.approx({"net": 0.1 + 0.06})


def test_figures_of_a_light_load_are_those_of_a_request_alone() -> None:
    case = two_layers()
    service = service_of(case, serving_plan(ALONE, 2, 1))
    figures = serving_figures(service, 0.25, requests=12)
    assert (figures.first_token_s, figures.worst_first_token_s) == pytest.approx((2.0, 2.0))
    assert (figures.token_s, figures.worst_token_s) == pytest.approx((0.2, 0.2))
    assert (figures.latency_s, figures.worst_latency_s) == pytest.approx((2.4, 2.4))
    assert (figures.waiting, figures.keeps_up) == (0.0, True)
    # Idle at 1 W for 4 s, active at 3 W for 2.4 s of them.
    assert figures.energy_participating_j == pytest.approx(4 + 2 * 2.4)
    assert figures.energy_all_on_j == pytest.approx(4 + 4 + 2 * 2.4)
    used, unused = figures.devices
    assert (used.load, unused.load, unused.memory_bytes) == pytest.approx((0.6, 0.0, 0.0))
    assert figures.capacity_per_s == pytest.approx(1 / 2.4)
    assert figures.media == ()


def test_more_requests_than_capacity_wait_longer_and_longer() -> None:
    service = service_of(two_layers(), serving_plan(ALONE, 1, 1))
    assert serving_figures(service, 0.99 * service.capacity_per_s).keeps_up
    assert not serving_figures(service, 1.2 * service.capacity_per_s).keeps_up


def test_every_slot_has_its_cache_at_its_longest() -> None:
    case = two_layers()
    few, many = (needed_bytes(service_of(case, serving_plan(ALONE, *each)))[0] for each in ((1, 1), (2, 3)))
    # Keys and values of 11 tokens, 100 elements in each of two layers; inputs and outputs of the network are empty.
    assert many - few == pytest.approx(5 * 11 * 200 * 4)


@settings(max_examples=examples(40))
@given(seeded(random_served), seeded(lambda dice: dice))
def test_no_requests_are_served_sooner_than_what_is_said_of_the_plan(served: tuple[Case, Plan], dice: Dice) -> None:
    service = service_of(*served)
    arrivals = random_arrivals(dice, service, 10)
    in_waves = Joining(wave=dice.number(1, service.slots * service.groups))
    for joining in (AT_ONCE, Joining("static"), in_waves):
        played = play_rounds(service, arrivals, joining)
        rounded = 1 + 1e-9
        assert np.all((played.first_token_s - played.arrival_s) * rounded >= service.first_token_alone_s)
        assert np.all(
            (played.last_token_s - played.first_token_s) * rounded >= (service.tokens - 1) * service.token_alone_s
        )
        assert np.all((played.end_s - played.arrival_s) * rounded >= service.alone_s)
        assert np.all(np.array(played.busy_s) * rounded >= len(arrivals) * service.stage_s)
        held_s = {name: len(arrivals) * each for name, each in service.held_s.items() if each}
        legs = 4 * (played.rounds + len(arrivals))  # at most as many on a medium, each in whole ticks
        assert played.held_s == pytest.approx(held_s, rel=1e-6, abs=service.tick_s * legs)
        assert float(played.end_s.max()) * rounded >= len(arrivals) / service.capacity_per_s


@settings(max_examples=examples(40))
@given(seeded(random_served))
def test_a_batch_that_arrives_at_once_is_what_the_evaluation_has_of_it(served: tuple[Case, Plan]) -> None:
    """One group, all slots taken at once, nothing to be sent before: the makespan of mode ``generate``."""
    case, plan = served
    plan = serving_plan([(s.first_layer, s.stop_layer, s.leader) for s in plan.stages], plan.micro_batch, 1)
    case = case._replace(work=case.work.replace(source=None))
    together = case.work.replace(batch=plan.micro_batch)
    timing = timing_of(plan, together, case.place, case.table)
    order = list_schedule(operations_of(Shape.of(plan, together)), timing).transfers()
    expected = evaluate(plan.replace(transfer_order=order), together, case.place, case.table).prediction
    played = play_rounds(service_of(case, plan), [0.0] * plan.micro_batch)
    assert played.end_s == pytest.approx([expected.makespan_s] * plan.micro_batch, rel=1e-9)
    assert played.first_token_s == pytest.approx([expected.first_token_s] * plan.micro_batch, rel=1e-9)
    assert list(played.busy_s) == pytest.approx([each.busy_s for each in expected.devices], rel=1e-9)
    carried = sum(service_of(case, plan).carried_bytes for _ in range(plan.micro_batch))
    assert carried == pytest.approx(expected.network_bytes)


@settings(max_examples=examples(30))
@given(seeded(random_served), seeded(lambda dice: dice))
def test_no_wave_or_batch_is_waited_for_less_long(served: tuple[Case, Plan], dice: Dice) -> None:
    service = service_of(*served)
    joining = dice.pick((Joining("static"), Joining(wave=dice.number(1, service.slots * service.groups))))
    rate, requests = dice.pick((0.2, 0.8, 1.5)) * service.capacity_per_s, dice.number(1, 14)
    played = play_rounds(service, evenly_spaced(rate, requests), joining)
    waited_s = float((played.joined_s - played.arrival_s).mean())
    assert waited_s * (1 + 1e-9) + service.tick_s >= least_wait_s(joining.together(service.slots), rate, requests)


def test_arrivals_of_a_rate() -> None:
    assert evenly_spaced(4.0, 3) == [0.0, 0.25, 0.5]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"micro_batches": 4, "token_groups": 2}, "plan.token_groups"),
        ({"micro_batch": 5}, "table"),
    ],
)
def test_plans_that_cannot_serve_are_refused(change: dict[str, int], field: str) -> None:
    plan = serving_plan(ALONE, change.get("micro_batch", 2), 2).replace(**change)
    with pytest.raises(InputError) as refused:
        service_of(two_layers(), plan)
    assert refused.value.field == field


def test_a_request_is_one_sample_that_wants_tokens() -> None:
    case, plan = two_layers(), serving_plan(ALONE, 2, 1)
    for change, field in (({"batch": 2}, "workload.batch"), ({"mode": "inference", "new_tokens": 0}, "workload.mode")):
        with pytest.raises(InputError, match=field):
            service_of(case._replace(work=case.work.replace(**change)), plan)
    with pytest.raises(InputError, match="requests_per_s"):
        dora.ServingGoal(objective="rate", requests_per_s=1.0)
    with pytest.raises(InputError, match="requests_per_s"):
        dora.ServingGoal(objective="energy")
