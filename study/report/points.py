"""The operating points of a study as columns: what the plots and the table of points draw and filter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from results.parts import rows_of
from results.point_text import policy_text, setting_text
from study.report.rules import rules_of
from study.report.source import Source
from study.report.wording import CONSTRAINTS, COSTS, POLICIES

MOST = 2500
"""Points that a page shows at most."""
_CELLS = 300
"""Of points that are not on the front, one is kept in each cell of a grid of so many rows and columns."""
_NUMBERS = (
    *("number", "accuracy", "test_accuracy", "test_accuracy_low", "test_accuracy_high", "test_classic_accuracy"),
    *("classic_accuracy", "beta", "beta_low", "beta_high", "start_layer", "max_jump", "price", "certified_drop"),
)
_WORDS = ("network", "policy", "policy_text", "setting", "criterion", "overshoot", "statistic", "dvfs")


def point_columns(source: Source) -> dict[str, Any] | None:
    """The operating points as columns of equal length; None where there are none.

    Numbers are lists with None where there is none; words are ``{"values": [..], "codes": [..]}``. ``shown`` and
    ``all`` count the points; ``stops`` and ``right`` hold, for points of the front, the share of images that stop at
    each exit and their accuracy, in units of 1/10,000.
    """
    points = source.searched
    if points.empty:
        return None
    front = source.table("front")
    extra = [name for name in map(str, front) if name.startswith(("test_", "certified_")) or name == "recommended"]
    joined = points.drop(columns=[name for name in extra if name in points]).merge(
        front[["search", "number", *extra]], on=["search", "number"], how="left", indicator="found"
    )
    joined["on_front"] = joined["found"] == "both"
    joined["recommended"] = joined["recommended"].eq(True)
    if source.summary is not None:
        best = source.summary.recommended
        joined["recommended"] = (joined["search"] == best["search"]) & (joined["number"] == best["number"])
    shown = joined[_kept(joined)].sort_values(["flops", "accuracy"], ignore_index=True)
    texts = [(policy_text(row), setting_text(row)) for row in rows_of(shown)]
    networks = zip(shown["trial_id"], shown["precision"], strict=True)
    shown = shown.assign(network=[source.network(*one) for one in networks])
    shown = shown.assign(policy_text=[one for one, _ in texts], setting=[one for _, one in texts])
    columns: dict[str, Any] = {name: _numbers(shown[name]) for name in _NUMBERS if shown[name].notna().any()}
    columns |= {cost: _numbers(shown[column]) for cost, (_, column) in COSTS.items() if shown[column].notna().any()}
    columns |= {name: _words(shown[name]) for name in _WORDS if shown[name].notna().any()}
    columns |= {name: shown[name].eq(True).astype(int).tolist() for name in ("on_front", "recommended", "feasible")}
    order = {name: place for place, name in enumerate(POLICIES)}
    columns["series"] = sorted(
        columns["policy_text"]["values"], key=lambda name: (order.get(name.partition(",")[0], len(order)), name)
    )
    columns["broken"] = _words(shown["constraints"].map(_broken))
    columns |= {"shown": len(shown), "all": len(joined), "front": int(joined["on_front"].sum())}
    columns |= _exits_of(source, shown)
    columns |= rules_of(shown)
    return columns


def _kept(points: pd.DataFrame) -> NDArray[np.bool_]:
    """Which points the page shows: at most :data:`MOST`, the recommended one among them.

    Points of the front go first. They are thinned evenly along the costs; of the others, points that lie in the same
    place of a plot are drawn once.
    """
    keep = np.zeros(len(points), dtype=np.bool_)
    order = np.lexsort((points["accuracy"], points["flops"]))
    front = order[points["on_front"].to_numpy()[order]]
    others = order[~points["on_front"].to_numpy()[order]]
    room = MOST * 4 // 5 if len(front) + len(others) > MOST and len(others) else MOST
    keep[_evenly(front, room)] = True
    if len(others):
        columns = [points[name].to_numpy(dtype=np.float64)[others] for name in ("accuracy", "flops")]
        cells = np.column_stack([_cells(one) for one in columns] + [pd.factorize(points["policy"].iloc[others])[0]])
        first = np.sort(np.unique(cells, axis=0, return_index=True)[1])
        apart = others if len(points) <= MOST else others[first]
        keep[_evenly(apart, MOST - int(keep.sum()))] = True
    return np.asarray(keep | points["recommended"].to_numpy(dtype=np.bool_))


def _evenly(places: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most so many of some places, spread evenly."""
    if len(places) <= most:
        return places
    return places[np.unique(np.linspace(0, len(places) - 1, most).astype(np.int64))]


def _cells(values: NDArray[np.float64]) -> NDArray[np.int64]:
    low, span = np.nanmin(values), np.ptp(values)
    return np.asarray(np.nan_to_num((values - low) / (span or 1.0)) * _CELLS, dtype=np.int64)


def _broken(constraints: object) -> str | None:
    """The constraints that a point breaks."""
    exceeded: Mapping[str, float] = json.loads(constraints) if isinstance(constraints, str) else {}
    return ", ".join(CONSTRAINTS.get(name, name) for name, value in exceeded.items() if value > 0) or None


def _numbers(column: pd.Series) -> list[float | int | None]:
    """Numbers with six digits: more cannot be seen, and make the page larger."""
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    texts = np.char.mod("%.6g", values)
    return [None if not finite else _shortest(text) for text, finite in zip(texts, np.isfinite(values), strict=True)]


def _shortest(text: str) -> float | int:
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _words(column: pd.Series) -> dict[str, Any]:
    codes, values = pd.factorize(column, use_na_sentinel=True)
    return {"values": [str(one) for one in values], "codes": codes.tolist()}


def _exits_of(source: Source, shown: pd.DataFrame) -> dict[str, Any]:
    """Where the images of each point of the front stop on test, and what all points of a network share.

    ``networks`` has, for each network at each precision, the accuracy of each exit on all test images and the FLOPs of
    the network cut there.
    """
    nothing: dict[str, Any] = {name: [None] * len(shown) for name in ("stops", "right")}
    nothing |= {"networks": {}, "thresholds": {}}
    exits = source.table("exits")
    own = exits[exits["point"].notna() & (exits["split"] == "test")]
    if own.empty:
        return nothing
    wanted = pd.MultiIndex.from_frame(shown.loc[shown["on_front"], ["trial_id", "number"]].astype({"number": "int64"}))
    keys = pd.MultiIndex.from_arrays([own["trial_id"], own["point"].astype("int64")])
    own = own[keys.isin(wanted)].sort_values(["trial_id", "point", "exit"], kind="stable")
    if own.empty:  # the table of the front is damaged
        return nothing
    groups = dict(iter(own.groupby(["trial_id", "point"], sort=False)[["share_stopped", "accuracy_stopped"]]))
    stops: list[list[int | None] | None] = []
    right: list[list[int | None] | None] = []
    for trial, number, front in zip(shown["trial_id"], shown["number"], shown["on_front"], strict=True):
        rows = groups.get((trial, number)) if front else None
        stops.append(None if rows is None else _parts(rows["share_stopped"]))
        right.append(None if rows is None else _parts(rows["accuracy_stopped"]))
    columns: Sequence[str] = ("accuracy_all", "cumulative_flops", "cumulative_energy_joules")
    named = own.assign(network=[source.network(*one) for one in zip(own["trial_id"], own["precision"], strict=True)])
    networks = {
        str(name): {column: _numbers(rows[column]) for column in columns}
        for name, rows in named.drop_duplicates(["network", "exit"]).groupby("network")
    }
    known = named.dropna(subset="statistic").assign(key=named["network"] + " " + named["statistic"].fillna(""))
    thresholds = {
        str(key): _numbers(rows["threshold"]) for key, rows in known.drop_duplicates(["key", "exit"]).groupby("key")
    }
    return {"stops": stops, "right": right, "networks": networks, "thresholds": thresholds}


def _parts(shares: pd.Series) -> list[int | None]:
    """Shares in units of 1/10,000."""
    return [None if np.isnan(one) else round(one * 10_000) for one in shares.to_numpy(dtype=np.float64)]
