"""Print the front of a study as a table and in sentences, and write it to a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from results.parts import data_names, empty_table, part_count, read_table, rows_of
from results.storage.paths import Location
from results.summary import FrontSummary, summarize_front, summary_json
from study.cli.printing import PlainTable, console_of, require_run_folder, write_points
from study.errors import UserError
from study.policies.policies import policy_from_row
from study.storage.strict_json import dumps

SHOWN = 60
"""Rows of a printed front."""


def print_front(folder: Location, *, as_json: bool, data: str | None = None) -> None:
    """Print the front of each data set of a run folder, or of one of them."""
    require_front(folder)
    tables = folder / "tables"
    several = data_names(tables, "front")
    if data is not None or len(several) < 2:
        fronts = {data: summarize_front(tables, data=data)}
    else:
        fronts = {name: summarize_front(tables, data=name) for name in several}
    if as_json:
        printed = {name: summary_json(summary) for name, summary in fronts.items()}
        print(dumps(printed if len(fronts) > 1 else printed[data], indent=1))
        return
    console = console_of()
    for name, summary in fronts.items():
        if len(fronts) > 1:
            console.print(f"data set {name}")
        console.print(_front_table(summary))
        for line in front_lines(summary):
            console.print(line, soft_wrap=True)
    console.print(f"tables: {tables}")


def require_front(folder: Location) -> None:
    """Refuse a folder that is no run folder, and a finished study whose front is empty, with the reason of ``run``.

    A study of which a point keeps the constraints has a front, so that the table is missing for another reason.
    """
    require_run_folder(folder)
    tables = folder / "tables"
    finished = part_count(tables, "costs") > 0
    if finished and not part_count(tables, "front"):
        from study.search.test_front import why_no_front

        there = part_count(tables, "operating_points")
        points = read_table(tables, "operating_points") if there else empty_table("operating_points")
        if not points["feasible"].eq(True).any():
            raise UserError(f"{folder}: {why_no_front(points)}")


def front_lines(summary: FrontSummary) -> list[str]:
    """The summary of a front in sentences."""
    classic, points = summary.reference, summary.tolerance * 100
    costs = [f"{classic.flops / 1e6:.2f} MFLOPs"]
    if summary.energy_source:
        costs.append(f"{classic.energy_joules * 1e3:.4g} mJ ({_source(summary.energy_source, summary.device)})")
    if summary.latency_source:
        costs.append(f"{classic.latency_seconds * 1e3:.4g} ms ({_source(summary.latency_source, summary.device)})")
    lines = [
        f"classic network {classic.trial_id} ({classic.precision}): validation accuracy {classic.accuracy:.2%}, "
        f"{', '.join(costs)} per image"
    ]
    best, thrifty = summary.best_point, summary.thriftiest_point
    drop = f"{points:g} point" + ("" if points == 1 else "s")
    if best is None:
        lines.append(f"no point of the front is within {drop} of it")
    else:
        lines.append(
            f"at most {drop} below it on validation, fewest FLOPs: point {best['number']} with "
            f"{best['flops_share']:.1%} of its FLOPs"
            + (f" and {best['energy_share']:.1%} of its energy; " if summary.energy_source else "; ")
            + f"on test {best['test_accuracy']:.2%} "
            + f"[{best['test_accuracy_low']:.2%}, {best['test_accuracy_high']:.2%}], "
            f"the same network without exits {best['test_classic_accuracy']:.2%}"
        )
    if best is not None and thrifty is not None and thrifty["number"] != best["number"]:
        lines.append(
            f"least energy: point {thrifty['number']} with {thrifty['energy_share']:.1%} of its energy and "
            f"{thrifty['flops_share']:.1%} of its FLOPs; on test {thrifty['test_accuracy']:.2%}"
        )
    if summary.optimism is not None:
        lines.append(
            f"optimism: the front has {abs(summary.optimism):.1%} {'less' if summary.optimism >= 0 else 'more'} "
            f"hypervolume on test than on validation; from validation to test its points' accuracy changes by "
            f"{-summary.mean_optimism * 100:+.2f} points in the mean, that of their classic networks by "
            f"{-summary.classic_optimism * 100:+.2f}"
        )
    static = summary.best_static
    if static is not None:
        share = static["cumulative_flops"] / classic.flops
        cut = f"a network simply cut (exit {static['exit']} of {static['trial_id']}, {static['precision']})"
        energy = f" and {static['cumulative_energy_joules'] / classic.energy_joules:.1%} of its energy"
        test = summary.static_test_accuracy
        on_test = "not evaluated on test" if test is None else f"on test {test:.2%}"
        lines.append(
            f"{cut} needs {share:.1%} of its FLOPs{energy if summary.energy_source else ''} for that; {on_test}"
        )
    return lines


def _source(source: str, device: str | None) -> str:
    """An energy or latency source and its device; the name of a model says the device already."""
    return source if source.startswith("modelled:") or device is None else f"{source} on {device}"


def _front_table(summary: FrontSummary) -> Table:
    named = [point["number"] for point in (summary.best_point, summary.thriftiest_point) if point is not None]
    shown = thinned(summary.points, named)
    some = "" if len(shown) == len(summary.points) else f" ({len(shown)} of {len(summary.points)} points)"
    table = PlainTable(f"front: chosen on validation, reported on test{some}")
    texts = ["trial_id", "number", "policy", "statistic"]
    # A column is left out if it has the usual value in every row.
    usual = {"criterion": {"logit"}, "precision": {"fp32"}, "dvfs": {"none"}}
    texts += [name for name, values in usual.items() if not set(summary.points[name].dropna()) <= values]
    texts += ["exits"] if summary.points["exits"].notna().any() else []
    numbers = {"beta": ".4g", "start_layer": ".0f", "accuracy": ".2%", "flops_share": ".1%", "energy_share": ".1%"}
    if summary.latency_source:
        numbers["latency_share"] = ".1%"
    for name in texts:
        table.add_column(HEADINGS.get(name, name), no_wrap=True)
    for name in [*numbers, "test", "95 %"]:
        table.add_column(HEADINGS.get(name, name), justify="right", no_wrap=True)
    for row in rows_of(shown):
        table.add_row(
            *(setting_text(row, name) for name in texts),
            *(_text(row[name], form) for name, form in numbers.items()),
            f"{row['test_accuracy']:.2%}",
            f"{row['test_accuracy_low']:.1%}-{row['test_accuracy_high']:.1%}",
        )
    return table


def setting_text(row: Mapping[str, Any], name: str) -> str:
    """A setting of an operating point as text; empty if the setting has no effect."""
    if name == "statistic" and not policy_from_row(row).compares_thresholds:
        return ""
    value = row.get(name)
    if name == "exits" and value is not None:
        return " ".join(str(int(exit)) for exit in value)
    return "" if value is None else str(value)


def thinned(points: pd.DataFrame, named: Sequence[int] = ()) -> pd.DataFrame:
    """About ``SHOWN`` rows of a front, spread evenly, and the rows of the numbers in ``named``."""
    places = np.linspace(0, len(points) - 1, min(SHOWN, len(points))).astype(np.int64)
    if named:
        places = np.concatenate([places, np.flatnonzero(points["number"].isin(named))])
    return points.iloc[np.unique(places)]


HEADINGS = {
    "trial_id": "network",
    "number": "point",
    "start_layer": "start",
    "max_jump": "jump",
    "flops_share": "FLOPs",
    "energy_share": "energy",
    "latency_share": "mean latency",
}


def _text(value: Any, form: str) -> str:
    return "" if value is None or math.isnan(value) else format(value, form)


def write_front(folder: Location, output: Path, *, data: str | None = None) -> None:
    """Write the front, with its shares of the classic network, as .csv or .parquet."""
    require_front(folder)
    write_points(summarize_front(folder / "tables", data=data).points, output)
