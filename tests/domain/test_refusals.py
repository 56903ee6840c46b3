"""Networks, plans and measurements that contradict themselves are refused, and the message names the field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from builders import cluster, layer, pipeline, sliced, workload

from dora_nb.domain.fits import check_fits
from dora_nb.domain.links import Delay, LinkMeasurements, StreamRate
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.domain.run_record import Ordering
from dora_nb.errors import InputError


def refused(field: str, make: Callable[[], Any]) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("layers", {"layers": (layer("a"), layer("a"))}),
        ("new_tokens", {"mode": "generate", "new_tokens": 0}),
        ("new_tokens", {"mode": "inference", "new_tokens": 3}),
        ("requests_per_s", {"mode": "stream"}),
        ("requests_per_s", {"mode": "inference", "requests_per_s": 3.0}),
        ("sequence", {"mode": "generate", "new_tokens": 2}),
        ("layers[0].next_token", {"mode": "generate", "new_tokens": 2, "sequence": 4}),
        (
            "layers",
            {"layers": (layer("a", parameters=9, tied_parameters=9), layer("b"), layer("c", parameters=9))},
        ),
        (
            "layers",
            {"layers": (layer("a", parameters=9, tied_parameters=9), layer("b", parameters=9, tied_parameters=8))},
        ),
    ],
)
def test_a_workload(field: str, fields: dict[str, Any]) -> None:
    refused(field, lambda: workload(**({"layers": 2} | fields)))


def test_a_layer_with_more_tied_parameters_than_parameters() -> None:
    refused("tied_parameters", lambda: layer("a", parameters=3, tied_parameters=4))


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("stages[1].first_layer", lambda: pipeline((0, 1, {"a": 1}), (2, 3, {"b": 1}))),
        ("stages[1].first_layer", lambda: pipeline((0, 1, {"a": 1}), (1, 1, {"b": 1}))),
        ("stages[1].replicas", lambda: pipeline((0, 1, {"a": 1}), (1, 2, {"a": 1}))),
        ("stages[1].replicas", lambda: pipeline((0, 1, {"a": 2}), (1, 2, {"b": 1}))),
        (
            "stages[1].in_flight",
            lambda: pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1}), micro_batches=4, in_flight=(1, 2)),
        ),
        ("token_groups", lambda: pipeline((0, 1, {"a": 1}), micro_batches=4).replace(token_groups=3)),
        ("tied", lambda: pipeline((1, 2, {"a": 1}), tied="hosted")),
        ("stages[0].all_reduce.leader", lambda: _summing(leader="c")),
        ("stages[0].all_reduce.buckets", lambda: _summing(buckets=2).replace(overlap=False)),
        ("stages[1].all_reduce.buckets", lambda: _summing_beside_a_hosted_layer()),
        ("shards", lambda: _halved(shards=(1, 1, 2))),
        ("shards", lambda: _halved(shards=(0, 2))),
        ("shard_sum", lambda: _halved(shard_sum=None)),
        ("shard_sum", lambda: _halved(shards=())),
        ("all_reduce", lambda: _halved(all_reduce={"algorithm": "ring", "leader": "a"})),
        ("recomputes", lambda: _halved(recomputes=True)),
        ("weights", lambda: _halved(weights="fp16")),
        (
            "stages[0].replicas",
            lambda: _halved(replicas=({"device": "a", "samples": 2}, {"device": "b", "samples": 1})),
        ),
        (
            "token_groups",
            lambda: sliced(pipeline((0, 1, {"a": 1}), micro_batches=2), 0, HALVES).replace(token_groups=2),
        ),
    ],
)
def test_a_plan(field: str, make: Callable[[], Any]) -> None:
    refused(field, make)


def _summing(**fields: Any) -> Any:
    """One stage on two devices that sum their gradients."""
    plan = pipeline((0, 1, {"a": 1, "b": 1}))
    (stage,) = plan.stages
    assert stage.all_reduce is not None
    return plan.replace(stages=(stage.replace(all_reduce=stage.all_reduce.replace(**fields)),))


HALVES = {"a": 1, "b": 1}


def _halved(**fields: Any) -> Any:
    """One stage sliced over two devices, with some fields otherwise."""
    plan = sliced(pipeline((0, 1, {"a": 2})), 0, HALVES)
    return plan.replace(stages=(plan.stages[0].replace(**fields),))


def test_shards_that_do_not_make_up_the_layers() -> None:
    plan = sliced(pipeline((0, 2, {"a": 1}), (2, 3, {"c": 1})), 0, {"a": 1, "b": 3})
    whole, apart, coarse = layer("whole"), layer("apart", parts=4), layer("coarse", parts=2)

    def asked(*layers: Any, **fields: Any) -> Any:
        return workload((*layers, layer("last")), **({"batch": 1, "mode": "inference"} | fields))

    check_fits(plan, asked(whole, apart), cluster(3))
    check_fits(plan, asked(apart, apart.replace(name="again"), mode="training"), cluster(3))
    assert plan.stages[0].intervals == ((0, 1), (0, 1))
    assert plan.stages[0].leader == "a"
    refused("plan.stages[0].shards", lambda: check_fits(plan, asked(whole, coarse), cluster(3)))
    refused("plan.stages[0].shards", lambda: check_fits(plan, asked(whole, layer("also whole")), cluster(3)))
    refused("plan.stages[0].shards", lambda: check_fits(plan, asked(coarse, apart), cluster(3)))


def test_no_shards_beside_parameters_tied_to_another_stage() -> None:
    ends = [layer("in", parameters=9, tied_parameters=9), layer("mid", parts=2)]
    work = workload((*ends, layer("out", parameters=9, tied_parameters=9)), batch=1)
    plan = sliced(pipeline((0, 2, {"a": 1}), (2, 3, {"c": 1}), tied="synchronised"), 0, HALVES)
    refused("plan.stages[0].shards", lambda: check_fits(plan, work, cluster(3)))
    alone = sliced(pipeline((0, 3, {"a": 1}), tied="one-stage"), 0, HALVES)
    check_fits(alone, work, cluster(2))


def _summing_beside_a_hosted_layer() -> Any:
    """The same in two buckets, behind a stage whose first layer these devices run."""
    plan, (stage,) = pipeline((1, 2, {"c": 2}), (2, 3, {"a": 1, "b": 1}), tied="hosted"), _summing(buckets=2).stages
    return plan.replace(stages=(plan.stages[0], stage.replace(first_layer=2, stop_layer=3)))


def test_a_plan_on_a_cluster_that_lacks_its_devices_or_for_another_mode() -> None:
    place, alone = cluster(1), pipeline((0, 2, {"a": 1}))
    again = alone.replace(stages=(alone.stages[0].replace(recomputes=True),))
    bytes_ = alone.replace(stages=(alone.stages[0].replace(weights="int8"),))
    once, asked = workload(2, mode="inference", batch=1), workload(2, batch=1)
    check_fits(again, asked, place)
    check_fits(bytes_, once, place)
    refused("plan.stages[0].replicas.device", lambda: check_fits(pipeline((0, 2, {"z": 1})), once, place))
    refused("plan.stages[0].recomputes", lambda: check_fits(again, once, place))
    refused("plan.stages[0].weights", lambda: check_fits(bytes_, asked, place))
    unsummed = _summing()
    unsummed = unsummed.replace(stages=(unsummed.stages[0].replace(all_reduce=None),))
    refused("plan.stages[0].all_reduce", lambda: check_fits(unsummed, workload(1, batch=2), cluster(2)))


def test_measured_links() -> None:
    def measured(alone: list[tuple[str, str]], together: list[tuple[str, str]]) -> LinkMeasurements:
        rates = [StreamRate(sender=a, receiver=b, bytes_per_s=1.0) for a, b in alone]
        streams = [StreamRate(sender=a, receiver=b, bytes_per_s=1.0) for a, b in together]
        delays = (Delay(first="a", second="b", latency_s=0.0),)
        return LinkMeasurements(delays=delays, alone=tuple(rates), together=(tuple(streams),), source="a bench")

    both = [("a", "b"), ("b", "a")]
    assert measured(both, both).together[0][1].sender == "b"
    refused("alone", lambda: measured([("a", "a")], []))
    refused("alone", lambda: measured([("a", "b")], []))
    refused("together[0]", lambda: measured(both, [("a", "c")]))


def test_the_best_of_plans_is_one_with_figures() -> None:
    """Plans that nobody evaluated come last; None of the baselines is planned for being asked about."""
    bare = pipeline((0, 2, {"a": 1}))
    plans = PlanSet(
        plans=(bare,), workload=workload(2, batch=1), cluster=cluster(1), qoe=QoE(), wall_s=0.0, given_baselines=None
    )
    assert plans.best is bare
    assert plans.known_baselines is None


def test_an_ordering_in_words() -> None:
    assert Ordering(in_order=True, asked=True).text == "in the plan's order, as asked"
    assert Ordering(in_order=False, asked=False).text == "as ready: the plan has no order that is executed"
    decided = Ordering(in_order=True, asked=False, predicted_in_order_s=2.0, predicted_as_ready_s=3.0)
    assert decided.text == "in the plan's order: predicted 2 s, as ready 3 s"
    other = Ordering(in_order=False, asked=False, predicted_in_order_s=2.0, predicted_as_ready_s=1.0)
    assert other.text == "as ready: predicted 1 s, in the plan's order 2 s"
