"""Has workers probe the network between them, and makes a measured cluster of it."""

from __future__ import annotations

import contextlib
import datetime
import pathlib
import socket
from collections.abc import Callable, Iterator, Sequence

from dora_nb.costs.link_probe import MeasuredNetwork, measured_network
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.document import release
from dora_nb.errors import InputError
from dora_nb.executor.control.address import parse_address
from dora_nb.executor.control.listener import Listener
from dora_nb.executor.control.orders import NetworkUse, Survey
from dora_nb.executor.control.replies import Surveyed
from dora_nb.executor.control.tls import Tls
from dora_nb.executor.measuring.probe import LASTS_S, Heard, Ping, Streams, measure_links
from dora_nb.executor.pool import WorkerPool
from dora_nb.units import counted

#: Longest wait for a peer, and for all rounds together: a trial of 100 kB takes a second at 1 Mbit/s.
PEER_S, ROUNDS_S = 120.0, 1800.0

#: Longest wait for a person to start the workers on the other hosts.
JOIN_S = 900.0


def probe_network(
    cluster: Cluster,
    *,
    workers: WorkerPool | None = None,
    network: NetworkUse | None = None,
    lasts_s: float = LASTS_S,
    on_progress: Callable[[str], None] | None = None,
) -> MeasuredNetwork:
    """Measure the network between the devices of a cluster.

    Every device needs a worker: on its own host where the network is to be that between the hosts. Workers of one
    machine measure its loopback, or what ``network`` has them imitate.

    Parameters
    ----------
    cluster
        Its devices are kept and its network is replaced; see :func:`~dora_nb.costs.link_probe.measured_network`.
    workers
        At least one per device; None: started on this machine for this probe and ended with it.
    network
        How the network is used, for example imitated; None: as it is.
    lasts_s
        Seconds that each stream of data is to last.
    on_progress
        Called with a line of text.

    Returns
    -------
    MeasuredNetwork

    Raises
    ------
    InputError
        If the cluster has a single device, or there are too few workers.
    MissingDependencyError
        If torch is not installed.
    ExecutionError
        If a worker fails.
    """
    devices, tell = cluster.device_ids, on_progress or (lambda _: None)
    if len(devices) < 2:
        raise InputError("cluster.devices", devices, "at least two devices to measure a network between")
    with _pool(len(devices), workers, tell) as pool:
        seats = pool.seats(devices)

        def ask(rounds: Sequence[Ping | Streams]) -> dict[str, tuple[Heard, ...]]:
            tell(f"probing: {counted(len(rounds), 'round')} between {counted(len(devices), 'device')}")
            generation = pool.next_generation()
            orders = {
                seats[device]: Survey(
                    generation=generation,
                    devices=devices,
                    device=device,
                    timeout_s=PEER_S,
                    network=network or NetworkUse(),
                    rounds=tuple(rounds),
                )
                for device in devices
            }
            answers = pool.ask(orders, Surveyed, doing="probing the network", timeout_s=ROUNDS_S)
            return {device: answers[seats[device]].heard for device in devices}

        source = f"{release()}, probe from {socket.gethostname()} on {datetime.date.today().isoformat()}"
        return measured_network(cluster, measure_links(devices, ask, source, lasts_s=lasts_s))


def workers_at(
    address: str,
    devices: Sequence[str],
    *,
    token_file: pathlib.Path | None = None,
    tls: Tls | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> WorkerPool:
    """A pool, to be entered, of one worker a device on other hosts, each of which runs ``dora-nb worker``.

    Parameters
    ----------
    address
        ``host:port`` of this host at which they connect; port 0: one that is free.
    devices
        Names under which they do.
    token_file, tls
        As for :class:`~dora_nb.executor.control.listener.Listener`.
    on_progress
        Called with a line of text, among others with the commands to enter on the other hosts.

    Raises
    ------
    InputError
        If the address cannot be used, or needs certificates and has none.
    """
    host, port = parse_address(address, listens=True)
    listener = Listener(host, port, token_file=token_file, tls=tls)
    return WorkerPool(0, listener=listener, remote=devices, join_s=JOIN_S, on_progress=on_progress)


@contextlib.contextmanager
def _pool(count: int, given: WorkerPool | None, tell: Callable[[str], None]) -> Iterator[WorkerPool]:
    if given is not None:
        yield given
        return
    tell(f"starting {counted(count, 'worker')}")
    with WorkerPool(count) as pool:
        yield pool
