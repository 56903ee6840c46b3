"""Two computations that disagree are told, never returned; and what cannot be asked is refused before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from builders import cluster, device, layer, pipeline, workload

from dora_nb.costs import evaluate
from dora_nb.costs.table import cost_table
from dora_nb.domain.layer import NextToken
from dora_nb.domain.limit import Limit
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.rating import Rating
from dora_nb.errors import InfeasibleError, InputError, ObjectiveMismatchError, UnknownNameError
from dora_nb.formulation.columns import build_columns
from dora_nb.formulation.decode import decode
from dora_nb.formulation.fleet import Fleet
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning import answers
from dora_nb.planning.exact import certify
from dora_nb.planning.explanation.worth import step_of
from dora_nb.planning.known import Known
from dora_nb.planning.nearest import nearest
from dora_nb.planning.plan import plan
from dora_nb.planning.planner import Planner
from dora_nb.planning.scheduling import finish
from dora_nb.planning.sharing.search import SharingSearch
from dora_nb.planning.sharing.share import share
from dora_nb.solvers import Event

WORK, PLACE = workload(2, mode="inference", batch=2), cluster(2)


def test_a_figure_that_the_plan_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Known.figure
    monkeypatch.setattr(Known, "figure", lambda self, each, figure: 1.01 * honest(self, each, figure))
    with pytest.raises(ObjectiveMismatchError, match=r"the search says \S+, the plan \S+"):
        plan(WORK, PLACE, QoE())


def test_a_limit_that_the_plan_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Known.rating

    def broken(self: Known, each: Plan) -> Rating:
        limit = Limit(term="latency", limit=1.0, value=2.0, unit="s", price=None, kept=False)
        return replace(honest(self, each), limits=(limit,))

    monkeypatch.setattr(Known, "rating", broken)
    with pytest.raises(ObjectiveMismatchError, match="the plan breaks its latency limit"):
        plan(WORK, PLACE, QoE(latency_s=100.0))


def test_a_bound_above_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = answers._answer

    def too_high(*given: Any) -> answers.Answer:
        answer = honest(*given)
        return replace(answer, bound=1.5 * answer.bound)

    monkeypatch.setattr(answers, "_answer", too_high)
    with pytest.raises(ObjectiveMismatchError, match="is above the plan's own"):
        plan(WORK, PLACE, QoE())


def test_a_plan_of_the_program_is_held_against_columns_and_bound() -> None:
    """The bound that the program proved, the energy its columns add up to, the memory they were admitted for."""
    work = workload([layer("l0", parameters=1000), layer("l1")], mode="inference", batch=2)
    problem = Problem.of(work, PLACE, "participating", space=SearchSpace((2,), 1, (1,)))
    columns = build_columns(problem, 1)
    whole = next(row for row in range(len(columns)) if (columns.first[row], columns.stop[row]) == (0, 2))
    best = finish(decode(columns, [whole], (1,), problem), problem)
    assert best.prediction is not None
    for figure, value in (
        ("makespan_s", best.prediction.makespan_s),
        ("energy_j", best.prediction.energy_participating_j),
    ):
        certify._check_bound(best, problem, figure, value)
        certify._check_bound(best, problem, figure, None)
        with pytest.raises(ObjectiveMismatchError, match="the program proves that none is below"):
            certify._check_bound(best, problem, figure, 1.01 * value)
    certify._check_plan(best, problem, columns, [whole])
    thirsty = replace(columns, energy_j=1.01 * columns.energy_j)
    with pytest.raises(ObjectiveMismatchError, match=r"the columns say \S+ J, the evaluation of the plan"):
        certify._check_plan(best, problem, thirsty, [whole])
    tight = evaluate(best, work, PLACE.replace(devices=tuple(e.replace(memory_bytes=1.0) for e in PLACE.devices)))
    with pytest.raises(ObjectiveMismatchError, match="but its column was admitted"):
        certify._check_plan(best.replace(prediction=tight.prediction), problem, columns, [whole])


def test_a_program_that_proves_more_than_the_search_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = certify.solvers.solve

    def boastful(*given: Any, **options: Any) -> Any:
        outcome = honest(*given, **options)
        return replace(outcome, bound=None if outcome.bound is None else 2 * outcome.bound)

    assert plan(WORK, PLACE, QoE()).plans
    monkeypatch.setattr(certify.solvers, "solve", boastful)
    with pytest.raises(ObjectiveMismatchError, match="but the search bounds one of its partitions by"):
        plan(WORK, PLACE, QoE())


def test_a_planner_asked_again_checks_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a question gives is held against the plan's own figures and limits."""
    planner = Planner(WORK, PLACE)
    with monkeypatch.context() as patched:
        patched.setattr("dora_nb.planning.ask.AGREEMENT", -1.0)  # nothing agrees any more
        with pytest.raises(ObjectiveMismatchError, match=r"the search says \S+, the plan \S+"):
            planner.best(QoE())
    with monkeypatch.context() as patched:
        patched.setattr("dora_nb.planning.ask.keeps", lambda *_: False)
        with pytest.raises((ObjectiveMismatchError, InfeasibleError)):
            planner.best(QoE(latency_s=50.0))


def test_a_sharing_whose_power_or_bound_is_not_its_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    from dora_nb.domain.stream import Stream

    work = workload([layer("l0", 1e8)], mode="stream", batch=1, requests_per_s=1.0)
    streams = [Stream(name="x", workload=work, deadline_s=5.0)]
    assert share(streams, PLACE).value > 0
    honest = SharingSearch.settle

    def dishonest(self: SharingSearch) -> None:
        honest(self)
        self.lower = 2 * self.best

    with monkeypatch.context() as patched:
        patched.setattr(SharingSearch, "settle", dishonest)
        with pytest.raises(ObjectiveMismatchError, match=r"the bound \S+ is above the value"):
            share(streams, PLACE)
    with monkeypatch.context() as patched:
        patched.setattr("dora_nb.planning.sharing.share.AGREEMENT", -1.0)
        with pytest.raises(ObjectiveMismatchError):
            share(streams, PLACE)


def test_a_planner_that_forgets_old_plans_and_digests_answers_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for one plan and one case only: each question is answered as by a planner that was never asked."""
    place = cluster([device("a"), device("b", 2e9, active_w=20.0)])
    asked = [QoE(), QoE(objective="energy"), QoE(latency_s=3.5, objective="energy"), QoE()]
    expected = [Planner(WORK, place).best(qoe).certificate for qoe in asked]
    monkeypatch.setattr("dora_nb.planning.session.MOST_PLANS", 1)
    monkeypatch.setattr("dora_nb.planning.session.MOST_CASES", 0)
    planner = Planner(WORK, place)
    for qoe, known in zip(asked, expected, strict=True):
        assert known is not None
        found = planner.best(qoe).certificate
        assert found is not None
        assert found.value == pytest.approx(known.value, rel=1e-3)
        assert found.bound <= known.value * (1 + 1e-9)


def test_progress_where_limits_have_prices() -> None:
    """The events are of the objective with its prices, and close in on it."""
    events: list[Event] = []
    qoe = QoE(objective="energy", latency_s=1.0, latency_price=3.0)
    best = plan(WORK, PLACE, qoe, most_plans=1, on_event=events.append).best
    assert best.certificate is not None
    assert events[-1].incumbent == pytest.approx(best.certificate.value)
    assert all(each.bound <= best.certificate.value * (1 + 1e-9) for each in events if each.bound is not None)


@pytest.mark.parametrize(("present", "step"), [(0.0, 1.0), (30.0, 1.0), (3.0, 0.1)])
def test_a_step_is_small_next_to_what_there_is(present: float, step: float) -> None:
    assert step_of("s", present) == pytest.approx(step)


STREAM = workload(2, mode="stream", batch=1, requests_per_s=0.1)


@pytest.mark.parametrize(
    ("ask", "field"),
    [
        (lambda: plan(STREAM, PLACE, QoE(samples_per_s=1.0)), "samples_per_s"),
        (lambda: plan(STREAM, PLACE, QoE(battery_j={"a": 1.0})), "battery_j"),
        (lambda: plan(WORK, PLACE, QoE(latency_s=1.0, latency_price=2.0), algorithm="monolithic"), "algorithm"),
        (lambda: share([], PLACE), "streams"),
        (lambda: plan(STREAM, PLACE, QoE(), overlap=False), "overlap"),
    ],
)
def test_what_cannot_be_asked(ask: Callable[[], Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        ask()
    assert caught.value.field == field


def test_a_space_without_plans_is_refused_and_a_table_without_tokens_too() -> None:
    """A stream's transfers travel whole; what generates needs to know how long a token takes."""
    space = SearchSpace.default(STREAM, Fleet.of(STREAM, PLACE, cost_table(STREAM, PLACE)))
    with pytest.raises(InputError, match="most_chunks: got 2; allowed: 1 in mode 'stream'"):
        plan(STREAM, PLACE, QoE(), space=replace(space, most_chunks=2))
    token = NextToken(flops=1e8, read_parameters=0, output_elements=10)
    layers = [layer(name, next_token=token, kv_elements=10) for name in "xy"]
    writing = workload(layers, mode="generate", sequence=4, new_tokens=3, batch=1)
    table = replace(cost_table(writing, PLACE), token_s=None, narrower={})
    with pytest.raises(InputError, match=r"table\.token_s: got None"):
        evaluate(pipeline((0, 2, {"a": 1})), writing, PLACE, table)


def test_names_that_nobody_has() -> None:
    from dora_nb.domain.stream import Stream

    with pytest.raises(UnknownNameError, match="battery_j: got 'z'; allowed: a, b"):
        plan(WORK, PLACE, QoE(battery_j={"z": 1.0}))
    with pytest.raises(UnknownNameError, match="tables: got 'y'; allowed: x"):
        share([Stream(name="x", workload=STREAM)], PLACE, tables={"y": cost_table(STREAM, PLACE)})


def test_the_nearest_plan_breaks_its_limits_least_of_all_terms() -> None:
    """a keeps three quarters of the throughput asked for, b a half; b is the thriftier one."""
    from dora_nb.formulation.problem import Problem

    place = cluster(2).replace(devices=(PLACE.devices[0].replace(active_w=9.0), PLACE.devices[1]))
    slow = place.scaled(speeds={"b": 2 / 3})
    problem = Problem.of(WORK, slow, "participating")
    plans = [finish(pipeline((0, 2, {name: 2})), problem) for name in "ab"]
    fastest = max(each.prediction.samples_per_s for each in plans if each.prediction is not None)
    asked = QoE(objective="energy", samples_per_s=4 / 3 * fastest)
    assert nearest(plans, asked) == 0
    assert nearest(plans, QoE(objective="energy")) == 1
    assert nearest([], asked) == -1


def test_a_planner_on_a_faster_cluster_and_with_prices() -> None:
    """Speeds scale a table of measured times as well; with prices on limits nothing is proven of the bare objective."""
    planner = Planner(WORK, PLACE, table=cost_table(WORK, PLACE))
    before = planner.best(QoE()).prediction
    after = planner.having(speeds={"a": 4.0, "b": 4.0}).best(QoE()).prediction
    assert before is not None
    assert after is not None
    assert after.makespan_s == pytest.approx(before.makespan_s / 4, rel=0.3)
    assert planner.bound(QoE(latency_s=1.0, latency_price=2.0)) is None
