"""Files that orders name, as a worker reads and writes them: on the coordinator's host or on another one."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

from dora_nb.domain.record import Record
from dora_nb.errors import ExecutionError
from dora_nb.executor.control.coordinator import Coordinator
from dora_nb.executor.control.files import PART_BYTES
from dora_nb.executor.control.services import FileDelivery, FileRequest

_Order = TypeVar("_Order", bound=Record)


class Files(Protocol):
    """How a worker gets at the files that orders name."""

    def localise(self, order: _Order) -> _Order:
        """The order with paths that can be read here."""

    def deliver(self, path: str) -> contextlib.AbstractContextManager[pathlib.Path]:
        """Where to write a file, within the context; it is the coordinator's at its end."""


class SharedFiles:
    """The files of a worker on the coordinator's host: the same ones.

    Parameters
    ----------
    directory
        The coordinator's private one, to which relative paths refer.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory

    def localise(self, order: _Order) -> _Order:
        """See :class:`Files`."""
        return order

    @contextlib.contextmanager
    def deliver(self, path: str) -> Iterator[pathlib.Path]:
        """See :class:`Files`."""
        yield self._directory / path


class RemoteFiles:
    """The files of a worker on another host: those of the coordinator's private directory pass over the channel.

    A file is fetched whole, once. Other absolute paths are files of the worker's own host.

    Parameters
    ----------
    coordinator
        Who has the files.
    theirs
        The coordinator's private directory, on its host.
    ours
        A private directory on this one.
    """

    def __init__(self, coordinator: Coordinator, theirs: pathlib.PurePath, ours: pathlib.Path) -> None:
        self._coordinator, self._theirs, self._ours = coordinator, theirs, ours
        self._versions: dict[pathlib.PurePath, str] = {}

    def localise(self, order: _Order) -> _Order:
        """See :class:`Files`: every text that is a path in the coordinator's directory becomes one of a copy.

        Raises
        ------
        ExecutionError
            If the coordinator does not have a file.
        """
        return type(order).model_validate(self._localised(order.model_dump(mode="json")))

    @contextlib.contextmanager
    def deliver(self, path: str) -> Iterator[pathlib.Path]:
        """See :class:`Files`.

        Raises
        ------
        ExecutionError
            If the coordinator cannot take it.
        """
        inside = self._inside(path)
        if inside is None:
            yield pathlib.Path(path)
            return
        local = self._room_for(inside)
        yield local
        size, offset = local.stat().st_size, 0
        with local.open("rb") as file:
            while offset < size or offset == 0:
                content = file.read(PART_BYTES)
                last = offset + len(content) >= size
                part = FileDelivery(request=0, path=str(inside), offset=offset, content=content, last=last)
                self._coordinator.ask_file(part)
                offset += max(1, len(content))
        local.unlink()

    def _localised(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._localised(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self._localised(each) for each in value]
        if isinstance(value, str) and value.startswith("/") and (inside := self._inside(value)) is not None:
            return str(self._fetched(inside))
        return value

    def _fetched(self, inside: pathlib.PurePath) -> pathlib.Path:
        """A copy of a file or a directory."""
        first = self._coordinator.ask_file(FileRequest(request=0, path=str(inside), offset=0))
        local = self._room_for(inside)
        if first.entries is not None:
            local.mkdir(exist_ok=True)
            for name in first.entries:
                self._fetched(inside / name)
            return local
        if self._versions.get(inside) == first.version:
            return local
        unfinished = local.with_name(f".{local.name}.part")
        with unfinished.open("wb") as file:
            part = first
            while True:
                file.write(part.content)
                if part.version != first.version or (not part.content and file.tell() < first.size):
                    raise ExecutionError(f"file {str(inside)!r} of the coordinator changed while it was read")
                if file.tell() >= first.size:
                    break
                part = self._coordinator.ask_file(FileRequest(request=0, path=str(inside), offset=file.tell()))
        self._versions[inside] = first.version
        return unfinished.replace(local)

    def _inside(self, path: str) -> pathlib.PurePath | None:
        """The path within the coordinator's private directory; None if it is another one."""
        pure = pathlib.PurePath(path)
        if not pure.is_absolute():
            return pure
        return pure.relative_to(self._theirs) if self._theirs in pure.parents else None

    def _room_for(self, inside: pathlib.PurePath) -> pathlib.Path:
        if ".." in inside.parts:
            raise ExecutionError(f"file {str(inside)!r}: the coordinator named a path outside its directory")
        local = self._ours / inside
        local.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return local
