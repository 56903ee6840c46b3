"""The paper's headline comparison, on our deployments and against our baselines."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dora_nb.domain.record import Record
from dora_nb.errors import ExecutionError, InputError
from dora_nb.reproduction.cell import Cell
from dora_nb.reproduction.cells import cells_of
from dora_nb.reproduction.grid import FULL, QUICK, SEEDS, Setting
from dora_nb.reproduction.store import Store, default_folder
from dora_nb.reproduction.summary import (
    PAPER_SAVING,
    PAPER_SOURCE,
    PAPER_SPEEDUP,
    HeadlineRow,
    Paper,
    Ranges,
    headlines,
    ranges,
)

#: Called with settings done, settings in all, and what was just done.
Progress = Callable[[int, int, str], None]


class Reproduction(Record):
    """Every cell of the comparison, and what they come to. Simulated, never measured.

    Attributes
    ----------
    cells
        One figure each.
    summary
        Ranges of gains by objective, dynamics and energy accounting.
    wall_s
        How long it took; what was kept from before takes no time.
    """

    cells: tuple[Cell, ...]
    summary: tuple[Ranges, ...]
    wall_s: float

    def to_json(self) -> dict[str, Any]:
        """All cells, and the summary by headline, dynamics and accounting, with the paper's own ranges beside ours."""
        summary: dict[str, Any] = {"speedup": {}, "energy_saving": {}, "qoe_kept": {}}
        for group in self.summary:
            when = "dynamic" if group.dynamic else "static"
            figures = group.model_dump(mode="json")
            headline = summary["speedup" if group.objective == "latency" else "energy_saving"]
            headline.setdefault(when, {})[group.energy_accounting] = {
                "over_strongest": figures["strongest"],
                "over_each": {gains["over"]: gains for gains in figures["each"]},
            }
            summary["qoe_kept"].setdefault(when, {}).setdefault(group.objective, {})[group.energy_accounting] = {
                "ours": group.qoe_kept,
                "best_baseline": group.qoe_kept_strongest,
            }
        summary["paper"] = {"speedup": PAPER_SPEEDUP, "energy_saving": PAPER_SAVING, "source": PAPER_SOURCE}
        return {
            "cells": [each.model_dump(mode="json") for each in self.cells],
            "summary": summary,
            "wall_s": self.wall_s,
        }

    def to_frame(self) -> Any:
        """One row a cell, units in the column names."""
        import pandas as pd

        return pd.DataFrame([each.model_dump() for each in self.cells])

    @property
    def headlines(self) -> tuple[HeadlineRow, ...]:
        """Our answer to every question beside the baselines'."""
        return headlines(self.cells)

    @property
    def paper(self) -> Paper:
        """The paper's own ranges, which are not ours."""
        return Paper()

    def __repr__(self) -> str:
        from dora_nb.render.reproduction import reproduction_text  # a method that looks up a room

        return reproduction_text(self)

    def _repr_html_(self) -> str:
        from dora_nb.render.reproduction_html import reproduction_html

        return reproduction_html(self)


def reproduce(
    *,
    quick: bool = False,
    settings: Sequence[Setting] | None = None,
    seeds: Sequence[int] | None = None,
    solver: str = "auto",
    jobs: int | None = None,
    cache: str | Path | None = None,
    fresh: bool = False,
    on_progress: Progress | None = None,
) -> Reproduction:
    """Compare our plans with every baseline's, with and without dynamics, on one simulator.

    Two headline modes, never claimed at once: the fastest plan, and the least energy within a latency limit (1.5 times
    the fastest baseline's makespan, our own choice). Each baseline runs with transfers in the order that list
    scheduling gives, and with the network shared fairly by whoever is ready. Under dynamics conditions follow one
    another at random; our resident plans are composed and driven by the runtime adapter, and so are those of the
    baseline that decides in sequence; all others run the plan that is best when nothing changes, and wait while one of
    its devices is away.

    Every setting's cells are kept in a folder by the hash of everything they depend on: what was interrupted goes on
    where it stopped.

    Parameters
    ----------
    quick
        One model instead of four.
    settings, seeds
        Which settings, and the seeds of the traces; None: those of the grid.
    solver
        As in :func:`dora_nb.plan`.
    jobs
        Processes; None: as many as there are cores. 1: in this process.
    cache
        The folder; None: one in the user's cache.
    fresh
        Compute everything again, and replace what was kept.
    on_progress
        Called whenever a setting is done.

    Returns
    -------
    Reproduction

    Raises
    ------
    InputError
        If something given cannot be used.
    DocumentError
        If the folder cannot be written to.
    ExecutionError
        If a process ended that was to compute settings, as in a script whose own calls are not guarded.
    """
    started = time.monotonic()
    if jobs is not None and jobs < 1:
        raise InputError("jobs", jobs, "1 or more")
    chosen = tuple((QUICK if quick else FULL) if settings is None else settings)
    seeds = tuple(SEEDS if seeds is None else seeds)
    if not chosen or not seeds:
        raise InputError("settings" if not chosen else "seeds", (), "at least one")
    store = Store(default_folder() if cache is None else Path(cache))
    keys = {setting: store.key(setting, seeds, solver) for setting in chosen}
    found = {setting: None if fresh else store.load(key) for setting, key in keys.items()}
    say = on_progress or (lambda *_: None)
    known = sum(each is not None for each in found.values())
    if known:
        say(known, len(chosen), "kept from before")
    missing = [setting for setting, each in found.items() if each is None]
    for done, (setting, own) in enumerate(_computed(missing, seeds, solver, jobs), start=known + 1):
        store.keep(keys[setting], own)
        found[setting] = own
        say(done, len(chosen), str(setting))
    cells = tuple(cell for setting in chosen for cell in found[setting] or ())
    return Reproduction(cells=cells, summary=ranges(cells), wall_s=time.monotonic() - started)


def _computed(
    settings: Sequence[Setting], seeds: Sequence[int], solver: str, jobs: int | None
) -> Iterator[tuple[Setting, list[Cell]]]:
    """Settings with their cells, in the order in which they are done."""
    jobs = min(jobs or os.cpu_count() or 1, len(settings))
    if jobs <= 1:
        yield from ((setting, cells_of(setting, seeds, solver)) for setting in settings)
        return
    # Fresh processes: a copy of one with threads, such as a notebook's, could hang.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_follow_parent)
    try:
        with _interrupts_held_back():
            waiting = {pool.submit(cells_of, setting, seeds, solver): setting for setting in settings}
        while waiting:
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for each in done:
                yield waiting.pop(each), each.result()
    except BrokenProcessPool:
        raise ExecutionError(
            "a process that computes settings ended. Every process imports the script that started it: put what the "
            "script does under 'if __name__ == \"__main__\":', or give jobs=1"
        ) from None
    except BaseException:
        # Whoever interrupts does not want to wait for cells that nobody will read.
        for worker in (pool._processes or {}).values():
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Processes started meanwhile inherit it, so that none is interrupted before it knows that it is not to be."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _follow_parent() -> None:
    """Leave interrupts to the process that started this one, which is told as well; end when it ends.

    A notebook's kernel may be killed at any time. Its pool would compute on, and then wait for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
