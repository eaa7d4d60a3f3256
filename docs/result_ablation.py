"""The table of recipes of training, from the rows that ``docs/ablation.py`` writes."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ablation import FOLDER, LOSSES
from result_tables import markdown

from results.intervals import mean_interval

ROWS = FOLDER / "rows.csv"
SAME = ("data", "backbone", "width", "changes", "images", "test_images", "epochs")
"""Columns that are equal in rows that are held against each other; of epochs only their sum."""
BASE = "base"
NO_ROWS = "(no rows yet)"


def ablation(data: str) -> str:
    """One table for each size of the training on a data set: means over seeds, with 95 % intervals."""
    if not ROWS.exists():
        return NO_ROWS
    with ROWS.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["data"] == data]
    sizes: dict[tuple[Any, ...], list[dict[str, str]]] = {}
    for row in rows:
        sizes.setdefault(_size(row), []).append(row)
    return "\n\n".join(_table(own) for own in sizes.values()) or NO_ROWS


def _size(row: Mapping[str, str]) -> tuple[Any, ...]:
    return *(row[name] for name in SAME if name != "epochs"), sum(map(int, row["epochs"].split("+")))


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """The recipes of one size of the training, those first that need least at the common bound."""
    first = rows[0]
    epochs = next((row["epochs"] for row in rows if row["recipe"] == BASE), first["epochs"])
    heading = (
        f"{first['backbone']} x {first['width']}, {int(first['images']):,} training and "
        f"{int(first['test_images']):,} test images, {epochs} epochs{first['changes'] and ', ' + first['changes']}:"
    )
    bases = {row["seed"]: float(row["accuracy"]) for row in rows if row["recipe"] == BASE}
    recipes: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        recipes.setdefault(row["recipe"], []).append(row)
    lines = [_line(recipe, own, bases) for recipe, own in recipes.items()]
    lines.sort(key=lambda line: line[0])
    against = _against_base(recipes)
    return f"{heading}\n\n{markdown([line for _, line in lines])}" + (f"\n\n{against}" if against else "")


def _against_base(recipes: Mapping[str, Sequence[Mapping[str, str]]]) -> str:
    """The FLOPs of each recipe at one point lost, as shares of those of the base with the same seeds."""
    base = {row["seed"]: row for row in recipes.get(BASE, ())}
    lines = []
    for recipe, rows in recipes.items():
        pairs = [(row, base[row["seed"]]) for row in rows if row["seed"] in base]
        if recipe == BASE or len(pairs) < 2:
            continue
        gained = np.array([[float(row["accuracy"]) - float(own["accuracy"])] for row, own in pairs]) * 100
        low, high = (float(end[0]) for end in mean_interval(gained))
        line = {
            "recipe": recipe.replace("_", " "),
            "seeds": str(len(pairs)),
            "points gained": f"{gained.mean():.1f} ({low:.1f} to {high:.1f})",
        }
        for title, family in (("FLOPs, 1 lost", "stopping"), ("margin, 1 lost", "margin")):
            ratio, seeds, images = ratio_to_base(pairs, family)
            line[title] = f"{ratio:.1%}".replace("%", " %")
            line[f"{title}: seeds"], line[f"{title}: images"] = (
                f"{low * 100:.1f} to {high * 100:.1f}" for low, high in (seeds, images)
            )
        lines.append((ratio_to_base(pairs, "stopping")[0], line))
    lines.sort(key=lambda line: line[0])
    return f"As shares of the base with the same seeds:\n\n{markdown([line for _, line in lines])}" if lines else ""


Pair = tuple[Mapping[str, str], Mapping[str, str]]


def ratio_to_base(pairs: Sequence[Pair], family: str) -> tuple[float, tuple[float, float], tuple[float, float]]:
    """The FLOPs of a recipe at one point lost, as a share of the base's: the geometric mean over seeds.

    Args:
        pairs: a row of the recipe and the base's row with the same seed, S of them.
        family: ``stopping`` or ``margin``.

    Returns:
        The share, its 95 % interval over seeds (Student's t on logarithms), and over images (middle 95 % of the
        bootstrap samples, which are the same in all rows).
    """
    seeds = np.array([[np.log(float(one[f"{family}_one_point"])) for one in pair] for pair in pairs])
    drawn = np.array(
        [[np.log(np.array(one[f"{family}_draws"].split(), dtype=float)) for one in pair] for pair in pairs]
    )
    logarithms = seeds[:, :1] - seeds[:, 1:]
    low, high = (float(np.exp(end[0])) for end in mean_interval(logarithms))
    ends = np.quantile((drawn[:, 0] - drawn[:, 1]).mean(axis=0), [0.025, 0.975])
    return float(np.exp(logarithms.mean())), (low, high), (float(np.exp(ends[0])), float(np.exp(ends[1])))


def _line(recipe: str, rows: Sequence[Mapping[str, str]], bases: Mapping[str, float]) -> tuple[float, dict[str, str]]:
    """What a recipe needs at one point below the base's last exit (infinity where unknown), and its line."""
    common = [cost_below(row, bases[row["seed"]], 0.01) for row in rows if row["seed"] in bases]
    areas = [np.mean([cost_below(row, bases[row["seed"]], loss) for loss in LOSSES if loss >= 0])
             for row in rows if row["seed"] in bases]  # fmt: skip
    line = {
        "recipe": recipe.replace("_", " "),
        "seeds": str(len(rows)),
        "last exit": _mean([float(row["accuracy"]) for row in rows]),
        "mean of exits": _mean([float(row["mean_exit_accuracy"]) for row in rows]),
        "FLOPs, 0.5 lost": _mean([float(row["stopping_half_point"]) for row in rows]),
        "FLOPs, 1 lost": _mean([float(row["stopping_one_point"]) for row in rows]),
        "margin, 1 lost": _mean([float(row["margin_one_point"]) for row in rows]),
        "FLOPs, common bound": _mean(common),
        "area": _mean(areas),
        "minutes": f"{np.mean([float(row['seconds']) for row in rows]) / 60:.1f}",
    }
    return (float(np.mean(common)) if common else np.inf), line


def cost_below(row: Mapping[str, str], accuracy: float, loss: float) -> float:
    """The FLOPs that optimal stopping needs to lose so much of some accuracy; 1 where it cannot.

    The loss against the network's own last exit, which is what the curve of a row tells, is larger by as much as the
    last exit is more accurate.
    """
    curve = np.array(row["stopping_curve"].split(), dtype=float)
    own = loss + float(row["accuracy"]) - accuracy
    return float(np.interp(own, LOSSES, curve, left=1.0))


def _mean(shares: Sequence[Any]) -> str:
    """The mean of shares in percent, with its interval over seeds where there are several."""
    if not shares:
        return ""
    mean = f"{np.mean(shares):.1%}".replace("%", " %")
    if len(shares) == 1:
        return mean
    low, high = (float(end[0]) * 100 for end in mean_interval(np.asarray(shares, dtype=float)[:, None]))
    return f"{mean} ({low:.1f} to {high:.1f})"
