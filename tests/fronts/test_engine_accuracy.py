"""Accuracy forward: the confusion matrix of the prediction engine and what is read from it."""

from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.laws import examples
from support.plain_twins import plain_prediction_accuracy, plain_predictions
from support.random_traces import betas, traces

from study import (
    Hierarchical,
    Trace,
    UserError,
    prediction_accuracies,
    prediction_accuracy,
    prediction_confusion,
    replay,
)


def one_class(*samples) -> Trace:
    """Samples of one class: z^k = z, and thresholds are 1."""
    logits = np.array(samples, dtype=np.float32)[:, :, None]
    return Trace(logits=logits, labels=np.zeros(len(samples), dtype=np.int64), thresholds=np.ones(logits.shape[1] - 1))


# --- the matrix ------------------------------------------------------------------------------------------------------


@given(traces(), st.data(), st.integers(1, 8))
@examples(80)
def test_the_confusion_matrix_equals_the_plain_twin(trace, data, max_jump):
    start, beta = data.draw(st.integers(1, trace.exit_count)), data.draw(betas(trace))
    expected = np.zeros((max_jump, max_jump), dtype=np.int64)
    for predicted, distance in plain_predictions(trace, beta, start, max_jump):
        expected[predicted - 1, min(distance, max_jump) - 1] += 1
    np.testing.assert_array_equal(prediction_confusion(trace, beta, start, max_jump), expected)


@given(traces(), st.data(), st.integers(1, 8))
@examples(80)
def test_columns_count_the_distances_of_all_samples_that_go_on(trace, data, max_jump):
    """Whatever the engine says."""
    start, beta = data.draw(st.integers(1, trace.exit_count)), data.draw(betas(trace))
    distance = replay(trace, Hierarchical(beta, start)).exit_index - start
    columns = prediction_confusion(trace, beta, start, max_jump).sum(axis=0)
    assert columns[:-1].tolist() == [(distance == k).sum() for k in range(1, max_jump)]
    assert columns[-1] == (distance >= max_jump).sum()


@given(traces(), st.data(), st.integers(1, 7))
@examples(60)
def test_a_shorter_engine_lumps_the_last_rows_and_columns_of_a_longer_one(trace, data, max_jump):
    start, beta = data.draw(st.integers(1, trace.exit_count)), data.draw(betas(trace))
    longer = prediction_confusion(trace, beta, start, max_jump + 1)
    lumped = longer[:-1, :-1].copy()
    lumped[-1] += longer[-1, :-1]
    lumped[:, -1] += longer[:-1, -1]
    lumped[-1, -1] += longer[-1, -1]
    np.testing.assert_array_equal(prediction_confusion(trace, beta, start, max_jump), lumped)


def test_a_confusion_matrix_by_hand():
    """From exit 1 of 4 at beta 4, K_max 3. Two classes of equal logits: z^k doubles z with every step."""
    logits = np.array([[1.0, 9, 0, 0, 0], [1.5, 1, 1, 9, 0], [3.0, 1, 9, 9, 9], [5.0, 9, 9, 9, 9]], dtype=np.float32)
    trace = Trace(logits=np.stack([logits, logits], axis=2), labels=np.zeros(4, dtype=np.int64), thresholds=np.ones(4))
    # Predicted 3 (2, 4, 8), 2 (3, 6), 1 (6) and not asked; true distances 1, 3 and 2.
    assert prediction_confusion(trace, 4.0, 1, 3).tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert prediction_confusion(trace, 4.0, 1, 2).tolist() == [[0, 1], [1, 1]]
    assert prediction_confusion(trace, 4.0, 1, 1).tolist() == [[3]]


# --- the share of right ones -----------------------------------------------------------------------------------------


@given(traces(), st.data(), st.integers(1, 8))
@examples(80)
def test_prediction_accuracy_equals_the_plain_twin_and_the_trace_of_the_matrix(trace, data, max_jump):
    start, beta = data.draw(st.integers(1, trace.exit_count)), data.draw(betas(trace))
    share, count = prediction_accuracy(trace, beta=beta, start_layer=start, max_jump=max_jump)
    expected_share, expected_count = plain_prediction_accuracy(trace, beta, start, max_jump)
    assert count == expected_count
    assert share == pytest.approx(expected_share, nan_ok=True)
    confusion = prediction_confusion(trace, beta, start, max_jump)
    assert confusion.sum() == count
    assert isnan(share) if count == 0 else share == np.trace(confusion) / count


def test_prediction_accuracy_by_hand():
    """Exit 2 of 4 fails, so that the engine predicts K_max; without a stop the distance is 4 + 1 - 2 = 3."""
    nowhere, at_4, at_3 = one_class([9, 1, 1, 1, 9]), one_class([9, 1, 1, 9, 9]), one_class([9, 1, 9, 9, 9])
    for trace, distance in ((nowhere, 3), (at_4, 2), (at_3, 1)):
        for max_jump in range(1, 6):
            expected = float(distance >= max_jump)
            assert prediction_accuracy(trace, beta=4.0, start_layer=2, max_jump=max_jump) == (expected, 1)


def test_without_predictions_the_share_is_nan_and_the_count_0():
    """All samples stop at the start."""
    trace = one_class([9, 1, 1], [4, 1, 1])
    share, count = prediction_accuracy(trace, beta=4.0, start_layer=1)
    assert isnan(share)
    assert count == 0
    assert prediction_confusion(trace, 4.0, 1).tolist() == [[0] * 8] * 8
    row = prediction_accuracies(trace, [4.0], [1]).iloc[0]
    assert row["predictions"] == 0
    assert row[["accuracy", "too_short", "too_long"]].isna().all()


@pytest.mark.parametrize(
    "ask",
    [
        prediction_accuracy,
        prediction_confusion,
        lambda trace, beta, start: prediction_accuracies(trace, [beta], [start]),
    ],
)
@pytest.mark.parametrize(("beta", "start", "message"), [(1.0, 3, "1 to 2"), (1.0, 0, "1 to 2"), (0.0, 1, "beta")])
def test_a_start_layer_or_beta_that_makes_no_sense_is_refused(ask, beta, start, message):
    with pytest.raises(UserError, match=message):
        ask(one_class([1, 1, 1]), beta, start)


# --- many settings ---------------------------------------------------------------------------------------------------


@given(traces(), st.data(), st.integers(1, 8))
@examples(60)
def test_the_table_holds_each_setting_with_the_shares_of_its_matrix(trace, data, max_jump):
    some = data.draw(st.lists(betas(trace), min_size=1, max_size=3))
    layers = data.draw(st.none() | st.lists(st.integers(1, trace.exit_count), min_size=1, max_size=3))
    table = prediction_accuracies(trace, some, layers, max_jump)
    asked = range(1, max(2, trace.exit_count)) if layers is None else layers
    assert list(zip(table["beta"], table["start_layer"], strict=True)) == [(b, layer) for b in some for layer in asked]
    for row in table.itertuples():
        pairs = plain_predictions(trace, row.beta, row.start_layer, max_jump)
        assert row.predictions == len(pairs)
        if pairs:
            short = [jump < min(distance, max_jump) for jump, distance in pairs]
            long = [jump > distance for jump, distance in pairs]
            assert row.too_short == pytest.approx(np.mean(short))
            assert row.too_long == pytest.approx(np.mean(long))
            assert row.accuracy + row.too_short + row.too_long == pytest.approx(1)
            assert row.accuracy == prediction_accuracy(trace, row.beta, row.start_layer, max_jump)[0]
