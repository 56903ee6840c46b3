"""How a command that goes wrong ends: one message on standard error and a non-zero exit status."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

from dora_nb.errors import DoraError


def tidy(command: Callable[..., None]) -> Callable[..., None]:
    """The command, whose failures end in one message and an exit status instead of a traceback."""

    @functools.wraps(command)
    def tidied(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt:
            _fail("interrupted; nothing half-written was left behind", 130)
        except DoraError as error:
            _fail(str(error), 1)
        except BrokenPipeError:  # the reader of our output went away, e.g. 'dora-nb plan | head'
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        except OSError as error:
            _fail(f"{error.filename or 'file'}: {error.strerror or error}", 1)

    return tidied


def _fail(message: str, status: int) -> None:
    print(f"dora-nb: {message}", file=sys.stderr)
    sys.exit(status)
