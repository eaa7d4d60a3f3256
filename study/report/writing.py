"""The page of run folders as a file, and a part of it for a notebook."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from results.storage.atomic import write_atomic
from results.storage.paths import Location
from study.report.content import front_content, report_content
from study.report.page import report_page

NAME = "report.html"
"""The report in a run folder."""
_HEIGHT = 900
"""Of the plot in a notebook, in pixels."""


def write_report(folders: Sequence[Location], output: Location, *, images: Path | None = None) -> None:
    """Write the page of some run folders.

    Args:
        folders: run folders, or packs.
        output: the file.
        images: folder of data sets, where the page is to show some images; else None.

    Raises:
        UserError: a folder is no run folder, or its study file cannot be used.
    """
    write_atomic(output, report_page(report_content(folders, images=images)))


@dataclass(frozen=True, eq=False)
class FrontPlot:
    """The front of a study with the controls of the report. A notebook shows it; it needs no network."""

    name: str
    """Of the study."""
    page: bytes
    """The plot as a page."""

    def save(self, path: Path) -> None:
        """Write the plot as an HTML file that opens without network."""
        write_atomic(path, self.page)

    def __repr__(self) -> str:
        return f"the front of {self.name}: a notebook shows the plot, and save(path) writes it as a page"

    def _repr_html_(self) -> str:
        """A frame of its own: the scripts of the plot reach nothing of the notebook."""
        return (
            f'<iframe title="The front of {html.escape(self.name)}" sandbox="allow-scripts" loading="lazy" '
            f'style="width: 100%; height: {_HEIGHT}px; border: 0" srcdoc="{html.escape(self.page.decode())}"></iframe>'
        )


def front_plot(folder: Location, name: str, data: str | None = None) -> FrontPlot:
    """The front of a study as a plot; arguments and errors as of :func:`study.report.content.front_content`."""
    return FrontPlot(name, report_page(front_content(folder, data)))
