"""What the command line prints: fronts, status, single results."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from results.files import write_atomic
from results.summary import FrontSummary, summarize_front, summary_json
from results.tables import SCHEMAS, part_count, read_table, rows_of
from search_spaces.spec import validate_space
from study.errors import UserError
from study.learning_curves import best_epoch, history_from_json
from study.run_folder import STUDY_FILE, read_study_file
from study.storage import DamagedError, read_published
from study.strict_json import parse_json

SHOWN = 60
"""Rows of a printed front."""


def console_of() -> Console:
    """Where results are printed."""
    # Rich would fold a table to 80 columns where there is no terminal to measure.
    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 200)


def print_front(folder: Path, *, as_json: bool) -> None:
    """Print the front of a run folder."""
    _require_run_folder(folder)
    summary = summarize_front(folder / "tables")
    if as_json:
        print(json.dumps(summary_json(summary), indent=1))
        return
    console = console_of()
    console.print(_front_table(summary))
    for line in front_lines(summary):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"tables: {folder / 'tables'}", markup=False)


def front_lines(summary: FrontSummary) -> list[str]:
    """The summary in sentences."""
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
        lines.append(f"{cut} needs {share:.1%} of its FLOPs{energy if summary.energy_source else ''} for that")
    return lines


def _source(source: str, device: str | None) -> str:
    """A model names its device itself."""
    return source if source.startswith("modelled:") or device is None else f"{source} on {device}"


def _front_table(summary: FrontSummary) -> Table:
    shown = thinned(summary.points)
    some = "" if len(shown) == len(summary.points) else f" ({len(shown)} of {len(summary.points)} points)"
    table = Table(title=f"front: chosen on validation, reported on test{some}", title_justify="left")
    texts = ["trial_id", "number", "policy", "statistic"]
    # A column that says the usual in every row says nothing.
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
    """A setting of an operating point in a printed table; empty where it has no effect."""
    if name == "statistic" and (row["policy"] in ("classic", "static") or row.get("criterion") not in (None, "logit")):
        return ""
    value = row.get(name)
    if name == "exits" and value is not None:
        return " ".join(str(int(exit)) for exit in value)
    return "" if value is None else str(value)


def thinned(points: pd.DataFrame) -> pd.DataFrame:
    """As many rows of a front as can be read, spread evenly; a file has all of them."""
    places = np.linspace(0, len(points) - 1, min(SHOWN, len(points)))
    return points.iloc[np.unique(places.astype(np.int64))]


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


def write_front(folder: Path, output: Path) -> None:
    """Write the front, with its shares of the classic network, as .csv or .parquet."""
    _require_run_folder(folder)
    write_points(summarize_front(folder / "tables").points, output)


def write_points(points: pd.DataFrame, output: Path) -> None:
    """Write operating points as .csv or .parquet."""
    content = BytesIO()
    if output.suffix == ".csv":
        points.to_csv(content, index=False)
    else:
        points.to_parquet(content, index=False)
    write_atomic(output, content.getvalue())


def study_status(folder: Path) -> dict[str, Any]:
    """What of a study is there, derived from the files of its run folder.

    Raises:
        UserError, SpecError, TableError: the study or a table cannot be read.
    """
    stored = read_study_file(folder)
    if stored is None:
        raise _no_run_folder(folder)
    spec = validate_space(stored["study"], str(folder / STUDY_FILE))
    trials = [_trial_status(path) for path in sorted((folder / "checkpoints").glob("*")) if path.is_dir()]
    tables = folder / "tables"
    present = [name for name in SCHEMAS if part_count(tables, name)]
    if "trials" in present:
        known = read_table(tables, "trials").set_index("trial_id")
        for trial in trials:
            if trial["trial_id"] in known.index:
                trial["status"] = str(known.loc[trial["trial_id"], "status"])
    exact = spec.operating_points.search == "exact"
    points = read_table(tables, "operating_points") if "operating_points" in present else pd.DataFrame({"state": []})
    done = points[points["state"] == "COMPLETE"]
    return {
        "study": spec.name,
        "created": stored["provenance"].get("created"),
        "versions": stored["provenance"].get("versions"),
        "trials": trials,
        "operating_points": len(points),
        "operating_points_failed": int((points["state"] == "FAIL").sum()),
        "asked": {
            "backbones": spec.backbones.trials,
            "exits for each of the best backbones": spec.exits.trials,
            "parents": spec.exits.parents,
            "operating_points for each search": "all of the exact front" if exact else spec.operating_points.trials,
        },
        "tables": present,
        "constraints_kept": not len(done) or bool(done["feasible"].eq(True).any()),
        "finished": set(present) == set(SCHEMAS),
    }


def _trial_status(folder: Path) -> dict[str, Any]:
    """A trial as its last checkpoint tells; read as plain JSON, because parsing it in full would import torch."""
    row: dict[str, Any] = {"trial_id": folder.name, "status": "under way"}
    try:
        published = read_published(folder / "last", names={"checkpoint.json"})
    except DamagedError as error:
        return {**row, "status": f"damaged: {error}"}
    if published is None:
        return {**row, "status": "no epoch yet"}
    try:
        description = parse_json(published.files["checkpoint.json"])
        network, mode = description["network"], description["training"]["mode"]
        history = history_from_json(description["history"])
        score = best_epoch(history).score
        return {
            **row,
            "mode": mode,
            "network": f"{network['backbone']} x {network['width']:g}",
            "head": network["head"]["kind"] if mode in ("exits", "joint") else None,
            "epochs": history[-1].epoch,
            "score": None if math.isnan(score) else score,
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {**row, "status": f"damaged: {folder / 'last'} is no checkpoint of this program"}


def print_status(folder: Path, *, as_json: bool) -> None:
    """Print the status of a run folder."""
    status = study_status(folder)
    if as_json:
        print(json.dumps(status, indent=1))
        return
    console = console_of()
    table = Table(title=f"study {status['study']}, created {status['created']}", title_justify="left")
    columns = ("trial_id", "status", "mode", "network", "head", "epochs", "score")
    for name in columns:
        table.add_column(name)
    for trial in status["trials"]:
        score = trial.get("score")
        shown = {**trial, "score": "" if score is None else f"{score:.4f}"}
        table.add_row(*("" if shown.get(name) is None else str(shown[name]) for name in columns))
    console.print(table)
    console.print("asked: " + ", ".join(f"{value} {name}" for name, value in status["asked"].items()), markup=False)
    failed = status["operating_points_failed"]
    console.print(f"operating points: {status['operating_points']}, {failed} of them failed", markup=False)
    console.print(f"tables: {', '.join(status['tables']) or 'none yet'}", markup=False)
    left = "not finished: the same `run` command goes on"
    if not status["constraints_kept"]:
        left = "not finished: no operating point so far keeps to the constraints"
    console.print("finished" if status["finished"] else left, markup=False)


def _require_run_folder(folder: Path) -> None:
    if not (folder / STUDY_FILE).is_file():
        raise _no_run_folder(folder)


def _no_run_folder(folder: Path) -> UserError:
    return UserError(f"{folder} is no run folder: it has no {STUDY_FILE} (run folders lie under runs/ by default)")


def print_mapping(result: Mapping[str, Any]) -> None:
    """One line for each value; a list of rows as a table."""
    console = console_of()
    for name, value in result.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            console.print(f"{name}:", markup=False)
            console.print(pd.DataFrame(value).to_string(index=False, float_format="{:.6g}".format), markup=False)
        elif isinstance(value, list):
            console.print(f"{name}: {' '.join(_number(item) for item in value)}", markup=False)
        else:
            console.print(f"{name}: {_number(value)}", markup=False)


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
