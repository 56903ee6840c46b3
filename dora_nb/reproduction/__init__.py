"""The paper's headline comparison by one command: :func:`reproduce`."""

from dora_nb.reproduction.cell import OURS, Cell
from dora_nb.reproduction.grid import FULL, QUICK, Setting
from dora_nb.reproduction.run import Reproduction, reproduce
from dora_nb.reproduction.summary import Gains, Ranges, gain, ranges, rivals, strongest

__all__ = [
    "FULL",
    "OURS",
    "QUICK",
    "Cell",
    "Gains",
    "Ranges",
    "Reproduction",
    "Setting",
    "gain",
    "ranges",
    "reproduce",
    "rivals",
    "strongest",
]
