"""What is asked, what is looked at, and how far the solve is: the first lines of the explorer."""

from __future__ import annotations

from typing import Any

import traitlets

from dora_nb.explorer.widgets.base import DrawnWidget, module_text, style_text
from dora_nb.render.html import fragment
from dora_nb.render.markup import head


class Headline(DrawnWidget):
    """Lines of text, and a small chart of how incumbent and bound come together.

    It also carries the layout of the explorer, gives those controls a spoken name that ipywidgets leaves without, and
    says so where the kernel is at work on a cell and does not hear what is changed.

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

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self.on_msg(self._answer)

    def _answer(self, _: Any, content: dict[str, Any], __: Any) -> None:
        """Tell the browser that the kernel hears it: where it does not, the headline says why nothing moves."""
        self.send({"answered": content["asked"]})

    def _static_html(self) -> str:
        return fragment([head(self.plan, *self.question)])
