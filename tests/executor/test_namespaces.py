"""The imitated network against one that the kernel shapes, between two network namespaces."""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import namespace_peer
import pytest
import torch

from dora_nb.costs.network import Network
from dora_nb.domain.cluster import ContentionDomain
from dora_nb.executor.device.medium import EmulatedTransport, Medium

RATE_BITS_PER_S = 80e6

#: What a frame takes on the wire, and what it carries of a message: Ethernet, IP and TCP with time stamps.
FRAME_BYTES, PAYLOAD_BYTES = 1514, 1448

#: Two namespaces with a cable between them, both ends shaped; the two processes, one in each.
SCRIPT = """
set -e
ip link set lo up
unshare -n sleep 120 & OTHER=$!
trap 'kill $OTHER' EXIT
until [ "$(readlink /proc/$OTHER/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.01; done
ip link add left type veth peer name right netns $OTHER
ip addr add 10.9.0.1/24 dev left
ip link set left up
tc qdisc add dev left root tbf rate {rate:.0f}bit burst 16kb latency 400ms
there() {{ nsenter -t $OTHER -n "$@"; }}
there ip link set lo up
there ip addr add 10.9.0.2/24 dev right
there ip link set right up
there tc qdisc add dev right root tbf rate {rate:.0f}bit burst 16kb latency 400ms
there {python} {peer} 1 {directory} right &
{python} {peer} 0 {directory} left
"""


@functools.cache
def namespaces_work() -> bool:
    """Whether this host lets its users make network namespaces, and shape what passes between them."""
    cable, shaping = "ip link add left type veth peer name right", "tbf rate 1mbit burst 16kb latency 400ms"
    trial = ["unshare", "-Urn", "sh", "-c", f"{cable} && tc qdisc add dev left root {shaping}"]
    try:
        return subprocess.run(trial, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif("DORA_NB_LONG" not in os.environ, reason="starts two processes, and waits for a slow network")
@pytest.mark.skipif(not namespaces_work(), reason="no network namespaces for users, or no ip and tc here")
def test_the_kernel_and_the_imitation_take_as_long(lab, tmp_path):
    kernel_s = {int(size): statistics.median(own) for size, own in shaped_by_the_kernel(tmp_path).items()}
    small, *large = namespace_peer.SIZES_BYTES
    # Half a round trip of a small message is all that the imitation is told, beside the rate.
    rate = RATE_BITS_PER_S / 8 * PAYLOAD_BYTES / FRAME_BYTES
    imitated_s = imitated(lab, tmp_path, rate, kernel_s[small] / 2)
    for size in large:
        print(f"\n{size} bytes: {kernel_s[size]:.4f} s by the kernel, {imitated_s[size]:.4f} s imitated")
        assert imitated_s[size] == pytest.approx(kernel_s[size], rel=0.1)
    # What a probe of the two smallest sizes tells, foretells the largest.
    slope = (large[0] - small) / (kernel_s[large[0]] - kernel_s[small])
    foretold_s = kernel_s[small] + (large[-1] - small) / slope
    print(f"{large[-1]} bytes: {kernel_s[large[-1]]:.4f} s by the kernel, {foretold_s:.4f} s from a probe of less")
    assert foretold_s == pytest.approx(kernel_s[large[-1]], rel=0.1)


def shaped_by_the_kernel(directory: Path) -> dict[str, list[float]]:
    """Seconds until each message had arrived and the word came back."""
    script = SCRIPT.format(
        rate=RATE_BITS_PER_S, python=sys.executable, peer=namespace_peer.__file__, directory=directory
    )
    done = subprocess.run(["unshare", "-Urn", "bash", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    seconds: dict[str, list[float]] = json.loads(done.stdout)
    return seconds


def imitated(lab, directory: Path, rate: float, latency_s: float) -> dict[int, float]:
    """The same between two threads of this process, on an imitated switch."""
    domain = ContentionDomain(id="cable", kind="switch", rates_bytes_per_s={"a": rate, "b": rate}, latency_s=latency_s)
    network = Network((domain,), ("a", "b"))
    seconds: dict[int, list[float]] = {size: [] for size in namespace_peer.SIZES_BYTES}
    gate = threading.Barrier(2)

    def play(device: str, inner) -> None:
        medium = Medium(directory / "medium", tuple(sorted(network.domain_of)))
        transport = EmulatedTransport(inner, device, network, medium)
        word = torch.zeros(1, dtype=torch.uint8)
        for size in namespace_peer.SIZES_BYTES:
            message = torch.zeros(size, dtype=torch.uint8)
            for number in range(namespace_peer.REPETITIONS):
                gate.wait(timeout=20)
                start_s = time.perf_counter()
                if device == "a":
                    transport.send(message, "b", number, "hand-over")
                    transport.receive(word, "b", number, "turn").wait()
                    seconds[size].append(time.perf_counter() - start_s)
                else:
                    transport.receive(message, "a", number, "hand-over").wait()
                    transport.send(word, "a", number, "turn")
                transport.flush()
        transport.close()

    lab.in_threads(("a", "b"), play)
    return {size: statistics.median(own) for size, own in seconds.items()}
