"""Where a training goes on after a fault."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from dora_nb.errors import ExecutionError
from dora_nb.executor.conduct import PATIENCE, Conductor
from dora_nb.executor.control.replies import Stock
from dora_nb.executor.course import Course, StoppedError
from dora_nb.executor.faults.recovery import restart_of
from dora_nb.executor.session import DeviceLostError

#: Two devices share the last stage.
STAGES = [(0, 3, [(0, 4)], 2, None), (3, 6, [(1, 3), (2, 1)], 1, ("ring", 1))]
FIRST, LAST = (0, 1, 2), (3, 4, 5)


def had(layers: tuple[int, ...], *completed: int, loss: float = 0.0) -> Stock:
    return Stock(layers=dict.fromkeys(completed, layers), losses={completed[-1]: loss})


@pytest.fixture
def plan(lab):
    return lab.plan(STAGES, 2)


def test_a_step_that_nobody_heard_of_counts_with_its_loss(plan):
    stock = {"d0": had(FIRST, 3, 4), "d1": had(LAST, 3, 4, loss=1.5), "d2": had(LAST, 3, 4, loss=0.5)}
    restart = restart_of(ExecutionError("cut"), plan, 3, frozenset(stock), stock, Course(8))
    assert (restart.plan, restart.completed, restart.loss) == (plan, 4, 2.0)


def test_a_step_whose_loss_is_gone_is_done_again(plan):
    stock = {"d0": had(FIRST, 3, 4), "d1": had(LAST, 3, 4, loss=1.5)}
    restart = restart_of(DeviceLostError("d2", "killed"), plan, 3, frozenset(stock), stock, Course(8))
    assert (restart.completed, restart.loss) == (3, None)
    assert restart.holders[3] == ["d1"]
    assert set(restart.plan.devices) == {"d0", "d1"}


def test_a_step_that_was_over_keeps_the_loss_it_had(plan):
    stock = {"d0": had(FIRST, 4), "d1": had(LAST, 4, loss=1.5), "d2": had(LAST, 4, loss=0.5)}
    restart = restart_of(ExecutionError("cut"), plan, 4, frozenset(stock), stock, Course(8))
    assert (restart.completed, restart.loss) == (4, None)


def test_without_a_common_state_it_stops_and_says_so(plan):
    stock = {"d0": had(FIRST, 3), "d1": had(LAST, 4), "d2": had(LAST, 4)}
    with pytest.raises(StoppedError, match="stopped after 3 steps: no common state is left; there is no checkpoint"):
        restart_of(ExecutionError("cut"), plan, 3, frozenset(stock), stock, Course(8))


class Hopeless:
    """A session in which nothing works any more, though everybody lives."""

    def __init__(self, plan) -> None:
        self.plan, self.completed, self.present = plan, 0, frozenset(plan.devices)
        self.task = SimpleNamespace(trains=True)
        self.tries = 0

    def give_up(self) -> None:
        self.tries += 1

    def stock(self) -> dict:
        raise ExecutionError("no answer")


def test_a_group_that_never_works_again_is_given_up(lab):
    session = Hopeless(lab.plan([(0, 6, [(0, 4)], 1, None)], 1))
    conductor = Conductor(session, None, Course(steps=1), lambda _: None, lambda _: None, threading.Event())
    with pytest.raises(StoppedError, match="stopped, having tried 3 times to go on: no answer"):
        conductor._go_on(session.stock)
    assert session.tries == PATIENCE
