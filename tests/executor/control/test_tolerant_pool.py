"""A pool that loses a worker: it is noticed within a second, the others stay, and another one takes its place."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from dora_nb.errors import ExecutionError, InputError, WorkerLostError
from dora_nb.executor import WorkerPool
from dora_nb.executor.control.orders import Abort, ClockQuestion, Probe
from dora_nb.executor.control.replies import Clock, Probed

#: A worker answers this at once, so that who waits for something else waits for ever.
QUESTION = ClockQuestion()


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(2) as workers:
        yield workers


def wait_for_ever(pool):
    pool.ask(dict.fromkeys(pool.alive, QUESTION), Probed, doing="waiting", timeout_s=60, tolerant=True)


@pytest.mark.parametrize(("sign", "why"), [(signal.SIGKILL, "code -9"), (signal.SIGSTOP, "no sign of life for 0.8 s")])
def test_a_lost_worker_is_noticed_and_replaced(pool, sign, why):
    pids, hurt_s = pool.pids, []

    def hurt():
        hurt_s.append(time.monotonic())
        os.kill(pids[1], sign)

    timer = threading.Timer(0.3, hurt)
    timer.start()
    with pytest.raises(WorkerLostError, match=why) as caught:
        wait_for_ever(pool)
    assert time.monotonic() - hurt_s[0] < 5  # the figure is measured elsewhere: here other work runs beside
    assert caught.value.index == 1
    assert f"worker 1 (process {pids[1]}) failed while waiting" in str(caught.value)
    pool.remove(1)
    assert pool.alive == (0,)
    assert pool.pids == pids[:1]
    with pytest.raises(ProcessLookupError):
        os.kill(pids[1], 0)
    assert pool.ask({0: QUESTION}, Clock, doing="asking", timeout_s=60, tolerant=True)[0].now_s > 0
    with pytest.raises(InputError, match="one of 0"):
        pool.ask({1: QUESTION}, Clock, doing="asking", timeout_s=60, tolerant=True)
    pool.respawn(1)
    assert pool.alive == (0, 1)
    assert pool.pids[0] == pids[0]
    assert pool.ask(dict.fromkeys((0, 1), QUESTION), Clock, doing="asking", timeout_s=60, tolerant=True).keys() == {
        0,
        1,
    }


def test_a_stopped_worker_blocks_nobody_however_much_it_is_told(pool):
    os.kill(pool.pids[0], signal.SIGSTOP)
    try:
        for _ in range(2000):
            pool.abort(Abort(generation=1))  # more than its pipe holds
        assert pool.ask({1: QUESTION}, Clock, doing="asking", timeout_s=60, silence_s=60)[1].now_s > 0
    finally:
        os.kill(pool.pids[0], signal.SIGCONT)
    assert pool.ask({0: QUESTION}, Clock, doing="asking", timeout_s=60)[0].now_s > 0


def test_a_failure_that_is_no_death_leaves_the_pool_open(pool):
    with pytest.raises(ExecutionError, match=r"worker 0 .* failed while probing: AssertionError"):
        pool.ask({0: Probe()}, Probed, doing="probing", timeout_s=60, tolerant=True)
    assert pool.alive == (0, 1)


def test_a_late_answer_is_not_taken_for_another_one(pool):
    os.kill(pool.pids[0], signal.SIGSTOP)
    try:
        with pytest.raises(ExecutionError, match="no answer within 0 s while hurrying: worker 0"):
            pool.ask({0: Probe()}, Probed, doing="hurrying", timeout_s=0, tolerant=True)
    finally:
        os.kill(pool.pids[0], signal.SIGCONT)
    # The complaint about the probe comes first now.
    assert pool.ask({0: QUESTION}, Clock, doing="asking", timeout_s=60)[0].now_s > 0
    assert pool.alive == (0, 1)


def test_a_closed_pool_says_so():
    pool = WorkerPool(0)
    with pytest.raises(InputError, match="none"), pool:
        pool.ask({0: QUESTION}, Clock, doing="asking", timeout_s=1)
