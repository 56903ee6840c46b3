"""Why no plan can keep the limits, as HTML."""

from __future__ import annotations

from collections.abc import Sequence

from dora_nb.domain.explanation import Relaxation
from dora_nb.render.explanations import relaxation_words
from dora_nb.render.html import fragment
from dora_nb.render.markup import head, items
from dora_nb.render.svg import attribute


def infeasible_html(message: str, relaxations: Sequence[Relaxation] | None, *, can_relax: bool) -> str:
    """An error as a fragment of HTML.

    Parameters
    ----------
    message
        What was asked, and what can be reached.
    relaxations
        The smallest changes that would help; None where nobody looked for them yet, which takes time.
    can_relax
        Whether the error can look for them.
    """
    if relaxations is None and can_relax:
        lines = ["Ask its relaxations, or dora_nb.explain, for the smallest changes that make it possible."]
    elif relaxations:
        lines = [f"It becomes possible with {relaxation_words(each)}." for each in relaxations]
    else:
        lines = ["No change was found that makes it possible."] if can_relax else []
    return fragment([head("No plan keeps the limits"), f"<p>{attribute(message)}</p>", items(lines)])
