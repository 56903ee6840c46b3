"""What the other tests here rely on: nothing that goes wrong on a page goes unnoticed."""

from __future__ import annotations

import pytest
from browser.lab import Opener

ASKS_ELSEWHERE = "from IPython.display import HTML; HTML('<img src=\"http://192.0.2.1/pixel.png\">')"

SHOUTS = "from IPython.display import Javascript; Javascript('console.error(\"shouted\")')"

IS_PALE = "from IPython.display import HTML; HTML('<p>clear</p><p style=\"opacity:0.3\">hardly there</p>')"


def test_what_goes_wrong_on_a_page_is_noticed(open_notebook: Opener) -> None:
    notebook = open_notebook([ASKS_ELSEWHERE, SHOUTS, IS_PALE, "1 / 0"])
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        notebook.run_all()
    assert any("192.0.2.1" in problem for problem in notebook.problems)
    assert any("shouted" in problem for problem in notebook.problems)
    pale = [text.partition(": ")[2] for text in notebook.pale_texts()]
    assert "hardly there" in pale
    assert "clear" not in pale
    notebook.page.close()  # before the rest of the picture's troubles arrive
    notebook.problems.clear()
