"""Runs plans for real on torch.distributed. Importing this loads no torch; running a plan does.

- the calls: ``launch``, ``serving``, ``compare``
- a run: ``course``, ``rehearsal``, ``predict``, ``session``, ``conduct``, ``run``, ``recording``, ``reference``,
  ``latencies``
- workers: ``pool``, ``fork_server``, ``worker``, ``control``, ``system``, ``threads``
- what one device does: ``device``
- one machine as if it were many: ``emulation``, ``transit``, ``shared_cores``
- what is computed: ``tasks``, ``networks``
- what is measured: ``measuring``
- when somebody is gone: ``faults``
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dora_nb.executor.control.listener import Listener
    from dora_nb.executor.control.tls import Tls
    from dora_nb.executor.launch import execute
    from dora_nb.executor.measuring.profiler import profile
    from dora_nb.executor.pool import WorkerPool
    from dora_nb.executor.tasks.scale import scale_down

__all__ = ["Listener", "Tls", "WorkerPool", "execute", "profile", "scale_down"]

_HOME = {
    "Listener": "control.listener",
    "Tls": "control.tls",
    "WorkerPool": "pool",
    "execute": "launch",
    "profile": "measuring.profiler",
    "scale_down": "tasks.scale",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
