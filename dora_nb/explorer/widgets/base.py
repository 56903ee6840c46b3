"""What all drawn widgets share: their text from ``static/``, a static form beside the live one, an end with their cell.

A widget's JavaScript is one module without imports (that is what anywidget sends), so ``static/common.js`` is put in
front of it: its functions can be used as they are. ``static/theme.css`` is put in front of its rules.
"""

from __future__ import annotations

import uuid
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from dora_nb.errors import UnknownNameError
from dora_nb.explorer import cells

_VIEW = "application/vnd.jupyter.widget-view+json"
_STATIC = Path(__file__).parents[1] / "static"


def static_text(name: str) -> str:
    """The text of a file of ``static/``."""
    return (_STATIC / name).read_text(encoding="utf-8")


def module_text(*names: str) -> str:
    """The JavaScript module of a widget: the shared functions, then its own texts."""
    return "\n".join(static_text(each) for each in ("common.js", *names))


def style_text(*names: str) -> str:
    """The style of a widget: the shared theme, then its own rules."""
    return "\n".join(static_text(each) for each in ("theme.css", *names))


class Shown:
    """Shown live where there is a kernel, and static where there is none: in exported HTML, or on paper.

    Two outputs in one cell, because nbconvert takes the widget's view over any HTML in the same output. The live form
    hides the static one, see ``hideStatic`` in ``static/common.js``.
    """

    #: Names the static form, so that the live one finds it wherever a frontend puts the two.
    static_id: Any

    def _static_html(self) -> str:
        """The static form; needs neither kernel nor network."""
        raise NotImplementedError

    def _static_text(self) -> str:
        """What is shown, as plain text."""
        return repr(self)

    def _live(self) -> Any:
        """The widget that is shown."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        mark = escape(self.static_id, quote=True)
        return f'<div class="dora-static" data-static-for="{mark}">{self._static_html()}</div>'

    def _ipython_display_(self) -> None:
        from IPython.display import display  # there is nothing to display without it

        display({"text/html": self._repr_html_(), "text/plain": self._static_text()}, raw=True)  # type: ignore[no-untyped-call]
        view = {"version_major": 2, "version_minor": 0, "model_id": self._live().model_id}
        display({_VIEW: view, "text/plain": ""}, raw=True)  # type: ignore[no-untyped-call]


class DrawnWidget(Shown, anywidget.AnyWidget):
    """A widget that draws what its traits hold, with ``_esm = module_text(...)`` and ``_css = style_text(...)``.

    It is closed when the notebook cell that made it runs again.
    """

    static_id = traitlets.Unicode().tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        for name in traits:
            if not self.has_trait(name):  # ipywidgets would take it silently
                raise UnknownNameError(
                    type(self).__name__, name, (each for each in self.trait_names() if each[0] != "_")
                )
        super().__init__(**({"static_id": uuid.uuid4().hex} | traits))
        cells.close_on_rerun(self)

    def _live(self) -> anywidget.AnyWidget:
        return self
