"""The coordinator as a worker sees it: orders come from it, answers and signs of life go to it."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable

from dora_nb.errors import ExecutionError
from dora_nb.executor.control.channel import Channel
from dora_nb.executor.control.messages import ORDERS, ReplyLetter, decode, encode
from dora_nb.executor.control.orders import Abort, Order
from dora_nb.executor.control.replies import Failed, Heartbeat, Reply
from dora_nb.executor.control.services import FileDelivery, FilePart, FileRequest, StoreAnswer, StoreRequest

#: Seconds between two signs of life.
BEAT_S = 0.2

#: Longest wait for a part of a file, in seconds.
FILE_S = 60.0

_Given = StoreAnswer | FilePart


class Coordinator:
    """What a worker says to its coordinator and hears from it.

    Two threads do that beside the main one: one listens, so that an abort is heard while the main thread waits for a
    peer and so that the process ends at once when the coordinator is gone; one only beats, so that a long computation
    does not look like a death.

    Parameters
    ----------
    channel
        To the coordinator.
    on_end
        Called before the process ends because the coordinator is gone.
    """

    def __init__(self, channel: Channel, on_end: Callable[[], None] = lambda: None) -> None:
        self._channel, self._on_end = channel, on_end
        self._orders: queue.SimpleQueue[tuple[int, Order]] = queue.SimpleQueue()
        self._number = 0
        self._lock = threading.Lock()
        self._asked = 0
        self._pending: dict[int, tuple[int | None, queue.SimpleQueue[_Given | None]]] = {}
        self._aborted = -1
        self.on_abort: Callable[[Abort], None] = lambda _: None

    def start(self) -> None:
        """Begin to listen and to beat."""
        for work in (self._listen, self._beat):
            threading.Thread(target=work, daemon=True).start()

    def next_order(self) -> Order:
        """Wait for an order; what is written from now on answers it."""
        self._number, order = self._orders.get()
        return order

    def write(self, reply: Reply) -> None:
        """Send a reply to the order being carried out.

        Raises
        ------
        OSError
            If the coordinator is gone.
        """
        self._channel.send(encode(ReplyLetter(number=self._number, reply=reply)))

    def ask_store(self, request: StoreRequest, generation: int, timeout_s: float) -> StoreAnswer:
        """Use the store in which a group of workers find each other.

        Parameters
        ----------
        request
            Its number is set here.
        generation
            Of the group: once it is aborted, nobody waits for it any more.
        timeout_s
            Longest wait for keys that are not there yet.

        Raises
        ------
        ExecutionError
            If the group was aborted, time is up, or the request makes no sense.
        """
        answer = self._ask(request, generation, timeout_s)
        assert isinstance(answer, StoreAnswer), "what a store request is answered with"
        return answer

    def ask_file(self, request: FileRequest | FileDelivery) -> FilePart:
        """Read a part of a file of the coordinator, or write one.

        Raises
        ------
        ExecutionError
            If that cannot be done.
        """
        answer = self._ask(request, None, FILE_S)
        assert isinstance(answer, FilePart), "what a file request is answered with"
        return answer

    def _ask(
        self, request: StoreRequest | FileRequest | FileDelivery, generation: int | None, timeout_s: float
    ) -> _Given:
        box: queue.SimpleQueue[_Given | None] = queue.SimpleQueue()
        with self._lock:
            self._asked += 1
            number = self._asked
            self._pending[number] = (generation, box)
            if generation is not None and generation <= self._aborted:
                box.put(None)
        try:
            self.write(request.replace(request=number))
            answer = box.get(timeout=timeout_s)
        except queue.Empty:
            raise ExecutionError(f"{_words(request)}: no answer within {timeout_s:g} s") from None
        finally:
            with self._lock:
                del self._pending[number]
        if answer is None:
            raise ExecutionError(f"{_words(request)}: given up, as generation {generation} was aborted")
        if answer.problem is not None:
            raise ExecutionError(f"{_words(request)}: {answer.problem}")
        return answer

    def _listen(self) -> None:
        try:
            while (message := self._channel.receive()) is not None:
                letter = decode(message, ORDERS)
                match letter.order:
                    case Abort() as abort:
                        self._abort(abort)
                    case StoreAnswer() | FilePart() as given:
                        with self._lock:
                            if given.request in self._pending:  # else nobody waits for it any more
                                self._pending[given.request][1].put(given)
                    case order:
                        self._orders.put((letter.number, order))
        except Exception as error:
            with contextlib.suppress(OSError):  # where the connection is what broke, nobody can be told
                self.write(Failed(problem=str(error)[:2000]))
        finally:
            self._leave()

    def _abort(self, abort: Abort) -> None:
        with self._lock:
            self._aborted = max(self._aborted, abort.generation)
            for generation, box in self._pending.values():
                if generation is not None and generation <= self._aborted:
                    box.put(None)
        self.on_abort(abort)

    def _beat(self) -> None:
        try:
            while True:
                self.write(Heartbeat())
                time.sleep(BEAT_S)
        except OSError:
            self._leave()

    def _leave(self) -> None:
        """End the process, whatever the main thread waits for."""
        try:
            self._on_end()
        finally:
            os._exit(0)


def _words(request: StoreRequest | FileRequest | FileDelivery) -> str:
    if isinstance(request, StoreRequest):
        return f"store: {request.do} {', '.join(request.keys)}"
    return f"file {request.path!r}"
