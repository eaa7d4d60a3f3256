"""What all commands use to print: a console, tables and results."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from search_spaces.words import printable
from study.errors import UserError
from study.storage.publish import check_writable
from study.storage.strict_json import dumps


class PlainConsole(Console):
    """A console that shows markup and control characters: a run folder may come from a stranger."""

    def print(self, *objects: Any, **settings: Any) -> None:
        """Print texts and tables."""
        super().print(*(printable(one) if isinstance(one, str) else one for one in objects), **settings)

    def on_broken_pipe(self) -> None:
        """Raise the ``BrokenPipeError`` that rich is handling. By default rich exits with code 1."""
        raise


class PlainTable(Table):
    """A table that shows markup and control characters."""

    def __init__(self, title: str, names: Iterable[str], numbers: Iterable[str] = ()) -> None:
        """Prepare a table.

        A text that is too long for the console is continued below; a number keeps its width.
        """
        super().__init__(title=Text(printable(title), style="table.title"), title_justify="left", box=SIMPLE_HEAD)
        self.collapse_padding, self.pad_edge = True, False
        for heading in names:
            self.add_column(heading, overflow="fold")
        for heading in numbers:
            self.add_column(heading, justify="right", no_wrap=True)

    def add_row(self, *cells: Any, **settings: Any) -> None:
        """Add a row of texts."""
        super().add_row(*(Text(printable(str(cell))) for cell in cells), **settings)


def console_of() -> PlainConsole:
    """The console for results, on stdout."""
    # Without a terminal, rich would fold tables to 80 columns.
    return PlainConsole(file=sys.stdout, highlight=False, markup=False, width=None if sys.stdout.isatty() else 200)


def check_output(option: str, path: Path | None, *endings: str) -> None:
    """Refuse a file that cannot be written, before anything is computed; no file (None) is accepted.

    Raises:
        UserError: the file has another ending, is a folder, or is in a folder that cannot be written.
    """
    if path is None:
        return
    if path.suffix not in endings:
        raise UserError(f"{option} {path} must end in {', '.join(endings[:-1])} or {endings[-1]}")
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder: name a file")
    check_writable(path.parent)


def print_result(result: Mapping[str, Any], as_json: bool) -> None:
    """Print a result as JSON; or a line for each value, and a list of rows as a table."""
    if as_json:
        print(dumps(result, indent=1))
        return
    console = console_of()
    for name, value in result.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            console.print(f"{name}:")
            console.print(pd.DataFrame(value).to_string(index=False, float_format="{:.6g}".format))
        elif isinstance(value, list):
            console.print(f"{name}: {' '.join(_number(item) for item in value)}")
        else:
            console.print(f"{name}: {_number(value)}")


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
