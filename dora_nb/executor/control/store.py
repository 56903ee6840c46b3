"""Where the processes of a group find each other: torch's view of the store that the control channel serves."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Literal

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]  # public, but not marked as exported

from dora_nb.executor.control.coordinator import Coordinator
from dora_nb.executor.control.services import StoreAnswer, StoreRequest


class ControlStore(Store):
    """A store in the coordinator, reached over the channel on which this worker takes its orders.

    torch's own TCPStore answers everyone who can reach its port. This one has no port.

    Parameters
    ----------
    coordinator
        Where it lives.
    generation
        Of the group that uses it.
    timeout_s
        Longest wait for a key.
    """

    def __init__(self, coordinator: Coordinator, generation: int, timeout_s: float) -> None:
        super().__init__()
        self._coordinator, self._generation, self._timeout_s = coordinator, generation, timeout_s

    def set(self, key: str, value: str | bytes) -> None:
        """Give a key a value."""
        self._ask("set", [key], [value])

    def get(self, key: str) -> bytes:
        """A key's value, once it has one."""
        return self._ask("get", [key]).values[0]

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        """The values of keys, once all have one."""
        return list(self._ask("get", keys).values)

    def multi_set(self, keys: Sequence[str], values: Sequence[str | bytes]) -> None:
        """Give keys values."""
        self._ask("set", keys, values)

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all keys have values."""
        return bool(self._ask("check", keys).count)

    def wait(self, keys: Sequence[str], timeout: datetime.timedelta | None = None) -> None:
        """Return once all keys have values."""
        self._ask("wait", keys, timeout_s=None if timeout is None else timeout.total_seconds())

    def add(self, key: str, amount: int) -> int:
        """Add to a counter, which starts at 0, and return it."""
        return self._ask("add", [key], amount=amount).count

    def append(self, key: str, value: str | bytes) -> None:
        """Add to the end of a value."""
        self._ask("append", [key], [value])

    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes) -> bytes:
        """Give a key a value if it has the expected one; return what it has then."""
        return self._ask("compare-set", [key], [expected, desired]).values[0]

    def delete_key(self, key: str) -> bool:
        """Remove a key; whether it was there."""
        return bool(self._ask("delete", [key]).count)

    def num_keys(self) -> int:
        """How many keys there are."""
        return self._ask("count", []).count

    def set_timeout(self, timeout: datetime.timedelta) -> None:
        """Set the longest wait for a key."""
        self._timeout_s = timeout.total_seconds()

    def has_extended_api(self) -> bool:
        """Whether the store knows queues and the like."""
        return False

    def _ask(
        self,
        do: Literal["set", "get", "check", "wait", "add", "append", "compare-set", "delete", "count"],
        keys: Sequence[str],
        values: Sequence[str | bytes] = (),
        amount: int = 0,
        timeout_s: float | None = None,
    ) -> StoreAnswer:
        request = StoreRequest(
            request=0,
            do=do,
            keys=tuple(keys),
            values=tuple(each.encode() if isinstance(each, str) else bytes(each) for each in values),
            amount=amount,
        )
        return self._coordinator.ask_store(request, self._generation, timeout_s or self._timeout_s)


class GroupStore(PrefixStore):
    """The part of the store that belongs to one group of workers; what earlier groups left stays out of sight.

    Parameters
    ----------
    coordinator, generation, timeout_s
        As for :class:`ControlStore`.
    """

    def __init__(self, coordinator: Coordinator, generation: int, timeout_s: float) -> None:
        self._inner = ControlStore(coordinator, generation, timeout_s)  # torch keeps no reference to it of its own
        super().__init__(f"generation{generation}", self._inner)
