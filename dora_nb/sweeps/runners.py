"""Who runs the points of a sweep: processes of this machine, or a Dask cluster."""

from __future__ import annotations

import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from dora_nb.errors import ExecutionError, InputError, MissingDependencyError
from dora_nb.sweeps.point import Outcome, Task, run_point

#: Runs tasks and yields what became of each, in any order; closed early, it stops what it started.
Runner = Callable[[Sequence[Task]], Iterator[Outcome]]

#: Seconds until a Dask scheduler must have answered.
_ANSWER_S = 20

#: Seconds after which processes that wait for more points end.
_IDLE_S = 5


def local_runner(jobs: int) -> Runner:
    """Processes of this machine, through joblib.

    Parameters
    ----------
    jobs
        How many points run side by side, 1 or more.
    """

    def run(tasks: Sequence[Task]) -> Iterator[Outcome]:
        try:
            from joblib import Parallel, delayed
        except ImportError:
            raise MissingDependencyError("joblib", "a sweep", "sweep") from None
        side_by_side = min(jobs, len(tasks))
        # The kernel is a process of its own in any case: a single point at a time needs no other.
        how = {} if side_by_side == 1 else {"backend": "loky", "idle_worker_timeout": _IDLE_S}
        parallel = Parallel(n_jobs=side_by_side, return_as="generator_unordered", pre_dispatch="2*n_jobs", **how)
        with closing(parallel(delayed(_in_worker)(task) for task in tasks)) as outcomes:
            yield from outcomes

    return run


def dask_runner(address: str, *, remote: bool = False) -> Runner:
    """A Dask cluster.

    Its workers need this release of dora_nb with the extra ``sweep``. Points of a worker that is lost are run by the
    others. An interrupted sweep cancels what has not begun; what a worker is at runs to its end, and is dropped.

    Dask's protocol sends pickled functions: whoever can reach the scheduler or a worker can run code there as its user,
    and a scheduler can do so here. Unless it is set up for TLS, Dask asks nobody who they are. So an address that is
    neither on this machine nor ``tls://`` is refused unless ``remote`` says that the whole network is trusted.

    Parameters
    ----------
    address
        Of the scheduler, such as ``tcp://127.0.0.1:8786``. For ``tls://`` the certificates of Dask's configuration
        (``distributed.comm.tls``) are used.
    remote
        Whether an unprotected address elsewhere is meant.

    Raises
    ------
    InputError
        If the address is elsewhere, unprotected, and not meant to be.
    """
    _check_address(address, remote)

    def run(tasks: Sequence[Task]) -> Iterator[Outcome]:
        try:
            from distributed import Client, as_completed
        except ImportError:
            raise MissingDependencyError("distributed", "a sweep over Dask", "dask") from None
        try:
            client = Client(address, timeout=_ANSWER_S, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise ExecutionError(
                f"no Dask scheduler answers at {address}: {error}; start one with: dask scheduler"
            ) from None
        with client:
            asked = uuid.uuid4().hex  # the scheduler keeps results by name: those of another sweep are not ours
            futures = {
                client.submit(run_point, task, key=f"dora-nb-{asked}-{task.key}", pure=False): task for task in tasks
            }
            try:
                for future in as_completed(list(futures), loop=client.loop):
                    yield _outcome(future, futures[future])
            finally:
                client.cancel(list(futures))

    return run


def _in_worker(task: Task) -> Outcome:
    """Run a point in one of several processes: an interrupt is for the process that started them, which ends them."""
    import multiprocessing

    if multiprocessing.parent_process() is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return run_point(task)


def _outcome(future: Any, task: Task) -> Outcome:
    """What a Dask worker brought back; an error of Dask's own, such as workers that all died, fails the point."""
    error = future.exception()
    if error is None:
        found: Outcome = future.result()
        return found
    return Outcome(task.key, task.notebook, f"{type(error).__name__}: {error}"[:500], 0.0)


def _check_address(address: str, remote: bool) -> None:
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    if parts.scheme in ("tls", "inproc") or remote:
        return
    host = parts.hostname or ""
    try:
        here = ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    if not here:
        raise InputError(
            "dask",
            address,
            "an address of this machine, or tls://; Dask asks nobody who they are and runs whatever it is sent, so say "
            "--dask-remote (dask_remote=True) where everybody on that network may do that",
        )
