"""``predictive-exit front --exact``: the exact front of a run folder's networks, from their stored traces."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from results.pareto import non_dominated
from results.tables import SCHEMAS, part_count, read_table, rows_of
from study.errors import UserError
from study.phases.candidates import COLUMNS, Candidate
from study.phases.constraints import reference_accuracy
from study.phases.exact import exact_points, uncovered
from study.phases.stored import stored_candidates, stored_study
from study.phases.yardstick import Yardstick
from study.views import console_of, thinned, write_points


def show_exact_front(
    folder: Path, changes: Sequence[tuple[str, object]], *, output: Path | None, figure: Path | None, as_json: bool
) -> None:
    """Compute the exact front on the validation split, and print, write and draw it.

    Args:
        folder: run folder with traces and profiles; neither images nor weights are needed.
        changes: to the study, as those of ``run --set``: another space of the same networks.
        output: .csv or .parquet of all points.
        figure: of the front.
        as_json: print JSON in place of a table.

    Raises:
        UserError: the front of this space cannot be computed exactly, or something stored is missing.
    """
    spec = stored_study(folder, changes).operating_points
    reason = uncovered(spec)
    if reason:
        raise UserError(f"front --exact: {reason}; leave it out with --set operating_points.KEY=VALUE")
    candidates = stored_candidates(folder, spec)
    start = time.perf_counter()
    reference = reference_accuracy(candidates)
    found, values = exact_points(spec, candidates, reference)
    seconds = time.perf_counter() - start
    if not found:
        raise UserError("front --exact: no point of this space keeps to the constraints")
    rows = [{"trial_id": one.point.candidate.trial_id, **one.settings(), **one.point.evaluate()} for one in found]
    names = SCHEMAS["front"].names
    points = pd.DataFrame(rows).reindex(columns=names[names.index("trial_id") : names.index("feasible")])
    classic = _classic(candidates, reference)
    points["accuracy_drop"] = reference - points["accuracy"]
    for objective, column in COLUMNS.items():
        if objective in classic and column in points:
            points[f"{objective}_share"] = points[column] / classic[objective]
    if output:
        write_points(points, output)
    if figure:
        from results.figures import exact_figure

        exact_figure(points, reference, figure)
    yardstick = Yardstick.of(spec.objectives, candidates)
    facts: dict[str, Any] = {
        "split": "validation",
        "networks": len(candidates),
        "seconds": seconds,
        "hypervolume": yardstick.of_values(values),
        "classic_accuracy": reference,
        **{f"classic_{objective}": value for objective, value in classic.items()},
    }
    if part_count(folder / "tables", "operating_points"):
        searched = read_table(folder / "tables", "operating_points")
        searched = searched[searched["trial_id"].isin([candidate.trial_id for candidate in candidates])]
        facts |= _held_against(searched, spec.objectives, yardstick, points)
    if as_json:
        print(json.dumps({**facts, "front": list(rows_of(points))}, indent=1, default=_plain))
        return
    console = console_of()
    console.print(_table(points))
    for line in _lines(points, facts):
        console.print(line, markup=False, soft_wrap=True)


def _classic(candidates: Sequence[Candidate], reference: float) -> dict[str, float]:
    """What the network costs that drops of accuracy are counted from."""
    full = [one for one in candidates if one.precision == "fp32"] or list(candidates)
    best = next(one for one in full if one.classic_accuracy == reference)
    classic = {"flops": best.costs.classic("flops")}
    if best.costs.holds("energy"):
        classic["energy"] = float(best.cut_energies[-1])
    if best.costs.holds("seconds"):
        classic["latency_mean"] = best.costs.classic("seconds")
    return classic


def _held_against(
    search: pd.DataFrame, objectives: Sequence[str], yardstick: Yardstick, front: pd.DataFrame
) -> dict[str, float]:
    """What the study's own search, perhaps of another space, found beside this front."""
    columns = [COLUMNS[objective] for objective in objectives]
    exact = front[columns].to_numpy(dtype=np.float64)
    found = search.loc[search["feasible"].eq(True), columns].dropna().to_numpy(dtype=np.float64)
    signs = np.array([-1.0 if objective == "accuracy" else 1.0 for objective in objectives])
    both = np.concatenate([exact, found])
    dominated = ~non_dominated(both * signs)[: len(exact)]
    truth = yardstick.of_values(exact)
    return {
        "hypervolume_ratio_of_the_search": yardstick.of_values(found) / truth if truth else float("nan"),
        "dominated_by_the_search": float(dominated.mean()),
    }


def _table(points: pd.DataFrame) -> Table:
    shown = thinned(points)
    table = Table(title=f"exact front on validation: {len(shown)} of {len(points)} points", title_justify="left")
    names = ("trial_id", "precision", "policy", "criterion", "statistic", "dvfs", "overshoot")
    # A column that says the same in every row says nothing.
    texts = [name for name in names if name in ("policy", "statistic") or len(points[name].unique()) > 1]
    for name in texts:
        table.add_column(name, no_wrap=True)
    headings = ["start", "jump", "beta in", "accuracy", "FLOPs"]
    shares = [name for name in ("energy_share", "latency_mean_share") if name in points and points[name].notna().any()]
    for name in [*headings, *(share.removesuffix("_share") for share in shares)]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows_of(shown):
        interval = "" if row["beta_high"] is None else f"({row['beta_low']:.5g}, {row['beta_high']:.5g}]"
        table.add_row(
            *(str(row[name] or "") for name in texts),
            *("" if row.get(name) is None else f"{row[name]:.0f}" for name in ("start_layer", "max_jump")),
            interval,
            f"{row['accuracy']:.2%}",
            *(f"{row[name]:.1%}" for name in ("flops_share", *shares)),
        )
    return table


def _lines(points: pd.DataFrame, facts: dict[str, Any]) -> list[str]:
    lines = [
        f"{len(points)} points in {facts['seconds']:.2f} s; classic network: accuracy {facts['classic_accuracy']:.2%}, "
        f"{facts['classic_flops'] / 1e6:.2f} MFLOPs per image; hypervolume {facts['hypervolume']:.4f}"
    ]
    near = points[points["accuracy_drop"] <= 0.01 + 1e-12]
    if len(near):
        lines.append(f"at most 1 point below it: {near['flops_share'].min():.1%} of its FLOPs")
    if "dominated_by_the_search" in facts:
        lines.append(
            f"the study's own search has {facts['hypervolume_ratio_of_the_search']:.2%} of this hypervolume, and "
            f"points that dominate {facts['dominated_by_the_search']:.1%} of these"
        )
    lines.append("chosen on validation images: the table `front` of a study says what test images make of it")
    return lines


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
