"""``predictive-exit front --exact``: the exact front of a run folder's networks, from their stored traces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pandas as pd
import torch

from results.parts import part_count, read_table, rows_of
from results.storage.paths import Location
from study.cli.front_view import HEADINGS, setting_text, thinned
from study.cli.printing import PlainTable, console_of, write_points
from study.errors import UserError
from study.networks.precisions import Precision
from study.policies.criteria import CRITERIA
from study.run.reader import stored_networks, stored_study
from study.search.cost_source import check_costs
from study.search.exact_report import ExactReport, exact_report
from study.search.exact_search import uncovered
from study.search.space import check_depth, check_names
from study.storage.strict_json import dumps


def show_exact_front(
    folder: Location,
    changes: Sequence[tuple[str, object]],
    *,
    data: str | None = None,
    output: Path | None,
    figure: Path | None,
    as_json: bool,
) -> None:
    """Compute the exact front on the validation split; print, write and draw it.

    Args:
        folder: run folder with traces and profiles; neither images nor weights are needed.
        changes: to the study, as those of ``run --set``: another space of the same networks.
        data: the data set; may be left out where the study has one.
        output: .csv or .parquet of all points.
        figure: of the front.
        as_json: print JSON in place of a table.

    Raises:
        UserError: the front of this space cannot be computed exactly, or something stored is missing.
    """
    spec = stored_study(folder, changes).operating_points
    check_names(spec, criteria=CRITERIA)
    reason = uncovered(spec)
    if reason:
        raise UserError(f"front --exact does not cover this space: {reason}; --set {reason.remedy}")
    if changes:  # what is stored was checked before it was computed
        own = stored_study(folder).operating_points
        if (spec.costs, spec.dvfs, spec.quantization) != (own.costs, own.dvfs, own.quantization):
            precisions = cast(Sequence[Precision], spec.quantization.values)
            check_costs(spec, precisions, torch.device("cpu"), stored_will_do=True)
    networks = stored_networks(folder, spec, data)
    check_depth(spec, min(network.exit_count for network in networks))
    tables = folder / "tables"
    there = part_count(tables, "operating_points")
    report = exact_report(spec, networks, read_table(tables, "operating_points") if there else None)
    if output:
        write_points(report.points, output)
    if figure:
        from results.figures import exact_figure

        exact_figure(report.points, report.reference.classic_accuracy, figure)
    if as_json:
        print(dumps({**report.facts(), "front": list(rows_of(report.points))}, indent=1))
        return
    console = console_of()
    console.print(_table(report.points))
    for sentence in _sentences(report):
        console.print(sentence, soft_wrap=True)


def _table(points: pd.DataFrame) -> PlainTable:
    shown = thinned(points)
    some = "" if len(shown) == len(points) else ", all with --output"
    title = f"exact front on validation: {len(shown)} of {len(points)} points{some}"
    table = PlainTable(title)
    texts = [name for name in _TEXTS if len(_distinct(points, name)) > 1]
    for name in texts:
        table.add_column(HEADINGS.get(name, name), no_wrap=True)
    whole = [name for name in ("start_layer", "max_jump") if points[name].notna().any()]
    shares = [name for name in ("energy_share", "latency_mean_share") if name in points and points[name].notna().any()]
    headings = [*whole, "beta in", "accuracy", "FLOPs", *(share.removesuffix("_share") for share in shares)]
    for name in headings:
        table.add_column(HEADINGS.get(name, name), justify="right", no_wrap=True)
    for row in rows_of(shown):
        interval = "" if row["beta_high"] is None else f"({row['beta_low']:.5g}, {row['beta_high']:.5g}]"
        table.add_row(
            *(setting_text(row, name) for name in texts),
            *("" if row[name] is None else f"{row[name]:.0f}" for name in whole),
            interval,
            f"{row['accuracy']:.2%}",
            *(f"{row[name]:.1%}" for name in ("flops_share", *shares)),
        )
    return table


_TEXTS = ("trial_id", "precision", "policy", "criterion", "statistic", "exits", "dvfs", "overshoot")


def _distinct(points: pd.DataFrame, name: str) -> set[str]:
    return {setting_text(row, name) for row in rows_of(points)}


def _sentences(report: ExactReport) -> list[str]:
    points, costs, classic = report.points, report.reference_costs, report.reference
    energy = ""
    if "energy" in costs:
        energy = f", {costs['energy'] * 1e3:.4g} mJ ({points['energy_source'].iloc[0]})"
    sentences = [
        f"{len(points)} points in {report.seconds:.2f} s; shares are of the classic network {classic.trial_id} "
        f"({classic.precision}): accuracy {classic.classic_accuracy:.2%}, {costs['flops'] / 1e6:.2f} MFLOPs{energy} "
        f"per image; hypervolume {report.hypervolume:.4f}"
    ]
    alike = {HEADINGS.get(name, name): _distinct(points, name) for name in _TEXTS}
    same = [f"{name} {next(iter(values))}" for name, values in alike.items() if len(values) == 1 and values != {""}]
    if same:
        sentences.append(f"all points: {', '.join(same)}")
    near = points[points["accuracy_drop"] <= 0.01 + 1e-12]
    if len(near):
        sentences.append(f"fewest FLOPs at most 1 point below the classic network: {near['flops_share'].min():.1%}")
    search = report.search
    if search is not None and search.hypervolume_ratio is not None:
        sentences.append(
            f"the study's own search, in its own space, found {search.hypervolume_ratio:.2%} of this hypervolume, and "
            f"points that dominate {search.dominated:.1%} of these points"
        )
    sentences.append("chosen on validation images; the table `front` of a study reports its points on test images")
    return sentences
