"""What is asked, what is looked at, and how far the solve is: the first lines of the explorer."""

from __future__ import annotations

import traitlets

from dora_nb.explorer.widgets.base import DrawnWidget, module_text, style_text
from dora_nb.render.html import fragment
from dora_nb.render.markup import head


class Headline(DrawnWidget):
    """Lines of text, and a small chart of how incumbent and bound come together.

    It also carries the layout of the explorer, and gives those controls a spoken name that ipywidgets leaves without.

    Attributes
    ----------
    question
        What is asked, line by line.
    plan
        What is looked at, in a sentence.
    keeps
        Whether that keeps the hard limits.
    state, sentence
        Of the solve; see :class:`~dora_nb.explorer.progress.Progress`.
    moments
        Of the solve: seconds, incumbent and bound (None where not known).
    problem
        What was refused, in a sentence; empty: nothing.
    """

    _esm = module_text("headline.js")
    _css = style_text("headline.css", "explorer.css")

    question = traitlets.List(traitlets.Unicode()).tag(sync=True)
    plan = traitlets.Unicode().tag(sync=True)
    keeps = traitlets.Bool(True).tag(sync=True)
    state = traitlets.Unicode("done").tag(sync=True)
    sentence = traitlets.Unicode().tag(sync=True)
    moments = traitlets.List(traitlets.Dict()).tag(sync=True)
    problem = traitlets.Unicode().tag(sync=True)

    def _static_html(self) -> str:
        return fragment([head(self.plan, *self.question)])
