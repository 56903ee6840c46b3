"""What weights in fewer bits do to a network's outputs."""

from __future__ import annotations

from pydantic import Field

from dora_nb.domain.record import Record


class Accuracy(Record):
    """A plan's outputs against those of the same network all in its own precision, both in one process. Measured.

    It holds for the network and the samples it was measured on; what a task makes of the outputs is not known.

    Attributes
    ----------
    choices
        Places of the output where the largest of the last dimension was looked for: one a sample of a classifier, one a
        token of a language model.
    same_choices
        Of them, how many have it at the same place; those that are close to a tie change first.
    largest, mean
        Absolute difference of two outputs, at most and on average.
    magnitude
        Mean absolute output in the network's own precision, to hold the differences against.
    """

    choices: int = Field(ge=1)
    same_choices: int = Field(ge=0)
    largest: float = Field(ge=0)
    mean: float = Field(ge=0)
    magnitude: float = Field(ge=0)

    def __repr__(self) -> str:
        from dora_nb.render.accuracy import accuracy_text  # a method that looks up a room: imported when called

        return accuracy_text(self)

    __str__ = __repr__
