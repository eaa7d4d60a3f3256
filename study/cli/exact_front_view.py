"""``predictive-exit front --exact``: the exact front of a run folder's networks, from their stored traces."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from results.pareto import non_dominated
from results.parts import part_count, read_table, rows_of
from results.schemas import METRICS, SETTINGS
from results.storage.paths import Location
from search_spaces.spec import OperatingPointsSpec
from study.cli.front_view import HEADINGS, setting_text, thinned
from study.cli.printing import PlainTable, console_of, write_points
from study.errors import UserError
from study.networks.precisions import Precision
from study.policies.criteria import CRITERIA
from study.run.reader import stored_networks, stored_study
from study.search.cost_source import check_costs
from study.search.exact_search import exact_points, uncovered
from study.search.hypervolume import HypervolumeIndicator
from study.search.operating_point import COLUMNS
from study.search.space import check_depth, check_names, constraint_values
from study.search.traced_network import TracedNetwork, reference_network
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
    """Compute the exact front on the validation split, and print, write and draw it.

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
    start = time.perf_counter()
    best = reference_network(networks)
    reference = best.classic_accuracy
    found, values = exact_points(spec, networks, reference)
    seconds = time.perf_counter() - start
    if not found:
        raise UserError("front --exact: no point of this space keeps to the constraints")
    same = {"split": "validation", "batch_size": spec.batch_size}
    rows = [
        {"trial_id": one.point.network.trial_id, **one.settings().columns(), **same, **one.point.evaluate().columns()}
        for one in found
    ]
    points = pd.DataFrame(rows).reindex(columns=["trial_id", "data", *SETTINGS, *METRICS])
    classic = _classic(best)
    points["accuracy_drop"] = reference - points["accuracy"]
    for objective, column in COLUMNS.items():
        if objective in classic and column in points:
            points[f"{objective}_share"] = points[column] / classic[objective]
    if output:
        write_points(points, output)
    if figure:
        from results.figures import exact_figure

        exact_figure(points, reference, figure)
    indicator = HypervolumeIndicator.of(spec.objectives, networks)
    facts: dict[str, Any] = {
        "split": "validation",
        "networks": len({network.trial_id for network in networks}),
        "seconds": seconds,
        "hypervolume": indicator.of_values(values),
        "classic": f"{best.trial_id} ({best.precision})",
        "classic_accuracy": reference,
        **{f"classic_{objective}": value for objective, value in classic.items()},
    }
    if part_count(folder / "tables", "operating_points"):
        searched = read_table(folder / "tables", "operating_points")
        searched = searched[
            (searched["state"] == "COMPLETE") & searched["trial_id"].isin([one.trial_id for one in networks])
        ]
        kept = [not any(value > 0 for value in exceeded.values()) for exceeded in _exceeded(searched, spec, reference)]
        facts |= _held_against(searched[np.array(kept, dtype=np.bool_)], spec.objectives, indicator, points)
    if as_json:
        print(dumps({**facts, "front": list(rows_of(points))}, indent=1))
        return
    console = console_of()
    console.print(_table(points))
    for line in _lines(points, facts):
        console.print(line, soft_wrap=True)


def _classic(best: TracedNetwork) -> dict[str, float]:
    classic = {"flops": best.costs.classic("flops")}
    if best.costs.holds("energy"):
        classic["energy"] = float(best.cut_energies[-1])
    if best.costs.holds("seconds"):
        classic["latency_mean"] = best.costs.classic("seconds")
    return classic


def _exceeded(searched: pd.DataFrame, spec: OperatingPointsSpec, reference: float) -> Iterator[dict[str, float]]:
    """By how much the points of a search exceed the limits of this space, which need not be those of the search."""
    return (constraint_values(row, spec.constraints.limits, reference) for row in rows_of(searched))


def _held_against(
    search: pd.DataFrame, objectives: Sequence[str], indicator: HypervolumeIndicator, front: pd.DataFrame
) -> dict[str, float | None]:
    """What the study's own search, perhaps of another space, found beside this front."""
    columns = [COLUMNS[objective] for objective in objectives]
    exact = front[columns].to_numpy(dtype=np.float64)
    found = search[columns].dropna().to_numpy(dtype=np.float64)
    both = np.concatenate([exact, found])
    dominated = ~non_dominated(both, maximize=[objective == "accuracy" for objective in objectives])[: len(exact)]
    truth = indicator.of_values(exact)
    return {
        "hypervolume_ratio_of_the_search": indicator.of_values(found) / truth if truth else None,
        "dominated_by_the_search": float(dominated.mean()),
    }


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


def _lines(points: pd.DataFrame, facts: dict[str, Any]) -> list[str]:
    energy = ""
    if "classic_energy" in facts:
        energy = f", {facts['classic_energy'] * 1e3:.4g} mJ ({points['energy_source'].iloc[0]})"
    lines = [
        f"{len(points)} points in {facts['seconds']:.2f} s; shares are of the classic network {facts['classic']}: "
        f"accuracy {facts['classic_accuracy']:.2%}, {facts['classic_flops'] / 1e6:.2f} MFLOPs{energy} per image; "
        f"hypervolume {facts['hypervolume']:.4f}"
    ]
    alike = {HEADINGS.get(name, name): _distinct(points, name) for name in _TEXTS}
    same = [f"{name} {next(iter(values))}" for name, values in alike.items() if len(values) == 1 and values != {""}]
    if same:
        lines.append(f"all of them: {', '.join(same)}")
    near = points[points["accuracy_drop"] <= 0.01 + 1e-12]
    if len(near):
        lines.append(f"at most 1 point below it: {near['flops_share'].min():.1%} of its FLOPs")
    if facts.get("hypervolume_ratio_of_the_search") is not None:
        lines.append(
            f"what the study itself found, in its own space, has {facts['hypervolume_ratio_of_the_search']:.2%} of "
            f"this hypervolume, and points that dominate {facts['dominated_by_the_search']:.1%} of these"
        )
    lines.append("chosen on validation images: the table `front` of a study says what test images make of it")
    return lines
