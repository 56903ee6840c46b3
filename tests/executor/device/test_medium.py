"""The imitated network takes the time that the cost model says, shared as it says."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
import torch

from dora_nb.costs.network import Flow, Network
from dora_nb.domain.cluster import ContentionDomain
from dora_nb.executor.device.medium import EmulatedTransport, Medium

RATE, LATENCY_S = 4e6, 3e-3


class Sink:
    """A transport that notes when something is handed to it."""

    def __init__(self) -> None:
        self.arrived: list[tuple[float, int, str]] = []

    def send(self, tensor, peer, tag, channel, *, in_turn=False):
        self.arrived.append((time.perf_counter(), tag, peer))

    def flush(self, channel=None):
        pass

    def close(self):
        pass


def network(kind: str) -> Network:
    rates = {"a": RATE, "b": RATE, "c": RATE / 2, "d": RATE}
    return Network(
        (ContentionDomain(id="net", kind=kind, rates_bytes_per_s=rates, latency_s=LATENCY_S),), tuple("abcd")
    )


def send_all(tmp_path, kind: str, flows: list[tuple[str, str, int]]) -> dict[int, float]:
    """Seconds from a common start until each flow has arrived."""
    net = network(kind)
    transports = [
        (EmulatedTransport(Sink(), sender, net, Medium(tmp_path / "medium", tuple(sorted(net.domain_of)))), flow)
        for flow in flows
        for sender in flow[:1]
    ]
    began_s = time.perf_counter()
    for number, (transport, (_, receiver, size)) in enumerate(transports):
        transport.send(torch.empty(size, dtype=torch.uint8), receiver, number, "hand-over")
    seconds = {}
    for transport, _ in transports:
        transport.flush()
        for moment_s, tag, _ in transport._inner.arrived:
            seconds[tag] = moment_s - began_s
        transport.close()
    return seconds


@pytest.mark.parametrize("kind", ["shared", "switch"])
def test_a_lone_transfer_takes_what_the_cost_model_says(tmp_path, kind):
    size = 200_000
    expected_s = network(kind).exchange([Flow("a", "c", size)]).duration_s
    took_s = send_all(tmp_path, kind, [("a", "c", size)])[0]
    assert expected_s <= took_s  # never early; how late it is depends on the machine


def test_two_pairs_share_one_medium_and_not_a_switch(tmp_path):
    size = 200_000
    flows = [("a", "b", size), ("d", "c", size)]
    held_s = [network("shared").exchange([Flow(*flow)]).duration_s - LATENCY_S for flow in flows]
    shared = send_all(tmp_path, "shared", flows)
    assert max(shared.values()) >= sum(held_s)
    assert shared[0] >= 1.5 * held_s[0]  # in turns slice by slice: neither waits for all of the other
    (tmp_path / "other").mkdir()
    assert send_all(tmp_path / "other", "switch", flows)[0] < shared[0]


def test_a_turn_takes_the_latency_alone(tmp_path):
    net = network("shared")
    transport = EmulatedTransport(Sink(), "a", net, Medium(tmp_path / "medium", tuple(sorted(net.domain_of))))
    transport.send(torch.empty(1_000_000, dtype=torch.uint8), "b", 0, "hand-over")
    began_s = time.perf_counter()
    transport.send(torch.empty(1, dtype=torch.uint8), "b", 1, "turn")
    transport.flush()
    times = {tag: moment_s for moment_s, tag, _ in transport._inner.arrived}
    assert times[1] - began_s >= LATENCY_S
    assert times[1] < times[0]  # it does not wait behind the large one
    transport.close()


def test_who_has_the_turn_has_its_place_on_the_medium_when_send_returns(tmp_path):
    net = network("shared")
    media = [Medium(tmp_path / "medium", tuple(sorted(net.domain_of))) for _ in range(2)]
    transport = EmulatedTransport(Sink(), "a", net, media[0])
    held_s = net.exchange([Flow("a", "b", 400_000)]).seconds["net"]
    began_s = time.perf_counter()
    transport.send(torch.empty(400_000, dtype=torch.uint8), "b", 0, "hand-over", in_turn=True)
    assert media[1].reserve(0.0, {"net": 0.0}) >= began_s + held_s
    transport.close()
    media[1].close()


HOLD = """
import pathlib, sys
from dora_nb.executor.device.medium import Medium
medium = Medium(pathlib.Path(sys.argv[1]), ("air",))
for _ in range(200):
    medium.reserve(0.0, {"air": 1.0})
assert "torch" not in sys.modules
"""


def test_processes_and_threads_never_hold_a_medium_at_once(tmp_path):
    """Reservations of one second each, all asked for at time 0, end at 1, 2, 3 ... whoever makes them."""
    path = tmp_path / "medium"
    own = Medium(path, ("air",))
    processes = [subprocess.Popen([sys.executable, "-c", HOLD, str(path)]) for _ in range(2)]
    threads = [threading.Thread(target=lambda: [own.reserve(0.0, {"air": 1.0}) for _ in range(100)]) for _ in "cd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert own.reserve(0.0, {"air": 1.0}) == 601.0
    assert own.reserve(1000.0, {"air": 0.5}) == 1000.5
    assert own.reserve(7.0, {}) == 7.0
    own.close()
