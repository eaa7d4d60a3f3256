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
    """One piece of work that is under way."""

    def advance(self, done: float, text: str = "") -> None:
        """``done`` of the total are done now; ``text`` says what was seen last."""
        ...


class _ProgressConsole(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads stderr any more: the work goes on in silence. (rich would exit with code 1.)"""
        self.quiet = True


class Reporter:
    """Tells a person on stderr what a command is doing; stdout is left to results."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = _ProgressConsole(file=sys.stderr, highlight=False, soft_wrap=True)
        self.quiet = quiet

    def line(self, text: str) -> None:
        """One line that stays."""
        if not self.quiet:
            self.console.print(text, markup=False)

    @contextmanager
    def task(self, name: str, total: float) -> Iterator[Task]:
        """A piece of work with ``total`` steps."""
        if self.quiet:
            yield _Silent()
        elif self.console.is_terminal:
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


class _Silent:
    def advance(self, done: float, text: str = "") -> None:
        pass


class _Bar:
    def __init__(self, progress: Progress, name: str, total: float) -> None:
        self.progress = progress
        self.task = progress.add_task(name, total=total, text="")

    def advance(self, done: float, text: str = "") -> None:
        self.progress.update(self.task, completed=done, text=text)


class _Plain:
    """At most one line every few seconds, and always the last."""

    def __init__(self, reporter: Reporter, name: str, total: float) -> None:
        self.reporter, self.name, self.total = reporter, name, total
        self.told = time.monotonic()
        reporter.line(f"{name}: 0/{total:g}")

    def advance(self, done: float, text: str = "") -> None:
        now = time.monotonic()
        if done >= self.total or now - self.told >= PLAIN_INTERVAL_SECONDS:
            self.told = now
            self.reporter.line(f"{self.name}: {done:g}/{self.total:g}  {text}".rstrip())
