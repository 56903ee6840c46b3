"""Tables and lists of plain text as HTML."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from dora_nb.render import words
from dora_nb.render.svg import attribute

_DASH = "\u2013"


def table(
    heading: Sequence[str],
    rows: Iterable[Sequence[str]],
    left: Collection[int] = (0,),
    sentences: Collection[int] = (),
) -> str:
    """A table in the style of this room, which scrolls sideways where it is too wide.

    Parameters
    ----------
    heading, rows
        Plain text.
    left
        Columns of words, which stand on the left; figures stand on the right.
    sentences
        Columns of words that may take several lines.
    """

    def cell(place: int, text: str, tag: str, more: str = "") -> str:
        kinds = ["dora-left"] * (place in (*left, *sentences)) + ["dora-words"] * (place in sentences)
        kind = ' class="{}"'.format(" ".join(kinds)) if kinds else ""
        said = _DASH if text == words.NOTHING else attribute(text)
        return f"<{tag}{more}{kind}>{said}</{tag}>"

    titles = "".join(cell(place, text, "th", ' scope="col"') for place, text in enumerate(heading))
    body = "".join(f"<tr>{''.join(cell(place, text, 'td') for place, text in enumerate(row))}</tr>" for row in rows)
    return (
        f'<div class="dora-scroll"><table class="dora-plans"><thead><tr>{titles}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def items(lines: Iterable[str]) -> str:
    """A list of sentences; nothing without any."""
    inner = "".join(f"<li>{attribute(line)}</li>" for line in lines)
    return f"<ul>{inner}</ul>" if inner else ""


def head(title: str, *faint: str) -> str:
    """A heading, and what was asked below it, a line each."""
    lines = "<br>".join(attribute(line) for line in faint if line)
    below = f'<p class="dora-faint">{lines}</p>' if lines else ""
    return f'<p class="dora-head">{attribute(title)}</p>{below}'


def details(summary: str, inner: str) -> str:
    """What a reader may open."""
    return f"<details><summary>{attribute(summary)}</summary>{inner}</details>" if inner else ""
