"""Plain text in lines no longer than there is room for."""

from __future__ import annotations

import re
import textwrap

from dora_nb.render.words import one_line

#: Columns of plain text where nothing says how many there are.
WIDTH = 110

#: Between a number and its unit, or what it counts, no line ends.
_BESIDE, _STAY = re.compile(r"(?<=\d) (?=[^\W\d]|%|/)"), "\N{NO-BREAK SPACE}"
_GAP = re.compile(r"(?<=\S) {2,}(?=\S)")


def wrapped(line: str, width: int = WIDTH) -> str:
    """A line broken at a width, two columns in from its second line on; below its last column where it has columns.

    Columns are what two spaces or more are between. Paths and commands stay whole.
    """
    line = _BESIDE.sub(_STAY, one_line(line))
    text = line.lstrip()
    starts = [len(line) - len(text) + 2, *(gap.end() for gap in _GAP.finditer(line))]
    inner = max(start for start in starts if start <= max(0.8 * width, starts[0]))
    filled = textwrap.fill(line, width, subsequent_indent=" " * inner, break_long_words=False, break_on_hyphens=False)
    return filled.replace(_STAY, " ")
