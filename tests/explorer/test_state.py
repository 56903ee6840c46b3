"""The state of the explorer, without a browser: what a person does, and what is shown then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from explorer_cases import small_plans

import dora_nb
from dora_nb.costs import evaluate
from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.rating import qoe_value
from dora_nb.errors import InputError, SolverError, UnknownNameError
from dora_nb.explorer import state as state_module
from dora_nb.explorer.asking import Talk
from dora_nb.explorer.known import MOST_FOUND
from dora_nb.explorer.solving import Answered, Effort
from dora_nb.explorer.state import ExplorerState
from dora_nb.planning.plan import plan
from dora_nb.planning.question import Question
from dora_nb.solvers import Event

LONG_S = 120.0


@pytest.fixture(scope="module")
def plans() -> PlanSet:
    return small_plans()


@pytest.fixture
def state(plans: PlanSet) -> Iterator[ExplorerState]:
    made = ExplorerState(plans, pause_s=0.01)
    yield made
    made.close()
    assert made._asker.join(LONG_S), "its thread has ended"


Solve = Callable[[Question, Sequence[Plan], Effort, Talk], None]


def solved_by(monkeypatch: pytest.MonkeyPatch, solve: Solve) -> None:
    monkeypatch.setattr(state_module, "solve", solve)


def nothing(question: Question, known: Sequence[Plan], effort: Effort, talk: Talk) -> None:
    """A solve that ends at once."""


# ---------------------------------------------------------------------------------------------- as asked


def test_at_first_the_plans_are_there_and_the_best_is_looked_at(state: ExplorerState, plans: PlanSet) -> None:
    assert [each.plan for each in state.known] == list(plans.plans)
    assert state.plan is plans.best
    assert state.selected == state.answer
    assert state.compared == -1
    assert state.qoe == plans.qoe
    assert state.changed.is_none
    assert state.progress.state == "done"
    assert state.progress.incumbent == plans.best.certificate.value  # type: ignore[union-attr]
    assert not state.busy
    assert state.effect is None


def test_plans_without_a_prediction_are_refused(plans: PlanSet) -> None:
    bare = plans.best.replace(prediction=None)
    with pytest.raises(InputError, match="prediction"):
        ExplorerState(PlanSet(plans.workload, plans.cluster, plans.qoe, (bare,), None, 0.0))


# ---------------------------------------------------------------------------------------------- picking


def test_a_plan_is_picked_and_another_compared(state: ExplorerState) -> None:
    state.select(0)
    state.compare_with(2)
    assert (state.selected, state.compared) == (0, 2)
    assert state.plan is state.known[0].plan
    assert state.compared_plan is state.known[2].plan
    state.compare_with(-1)
    assert state.compared_plan is None
    state.selected = 1
    assert state.plan is state.known[1].plan


@pytest.mark.parametrize("place", [-1, 4, 99])
def test_a_plan_that_is_not_there_is_refused(state: ExplorerState, place: int) -> None:
    before = state.selected
    with pytest.raises(InputError, match="selected: got"):
        state.select(place)
    assert state.selected == before


def test_nonsense_is_refused_as_a_trait_too(state: ExplorerState) -> None:
    before = state.selected
    with pytest.raises(InputError, match="selected: got 99"):
        state.selected = 99
    with pytest.raises(InputError, match="compared: got -2"):
        state.compared = -2
    assert (state.selected, state.compared) == (before, -1)


# ---------------------------------------------------------------------------------------------- asking


def test_the_nearest_known_plan_is_shown_at_once(
    state: ExplorerState, plans: PlanSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    solved_by(monkeypatch, nothing)
    for limit_s in (30.0, 40.0, 60.0, 500.0):
        state.ask(latency_s=limit_s)
        within = [plan for plan in plans if plan.prediction.makespan_s <= limit_s]  # type: ignore[union-attr]
        thriftiest = min(within, key=lambda plan: plan.prediction.energy_participating_j)  # type: ignore[union-attr]
        assert state.plan == thriftiest
        assert state.rating(state.selected).keeps_hard


def test_where_no_plan_keeps_a_limit_the_one_that_breaks_it_least_is_shown(
    state: ExplorerState, plans: PlanSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    solved_by(monkeypatch, nothing)
    state.ask(latency_s=10.0)
    assert state.plan == min(plans, key=lambda plan: plan.prediction.makespan_s)  # type: ignore[union-attr]
    assert not state.rating(state.selected).keeps_hard


def test_an_exact_answer_follows_with_its_proof_and_the_trade_offs(state: ExplorerState) -> None:
    states: list[str] = []
    state.observe(lambda change: states.append(change["new"].state), "progress")
    state.ask(latency_s=30.0)
    assert state.answer == -1
    assert state.busy
    state.wait(LONG_S)
    assert [each for index, each in enumerate(states) if each not in states[:index]] == ["running", "checking", "done"]
    best = plan(state.plans.workload, state.plans.cluster, state.qoe, most_plans=1).best
    assert state.answer == state.selected
    assert state.plan.decisions() == best.decisions()
    proof = best.certificate
    assert proof is not None
    assert proof.latency_limit_s == 30.0
    assert state.progress.incumbent == pytest.approx(proof.value)
    assert state.progress.gap is not None
    assert state.progress.gap <= 1e-4
    assert len({each.decisions for each in state.known}) == len(state.known), "each once"
    assert "Solved" in state.progress.sentence
    assert [moment.bound for moment in state.progress.moments]


def test_a_plan_picked_while_solving_stays_picked(state: ExplorerState) -> None:
    state.ask(latency_s=60.0)
    state.select(0)
    picked = state.plan
    state.wait(LONG_S)
    assert state.plan == picked
    assert state.answer != state.selected
    state.ask(latency_s=61.0)
    assert state.selected != 0, "with the next question the plan follows again"


def test_the_newest_question_is_the_one_that_is_answered(
    state: ExplorerState, plans: PlanSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float | None] = []

    def slow(question: Question, known: Sequence[Plan], effort: Effort, talk: Talk) -> None:
        asked.append(question.qoe.latency_s)
        talk.tell(Event(0.1, 5.0, 1.0, 0.8, 1))
        talk.cancel.wait(0.2)
        talk.tell(Answered(plans.best))

    solved_by(monkeypatch, slow)
    for limit_s in range(100, 140):
        state.ask(latency_s=float(limit_s))
        time.sleep(0.001)
    state.wait(LONG_S)
    assert asked[-1] == 139.0
    assert len(asked) < 10, "what does not stand is not solved"
    assert state.known[state.answer].found.qoe.latency_s in (139.0, None)


def test_what_was_superseded_changes_nothing(
    state: ExplorerState, plans: PlanSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def solve(question: Question, known: Sequence[Plan], effort: Effort, talk: Talk) -> None:
        if question.qoe.latency_s == 50.0:
            begun.set()
            talk.cancel.wait(5.0)
            talk.tell(Event(9.0, 9.0, 9.0, 0.0, 9))
            talk.tell(Answered(plans[0]))

    solved_by(monkeypatch, solve)
    state.ask(latency_s=50.0)
    assert begun.wait(5.0)
    state.ask(latency_s=60.0)
    state.wait(LONG_S)
    assert state.progress.incumbent is None
    assert state.answer == -1


def test_a_cancelled_solve_says_so_at_once_and_keeps_what_it_has(
    state: ExplorerState, plans: PlanSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def solve(question: Question, known: Sequence[Plan], effort: Effort, talk: Talk) -> None:
        begun.set()
        talk.cancel.wait(5.0)
        talk.tell(Answered(plans[1]))

    solved_by(monkeypatch, solve)
    state.ask(latency_s=60.0)
    assert begun.wait(5.0)
    state.cancel()
    assert state.progress.state == "cancelled"
    state.wait(LONG_S)
    assert state.progress.state == "cancelled"
    assert state.plan.decisions() == plans[1].decisions()
    state.cancel()
    assert state.progress.state == "cancelled"


def test_a_real_solve_stops_soon_after_it_is_cancelled(state: ExplorerState) -> None:
    state.ask(latency_s=50.0)
    time.sleep(0.1)
    state.cancel()
    state.wait(20.0)
    assert state.progress.state in ("cancelled", "done")


def test_the_same_question_is_not_solved_again(state: ExplorerState, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    solved_by(monkeypatch, lambda *given: asked.append(given))
    state.ask(latency_s=None)
    state.what_if(bandwidth=1.0)
    assert not state.busy
    assert asked == []


def test_what_cannot_be_asked_is_refused_and_changes_nothing(state: ExplorerState) -> None:
    before = (state.qoe, state.changed, state.selected)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"latency_s": -1}, "latency_s"),
        ({"latency_s": "soon"}, "latency_s"),
        ({"deadline_s": 3}, "deadline_s"),
        ({"objective": "price"}, "joules_per_s"),
        ({"battery_j": {"nobody": 3}}, "nobody"),
    ]
    for changes, named in refused:
        with pytest.raises(InputError, match=named):
            state.ask(**changes)
    for changes, named in [
        ({"bandwidth": 0}, "bandwidth"),
        ({"speed": {"nobody": 2}}, "nobody"),
        ({"memory": {"fast": -1}}, "memory"),
        ({"batch": 0}, "batch"),
        ({"colour": 1}, "colour"),
        ({"off": "fast"}, "off"),
    ]:
        with pytest.raises(InputError, match=named):
            state.what_if(**changes)
    with pytest.raises(UnknownNameError, match="nobody"):
        state.switch_off("nobody")
    with pytest.raises(InputError, match="at least one device left"):
        state.switch_off("fast", "middle", "thrifty")
    assert (state.qoe, state.changed, state.selected) == before
    assert not state.busy


def test_a_price_goes_with_its_objective(state: ExplorerState, monkeypatch: pytest.MonkeyPatch) -> None:
    solved_by(monkeypatch, nothing)
    state.ask(objective="price", joules_per_s=5.0)
    state.ask(objective="energy")
    assert state.qoe.joules_per_s is None
    state.ask(latency_s=40.0, latency_price="5 J/s")
    with pytest.raises(InputError, match="price in the unit of the objective 'latency'"):
        state.ask(objective="latency")
    state.ask(objective="latency", latency_price="0.5 s/s")
    assert state.qoe.latency_price == 0.5


def test_a_solve_that_fails_says_why(state: ExplorerState, monkeypatch: pytest.MonkeyPatch) -> None:
    def solve(*_: Any) -> None:
        raise SolverError("the solver gave up")

    solved_by(monkeypatch, solve)
    state.ask(latency_s=60.0)
    state.wait(LONG_S)
    assert state.progress.state == "failed"
    assert "the solver gave up" in state.progress.sentence


# ---------------------------------------------------------------------------------------------- no plan


def test_without_a_plan_the_smallest_changes_are_offered_and_applied(state: ExplorerState) -> None:
    state.ask(latency_s=20.0)
    state.wait(LONG_S)
    assert state.progress.state == "infeasible"
    assert "(proven)" in state.progress.sentence
    assert state.relaxations
    assert any(change.limit == "latency" for each in state.relaxations for change in each.changes)
    for place, relaxation in enumerate(state.relaxations):
        state.ask(latency_s=20.0)
        state.what_if(bandwidth=1.0, memory=dict.fromkeys(state.changed.memory, 1.0))
        state.wait(LONG_S)
        assert state.relaxations[place].changes == relaxation.changes
        state.apply(place)
        state.wait(LONG_S)
        assert state.progress.state == "done", relaxation.changes
        assert state.rating(state.answer).keeps_hard
        assert state.relaxations == ()
    with pytest.raises(InputError, match="relaxation"):
        state.apply(0)


# ---------------------------------------------------------------------------------------------- what if


def test_known_plans_are_predicted_in_another_case(
    state: ExplorerState, plans: PlanSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    solved_by(monkeypatch, nothing)
    state.what_if(bandwidth=2.0, speed={"fast": 0.5}, memory={"thrifty": 2.0})
    place = plans.cluster.scaled(rates=2.0, speeds={"fast": 0.5}, memory={"thrifty": 2.0})
    assert len(state.known) == len(plans)
    for known, asked in zip(state.known, plans, strict=True):
        again = evaluate(asked.replace(prediction=None), plans.workload, place).prediction
        assert known.plan.prediction == again.replace(schedule=known.plan.prediction.schedule)
        assert known.plan.certificate is None, "it was proven for another case"
    assert state.question.cluster == place
    state.what_if(speed={"fast": 1.0}, bandwidth=1.0, memory={"thrifty": 1.0})
    assert state.changed.is_none
    assert [each.plan for each in state.known] == list(plans.plans)


def test_a_device_that_is_off_runs_nothing(state: ExplorerState, monkeypatch: pytest.MonkeyPatch) -> None:
    solved_by(monkeypatch, nothing)
    state.switch_off("fast")
    assert state.known
    assert all("fast" not in each.plan.devices for each in state.known)
    assert "fast" not in state.question.cluster.device_ids
    state.switch_off()
    assert any("fast" in each.plan.devices for each in state.known)


def test_where_no_known_plan_can_run_none_is_looked_at_until_one_is_found(plans: PlanSet) -> None:
    only_fast = PlanSet(plans.workload, plans.cluster, plans.qoe, (plans[0],), (), 0.0, None, plans.options)
    state = ExplorerState(only_fast, pause_s=0.0)
    try:
        state.switch_off("fast")
        assert (state.known, state.selected) == ((), -1)
        with pytest.raises(InputError, match="no known plan can run"):
            _ = state.plan
        state.wait(LONG_S)
        assert "fast" not in state.plan.devices
    finally:
        state.close()


def test_limits_of_a_battery_that_is_off_do_not_count(plans: PlanSet, monkeypatch: pytest.MonkeyPatch) -> None:
    solved_by(monkeypatch, nothing)
    state = ExplorerState(plans, pause_s=0.0)
    state.ask(battery_j={"fast": 1e6, "thrifty": 1e6})
    state.switch_off("fast")
    assert state.question.qoe.battery_j == {"thrifty": 1e6}
    assert state.qoe.battery_j == {"fast": 1e6, "thrifty": 1e6}
    state.close()


def test_another_batch_runs_the_known_plans_with_other_micro_batches(
    state: ExplorerState, plans: PlanSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    solved_by(monkeypatch, nothing)
    state.what_if(batch=8)
    assert state.question.workload.batch == 8
    assert state.known
    for known in state.known:
        assert known.plan.micro_batch * known.plan.micro_batches == 8
        again = evaluate(known.plan.replace(prediction=None), state.question.workload, plans.cluster).prediction
        assert again.makespan_s == pytest.approx(known.plan.prediction.makespan_s)


def test_a_case_is_solved_exactly_as_if_it_was_asked_for(state: ExplorerState, plans: PlanSet) -> None:
    state.what_if(bandwidth=4.0, batch=2)
    state.wait(LONG_S)
    workload, place = plans.workload.replace(batch=2), plans.cluster.scaled(rates=4.0)
    best = plan(workload, place, plans.qoe, most_plans=1).best
    assert state.plan.decisions() == best.decisions()
    assert state.plan.prediction is not None
    assert best.prediction is not None
    assert state.plan.prediction.energy_participating_j == pytest.approx(best.prediction.energy_participating_j)


def test_the_effect_is_the_difference_of_the_two_best_plans(state: ExplorerState, plans: PlanSet) -> None:
    state.ask(latency_s=40.0)
    state.wait(LONG_S)
    told = state.effect
    assert told is not None
    before, after = plans.best.prediction, state.known[state.answer].plan.prediction
    assert before is not None
    assert told.latency_before_s == before.makespan_s
    assert told.energy_after_j == after.energy_participating_j
    assert told.per_unit is None, "from no limit to one there is no step"
    assert told.changed == ("latency limit 40 s",)
    state.reset()
    state.what_if(speed={"thrifty": 2.0})
    state.wait(LONG_S)
    told = state.effect
    assert told is not None
    assert told.value_before == qoe_value(before, plans.qoe).value
    assert told.per_unit == pytest.approx((told.value_after - told.value_before) / 10)
    assert "10 % more speed of thrifty" in told.lines[-1]
    state.reset()
    assert state.effect is None


def test_as_it_was_is_as_it_was(state: ExplorerState, plans: PlanSet) -> None:
    state.ask(latency_s=40.0)
    state.what_if(bandwidth=3.0)
    state.reset()
    state.wait(LONG_S)
    assert state.qoe == plans.qoe
    assert state.changed.is_none
    assert state.plan == plans.best
    assert state.progress.state == "done"


def test_only_so_many_plans_are_remembered(state: ExplorerState, monkeypatch: pytest.MonkeyPatch) -> None:
    def solve(question: Question, known: Sequence[Plan], effort: Effort, talk: Talk) -> None:
        talk.tell(Answered(known[0]))

    solved_by(monkeypatch, solve)
    for number in range(MOST_FOUND + 10):
        state.what_if(bandwidth=2.0 + number / 100)
        state.wait(LONG_S)
    assert len(state._library._later) == MOST_FOUND
    assert len(state.known) <= len(state.plans) + MOST_FOUND


# ---------------------------------------------------------------------------------------------- threads


def test_those_who_watch_are_told_once_when_all_is_set(state: ExplorerState, monkeypatch: pytest.MonkeyPatch) -> None:
    solved_by(monkeypatch, nothing)
    seen: list[tuple[str, int, float | None]] = []

    def watch(change: Any) -> None:
        seen.append((change["name"], state.selected, state.qoe.latency_s))

    state.observe(watch, ["qoe", "selected", "answer"])
    state.ask(latency_s=30.0)
    assert {name for name, *_ in seen} == {"qoe", "selected", "answer"}
    assert len(seen) == 3
    assert len({rest for _, *rest in map(list, seen) for rest in [tuple(rest)]}) == 1, "none saw a state in between"


def test_several_threads_may_ask_at_once(state: ExplorerState, monkeypatch: pytest.MonkeyPatch) -> None:
    solved_by(monkeypatch, nothing)
    problems: list[BaseException] = []

    def ask(first: int) -> None:
        try:
            for number in range(15):
                state.ask(latency_s=30.0 + first + number)
                state.what_if(bandwidth=1.0 + (first + number) % 3)
                state.select(number % len(state.known))
                state.follow()
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=ask, args=(100 * index,)) for index in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(LONG_S)
    assert not problems
    state.wait(LONG_S)


def test_nothing_is_set_from_the_thread_that_solves(state: ExplorerState) -> None:
    threads: set[str] = set()
    state.observe(lambda _: threads.add(threading.current_thread().name))
    state.ask(latency_s=60.0)
    state.wait(LONG_S)
    assert threads == {threading.current_thread().name}


def test_a_closed_explorer_asks_nothing(plans: PlanSet) -> None:
    state = ExplorerState(plans)
    state.ask(latency_s=60.0)
    state.close()
    assert not state.follow()
    with pytest.raises(InputError, match=r"plans\.explore"):
        state.ask(latency_s=70.0)
    assert state._asker.join(LONG_S)


# ---------------------------------------------------------------------------------------------- to keep


def test_the_plan_is_saved_with_the_question_as_it_is(
    state: ExplorerState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solved_by(monkeypatch, nothing)
    state.what_if(bandwidth=2.0)
    state.ask(latency_s=100.0)
    saved = dora_nb.load_plan(state.save(tmp_path / "plan.json"))
    assert saved.plan == state.plan
    assert saved.cluster == state.question.cluster
    assert saved.qoe == state.qoe


def test_two_plans_side_by_side_are_an_object_to_show(state: ExplorerState) -> None:
    assert state.difference is None
    state.select(0)
    state.compare_with(len(state.known) - 1)
    view = state.difference
    assert view is not None
    assert str(view).splitlines()[1:] == list(view.lines)
    assert view.before in view._repr_html_()
    assert view.figure("latency").change == pytest.approx(
        state.plan.prediction.makespan_s - state.compared_plan.prediction.makespan_s  # type: ignore[union-attr]
    )


def test_the_answer_alone_can_be_waited_for(plans: PlanSet, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    state = ExplorerState(plans, pause_s=0.0)
    whole = state_module.solve

    def answered_then_waits(*arguments: Any) -> None:
        talk = arguments[-1]
        plain = talk.tell

        def tell(news: Any) -> None:
            plain(news)
            if isinstance(news, Answered):
                go_on.wait(LONG_S)

        talk.tell = tell
        whole(*arguments)

    monkeypatch.setattr(state_module, "solve", answered_then_waits)
    state.ask(latency_s=60.0)
    state.wait(LONG_S, for_answer=True)
    assert state.progress.state == "checking"
    assert state.plan.prediction.makespan_s <= 60.0  # type: ignore[union-attr]
    go_on.set()
    state.wait(LONG_S)
    assert state.progress.state == "done"
    state.close()
