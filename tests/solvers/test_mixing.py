"""Small linear programs that grow by columns: against an optimum by hand, and what is done when HiGHS loses its way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dora_nb.errors import SolverError
from dora_nb.solvers.mixing import Mixing

USED = np.array([[2, 0], [0, 2]])


def test_half_of_each_uses_least() -> None:
    one_by_one, together = (Mixing(np.array([2.0, 2.0]), np.array([3.0])) for _ in range(2))
    for used in USED:
        one_by_one.add(used, np.array([1.0]))
    together.add_all(USED, np.ones((2, 1)))
    for mixing in (one_by_one, together):
        least, prices, of_rows = mixing.solve()
        assert least == pytest.approx(0.5)
        assert prices @ np.array([2.0, 2.0]) == pytest.approx(1.0)
        assert of_rows == pytest.approx([0.0])


@pytest.mark.parametrize("failures", [1, 2])
def test_a_lost_basis_is_dropped_once(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mixing = Mixing(np.array([2.0, 2.0]), np.zeros(0))
    mixing.add_all(USED, np.zeros((2, 0)))
    seen: list[Any] = []

    def is_optimal(_: Mixing) -> bool:
        seen.append(1)
        return len(seen) > failures

    monkeypatch.setattr(Mixing, "_is_optimal", property(is_optimal))
    if failures == 1:
        assert mixing.solve()[0] == pytest.approx(0.5)
    else:
        with pytest.raises(SolverError, match="small linear program"):
            mixing.solve()
