"""How long ``import dora_nb`` takes in a fresh process: ``pytest tests/benchmarks/test_import.py -o addopts= -s``.

Asked for: less than 0.5 s. Reached on two cores while four times as much was running: 0.04 s, of which 0.015 s of
processor time; 0.5 s (0.19 s) for the command line's options, and 1.9 s (0.7 s) once ``dora_nb.plan`` is touched, which
loads numpy, pydantic and the planner. No torch, plotly, pandas or solver is loaded before it is needed, see
``tests/test_imports.py``.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

import pytest

CODE = """
import time
wall_s, cpu_s = time.perf_counter(), time.process_time()
{statement}
print(time.perf_counter() - wall_s, time.process_time() - cpu_s)
"""


@pytest.mark.parametrize("statement", ["import dora_nb", "import dora_nb; dora_nb.plan", "import dora_nb.cli"])
def test_import(statement: str) -> None:
    pairs = []
    for _ in range(5):
        code = CODE.format(statement=statement)
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        pairs.append([float(each) for each in ran.stdout.split()])
    wall_s, cpu_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"\n{statement}: {wall_s:.3f} s, of which {cpu_s:.3f} s of processor time (medians of 5)")
