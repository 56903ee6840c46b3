"""One of two processes that pass tensors to each other over gloo: ``python namespace_peer.py RANK DIRECTORY DEVICE``.

The first sends messages of some sizes, and the second one answers each with a word as soon as it is there. The first
prints seconds as JSON: ``{bytes: [seconds, ...]}``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

SIZES_BYTES = (8, 500_000, 1_000_000, 3_000_000)
REPETITIONS = 5


def main(rank: int, directory: Path, interface: str) -> None:
    """Be one of the two."""
    os.environ["GLOO_SOCKET_IFNAME"] = interface
    import torch
    from torch.distributed import FileStore

    from dora_nb.executor.device.transport import GlooTransport

    torch.set_num_threads(1)
    transport = GlooTransport(("a", "b"), rank, FileStore(str(directory / "store"), 2), timeout_s=60.0)
    peer = "b" if rank == 0 else "a"
    seconds: dict[int, list[float]] = {}
    for size in SIZES_BYTES:
        message, word = torch.zeros(size, dtype=torch.uint8), torch.zeros(1, dtype=torch.uint8)
        for number in range(REPETITIONS):
            # The one that receives is ready before the other one sends.
            pending = transport.receive(word if rank == 0 else message, peer, number, "hand-over" if rank else "turn")
            transport.barrier()
            start_s = time.perf_counter()
            if rank == 0:
                transport.send(message, peer, number, "hand-over")
            pending.wait()
            if rank == 1:
                transport.send(word, peer, number, "turn")
            else:
                seconds.setdefault(size, []).append(time.perf_counter() - start_s)
            transport.flush()
    transport.barrier()
    if rank == 0:
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
