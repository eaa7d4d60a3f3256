"""What is printed of a stranger's run folder is shown, not obeyed."""

import pandas as pd
import pytest

from search_spaces.words import printable
from study.cli.points import SHOWN, thinned
from study.cli.printing import PlainTable, console_of


def test_markup_and_control_characters_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    table = PlainTable("[bold]title[/bold] \x1b[2J", ["a"])
    table.add_row("[/x] \x1b]0;owned\x07")
    console = console_of()
    console.print(table)
    console.print("[red]line[/nothing] \x1b[1A\nnext")
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out
    for text in ("[bold]title[/bold]", "\\x1b[2J", "[/x] \\x1b]0;owned\\x07", "[red]line[/nothing] \\x1b[1A\nnext"):
        assert text in out


def test_printable_keeps_what_people_write() -> None:
    assert printable("θ ≥ β, naïve 画像\n") == "θ ≥ β, naïve 画像\n"


def test_points_that_are_named_are_among_those_shown() -> None:
    points = pd.DataFrame({"number": range(1000)})
    shown = thinned(points, [123, 457])["number"].tolist()
    assert {0, 123, 457, 999} <= set(shown) and shown == sorted(shown) and len(shown) <= SHOWN + 2
    assert len(thinned(points.head(5))) == 5
