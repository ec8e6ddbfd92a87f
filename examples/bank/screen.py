"""What the user sees: a progress bar while it lasts, and a short summary."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from examples.bank.importer import Tally

_SHOWN_REJECTIONS = 20
_REFRESH = 0.1  # seconds


class Screen:
    """Standard output, which may be no terminal: then there is a summary and no bar."""

    def __init__(self) -> None:
        """Look at standard output; what it cannot encode is escaped and stops nobody."""
        reconfigure = getattr(sys.stdout, "reconfigure", None)  # a test's stand-in has none
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)

    def say(self, line: str) -> None:
        """Print a line."""
        self._console.print(line)

    @contextmanager
    def progress(
        self, rows: int | None, live: Callable[[], int]
    ) -> Generator[Callable[[Tally], None]]:
        """Show a bar; give a function that moves it and is cheap to call for each row."""
        columns = (
            TextColumn("{task.completed:,.0f} rows"),
            BarColumn(),
            TextColumn("{task.fields[rate]:,.0f} rows/s"),
            TextColumn("{task.fields[live]} live actors"),
            TimeRemainingColumn(),
        )
        started = shown = time.monotonic()
        latest: Tally | None = None
        with Progress(
            *columns, console=self._console, disable=not self._console.is_terminal
        ) as progress:
            task = progress.add_task("", total=rows, rate=0.0, live=0)

            def move(tally: Tally, now: float) -> None:
                rate = tally.rows / (now - started)
                progress.update(task, completed=tally.rows, rate=rate, live=live())

            def show(tally: Tally) -> None:
                nonlocal shown, latest
                latest = tally
                now = time.monotonic()
                if now - shown >= _REFRESH:
                    shown = now
                    move(tally, now)

            yield show
            if latest is not None:
                move(latest, time.monotonic())

    @contextmanager
    def waiting(self, text: str) -> Generator[None]:
        """Show that something takes its time."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status(text):
            yield

    def rejections(self, name: str, tally: Tally) -> None:
        """List the rejected rows, or the first of them."""
        shown = sorted(tally.rejections)[:_SHOWN_REJECTIONS]
        for line, reason in shown:
            self.say(f"{name}, line {line}: rejected: {reason}")
        if tally.rejected > len(shown):
            self.say(f"... and {tally.rejected - len(shown):,} more rejected rows")

    def summary(self, tally: Tally, seconds: float) -> None:
        """Print the figures of an import."""
        rate = tally.rows / seconds if seconds else 0.0
        self.say(
            f"rows            {tally.rows:>12,}\n"
            f"  booked        {tally.booked:>12,}\n"
            f"  booked before {tally.already_booked:>12,}\n"
            f"  rejected      {tally.rejected:>12,}\n"
            f"accounts        {len(tally.last_known):>12,}\n"
            f"events stored   {tally.events:>12,}\n"
            f"seconds         {seconds:>12,.1f}   ({rate:,.0f} rows/s)"
        )
