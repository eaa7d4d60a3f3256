"""Operating points of a stored study on the command line: their search space, tables of points, files of points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from results.parts import rows_of
from results.storage.atomic import write_atomic
from results.storage.paths import Location
from search_spaces.spec import OperatingPointsSpec
from study.cli.printing import PlainTable
from study.policies.criteria import CRITERIA
from study.run.reader import stored_study
from study.search.cost_source import check_costs
from study.search.space import check_names

SHOWN = 60
"""Rows of a printed table of points."""
_SETTINGS = {
    "beta": "beta {:.4g}",
    "start_layer": "from {:.0f}",
    "max_jump": "jump {:.0f}",
    "overshoot": "to {}",
    "statistic": "{}",
}


def stored_space(folder: Location, changes: Sequence[tuple[str, object]]) -> OperatingPointsSpec:
    """The search space of a stored study with changes.

    Raises:
        UserError: a name is unknown, or changed costs lack what the space needs.
    """
    space = stored_study(folder, changes).operating_points
    check_names(space, criteria=CRITERIA)
    own = stored_study(folder).operating_points if changes else space  # what is stored was checked before it ran
    if (space.costs, space.dvfs, space.quantization) != (own.costs, own.dvfs, own.quantization):
        check_costs(space, cast(Any, space.quantization.values), torch.device("cpu"), stored_will_do=True)
    return space


def write_points(points: pd.DataFrame, output: Path) -> None:
    """Write operating points as .csv or .parquet."""
    content = BytesIO()
    if output.suffix == ".csv":
        points.to_csv(content, index=False)
    else:
        points.to_parquet(content, index=False)
    write_atomic(output, content.getvalue())


def points_table(
    title: str, points: pd.DataFrame, names: Mapping[str, str], numbers: Mapping[str, tuple[str, str]]
) -> PlainTable:
    """A table with a row for each operating point: names, policy, setting, numbers.

    Args:
        title: of the table.
        points: rows with the columns of an operating point's settings.
        names: heading -> format of a row, as ``{trial_id} {precision}``.
        numbers: column -> (heading, format). A column without a value is left out.
    """
    shown = {name: form for name, form in numbers.items() if name in points and points[name].notna().any()}
    table = PlainTable(title, [*names, "policy", "setting"], [heading for heading, _ in shown.values()])
    for row in rows_of(points):
        values = ("" if row[name] is None else format(row[name], form) for name, (_, form) in shown.items())
        table.add_row(*(form.format_map(row) for form in names.values()), policy_text(row), setting_text(row), *values)
    return table


def policy_text(row: Mapping[str, Any]) -> str:
    """The policy of an operating point, and its exit criterion if the criterion is not that of the paper."""
    return row["policy"] if row["criterion"] == "logit" else f"{row['policy']}, {row['criterion']}"


def setting_text(row: Mapping[str, Any]) -> str:
    """The settings of an operating point in short; a setting without effect is left out."""
    parts = [] if row["exits"] is None else [" ".join(["exits", *(str(int(exit)) for exit in row["exits"])])]
    parts += [form.format(row[name]) for name, form in _SETTINGS.items() if row[name] is not None]
    return ", ".join(parts if row.get("dvfs") in (None, "none") else [*parts, row["dvfs"]])


def thinned(points: pd.DataFrame, named: Sequence[int] = ()) -> pd.DataFrame:
    """About ``SHOWN`` rows of a front, spread evenly, and the rows of the numbers in ``named``."""
    places = np.linspace(0, len(points) - 1, min(SHOWN, len(points))).astype(np.int64)
    if named:
        places = np.concatenate([places, np.flatnonzero(points["number"].isin(named))])
    return points.iloc[np.unique(places)]
