"""Profiles a person's own model, given by name as on the command line."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from dora_nb.domain.plan import Weights
from dora_nb.domain.profile import Profile
from dora_nb.errors import InputError
from dora_nb.executor.measuring.profiler import profile
from dora_nb.executor.tasks.task import imported


def profile_named(
    model: str,
    sample: str,
    *,
    mode: Literal["training", "inference"],
    batch: int,
    samples: Iterable[int] | None,
    repetitions: int,
    weights: Sequence[Weights] = (),
) -> Profile:
    """Measure every layer of a model that is named, on this device.

    Modules are looked for in the working directory first.

    Parameters
    ----------
    model
        ``module:name`` of the model, or of a function without arguments that makes it; or the directory of a
        checkpoint.
    sample
        ``module:name`` of the tensor that goes in, or of a function without arguments that makes it.
    mode, batch, samples, repetitions, weights
        As for :func:`~dora_nb.executor.measuring.profiler.profile`.

    Raises
    ------
    InputError
        If something named cannot be imported or used.
    """
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    chain: Any = pathlib.Path(model) if os.path.isdir(model) else _made(model)
    entering = _made(sample)
    if not isinstance(entering, Tensor):
        raise InputError("sample", type(entering).__name__, "a tensor, or a function that makes one")
    name = os.path.basename(os.path.normpath(model)) if os.path.isdir(model) else model.rpartition(":")[2]
    return profile(
        chain,
        entering,
        mode=mode,
        batch=batch,
        samples=samples,
        repetitions=repetitions,
        name=name,
        weights=weights,
    )


def _made(name: str) -> Any:
    """What is named, or what it makes."""
    found = imported(name)
    is_made = isinstance(found, nn.Module | Tensor) or not callable(found)
    return found if is_made else found()
