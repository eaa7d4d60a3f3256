"""Live progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

PLAIN_INTERVAL_SECONDS = 5.0


class Task(Protocol):
    """A piece of work in progress."""

    def advance(self, done: float, text: str = "") -> None:
        """Show that ``done`` of the total are done; ``text`` is the latest result."""
        ...


class _ProgressConsole(Console):
    def on_broken_pipe(self) -> None:
        """Continue without progress when nobody reads stderr. By default rich exits with code 1."""
        self.quiet = True


class Reporter:
    """Shows progress on stderr; stdout is for results."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = _ProgressConsole(file=sys.stderr, highlight=False, soft_wrap=True)
        self.quiet = quiet

    def line(self, text: str) -> None:
        """Print a line."""
        if not self.quiet:
            self.console.print(text, markup=False)

    @contextmanager
    def task(self, name: str, total: float) -> Iterator[Task]:
        """Show a piece of work of ``total`` steps."""
        if self.console.is_terminal and not self.quiet:
            columns = (
                TextColumn("{task.description:<16}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[text]}", markup=False),
            )
            with Progress(*columns, console=self.console, transient=False) as progress:
                yield _Bar(progress, name, total)
        else:
            yield _Plain(self, name, total)


class _Bar:
    def __init__(self, progress: Progress, name: str, total: float) -> None:
        self.progress = progress
        self.task = progress.add_task(name, total=total, text="")

    def advance(self, done: float, text: str = "") -> None:
        self.progress.update(self.task, completed=done, text=text)


class _Plain:
    """Prints a line at most every few seconds, and the last one always."""

    def __init__(self, reporter: Reporter, name: str, total: float) -> None:
        self.reporter, self.name, self.total = reporter, name, total
        self.told = time.monotonic()
        reporter.line(f"{name}: 0/{total:g}")

    def advance(self, done: float, text: str = "") -> None:
        now = time.monotonic()
        if done >= self.total or now - self.told >= PLAIN_INTERVAL_SECONDS:
            self.told = now
            self.reporter.line(f"{self.name}: {done:g}/{self.total:g}  {text}".rstrip())
