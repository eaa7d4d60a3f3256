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
from study.search.cheapest import Objective
from study.search.compare import DROPS, Comparison, best_families, compare
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
    report_test: bool = False,
    output: Path | None,
    as_json: bool,
) -> None:
    """Compare the policy families on the networks of a run folder; print and write the result.

    Args:
        folder: run folder with traces and profiles; neither images nor weights are needed.
        changes: to the study, as those of ``run --set``.
        data: the data set; may be left out where the study has one.
        drops, objective: as of :func:`study.search.compare.compare`.
        report_test: report the chosen points on test too; otherwise the test traces are not opened.
        output: .csv or .parquet of all rows.
        as_json: print JSON in place of tables.

    Raises:
        UserError: something stored is missing, or as of :func:`study.search.compare.compare`.
    """
    for key, _ in changes:
        if key.removeprefix("operating_points.") in _DECIDED:
            raise UserError(
                f"compare: --set {key} has no effect: all policies, exits and betas are tried, up to --drop"
            )
    spec = stored_study(folder, changes).operating_points
    check_names(spec, criteria=CRITERIA)
    if changes:  # the stored settings were checked before the study ran
        check_costs(spec, cast(Any, spec.quantization.values), torch.device("cpu"), stored_will_do=True)
    networks = stored_networks(folder, spec, data)
    tests = stored_test_logits(folder, networks) if report_test else {}
    found = compare(
        spec,
        networks,
        test_logits=(lambda one: tests[one.weights, one.precision]) if report_test else None,
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
        on = "test" if report_test else "validation"
        title = f"{trial} at {precision}: chosen on validation for the least {_NAMES[objective]}, reported on {on}"
        console.print(_table(title, rows, objective, "test_" if report_test else ""))
    for line in _sentences(found, objective):
        console.print(line, soft_wrap=True)


_DECIDED = ("policy", "criterion", "beta", "start_layer", "placements", "constraints.accuracy_drop")
"""Settings of a study that a comparison varies, or bounds, itself."""
_SHARES = {"flops_share": "FLOPs", "flops_published_share": "published", "energy_share": "energy"}
_NAMES: dict[Objective, str] = {"flops": "FLOPs", "energy": "energy"}


def _table(title: str, rows: pd.DataFrame, objective: Objective, prefix: str) -> PlainTable:
    """The rows of one network; ``prefix`` is that of the columns of the reported split.

    The printed loss is that on test, or that on validation images that did not choose.
    """
    table = PlainTable(title)
    lost = "test_drop" if prefix else "unseen_drop"
    scaled = [name for name in map(str, rows) if name.startswith(f"{prefix}energy_share_")]
    names = {prefix + name: heading for name, heading in _SHARES.items()}
    names |= {name: name.removeprefix(f"{prefix}energy_share_") for name in scaled}
    shares = [name for name in names if name in rows and rows[name].notna().any()]
    for heading in ("at most", "policy", "setting"):
        table.add_column(heading, no_wrap=True)
    matched = f"matched_{objective}_share"
    at_equal_loss = (f"{_NAMES[objective]} at equal loss", "95 %")
    engine = ("mean exit", "heads", "engine right")
    for heading in ("lost", "95 %", *(names[name] for name in shares), *at_equal_loss, *engine):
        table.add_column(heading, justify="right", no_wrap=True)
    last = None
    for row in rows_of(rows):
        right = row.get(f"{prefix}prediction_accuracy")
        table.add_row(
            f"{row['drop'] * 100:g}" if row["drop"] != last else "",
            row["family"],
            _setting(row),
            _points(row[lost]),
            _interval(row, lost, _points),
            *(_share(row[name]) for name in shares),
            _share(row[matched]),
            _interval(row, matched, _share),
            f"{row[f'{prefix}mean_exit']:.1f}",
            f"{row[f'{prefix}heads_run']:.1f}",
            _share(right),
        )
        last = row["drop"]
    return table


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _points(value: float | None) -> str:
    return "" if value is None else f"{value * 100:.2f}"


def _interval(row: dict[str, Any], name: str, form: Any) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "" if low is None else f"{form(low)} to {form(high)}"


def _setting(row: dict[str, Any]) -> str:
    """The chosen settings in short."""
    parts = []
    if row["exits"] is not None:
        parts.append("exits " + " ".join(str(int(exit)) for exit in row["exits"]))
    if row["beta"] is not None:
        parts.append(f"beta {row['beta']:.4g}")
    if row["start_layer"] is not None:
        parts.append(f"from {row['start_layer']:.0f}")
    return ", ".join([*parts, *([row["statistic"]] if row["statistic"] else [])])


def _sentences(found: Comparison, objective: Objective) -> list[str]:
    """One sentence for each network and bound: the cheapest family at equal loss, and its saving over a plain cut."""
    sentences = []
    for row in rows_of(best_families(found.rows, objective)):
        share = f"matched_{objective}_share"
        saving = ""
        if row["matched_saving"] is not None and row["family"] != "static":
            low, high = row["matched_saving_low"] * 100, row["matched_saving_high"] * 100
            saving = f"; {row['matched_saving'] * 100:.1f} points ({low:.1f} to {high:.1f}) less than the network cut"
        points = row["drop"] * 100
        sentences.append(
            f"{row['trial_id']} {row['precision']}, {points:g} point{'' if points == 1 else 's'} lost on images that "
            f"did not choose: least {_NAMES[objective]} by {row['family']}, {row[share]:.1%} of classic "
            f"({row[f'{share}_low']:.1%} to {row[f'{share}_high']:.1%}){saving}"
        )
    return sentences
