"""Typed rows of the table of operating points, to the table and back."""

from dataclasses import replace

import pytest
from support.searches import ONE

from results.parts import read_table, rows_of, write_part
from results.schemas import CONSTRAINTS, METRICS, SCHEMAS, SETTINGS
from study.policies.policies import Classic, Hierarchical, Placed, Predictive, Static
from study.search.operating_point import OperatingPoint
from study.search.rows import Judged, OperatingPointRow, PointMetrics, PointSettings


def test_the_fields_of_a_row_are_the_columns_of_the_table():
    assert {*PointSettings.names(), "batch_size"} == set(SETTINGS)
    assert {*PointMetrics.names(), "split"} == set(METRICS)
    row = row_of(Predictive(1.5, 2, 4))
    assert set(row.judged.columns()) == {*METRICS, *CONSTRAINTS}
    assert set(row.columns()) == set(SCHEMAS["operating_points"].names) - {"data", "provenance"}


def row_of(policy, **changes) -> OperatingPointRow:
    point = OperatingPoint(ONE[0], "mean_max", policy, beta_quantile=0.25)
    return OperatingPointRow(
        number=3,
        search="across",
        sampler="tpe",
        batch_size=4,
        state="COMPLETE",
        trial_id="one",
        settings=point.settings(),
        judged=Judged(metrics=point.evaluate(), exceeded={"accuracy_drop": -0.25, "energy": 0.5}),
        params="{}",
        distributions="{}",
        hypervolume=0.5,
    )


FAILED = OperatingPointRow(
    number=4, search="across", sampler="tpe", batch_size=4, state="FAIL", error="no exit was chosen", params="{}"
)


@pytest.mark.parametrize(
    "row",
    [
        *map(row_of, [Predictive(1.5, 2, 4), Hierarchical((1.0,) * 5, 1), Placed(2.0, (1, 3)), Static(2), Classic()]),
        replace(row_of(Static(2)), repeat_of=1),
        FAILED,
        replace(FAILED, trial_id="one", settings=row_of(Static(2)).settings),
    ],
)
def test_a_row_comes_back_from_the_table(tmp_path, row):
    """Beside a row of another kind, so that columns of whole numbers hold missing values."""
    write_part(tmp_path, "operating_points", [row.columns(), FAILED.columns()], "00000")
    stored = next(iter(rows_of(read_table(tmp_path, "operating_points"))))
    back = OperatingPointRow.from_columns(stored)
    if row.settings is not None:
        lists = {name: getattr(back.settings, name) for name in ("betas", "exits")}
        plain = {name: None if value is None else list(value) for name, value in lists.items()}
        back = replace(back, settings=replace(back.settings, **plain))
    assert back == row
    assert back.judged is None or not back.judged.feasible
