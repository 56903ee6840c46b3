"""The store over the control channel is as good as torch's own, and an abort wakes who waits in it."""

from __future__ import annotations

import datetime
import threading

import pytest
import torch
from processes import until

from dora_nb.errors import ExecutionError
from dora_nb.executor.control.coordinator import Coordinator
from dora_nb.executor.control.frames import SealedChannel
from dora_nb.executor.control.handle import Handle
from dora_nb.executor.control.orders import Abort
from dora_nb.executor.control.rendezvous import Rendezvous
from dora_nb.executor.control.services import StoreRequest
from dora_nb.executor.control.store import ControlStore, GroupStore

KEYS = b"k" * 32, b"l" * 32


@pytest.fixture
def worker(pair):
    """A coordinator as a worker in another thread sees it, and the handle of that worker."""
    rendezvous = Rendezvous()

    def serve(handle, reply):
        if isinstance(reply, StoreRequest):
            rendezvous.serve(handle, reply, lambda answer: handle.order(answer, 0))
        return True

    handle = Handle(0, SealedChannel(pair[0], *KEYS), lambda *_: None, serve)
    coordinator = Coordinator(SealedChannel(pair[1], *reversed(KEYS)))
    coordinator._leave = lambda: None  # or the test would end with the connection
    threading.Thread(target=coordinator._listen, daemon=True).start()
    yield coordinator, handle, rendezvous
    handle.end()


def test_it_does_what_torchs_own_store_does(worker):
    ours = ControlStore(worker[0], 1, 10.0)
    torchs = torch.distributed.HashStore()
    for store in (ours, torchs):
        store.set("text", "words")
        store.set("bytes", bytes(range(256)))
    for ask in (
        lambda store: store.get("text"),
        lambda store: store.get("bytes"),
        lambda store: store.add("counter", 2),
        lambda store: store.add("counter", 3),
        lambda store: store.get("counter"),
        lambda store: store.check(["text", "bytes"]),
        lambda store: store.check(["text", "missing"]),
        lambda store: store.compare_set("text", "other", "new"),
        lambda store: store.compare_set("text", "words", "new"),
        lambda store: store.get("text"),
        lambda store: store.wait(["text", "bytes"], datetime.timedelta(seconds=5)),
        lambda store: store.append("text", "er"),
        lambda store: store.get("text"),
        lambda store: store.multi_get(["text", "bytes"]),
        lambda store: store.delete_key("text"),
        lambda store: store.delete_key("text"),
        lambda store: store.check(["text"]),
    ):
        assert ask(ours) == ask(torchs)


def test_generations_do_not_see_each_other(worker):
    first, second = (GroupStore(worker[0], generation, 10.0) for generation in (1, 2))
    first.set("key", "value")
    assert first.get("key") == b"value"
    assert not second.check(["key"])


def test_a_wait_ends_when_the_key_comes(worker):
    store = ControlStore(worker[0], 1, 10.0)
    threading.Timer(0.1, lambda: store.set("late", "here")).start()
    assert store.get("late") == b"here"


def test_a_wait_in_vain_ends(worker):
    store = ControlStore(worker[0], 1, 0.1)
    with pytest.raises(ExecutionError, match=r"get missing: no answer within 0.1 s"):
        store.get("missing")
    with pytest.raises(ExecutionError, match=r"wait missing: no answer within 0.2 s"):
        store.wait(["missing"], datetime.timedelta(seconds=0.2))
    assert store.add("counter", 1) == 1


def test_an_abort_wakes_who_waits_for_that_generation_and_nobody_else(worker):
    coordinator, handle, rendezvous = worker
    aborted, outcome = [], {}
    coordinator.on_abort = lambda abort: aborted.append(abort.generation)

    def wait(generation):
        try:
            outcome[generation] = ControlStore(coordinator, generation, 20.0).get("missing")
        except ExecutionError as error:
            outcome[generation] = str(error)

    threads = [threading.Thread(target=wait, args=(generation,)) for generation in (1, 2)]
    for thread in threads:
        thread.start()
    until(lambda: len(rendezvous._waiting) == 2)
    handle.order(Abort(generation=1), 0)
    threads[0].join(timeout=20)
    assert outcome == {1: "store: get missing: given up, as generation 1 was aborted"}
    assert aborted == [1]
    with pytest.raises(ExecutionError, match="generation 1 was aborted"):  # also when it begins after the abort
        ControlStore(coordinator, 1, 20.0).get("missing")
    ControlStore(coordinator, 2, 20.0).set("missing", "here")
    threads[1].join(timeout=20)
    assert outcome[2] == b"here"


def test_what_makes_no_sense_is_an_error_and_nothing_breaks(worker):
    store = ControlStore(worker[0], 1, 10.0)
    store.set("text", "words")
    with pytest.raises(ExecutionError, match="add text"):
        store.add("text", 1)
    assert store.get("text") == b"words"


def test_who_is_gone_waits_for_nothing(worker):
    *_, handle, rendezvous = worker
    answers = []
    rendezvous.serve(handle, StoreRequest(request=1, do="get", keys=("missing",)), answers.append)
    rendezvous.forget(handle)
    rendezvous.serve("other", StoreRequest(request=2, do="set", keys=("missing",), values=(b"",)), answers.append)
    assert [each.request for each in answers] == [2]
