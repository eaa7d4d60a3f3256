"""Rows of the table of operating points, to the table and back."""

import pytest
from support.searches import ONE

from results.parts import read_table, rows_of, write_part
from results.schemas import CONSTRAINTS, METRICS, SETTINGS
from study.policies.policies import Classic, Hierarchical, Placed, Predictive, Static
from study.search.operating_point import OperatingPoint, point_of
from study.search.space import judge

FAILED = {"number": 4, "search": "across", "state": "FAIL", "error": "no exit was chosen"}
LIMITS = {"accuracy_drop": 0.25, "energy": 0.5}
POLICIES = [Predictive(1.5, 2, 4), Hierarchical((1.0,) * 5, 1), Placed(2.0, (1, 3)), Static(2), Classic()]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_point_fills_all_columns_and_comes_back_from_the_table(tmp_path, policy):
    """Beside a row of another kind, so that columns of whole numbers hold missing values."""
    point = OperatingPoint(ONE[0], "mean_max", policy, beta_quantile=0.25)
    judged = judge(point, LIMITS, 0.5)
    assert set(point.settings()) == {"trial_id", *SETTINGS} - {"batch_size"}
    assert set(judged) == {*METRICS, *CONSTRAINTS}
    write_part(tmp_path, "operating_points", [{**point.settings(), **judged}, FAILED], "00000")
    row = next(iter(rows_of(read_table(tmp_path, "operating_points"))))
    back = point_of(row, ONE)
    assert back.key == point.key and back.beta_quantile == point.beta_quantile
    assert {name: row[name] for name in judged} == judged
