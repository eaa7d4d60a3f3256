"""What decides whether an image stops at an exit: the rule of each point of the front, for the panel of the page."""

from __future__ import annotations

from typing import Any

import pandas as pd

from results.parts import rows_of
from study.report.wording import CRITERIA
from study.storage.strict_json import parse_json

Rule = dict[str, Any]
"""``from``: for each exit, the score from which an image stops there, None where the exit is not tried; or ``beta``,
the score at all exits from ``start`` on, or at ``exits``. ``theta``: whether the score is divided by the exit's theta.
``tables``: exit -> what a fitted table does, as text."""


def rules_of(shown: pd.DataFrame) -> dict[str, Any]:
    """The rules of the points of the front, as two columns: ``rule``, and ``says``, the rule in sentences.

    Both hold nothing for other points, of which a page may have thousands.
    """
    found = [_rule(row) if row["on_front"] else (None, None) for row in rows_of(shown)]
    codes, values = pd.factorize(pd.Series([says for says, _ in found], dtype=object), use_na_sentinel=True)
    return {"rule": [rule for _, rule in found], "says": {"values": list(values), "codes": codes.tolist()}}


def _rule(row: dict[str, Any]) -> tuple[str, Rule]:
    policy, score = row["policy"], CRITERIA.get(row["criterion"], row["criterion"])
    exits = [] if row.get("exits") is None else [int(one) for one in row["exits"]]
    start = row.get("start_layer")
    first = f"Every exit from {start:.0f} on is tried." if start is not None else ""
    stops = f"An image stops at the first tried exit where its {score} is at least the value under From."
    found: Rule = {"theta": row["criterion"] == "logit"}
    if row.get("betas") is not None:
        found["from"] = [_short(one) for one in row["betas"]]
    elif row.get("beta") is not None:
        found |= {"beta": _short(row["beta"]), "start": int(start or 1), "exits": exits}
    if policy == "classic":
        return "No exit is tried: every image runs through the whole network.", {}
    if policy == "static":
        return f"Every image stops at exit {' '.join(map(str, exits))}: the network is cut there.", {}
    if policy == "optimal_stopping":
        return _fitted(row)
    if policy == "head_thresholds":
        says = f"Each exit that is tried has its own value under From, fitted to calibration images. {stops}"
    elif policy == "placed":
        says = f"Only the exits with a value under From are tried. {stops}"
    elif policy == "predictive":
        first = f"No exit before {start:.0f} is tried." if start is not None else ""
        says = (
            f"{first} An image stops at a tried exit where its {score} is at least the value under From. Otherwise the "
            f"engine predicts how many exits to go on, {row['max_jump']:.0f} at most, and skips those between."
        ).strip()
    else:
        says = f"{first} {stops}".strip()
    return says, found


def _fitted(row: dict[str, Any]) -> tuple[str, Rule]:
    """The tables of optimal stopping; without them where the column holds none that can be read."""
    says = (
        "At each tried exit a table, fitted to calibration images, decides by the log margin: stop, or which exit to "
        "try next; the exits between are skipped."
    )
    try:
        rule = parse_json(row["rule"])
        tables = {int(one["exit"]): _steps(one["bounds"], one["actions"]) for one in rule["exits"]}
        return f"{says} The first exit tried is {int(rule['first'])}.", {"tables": tables}
    except (ValueError, KeyError, TypeError):
        return says, {}


def _steps(bounds: list[float], actions: list[int]) -> str:
    """What a table does, from low to high scores, as ``below 0.53: to 4; else stop``."""
    names = ["stop" if action == 0 else f"to {int(action)}" for action in actions]
    low = [f"below {bound:.3g}: {name}" for bound, name in zip(bounds, names, strict=False)]
    return "; ".join([*low, f"else {names[-1]}" if low else names[-1]])


def _short(value: float) -> float | None:
    """Four digits; None for infinity, the threshold of an exit that is not tried."""
    return None if value in (None, float("inf")) else float(f"{value:.4g}")
