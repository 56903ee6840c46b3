"""Kinds of operations as a timeline shows them: which belong together, in which colour."""

from __future__ import annotations

from typing import NamedTuple


class KindGroup(NamedTuple):
    """Kinds of one colour.

    Attributes
    ----------
    label
        In a legend.
    colour, ink
        Of its bars, and of text on them. The palette of Okabe and Ito, which people with any kind of colour vision can
        tell apart.
    kinds
        As in :class:`~dora_nb.costs.TimelineEntry` and :class:`~dora_nb.domain.run_timeline.RunEvent`.
    """

    label: str
    colour: str
    ink: str
    kinds: tuple[str, ...]


_SUMS = ("all-reduce", "tied-reduce", "tied-exchange", "tied-broadcast", "tied-sum")

#: Sums of the outputs of shards.
_SHARDS = ("shard-sum", "shard-gradient-sum", "shard-token-sum")

#: In the order of a legend; the last one also takes kinds that are new.
GROUPS = (
    KindGroup("forward", "#0072b2", "#ffffff", ("forward", "decode")),
    KindGroup("backward", "#e69f00", "#000000", ("backward",)),
    KindGroup("step", "#cc79a7", "#000000", ("step",)),
    KindGroup("activations", "#56b4e9", "#000000", ("activation", "token", "send", "receive")),
    KindGroup("gradients", "#d55e00", "#ffffff", ("gradient",)),
    KindGroup("sums of gradients", "#009e73", "#ffffff", _SUMS),
    KindGroup("sums over shards", "#f0e442", "#000000", _SHARDS),
    KindGroup("inputs, labels, outputs", "#999999", "#000000", ("input", "label", "output")),
)

#: Kinds that belong to a micro-batch.
NUMBERED = ("forward", "backward", "activation", "gradient", "shard-sum", "shard-gradient-sum")

#: Kinds of which there is one a token after the first one; their micro-batch is the token.
_BY_TOKEN = ("decode", "token", "shard-token-sum")

#: Kinds that happen once an iteration.
_ONCE = ("step", *_SUMS)

_GROUP_OF = {kind: index for index, group in enumerate(GROUPS) for kind in group.kinds}


def group_of(kind: str) -> int:
    """Index into :data:`GROUPS`."""
    return _GROUP_OF.get(kind, len(GROUPS) - 1)


def turn_of(kind: str) -> str:
    """What the number of a micro-batch counts: ``micro-batch``, ``step`` after the first token, or nothing."""
    return "" if kind in _ONCE else "step" if kind in _BY_TOKEN else "micro-batch"
