"""The key-value store in which the processes of a group find each other, served over the control channel."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from dora_nb.executor.control.services import StoreAnswer, StoreRequest


class _Waiting(NamedTuple):
    """A request that waits for keys."""

    owner: object
    request: StoreRequest
    answer: Callable[[StoreAnswer], None]


class Rendezvous:
    """Keys and values of one run; a subset of what ``torch.distributed.Store`` does, without torch.

    Only workers on an authenticated channel reach it, and it listens nowhere by itself, unlike torch's own store, which
    asks nobody who they are.
    """

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._waiting: list[_Waiting] = []
        self._lock = threading.Lock()

    def serve(self, owner: object, request: StoreRequest, answer: Callable[[StoreAnswer], None]) -> None:
        """Carry out a request, now or once the keys it waits for are there.

        Parameters
        ----------
        owner
            Who asks; see :meth:`forget`.
        request
            What to do.
        answer
            Called once, from whichever thread completes the request; must not block.
        """
        with self._lock:
            if request.do in ("get", "wait") and not self._has(request):
                self._waiting.append(_Waiting(owner, request, answer))
                return
            answers = [(answer, self._do(request))]
            ready = [each for each in self._waiting if self._has(each.request)]
            self._waiting = [each for each in self._waiting if each not in ready]
            answers += [(each.answer, self._do(each.request)) for each in ready]
        for tell, what in answers:
            tell(what)

    def forget(self, owner: object) -> None:
        """Drop what somebody waits for who is gone."""
        with self._lock:
            self._waiting = [each for each in self._waiting if each.owner is not owner]

    def _has(self, request: StoreRequest) -> bool:
        return all(key in self._values for key in request.keys)

    def _do(self, request: StoreRequest) -> StoreAnswer:
        values: list[bytes] = []
        count = 0
        try:
            match request.do:
                case "set":
                    self._values.update(zip(request.keys, request.values, strict=True))
                case "get":
                    values = [self._values[key] for key in request.keys]
                case "check":
                    count = int(self._has(request))
                case "add":
                    (key,) = request.keys
                    count = int(self._values.get(key, b"0")) + request.amount
                    self._values[key] = str(count).encode()
                case "append":
                    (key,), (value,) = request.keys, request.values
                    self._values[key] = self._values.get(key, b"") + value
                case "compare-set":
                    (key,), (expected, desired) = request.keys, request.values
                    if self._values.get(key, b"") == expected:
                        self._values[key] = desired
                    values = [self._values.get(key, expected)]
                case "delete":
                    count = sum(self._values.pop(key, None) is not None for key in request.keys)
                case "count":
                    count = len(self._values)
        except ValueError as error:
            return StoreAnswer(request=request.request, problem=f"{request.do} of {request.keys}: {error}")
        return StoreAnswer(request=request.request, values=tuple(values), count=count)
