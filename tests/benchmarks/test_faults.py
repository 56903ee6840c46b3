"""Devices that die, hang or are cut off at random moments, and what is left of the training.

``pytest tests/benchmarks/test_faults.py -o addopts='--import-mode=importlib' -s``

Asked for: each of 50 faults noticed within 1 s and no hang; where every layer has another copy, all completed steps
kept; where it has none, a clean stop, or going on if nothing was lost; in all cases the losses of an undisturbed run.
"""

from __future__ import annotations

import os
import signal
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

from builders import Dice
from executor.conftest import ARCHITECTURES, make_cluster, make_plan, make_workload

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.run_record import RunRecord
from dora_nb.domain.workload import Workload
from dora_nb.errors import ExecutionError
from dora_nb.executor import WorkerPool, execute
from dora_nb.executor.control.orders import Abort
from dora_nb.executor.run import Run

FAULTS, STEPS, CHECKPOINT_EVERY = 50, 8, 2

#: Longest wait for a run of a few seconds; one that takes longer hangs.
HANGS_S = 120.0

#: A stage of two replicas between two devices alone in theirs, and four devices alone in theirs.
REPLICAS = [(0, 2, [(0, 4)], 3, None), (2, 5, [(1, 3), (2, 1)], 2, ("star", 1)), (5, 6, [(3, 4)], 1, None)]
ALONE = [(0, 2, [(0, 4)], 4, None), (2, 3, [(1, 4)], 3, None), (3, 5, [(2, 4)], 2, None), (5, 6, [(3, 4)], 1, None)]


class Outcome(NamedTuple):
    """How a fault went.

    Attributes
    ----------
    noticed_s
        From the signal to the first line of progress that speaks of it.
    went_on
        Whether the run itself reached the end.
    at_step, kept
        Steps completed when it was noticed, and those that the run, or the one that resumed it, went on behind.
    """

    noticed_s: float
    went_on: bool
    at_step: int
    kept: int


class Question(NamedTuple):
    """What is trained on what."""

    plan: Plan
    workload: Workload
    cluster: Cluster


class Crew:
    """Four workers, whole again before every run; all of them end with the context."""

    def __enter__(self) -> Self:
        self._pool = WorkerPool(4)
        self._pool.__enter__()
        return self

    def __exit__(self, *problem: object) -> None:
        self._pool.close()

    def whole(self) -> WorkerPool:
        """The pool with a new worker in place of each that is gone; a run that stops closes it, and another opens."""
        if not len(self._pool):
            self.__enter__()
        for index in set(range(4)) - set(self._pool.alive):
            self._pool.respawn(index)
        return self._pool


class Hurt:
    """Does something to a worker a moment after some step, and notes when it is noticed.

    Parameters
    ----------
    action
        What is done.
    step
        Behind which step.
    delay_s
        How long behind it.
    """

    def __init__(self, action: Callable[[], None], step: int, delay_s: float) -> None:
        self._action, self._line, self._delay_s = action, f"step {step} of ", delay_s
        self._timer: threading.Timer | None = None
        self.done_s: float | None = None
        self.noticed_s: float | None = None

    def on_progress(self, line: str) -> None:
        """Follow the run."""
        if self._timer is None and line.startswith(self._line):
            self._timer = threading.Timer(self._delay_s, self._act)
            self._timer.start()
        elif self.noticed_s is None and line.startswith(("lost ", "connections failed")):
            self.noticed_s = time.monotonic()

    def _act(self) -> None:
        self.done_s = time.monotonic()
        self._action()


def action_of(kind: str, pool: WorkerPool, index: int) -> Callable[[], None]:
    """Kill a worker, stop it, or end all connections that it has with its peers."""
    if kind == "cut":
        return lambda: pool._handles[index].order(Abort(generation=pool._generation), 0)
    number = signal.SIGKILL if kind == "kill" else signal.SIGSTOP
    pid = pool.pids[index]
    return lambda: os.kill(pid, number)


def check(record: RunRecord, undisturbed: RunRecord) -> None:
    """Training ended where the undisturbed run, and one process, ended."""
    assert len(record.losses) == STEPS
    for expected in (undisturbed.losses, record.reference_losses):
        assert all(abs(ours - one) <= 1e-12 * abs(one) for ours, one in zip(record.losses, expected, strict=True))
    assert record.differences.parameters is not None
    assert record.differences.parameters <= 1e-10


def suffer(
    question: Question, crew: Crew, undisturbed: RunRecord, dice: Dice, kind: str, directory: Path | None
) -> Outcome:
    """One run with a fault; with a directory, without any copy of a state but the checkpoints there."""
    index, step = dice.number(0, 3), dice.number(3, STEPS - 2)  # behind the first checkpoint
    delay_s = dice.number(0, 1000) / 1000 * 1.2 * statistics.median(undisturbed.step_s)
    options: dict[str, Any] = {"steps": STEPS, "emulate": "devices", "copies": "neighbours"}
    if directory is not None:
        options |= {"copies": "none", "checkpoints": directory, "checkpoint_every": CHECKPOINT_EVERY}
    pool = crew.whole()
    hurt = Hurt(action_of(kind, pool, index), step, delay_s)
    record, stopped = ended(execute(*question, workers=pool, on_progress=hurt.on_progress, **options))
    assert hurt.done_s is not None, "it came to pass"
    assert hurt.noticed_s is not None, "it was spoken of"
    noticed_s = hurt.noticed_s - hurt.done_s
    if record is not None:
        check(record, undisturbed)
        recovery = next(each for each in record.incidents if each.kind == "recovery")
        fault = next((each for each in record.incidents if each.kind == "fault"), recovery)
        return Outcome(noticed_s, True, fault.completed, recovery.completed)
    assert directory is not None, f"with a copy it goes on: {stopped}"
    assert stopped.startswith("stopped after "), stopped
    check(execute(*question, resume=True, workers=crew.whole(), **options).wait(HANGS_S), undisturbed)
    # The words of the stop, since the checkpoint it names was written over by the run that resumed it.
    at_step, kept = (int(stopped.partition(words)[2].split()[0]) for words in ("stopped after ", ", after "))
    return Outcome(noticed_s, False, at_step, kept)


def ended(run: Run) -> tuple[RunRecord | None, str]:
    """What came of a run: its record, or why it stopped."""
    try:
        return run.wait(HANGS_S), ""
    except ExecutionError as error:
        return None, str(error)


def test_faults_at_random_moments(tmp_path: Path) -> None:
    workload, cluster = make_workload(ARCHITECTURES["tied"], "training", 8), make_cluster([1e12] * 4)
    questions = [Question(make_plan(each, 2, "synchronised"), workload, cluster) for each in (REPLICAS, ALONE)]
    outcomes: dict[tuple[str, bool], list[Outcome]] = defaultdict(list)
    problems = []
    with Crew() as crew:
        undisturbed = [
            execute(*each, steps=STEPS, emulate="devices", workers=crew.whole()).wait() for each in questions
        ]
        for number in range(FAULTS):
            copied, kind = number % 2 == 0, ("kill", "hang", "cut")[number // 2 % 3]
            directory = None if copied else tmp_path / str(number)
            try:
                outcome = suffer(questions[not copied], crew, undisturbed[not copied], Dice(number), kind, directory)
            except Exception as problem:  # one that goes wrong must not hide the others
                problems.append(f"fault {number} ({kind}, {'with' if copied else 'without'} a copy): {problem!r}")
                print(problems[-1])
                continue
            outcomes[kind, copied].append(outcome)
    print(f"\nload average {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores")
    print("fault  copy  number  went on  resumed  steps lost  noticed: median and longest, s")
    for (kind, copied), own in sorted(outcomes.items()):
        noticed_s, lost = [each.noticed_s for each in own], sum(each.at_step - each.kept for each in own)
        went_on = sum(each.went_on for each in own)
        print(
            f"{kind:>5} {'yes' if copied else 'no':>5} {len(own):>7} {went_on:>8} {len(own) - went_on:>8} {lost:>11} "
            f"{statistics.median(noticed_s):>17.3f} {max(noticed_s):>11.3f}"
        )
        if copied:
            assert lost == 0
    assert not problems
    assert max(each.noticed_s for own in outcomes.values() for each in own) <= 1.0
