"""Where the processes of a run find each other: a key-value store in the coordinator, reachable from this host only."""

from __future__ import annotations

import datetime
import socket

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # public, but not marked as exported


def host_store() -> tuple[TCPStore, int]:
    """A store in this process, and its port.

    It lives in the coordinator so that no worker's death takes it away. Left to itself it would listen on every
    interface without asking who calls, so it gets a socket that is bound to the loopback interface.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    port = int(listener.getsockname()[1])
    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
    return store, port


def join_store(port: int, generation: int, timeout_s: float) -> PrefixStore:
    """The part of the store that belongs to one group of workers.

    Parameters
    ----------
    port
        Of the coordinator's store.
    generation
        Number of the group; what earlier groups left in the store stays out of sight.
    timeout_s
        Longest wait for the coordinator or a peer.
    """
    store = TCPStore("127.0.0.1", port, is_master=False, timeout=datetime.timedelta(seconds=timeout_s))
    return PrefixStore(f"generation{generation}", store)
