"""The parts that a page consists of: plain values, of which :mod:`study.report.page` makes HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from results.parts import rows_of

Kind = Literal["text", "count", "accuracy", "share", "points", "number"]
"""How a value is written: as it is; as a whole number; a share as per cent with two digits, or with one; a share as
points with a sign; a number with four digits."""
Spec = dict[str, Any]
"""A chart in the language of Vega-Lite."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table: its heading, how values are written, and an explanation for the heading."""

    heading: str
    kind: Kind = "text"
    unit: str = ""
    help: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; ``rows`` hold values in the order of the columns, None where there is none."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart, and the table that tells the same."""

    name: str
    title: str
    spec: Spec
    table: Table | None = None
    """None where another table of the page tells the same."""
    linked: bool = False
    """Whether the page fills the chart with the operating points, and filters them."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the page: what to see in it, its figures and tables, and what the study lacks."""

    name: str
    title: str
    see: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    lacks: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command to copy, and what it does."""

    does: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image of the data set as a PNG file."""

    png: bytes
    caption: str


@dataclass(frozen=True, kw_only=True)
class FirstScreen:
    """What a reader should know first: the recommended point."""

    number: int
    policy: str
    setting: Sequence[tuple[str, str]]
    """Names and values of the settings."""
    network: str
    facts: Sequence[tuple[str, str, str]]
    """Name, value and explanation of each key figure."""
    why: str
    """Why the point is recommended, and what comes near it."""
    certified: bool
    certainty: str
    beside: Table
    """The recommended point beside the classic network, a cut and a smaller network."""
    commands: Sequence[Command]
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class StudyContent:
    """All that a page says of one study on one data set."""

    name: str
    data: str
    folder: str
    state: str
    evaluate: tuple[str, str]
    """The command that evaluates a point of the front: what stands before its number, and behind it."""
    lacks_weights: str
    """A sentence where the folder has no weights, else nothing."""
    first: FirstScreen | None
    points: dict[str, Any] | None
    """The operating points as columns (:mod:`study.report.points`)."""
    sections: Sequence[Section]
    missing: Sequence[str] = ()
    """Sentences on what could not be read."""
    pictures: Sequence[Picture] = field(default_factory=tuple)


@dataclass(frozen=True, kw_only=True)
class ReportContent:
    """All that a page says."""

    title: str
    made: str
    """When and by what the page was made."""
    studies: Sequence[StudyContent]
    together: Section | None
    """Several studies in one plot."""


def table_of(title: str, frame: pd.DataFrame, columns: dict[str, Column], note: str = "") -> Table:
    """A table from some columns of a frame; a column without any value is left out."""
    shown = {name: column for name, column in columns.items() if name in frame and frame[name].notna().any()}
    rows = [[row[name] for name in shown] for row in rows_of(frame[list(shown)])]
    return Table(title=title, columns=list(shown.values()), rows=rows, note=note)
