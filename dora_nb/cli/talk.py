"""What a command says while it works and when it is done."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dora_nb.units import format_seconds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dora_nb.domain.plan_set import PlanSet
    from dora_nb.domain.run_record import RunRecord


class Talk:
    """Where words go: tables and lines to standard output, or only JSON there; progress to standard error."""

    def __init__(self, as_json: bool) -> None:
        from rich.console import Console

        self.as_json = as_json
        self.errors: Console = Console(stderr=True, highlight=False)
        # Without a terminal rich assumes 80 columns, where tables do not fit.
        width = None if sys.stdout.isatty() else 110
        self.console: Console = Console(highlight=False, width=width)

    def heading(self, text: str) -> None:
        """Start a part."""
        self.errors.print(f"[bold]{text}[/bold]") if self.as_json else self.console.print(f"\n[bold]{text}[/bold]")

    @property
    def width(self) -> int:
        """Columns of what is printed."""
        return self.console.width

    def lines(self, lines: list[str]) -> None:
        """Plain lines, broken where they are longer than the terminal is wide."""
        if not self.as_json:
            from dora_nb.render.wrapping import wrapped

            for line in lines:
                self.console.print(wrapped(line, self.width), markup=False, soft_wrap=True)

    def plans(self, plans: PlanSet) -> None:
        """The table of plans with what it says."""
        if not self.as_json:
            from dora_nb.render.tables import plan_sentences, rich_table

            self.console.print(rich_table(plans, self.width))
            self.lines(plan_sentences(plans))

    def record(self, record: RunRecord) -> None:
        """What a run was, and how it compares."""
        if not self.as_json:
            from rich.table import Table

            from dora_nb.render.runs import run_pairs

            table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
            for name, text in run_pairs(record):
                table.add_row(name, text)
            self.console.print(table, markup=False)

    def table(self, table: Table) -> None:
        """A table."""
        if not self.as_json:
            self.console.print(table)

    def json(self, facts: dict[str, Any]) -> None:
        """The facts as one JSON object, if that was asked for."""
        if self.as_json:
            print(json.dumps(facts, indent=2, allow_nan=False))

    @contextmanager
    def bar(self, what: str) -> Iterator[Callable[[int, int, str], None]]:
        """Show how much of many like things is done and how long the rest will take: a bar, else one line each."""
        pace = Pace()
        if not self.errors.is_terminal:
            yield lambda done, total, text: self.errors.print(
                f"  {done} of {total} {what}: {text}{pace.words(done, total)}", markup=False, soft_wrap=True
            )
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(what),
            TimeElapsedColumn(),
            TextColumn("{task.fields[last]}", markup=False),
        )
        with Progress(*columns, console=self.errors, transient=True) as bar:
            task = bar.add_task(what, total=None, last="")
            yield lambda done, total, text: bar.update(
                task, completed=done, total=total, last=text + pace.words(done, total)
            )

    @contextmanager
    def progress(self, what: str) -> Iterator[Any]:
        """Show what is being done, on a terminal with a spinner, else one line each."""
        if self.errors.is_terminal:
            from rich.text import Text

            with self.errors.status(what) as status:
                yield lambda text: status.update(Text(f"{what}: {text}"))
        else:
            yield lambda text: self.errors.print(f"  {what}: {text}", markup=False, soft_wrap=True)


class Pace:
    """How long what is left will take, from how long what was done since the first report took."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[int, float] | None = None

    def words(self, done: int, total: int) -> str:
        """The estimate as the end of a line; empty before there is one and when there is nothing left."""
        now = self._clock()
        if self._first is None:
            self._first = done, now
        already, since = self._first
        if done <= already or done >= total:
            return ""
        return f"; about {format_seconds(max(1.0, round((total - done) * (now - since) / (done - already))))} left"
