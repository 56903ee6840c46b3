"""Files of the coordinator's private directory, read and written by workers of other hosts part by part."""

from __future__ import annotations

import os
import pathlib

from dora_nb.executor.control.services import FileDelivery, FilePart, FileRequest

#: Bytes of a file in one message: small enough that signs of life pass between two of them.
PART_BYTES = 256 * 1024


class FileDesk:
    """Serves one directory and nothing outside it.

    Parameters
    ----------
    directory
        The coordinator's private one.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory.resolve()

    def serve(self, request: FileRequest | FileDelivery) -> FilePart:
        """Read a part, or write one."""
        try:
            path = self._inside(request.path)
            return _read(path, request) if isinstance(request, FileRequest) else _write(path, request)
        except (OSError, ValueError) as error:
            return FilePart(request=request.request, problem=f"{request.path}: {error}")

    def _inside(self, path: str) -> pathlib.Path:
        """The path with every link followed, if it is inside the directory."""
        real = (self._directory / path).resolve()
        if self._directory not in real.parents:
            raise ValueError("is not inside the run's private directory")
        return real


def _read(path: pathlib.Path, request: FileRequest) -> FilePart:
    if path.is_dir():
        return FilePart(request=request.request, entries=tuple(sorted(each.name for each in path.iterdir())))
    with path.open("rb") as file:
        facts = os.fstat(file.fileno())
        file.seek(request.offset)
        return FilePart(
            request=request.request,
            content=file.read(PART_BYTES),
            size=facts.st_size,
            version=f"{facts.st_ino} {facts.st_mtime_ns} {facts.st_size}",
        )


def _write(path: pathlib.Path, delivery: FileDelivery) -> FilePart:
    """Append to a temporary file, which the last part turns into the file itself."""
    unfinished = path.with_name(f"{path.name}.part")
    with unfinished.open("wb" if delivery.offset == 0 else "ab") as file:
        if file.tell() != delivery.offset:
            raise ValueError(f"a part at byte {delivery.offset} came after {file.tell()} bytes")
        file.write(delivery.content)
        size = file.tell()
    if delivery.last:
        unfinished.replace(path)
    return FilePart(request=delivery.request, size=size)
