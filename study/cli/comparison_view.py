"""``predictive-exit compare``: policies against each other at equal accuracy, from a run folder's stored traces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch

from results.parts import rows_of
from results.storage.paths import Location
from study.cli.printing import PlainTable, console_of, write_points
from study.errors import UserError
from study.policies.criteria import CRITERIA
from study.run.reader import published_costs, stored_networks, stored_study, stored_test_logits
from study.search.compare import DROPS, Comparison, Objective, compare
from study.search.cost_source import check_costs
from study.search.space import check_names
from study.storage.strict_json import dumps


def show_comparison(
    folder: Location,
    changes: Sequence[tuple[str, object]],
    *,
    data: str | None = None,
    drops: Sequence[float] = DROPS,
    objective: Objective = "flops",
    output: Path | None,
    as_json: bool,
) -> None:
    """Compare the contenders on the networks of a run folder, and print and write what was found.

    Args:
        folder: run folder with traces and profiles; neither images nor weights are needed.
        changes: to the study, as those of ``run --set``.
        data: the data set; may be left out where the study has one.
        drops, objective: as of :func:`study.search.compare.compare`.
        output: .csv or .parquet of all rows.
        as_json: print JSON in place of tables.

    Raises:
        UserError: something stored is missing, or as of :func:`study.search.compare.compare`.
    """
    for key, _ in changes:
        if key.removeprefix("operating_points.") in _ALL_TAKEN:
            raise UserError(f"compare: --set {key} has no say: all policies, exits and betas are tried, up to --drop")
    spec = stored_study(folder, changes).operating_points
    check_names(spec, criteria=CRITERIA)
    if changes:  # what is stored was checked before it was computed
        check_costs(spec, cast(Any, spec.quantization.values), torch.device("cpu"), stored_will_do=True)
    networks = stored_networks(folder, spec, data)
    tests = stored_test_logits(folder, networks)
    found = compare(
        spec,
        networks,
        lambda one: tests[one.weights, one.precision],
        published=lambda one: published_costs(folder, one),
        drops=drops,
        objective=objective,
        rules=[str(rule) for rule in spec.dvfs.values if rule != "none"],
    )
    if output:
        write_points(found.rows, output)
    if as_json:
        names = {"comparison": found.rows, "predictions": found.predictions}
        print(dumps({name: list(rows_of(rows)) for name, rows in names.items()}, indent=1))
        return
    console = console_of()
    for (trial, precision), rows in found.rows.groupby(["trial_id", "precision"], sort=False):
        title = f"{trial} at {precision}: chosen on validation for the least {objective}, reported on test"
        console.print(_table(title, rows))
    for line in _lines(found, objective):
        console.print(line, soft_wrap=True)


_ALL_TAKEN = ("policy", "criterion", "beta", "start_layer", "placements", "constraints.accuracy_drop")
"""Settings of a study that a comparison goes through, or bounds, by itself."""
_SHARES = {
    "test_flops_share": "FLOPs",
    "test_flops_published_share": "published",
    "test_energy_share": "energy",
}


def _table(title: str, rows: pd.DataFrame) -> PlainTable:
    table = PlainTable(title)
    shares = [name for name in _SHARES if name in rows and rows[name].notna().any()]
    scaled = [name for name in map(str, rows) if name.startswith("test_energy_share_") and rows[name].notna().any()]
    for heading in ("at most", "policy", "setting"):
        table.add_column(heading, no_wrap=True)
    names = [*(_SHARES[name] for name in shares), *(name.removeprefix("test_energy_share_") for name in scaled)]
    for heading in ("lost", "95 %", *names, "mean exit", "heads", "engine right"):
        table.add_column(heading, justify="right", no_wrap=True)
    last = None
    for row in rows_of(rows):
        right = row.get("prediction_accuracy")
        table.add_row(
            f"{row['drop'] * 100:g}" if row["drop"] != last else "",
            row["contender"],
            _setting(row),
            f"{row['test_drop'] * 100:.2f}",
            f"{row['test_drop_low'] * 100:.2f} to {row['test_drop_high'] * 100:.2f}",
            *("" if row[name] is None else f"{row[name]:.1%}" for name in (*shares, *scaled)),
            f"{row['test_mean_exit']:.1f}",
            f"{row['test_heads_run']:.1f}",
            "" if right is None else f"{right:.1%}",
        )
        last = row["drop"]
    return table


def _setting(row: dict[str, Any]) -> str:
    """What was chosen, short."""
    parts = []
    if row["exits"] is not None:
        parts.append("exits " + " ".join(str(int(exit)) for exit in row["exits"]))
    if row["beta"] is not None:
        parts.append(f"beta {row['beta']:.4g}")
    if row["start_layer"] is not None:
        parts.append(f"from {row['start_layer']:.0f}")
    return ", ".join([*parts, *([row["statistic"]] if row["statistic"] else [])])


def _lines(found: Comparison, objective: Objective) -> list[str]:
    """What the table says, in sentences: who wins on validation, and what that is worth on test."""
    lines = []
    for (trial, precision, drop), rows in found.rows.groupby(["trial_id", "precision", "drop"], sort=False):
        rows = rows.set_index("contender")
        real = rows[f"{objective}_share"].drop(labels=["hierarchical, oracle"], errors="ignore")
        if real.empty:
            continue
        least = str(real.idxmin())
        share = rows[f"test_{objective}_share"]
        told = ", ".join(
            f"{(1 - share[least] / share[name]):+.1%} against {name}"
            for name in ("static", "predictive", "hierarchical")
            if name in share and name != least
        )
        points = float(str(drop)) * 100
        lines.append(
            f"{trial} {precision}, at most {points:g} points: least {_NAMES[objective]} by {least}, "
            f"{share[least]:.1%} of classic on test" + (f" (saves {told})" if told else "")
        )
    return lines


_NAMES: dict[Objective, str] = {"flops": "FLOPs", "energy": "energy"}
