"""The exception tree of dora_nb.

::

    DoraError
    |- InputError               a value the person gave cannot be used (also a ValueError)
    |  |- UnknownNameError      a name that is not in the catalogue
    |- DocumentError            a file that cannot be read as what it should be
    |- InfeasibleError          no plan can satisfy the QoE limits
    |- SolverError              a solver failed for a reason other than its answer
    |  |- SolverUnavailableError   not installed, or not licensed for this size
    |- ObjectiveMismatchError   two ways of computing one figure disagree: a defect in dora_nb
    |- MissingDependencyError   an optional package is needed
    |- ExecutionError           a worker failed while a plan was running
       |- WorkerLostError       it ended, fell silent or was cut off; the others are still there

Every message says what was given, what is allowed and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_LONGEST_VALUE = 200  # characters of a wrong value that a message repeats


def shortened(value: object) -> str:
    """A wrong value as a message repeats it."""
    text = repr(str(value) if isinstance(value, Path) else value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _restored(kind: type[DoraError], message: tuple[Any, ...], state: dict[str, Any]) -> DoraError:
    error = kind.__new__(kind)
    error.args = message
    error.__dict__.update(state)
    return error


class DoraError(Exception):
    """Base of every error that dora_nb raises on purpose.

    Parameters
    ----------
    message
        What was given, what is allowed, what to do.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        # By default Python makes it again from its message alone. That fails for those that take more, and a pool of
        # processes whose worker raised one would wait for ever.
        return _restored, (type(self), self.args, self.__dict__)


class InputError(DoraError, ValueError):
    """A value the person gave cannot be used.

    Parameters
    ----------
    field
        Dotted path of the field, e.g. ``devices[2].memory_bytes``.
    value
        What was given.
    allowed
        What is allowed instead, as a sentence fragment.

    Attributes
    ----------
    path
        File in which the value stands; None where it was given otherwise, or is of the catalogue.
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        self.field = field
        self.value = value
        self.allowed = allowed
        self.path: Path | None = None
        super().__init__(f"{field}: got {shortened(value)}; allowed: {allowed}")

    def __str__(self) -> str:
        return super().__str__() if self.path is None else f"{self.path}: {super().__str__()}"


class UnknownNameError(InputError):
    """A name that is not in the catalogue."""

    def __init__(self, field: str, value: str, known: Iterable[str], otherwise: str = "") -> None:
        names = sorted(known)
        close = difflib.get_close_matches(value, names, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        super().__init__(field, value, ", ".join(names) + hint + (f"; {otherwise}" if otherwise else ""))


class DocumentError(DoraError):
    """A file that cannot be read as what it should be."""

    def __init__(self, path: object, problem: str) -> None:
        self.path = path
        super().__init__(f"{path}: {problem}")


class InfeasibleError(DoraError):
    """No plan can satisfy the QoE limits, or none was found and none is proven impossible.

    Parameters
    ----------
    message
        What was asked, and what can be reached.
    relax
        Finds the smallest changes that would make the question feasible; called when they are first asked for.
    """

    def __init__(self, message: str, relax: Callable[[], tuple[Any, ...]] | None = None) -> None:
        super().__init__(message)
        self._relax = relax
        self._relaxations: tuple[Any, ...] | None = None

    @property
    def relaxations(self) -> tuple[Any, ...]:
        """The smallest changes that would make the question feasible, as ``dora_nb.domain.explanation.Relaxation``.

        Computed when first asked for, within the time limit of the planning that failed.
        """
        if self._relaxations is None:
            self._relaxations = () if self._relax is None else self._relax()
        return self._relaxations

    def _repr_html_(self) -> str:
        from dora_nb.render.infeasible import infeasible_html  # a method that looks up a room: imported when called

        return infeasible_html(str(self), self._relaxations, can_relax=self._relax is not None)


class SolverError(DoraError):
    """A solver failed for a reason other than its answer."""


class SolverUnavailableError(SolverError):
    """A solver is not installed, or not licensed for a model of this size."""


class ObjectiveMismatchError(DoraError):
    """Two independent computations of one figure disagree.

    This is a defect in dora_nb, never something the person did: no answer is given rather than a wrong one.
    """


class MissingDependencyError(DoraError):
    """An optional package is needed for what was asked."""

    def __init__(self, package: str, needed_for: str, extra: str) -> None:
        self.package = package
        super().__init__(
            f"{needed_for} needs the package {package!r}, which is not installed. "
            f"Install it with: pip install 'dora-nb[{extra}]'"
        )


class ExecutionError(DoraError):
    """A worker failed, or answered something unexpected, while a plan was running."""


class WorkerLostError(ExecutionError):
    """A worker ended, fell silent or was cut off, and the others can go on without it.

    Parameters
    ----------
    index
        Its number in the pool.
    reason
        What is known about it.
    """

    def __init__(self, index: int, reason: str) -> None:
        self.index = index
        super().__init__(reason)
