"""Figures are files: no setting for windows or notebooks has a say in them. They show what a reader looks for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from results.figures.comparison import comparison_figure
from results.figures.exits import confusion_figure, exits_figure
from results.figures.front import _free_place, exact_figure, front_figure
from results.figures.style import COLUMN, PAGE, figure_file
from results.parts import read_table
from results.summary import summarize_front

PROGRAM = """
import os, sys
from pathlib import Path
import pandas as pd
from results.figures.front import exact_figure, front_figure
points = pd.DataFrame({"policy": "predictive", "accuracy": [0.8, 0.9], "flops_share": [0.5, 0.9]})
points["energy_share"] = [0.4, 0.8]
exact_figure(points, 0.9, Path(sys.argv[1]) / "exact.png")
front_figure(Path(sys.argv[2]), Path(sys.argv[1]) / "front.svg")
import matplotlib
print(os.environ["MPLBACKEND"], matplotlib.rcParams["backend"])
"""
TABLES = Path(__file__).parents[2] / "results" / "reference" / "vgg19-cifar10" / "tables"


@pytest.mark.parametrize(
    ("backend", "in_force"),
    [("module://matplotlib_inline.backend_inline", None), ("nonsense", None), ("tkagg", "tkagg")],
)
def test_figures_are_drawn_whatever_backend_the_environment_names(
    tmp_path: Path, backend: str, in_force: str | None
) -> None:
    """Such as that of a notebook, whose commands inherit it. Windows of the same process keep their backend."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(TABLES)]
    ended = subprocess.run(command, env={**os.environ, "MPLBACKEND": backend}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in tmp_path.iterdir() if path.stat().st_size} == {"exact.png", "front.svg"}
    before, after = ended.stdout.split()
    assert before == backend and (in_force is None or after == in_force)


def texts(picture: Path) -> str:
    """All texts of an SVG, in one line."""
    return " ".join(
        "".join(one.itertext()) for one in ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text")
    )


def inches(picture: Path) -> float:
    return float(re.search(r'width="([\d.]+)pt"', picture.read_text("utf-8"))[1]) / 72  # type: ignore[index]


def test_the_front_says_what_is_recommended_and_what_is_cut_off(tmp_path: Path) -> None:
    front_figure(TABLES, tmp_path / "front.svg")
    summary, said = summarize_front(TABLES), texts(tmp_path / "front.svg")
    point = summary.recommended
    assert f"Recommended: point {point['number']}" in said and f"{point['flops_share'] * 100:.1f} %" in said
    assert f"{point['test_accuracy'] * 100:.1f} %" in said and "recommended" in said and "classic network" in said
    below = (summary.points["accuracy"] < summary.reference.accuracy - 0.05).sum()
    assert 0 < below < len(summary.points)
    assert f"{below} of {len(summary.points)} points of the front lie below the axis" in said
    assert "predictive" in said and "network cut at one exit" in said and "energy an image" in said
    assert inches(tmp_path / "front.svg") == pytest.approx(PAGE)


def test_the_label_of_the_recommended_point_hides_no_point(tmp_path: Path) -> None:
    with figure_file(tmp_path / "crowd.png", COLUMN, 2.9) as figure:
        axes = figure.subplots()
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.plot(50, 50, "o")
        x, y = _free_place(axes, 50, 50)
        axes.plot([50 + x / 2.0 + place for place in range(20)], [50 + y / 1.25] * 20, "o")
        assert _free_place(axes, 50, 50) != (x, y)


def test_a_front_of_one_cost_has_the_width_of_a_column(tmp_path: Path) -> None:
    points = pd.DataFrame({"policy": "hierarchical", "accuracy": [0.88, 0.9], "flops_share": [0.5, 0.9]})
    exact_figure(points, 0.9, tmp_path / "exact.svg")
    assert inches(tmp_path / "exact.svg") == pytest.approx(COLUMN)
    assert "lie below the axis" not in texts(tmp_path / "exact.svg")
    exact_figure(points, 0.9, tmp_path / "exact.png")
    with Image.open(tmp_path / "exact.png") as picture:
        assert picture.width == 300 * COLUMN


@pytest.mark.parametrize("on_test", [False, True])
def test_a_comparison_has_a_series_for_each_family(tmp_path: Path, on_test: bool) -> None:
    share = f"matched_{'test_' if on_test else ''}flops_share"
    rows = pd.DataFrame(
        [
            {"trial_id": trial, "precision": "fp32", "family": family, "drop": drop, share: cost - drop}
            for trial in ("one", "two", "three")
            for family, cost in (("static", 0.8), ("predictive", 0.5), ("hierarchical, margin", 0.4), ("own", 0.6))
            for drop in (0.0, 0.01)
        ]
    )
    rows = rows.assign(**{f"{share}_low": rows[share] - 0.1, f"{share}_high": rows[share] + 0.1})
    comparison_figure(rows, "flops", tmp_path / "compare.svg")
    said = texts(tmp_path / "compare.svg")
    assert all(name in said for name in ("static", "predictive", "hierarchical, margin", "own", "one fp32", "two fp32"))
    assert ("points lost on test" in said) == on_test
    # In the legend the cheapest family stands first.
    assert said.index("hierarchical, margin") < said.index("predictive") < said.rindex("static")
    comparison_figure(rows[rows["trial_id"] == "one"].iloc[:1], "flops", tmp_path / "one.pdf")
    many = pd.concat([rows.assign(trial_id=f"{name}") for name in range(8)])
    comparison_figure(many, "flops", tmp_path / "many.svg")
    assert "6 of 8 networks are shown" in texts(tmp_path / "many.svg")


def test_exits_show_accuracies_and_where_images_stop(tmp_path: Path) -> None:
    exits = read_table(TABLES, "exits")
    number = summarize_front(TABLES).recommended["number"]
    own = exits[(exits["point"] == number) & (exits["split"] == "test")].sort_values("exit")
    exits_figure(own, "a network, a policy", tmp_path / "exits.svg")
    said = texts(tmp_path / "exits.svg")
    assert f"{own['share_stopped'].max() * 100:.0f}" in said.split() and "a network, a policy" in said
    assert "under 1 % of the images" in said, "few images stop at some exits: their accuracy is drawn as an open mark"
    none = own.assign(share_stopped=0.0, accuracy_stopped=np.nan).head(2)
    exits_figure(none, "two exits, no image", tmp_path / "none.png")
    assert (tmp_path / "none.png").stat().st_size


def test_the_confusion_shows_shares_and_how_many_are_right(tmp_path: Path) -> None:
    rows = [{"predicted": "1", "true 1": 30, "true 2+": 10}, {"predicted": "2+", "true 1": 0, "true 2+": 60}]
    confusion_figure(rows, "a network", tmp_path / "confusion.svg")
    said = texts(tmp_path / "confusion.svg")
    assert "90.0 % of 100 predictions are right" in said and {"30", "10", "60"} <= set(said.split())
    empty = [{"predicted": "1", "true 1": 0}]
    confusion_figure(empty, "nothing", tmp_path / "empty.svg")
    assert "no prediction" in texts(tmp_path / "empty.svg")


def test_a_figure_leaves_the_settings_of_others_alone(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    front_figure(TABLES, tmp_path / "front.pdf")
    assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "front.pdf").read_bytes().startswith(b"%PDF")
