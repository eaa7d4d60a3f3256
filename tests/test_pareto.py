"""`non_dominated` against its quadratic twin."""

from math import inf, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from results.pareto import non_dominated

coordinates = st.one_of(st.integers(-2, 2).map(float), st.floats(-1e6, 1e6), st.just(nan))
tables = st.tuples(st.integers(0, 12), st.integers(1, 4)).flatmap(
    lambda shape: hnp.arrays(np.float64, shape, elements=coordinates)
)


def twin(values) -> list[bool]:
    """Whether no other row is nowhere worse and somewhere better; rows with a NaN are out."""
    rows = [tuple(map(float, row)) for row in values]
    whole = [row for row in rows if not any(x != x for x in row)]

    def beaten(row):
        return any(
            all(a <= b for a, b in zip(other, row, strict=True)) and any(a < b for a, b in zip(other, row, strict=True))
            for other in whole
        )

    return [row in whole and not beaten(row) for row in rows]


@given(tables)
@settings(deadline=None, max_examples=200)
def test_equals_the_quadratic_twin(values):
    mask = non_dominated(values)
    assert mask.dtype == np.bool_
    assert mask.tolist() == twin(values)


@given(tables, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_the_order_of_rows_does_not_matter(values, random):
    order = list(range(len(values)))
    random.shuffle(order)
    assert non_dominated(values[order]).tolist() == non_dominated(values)[order].tolist()


def test_all_copies_of_a_point_are_kept():
    assert non_dominated(np.array([[1, 2], [1, 2], [2, 2], [2, 1]])).tolist() == [True, True, False, True]


@pytest.mark.parametrize("row", [[nan, 0.0], [0.0, nan], [nan, nan], [-inf, nan]])
def test_a_row_with_a_nan_is_never_on_the_front_and_beats_nothing(row):
    assert non_dominated(np.array([row, [5.0, 5.0]])).tolist() == [False, True]
    assert non_dominated(np.array([row])).tolist() == [False]


def test_infinite_values_are_compared_like_others():
    assert non_dominated(np.array([[inf, 0.0], [1.0, 0.0], [-inf, 1.0]])).tolist() == [False, True, True]


def test_no_rows_make_no_front():
    assert non_dominated(np.empty((0, 3))).shape == (0,)
