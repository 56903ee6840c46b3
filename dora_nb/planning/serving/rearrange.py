"""Chains of stages beside a given one: what a local search looks at next."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

#: First layer, stop layer and device of each stage.
Stages = list[tuple[int, int, str]]

#: Layers by which a cut moves.
_STEPS = (-1, 1, -2, 2, -3, 3)


def beside(stages: Stages, devices: Sequence[str]) -> Iterator[Stages]:
    """Chains that differ in one cut, in who has one or two stages, or by one stage more or fewer.

    Parameters
    ----------
    stages
        The given ones.
    devices
        All there are, by name.
    """
    yield from _moved(stages)
    for one, other in itertools.combinations(range(len(stages)), 2):
        names = [name for *_, name in stages]
        names[one], names[other] = names[other], names[one]
        yield [(first, stop, name) for (first, stop, _), name in zip(stages, names, strict=True)]
    idle = [name for name in devices if all(name != each for *_, each in stages)]
    for place, (first, stop, own) in enumerate(stages):
        for name in idle:
            yield [*stages[:place], (first, stop, name), *stages[place + 1 :]]
            for cut in sorted({first + 1, (first + stop) // 2, stop - 1} - {first, stop}):
                for one_name, other_name in ((own, name), (name, own)):
                    parts = [(first, cut, one_name), (cut, stop, other_name)]
                    yield [*stages[:place], *parts, *stages[place + 1 :]]
    for place, ((first, _, own), (_, stop, behind)) in enumerate(itertools.pairwise(stages)):
        for name in (own, behind):
            yield [*stages[:place], (first, stop, name), *stages[place + 2 :]]


def _moved(stages: Stages) -> Iterator[Stages]:
    """With one cut moved."""
    for place, ((first, cut, own), (_, stop, behind)) in enumerate(itertools.pairwise(stages)):
        for step in _STEPS:
            if first < cut + step < stop:
                moved = [(first, cut + step, own), (cut + step, stop, behind)]
                yield [*stages[:place], *moved, *stages[place + 2 :]]
