"""What a notebook cell made is closed when the cell runs again: its widgets, its threads, its solves."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any, Protocol
from weakref import WeakSet


class Closable(Protocol):
    """What can be closed, more than once without harm."""

    def close(self) -> None:
        """End everything that belongs to it."""


_made: defaultdict[str, WeakSet[Closable]] = defaultdict(WeakSet)
_lock = threading.Lock()
_watched: Any = None  # the shell whose cells are watched


def close_on_rerun(thing: Closable) -> None:
    """Close something when the cell that runs now runs again; outside a notebook cell nothing happens."""
    global _watched
    from IPython import get_ipython  # there is no shell without it, and it takes long to import

    shell = get_ipython()
    cell = _cell_of(shell)
    if cell is None:
        return
    with _lock:
        _made[cell].add(thing)
        if _watched is not shell:
            shell.events.register("pre_run_cell", _before)
            _watched = shell


def _cell_of(shell: Any) -> str | None:
    """The id of the notebook cell that runs now, as the frontend gave it to the kernel."""
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return None
    cell = kernel.get_parent().get("metadata", {}).get("cellId")
    return cell if isinstance(cell, str) else None


def _before(info: Any) -> None:
    """Close what the cell that is about to run made the last time."""
    with _lock:
        things = list(_made.pop(info.cell_id, ())) if info.cell_id else []
    for thing in things:
        thing.close()
