"""A private directory that is gone when its process is, however that ended."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import tempfile

#: Waits for the end of its input, which comes when the process that holds the other end is gone; then for those who
#: may still be writing; then removes what its arguments name.
_GUARD = 'read -r _; sleep 1; rm -rf -- "$@"'


class Scratch:
    """A new directory that only this person can read, and a guard that removes it if this process is killed.

    Parameters
    ----------
    prefix
        Of the directory's name.
    """

    def __init__(self, prefix: str) -> None:
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix=prefix))  # mode 0700
        self._files: list[pathlib.Path] = []
        self._guard = self._start()

    def also(self, file: pathlib.Path) -> None:
        """Let the guard remove this file too."""
        self._files.append(file)
        old, self._guard = self._guard, self._start()
        _dismiss(old)

    def close(self) -> None:
        """Remove the directory; twice is fine."""
        shutil.rmtree(self.directory, ignore_errors=True)
        _dismiss(self._guard)

    def _start(self) -> subprocess.Popen[bytes]:
        paths = [str(each) for each in (self.directory, *self._files)]
        return subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", *paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt from the keyboard is not for it
        )


def _dismiss(guard: subprocess.Popen[bytes]) -> None:
    guard.kill()
    guard.wait()
    assert guard.stdin is not None, "a pipe"
    guard.stdin.close()
