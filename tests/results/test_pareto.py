"""`non_dominated` against its quadratic twin, `hypervolume` against the cells of a grid."""

from itertools import product
from math import inf, nan, prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.laws import examples

from results.pareto import hypervolume, non_dominated

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
@examples(200)
def test_equals_the_quadratic_twin(values):
    mask = non_dominated(values)
    assert mask.dtype == np.bool_
    assert mask.tolist() == twin(values)


@given(tables, st.data())
@examples(60)
def test_maximising_an_objective_is_minimising_its_negative(values, data):
    maximize = data.draw(st.lists(st.booleans(), min_size=values.shape[1], max_size=values.shape[1]))
    assert non_dominated(values, maximize=maximize).tolist() == twin(np.where(maximize, -values, values))


@given(tables, st.randoms(use_true_random=False))
@examples(60)
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


# --- hypervolume -----------------------------------------------------------------------------------------------------

points = st.tuples(st.integers(0, 6), st.integers(2, 4)).flatmap(
    lambda shape: hnp.arrays(
        np.float64, shape, elements=st.one_of(st.integers(-2, 5).map(float), st.floats(-2, 5, width=32))
    )
)


def volume_of_cells(values, reference) -> float:
    """All coordinates cut the space into cells; each counts that some point is no worse than in every objective."""
    rows = [row for row in values if (row < reference).all()]
    edges = [sorted({float(row[m]) for row in rows} | {float(reference[m])}) for m in range(len(reference))]
    total = 0.0
    for lows in product(*(range(len(edge) - 1) for edge in edges)):
        corner = [edge[low] for edge, low in zip(edges, lows, strict=True)]
        if any((row <= corner).all() for row in rows):
            total += prod(edge[low + 1] - edge[low] for edge, low in zip(edges, lows, strict=True))
    return total


@given(points, st.integers(0, 4))
@examples(150)
def test_the_hypervolume_is_that_of_the_cells_that_are_dominated(values, end):
    reference = np.linspace(end, 4, values.shape[1])
    expected = volume_of_cells(values, reference)
    assert hypervolume(values, reference) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(points, st.randoms(use_true_random=False))
@examples(60)
def test_neither_order_nor_copies_nor_dominated_points_change_the_hypervolume(values, random):
    reference = np.full(values.shape[1], 4.5)
    rows, columns = list(range(len(values))), list(range(values.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    whole = hypervolume(values, reference)
    assert hypervolume(values[rows][:, columns], reference) == pytest.approx(whole, rel=1e-12, abs=1e-12)
    assert hypervolume(np.concatenate([values, values, values + 0.25]), reference) == pytest.approx(whole, rel=1e-12)
    assert hypervolume(values[non_dominated(values)], reference) == pytest.approx(whole, rel=1e-12)


def test_the_hypervolume_by_hand():
    reference = np.array([1.0, 1.0])
    assert hypervolume(np.array([[0.5, 0.25]]), reference) == 0.375
    assert hypervolume(np.array([[0.5, 0.25], [0.25, 0.5]]), reference) == 0.375 + 0.125
    assert hypervolume(np.array([[0.5, 0.25], [0.25, 2.0], [-1.0, 1.0]]), reference) == 0.375
    assert hypervolume(np.array([[0.5, 0.5, 0.5]]), np.ones(3)) == 0.125


@pytest.mark.parametrize("rows", [[], [[1.0, 0.0]], [[0.0, 1.0], [2.0, -5.0]], [[1.0, 1.0]]])
def test_what_is_nowhere_better_than_the_reference_has_no_hypervolume(rows):
    assert hypervolume(np.array(rows).reshape(-1, 2), np.ones(2)) == 0.0
