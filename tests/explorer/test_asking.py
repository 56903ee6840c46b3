"""Work in the background: one at a time, the newest wins, nothing is lost, nothing lingers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dora_nb.explorer.asking import Asker, Ended, Talk


@pytest.fixture
def asker() -> Iterator[Asker]:
    made = Asker()
    yield made
    made.close()
    assert made.join(5.0), "its thread has ended"


def all_news(asker: Asker, timeout_s: float = 5.0) -> list[Any]:
    """News until the end."""
    found: list[Any] = []
    until_s = time.monotonic() + timeout_s
    while not (found and isinstance(found[-1], Ended)):
        assert time.monotonic() < until_s, f"no end after {found}"
        found += asker.news()
        time.sleep(0.002)
    return found


def test_news_come_in_order_and_end(asker: Asker) -> None:
    def work(talk: Talk) -> None:
        for number in range(3):
            talk.tell(number)

    asker.ask(work)
    assert all_news(asker) == [0, 1, 2, Ended(None)]
    assert asker.news() == []


def test_what_the_work_fails_with_is_told(asker: Asker) -> None:
    problem = ValueError("broken")

    def work(talk: Talk) -> None:
        raise problem

    asker.ask(work)
    assert all_news(asker) == [Ended(problem)]
    asker.ask(lambda talk: talk.tell("still there"))
    assert all_news(asker)[0] == "still there"


def test_a_newer_question_cancels_the_older_whose_news_are_dropped(asker: Asker) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    def old(talk: Talk) -> None:
        talk.tell("old, early")
        begun.set()
        talk.cancel.wait(5.0)
        cancelled.set()
        talk.tell("old, late")

    asker.ask(old)
    assert begun.wait(5.0)
    asker.ask(lambda talk: talk.tell("new"))
    assert all_news(asker) == ["new", Ended(None)]
    assert cancelled.is_set()


def test_only_one_is_worked_for_at_a_time(asker: Asker) -> None:
    at_once, most = [0], [0]

    def work(talk: Talk) -> None:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        time.sleep(0.005)
        at_once[0] -= 1

    for _ in range(10):
        asker.ask(work)
        time.sleep(0.002)
    all_news(asker)
    assert most[0] == 1


def test_a_question_that_does_not_stand_is_never_worked_for(asker: Asker) -> None:
    done: list[int] = []
    for number in range(20):
        asker.ask(lambda talk, number=number: done.append(number), delay_s=0.1)  # type: ignore[misc]
        time.sleep(0.001)
    all_news(asker)
    assert done == [19]


def test_cancelled_work_may_tell_what_it_has(asker: Asker) -> None:
    def work(talk: Talk) -> None:
        talk.tell("begun")
        talk.cancel.wait(5.0)
        talk.tell("the best so far")

    asker.ask(work)
    while "begun" not in asker.news():
        time.sleep(0.002)
    asker.cancel()
    assert all_news(asker) == ["the best so far", Ended(None)]


def test_a_closed_one_ends_its_thread_and_asks_nothing_more() -> None:
    asker = Asker()
    begun = threading.Event()

    def work(talk: Talk) -> None:
        begun.set()
        talk.cancel.wait(5.0)

    asker.ask(work)
    assert begun.wait(5.0)
    asker.close()
    assert asker.join(5.0)
    asker.ask(lambda talk: talk.tell("too late"))
    assert asker.news() == []
    asker.close()


def test_without_a_question_there_is_no_thread() -> None:
    before = threading.active_count()
    asker = Asker()
    assert threading.active_count() == before
    asker.close()
    assert asker.join(0.0)
