"""The recommended point of a front."""

import numpy as np
import pandas as pd

from results.recommendation import recommend


def front(accuracies, flops, certified=None):
    rows = pd.DataFrame({"accuracy": accuracies, "flops": flops})
    if certified is not None:
        rows["certified_drop"] = certified
        rows["certified_confidence"], rows["certified_samples"] = 0.9, 5000.0
    return rows


def test_the_cheapest_point_within_a_point_of_the_classic_network_is_recommended():
    found = recommend(front([0.90, 0.945, 0.94, 0.95], [1.0, 3.0, 2.0, 4.0]), 0.95)
    assert found.position == 2  # a loss of exactly one point counts as within
    assert "within 1 point" in found.reason
    assert "not certified" in found.reason


def test_a_certified_point_comes_first_even_where_another_is_cheaper():
    found = recommend(front([0.945, 0.95, 0.95], [1.0, 2.0, 3.0], [np.nan, 0.01, 0.01]), 0.95)
    assert found.position == 1
    assert "with 90 % confidence it loses at most 1 point on new images" in found.reason
    assert "5000 images" in found.reason


def test_without_a_certified_point_the_column_changes_nothing():
    plain, empty = (recommend(front([0.9, 0.945], [1.0, 2.0], some), 0.95) for some in (None, [np.nan, np.nan]))
    assert plain == empty


def test_where_no_point_is_near_the_most_accurate_one_is_recommended_and_said_so():
    found = recommend(front([0.5, 0.7, 0.7], [1.0, 3.0, 2.0]), 0.95)
    assert found.position == 2
    assert found.reason.startswith("the most accurate point: no point is within 1 point")


def test_the_cost_decides_what_is_cheapest_and_an_unknown_cost_is_the_highest():
    rows = front([0.90, 0.945, 0.94, 0.95], [1.0, 2.0, 3.0, 4.0])
    rows["energy_joules"], rows["latency_mean_seconds"] = [1.0, 3.0, 2.0, 4.0], [1.0, None, np.nan, 5.0]
    by_energy, by_seconds = (recommend(rows, 0.95, cost=cost) for cost in ("energy", "seconds"))
    assert (by_energy.position, by_seconds.position) == (2, 3)
    assert by_energy.reason.startswith("the cheapest point by energy within 1 point")
    certified = rows.assign(certified_drop=[np.nan, 0.01, 0.01, 0.01], certified_confidence=0.9, certified_samples=9.0)
    found = recommend(certified, 0.95, cost="seconds")
    assert found.position == 3 and found.reason.startswith("the cheapest certified point by seconds: with 90 %")
