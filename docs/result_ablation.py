"""The table of recipes of training, from the rows that ``docs/ablation.py`` writes."""

from __future__ import annotations

import csv
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ablation import DRAWN_LOSSES, FOLDER, LOSSES
from result_tables import markdown

from results.intervals import mean_interval
from study.arrays import Floats

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
    return "\n\n".join(_table(own) for own in _beside_a_base(sizes).values()) or NO_ROWS


def _beside_a_base(
    sizes: Mapping[tuple[Any, ...], Sequence[dict[str, str]]],
) -> dict[tuple[Any, ...], list[dict[str, str]]]:
    """The rows of each table: those of one size of the training, and those of other epochs without a base of their own.

    The latter are named with their epochs.
    """
    tables = {size: list(rows) for size, rows in sizes.items() if any(row["recipe"] == BASE for row in rows)}
    for size, rows in sizes.items():
        if size in tables:
            continue
        beside = next((one for one in tables if one[:-1] == size[:-1]), None)
        if beside is None:
            tables[size] = list(rows)
        else:
            tables[beside] += [row | {"recipe": f"{row['recipe']}, {row['epochs']} epochs"} for row in rows]
    return tables


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
    text = f"{textwrap.fill(heading, 100)}\n\n{markdown([line for _, line in lines])}"
    return f"{text}\n\n{against}" if against else text


def _against_base(recipes: Mapping[str, Sequence[Mapping[str, str]]]) -> str:
    """The FLOPs of each recipe at one point lost, as shares of those of the base with the same seeds."""
    base = {row["seed"]: row for row in recipes.get(BASE, ())}
    lines: list[tuple[float, dict[str, str]]] = []
    for recipe, rows in recipes.items():
        pairs = [(row, base[row["seed"]]) for row in rows if row["seed"] in base]
        if recipe == BASE or len(pairs) < 2:
            continue
        line = {"recipe": recipe.replace("_", " "), "seeds": str(len(pairs))}
        found = {
            (family, common): ratio_to_base(pairs, family, common=common)
            for family in ("stopping", "margin")
            for common in (False, True)
        }
        for (family, common), (share, *intervals) in found.items():
            ends = "; ".join(f"{low * 100:.0f} to {high * 100:.0f}" for low, high in intervals)
            title = f"{'FLOPs' if family == 'stopping' else family}, 1 lost, {'common' if common else 'own'}"
            line[title] = f"{share:.0%} ({ends})".replace("%", " %")
        lines.append((found["stopping", True][0], line))
    lines.sort(key=lambda line: line[0])
    return f"As shares of the base with the same seeds:\n\n{markdown([line for _, line in lines])}" if lines else ""


Pair = tuple[Mapping[str, str], Mapping[str, str]]


def ratio_to_base(
    pairs: Sequence[Pair], family: str, *, common: bool
) -> tuple[float, tuple[float, float], tuple[float, float]]:
    """The FLOPs of a recipe at one point lost, as a share of the base's: the geometric mean over seeds.

    Args:
        pairs: a row of the recipe and the base's row with the same seed, S of them.
        family: ``stopping`` or ``margin``.
        common: whether the point is lost against the last exit of the base, or each against its own last exit.

    Returns:
        The share, its 95 % interval over seeds (Student's t on logarithms), and over images (middle 95 % of the
        bootstrap samples, which are the same in all rows).
    """
    of_seeds, of_draws = [], []
    for row, base in pairs:
        own = np.array(row["accuracy_draws"].split(), dtype=float)
        gained = own - np.array(base["accuracy_draws"].split(), dtype=float) if common else np.zeros(len(own))
        of_seeds.append(np.log(cost_below(row, float((base if common else row)["accuracy"]), 0.01, family)))
        of_seeds[-1] -= np.log(cost_below(base, float(base["accuracy"]), 0.01, family))
        of_draws.append(_drawn(row, family, 0.01 + gained) - _drawn(base, family, np.full(len(own), 0.01)))
    low, high = (float(np.exp(end[0])) for end in mean_interval(np.array(of_seeds)[:, None]))
    ends = np.exp(np.quantile(np.mean(of_draws, axis=0), [0.025, 0.975]))
    return float(np.exp(np.mean(of_seeds))), (low, high), (float(ends[0]), float(ends[1]))


def _drawn(row: Mapping[str, str], family: str, losses: Floats) -> Floats:
    """``[DRAWS]``: logarithms of the FLOPs on each bootstrap sample, at a loss against the own last exit for each."""
    curves = [np.array(curve.split(), dtype=float) for curve in row[f"{family}_draws"].split(";")]
    pairs = zip(losses, curves, strict=True)
    return np.log([np.interp(loss, DRAWN_LOSSES, curve, left=1.0) for loss, curve in pairs])


def _line(recipe: str, rows: Sequence[Mapping[str, str]], bases: Mapping[str, float]) -> tuple[float, dict[str, str]]:
    """What a recipe needs at one point below the base's last exit (infinity where unknown), and its line."""
    common, margin = (
        [cost_below(row, bases[row["seed"]], 0.01, family) for row in rows if row["seed"] in bases]
        for family in ("stopping", "margin")
    )
    areas = [np.mean([cost_below(row, bases[row["seed"]], loss) for loss in LOSSES if loss >= 0])
             for row in rows if row["seed"] in bases]  # fmt: skip
    line = {
        "recipe": recipe.replace("_", " "),
        "seeds": str(len(rows)),
        "last exit": _mean([float(row["accuracy"]) for row in rows]),
        "mean of exits": _mean([float(row["mean_exit_accuracy"]) for row in rows]),
        "FLOPs, 0.5 lost, own": _mean([float(row["stopping_half_point"]) for row in rows]),
        "FLOPs, 1 lost, own": _mean([float(row["stopping_one_point"]) for row in rows]),
        "FLOPs, 1 lost, common": _mean(common),
        "margin, 1 lost, own": _mean([float(row["margin_one_point"]) for row in rows]),
        "margin, 1 lost, common": _mean(margin),
        "area": _mean(areas),
    }
    return (float(np.mean(common)) if common else np.inf), line


def cost_below(row: Mapping[str, str], accuracy: float, loss: float, family: str = "stopping") -> float:
    """The FLOPs that a policy needs to lose so much of some accuracy; 1 where it cannot.

    The loss against the network's own last exit, which is what the curve of a row tells, is larger by as much as the
    last exit is more accurate. A loss beyond the curve has the cost of the curve's end, which is too high.
    """
    curve = np.array(row[f"{family}_curve"].split(), dtype=float)
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
