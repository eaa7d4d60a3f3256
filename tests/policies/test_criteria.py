"""Exit criteria: equal to the plain formulas, bounded, and blind to what must not matter."""

from math import exp, inf, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.laws import examples
from support.plain_twins import confidence_of, run_length
from support.random_traces import any_logits, quarters

from study import Hierarchical, Placed, Trace, UserError
from study.policies.criteria import CRITERIA, Agreement, agreement, check_criterion, confidence
from study.policies.decision_table import table_for

OF_SOFTMAX = ["max_softmax", "entropy", "margin"]
of_softmax = pytest.mark.parametrize("criterion", OF_SOFTMAX)
few_answers = hnp.arrays(np.int64, st.tuples(st.integers(1, 5), st.integers(1, 8)), elements=st.integers(0, 2))


def rows(*, least_classes=1, elements=any_logits):
    """Logits `[N, C]`."""
    return hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(least_classes, 6)), elements=elements)


# --- softmax ---------------------------------------------------------------------------------------------------------


@of_softmax
@given(logits=rows())
@examples(100)
def test_confidence_equals_the_plain_formula(criterion, logits):
    np.testing.assert_allclose(confidence(logits, criterion), [confidence_of(criterion, z) for z in logits], atol=1e-12)


@given(logits=rows(elements=st.one_of(any_logits, st.floats(-(2.0**100), 2.0**100, width=32))))
@examples(100)
@pytest.mark.filterwarnings("error")
def test_the_logarithm_of_the_margin_equals_the_plain_formula(logits):
    scores = confidence(logits, "log_margin")
    np.testing.assert_allclose(scores, [confidence_of("log_margin", z) for z in logits], rtol=1e-12, atol=1e-12)
    assert (scores >= 0).all() and (scores <= 709).all()


def test_the_logarithm_of_the_margin_tells_margins_close_to_1_apart():
    """1 - margin is 2 e^-d for two classes with a difference of logits d: a margin of 1 in float64 from d = 38 on."""
    logits = np.array([[20.0, 0.0], [60.0, 0.0], [300.0, 0.0], [9000.0, 0.0]], dtype=np.float32)
    assert confidence(logits, "margin")[1:].tolist() == [1, 1, 1]
    expected = [20 - log(2), 60 - log(2), 300 - log(2), -log(np.finfo(np.float64).tiny)]
    assert confidence(logits, "log_margin") == pytest.approx(expected, rel=1e-8)


@of_softmax
@given(logits=rows(elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
@examples(100)
@pytest.mark.filterwarnings("error")
def test_confidence_lies_between_0_and_1_for_every_finite_logit(criterion, logits):
    scores = confidence(logits, criterion)
    assert scores.dtype == np.float64
    assert scores.shape == (len(logits),)
    least = 1 / logits.shape[1] if criterion == "max_softmax" else 0.0
    assert (scores >= least - 1e-15).all()
    assert (scores <= 1).all()


def test_confidence_by_hand():
    """p = 4/7, 2/7, 1/7."""
    logits = np.log(np.array([[1.0, 4.0, 2.0]])).astype(np.float32)
    entropy = 4 / 7 * log(7 / 4) + 2 / 7 * log(7 / 2) + 1 / 7 * log(7)
    assert confidence(logits, "max_softmax") == pytest.approx([4 / 7], abs=1e-7)
    assert confidence(logits, "margin") == pytest.approx([2 / 7], abs=1e-7)
    assert confidence(logits, "entropy") == pytest.approx([1 - entropy / log(3)], abs=1e-7)


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_a_uniform_answer_scores_least_and_a_certain_one_1(classes):
    logits = np.zeros((2, classes), dtype=np.float32)
    logits[1, 0] = 1000
    assert confidence(logits, "max_softmax") == pytest.approx([1 / classes, 1], rel=1e-15)
    assert confidence(logits, "margin").tolist() == [0, 1]
    assert confidence(logits, "entropy") == pytest.approx([0, 1], abs=1e-14)


@of_softmax
def test_a_single_class_is_certain(criterion):
    assert confidence(np.array([[-3.0], [0.0], [1e30]], dtype=np.float32), criterion).tolist() == [1, 1, 1]


@of_softmax
@given(logits=rows(elements=quarters), shift=quarters, data=st.data())
@examples(60)
def test_neither_a_constant_on_all_logits_nor_the_order_of_classes_matters(criterion, logits, shift, data):
    order = data.draw(st.permutations(range(logits.shape[1])))
    np.testing.assert_allclose(
        confidence((logits + np.float32(shift))[:, order], criterion), confidence(logits, criterion), atol=1e-14
    )


@of_softmax
@given(logits=rows(least_classes=2, elements=quarters), data=st.data())
@examples(60)
def test_raising_the_largest_logit_never_makes_an_exit_less_sure(criterion, logits, data):
    raised = logits.copy()
    raised[np.arange(len(logits)), logits.argmax(axis=1)] += np.float32(data.draw(st.integers(1, 8)) / 4)
    assert (confidence(raised, criterion) >= confidence(logits, criterion) - 1e-14).all()


@given(hnp.arrays(np.float32, (6, 2), elements=quarters))
@examples(60)
def test_with_two_classes_all_three_are_functions_of_the_difference_of_logits(logits):
    difference = np.abs(logits[:, 0].astype(np.float64) - logits[:, 1])
    p = np.array([1 / (1 + exp(-d)) for d in difference])
    np.testing.assert_allclose(confidence(logits, "max_softmax"), p, atol=1e-14)
    np.testing.assert_allclose(confidence(logits, "margin"), 2 * p - 1, atol=1e-14)
    entropy = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
    np.testing.assert_allclose(confidence(logits, "entropy"), 1 - entropy, atol=1e-13)


@of_softmax
@given(logits=hnp.arrays(np.float32, (4, 3, 5), elements=any_logits))
@examples(40)
def test_an_exit_has_the_same_score_alone_and_among_others(criterion, logits):
    """Live, exits are scored one by one and batch by batch; in a trace all at once."""
    at_once = confidence(logits, criterion)
    for exit in range(3):
        np.testing.assert_allclose(confidence(logits[:, exit], criterion), at_once[:, exit], rtol=0, atol=1e-14)
        np.testing.assert_allclose(confidence(logits[1:2, exit], criterion), at_once[1:2, exit], rtol=0, atol=1e-14)


# --- patience --------------------------------------------------------------------------------------------------------


def test_agreement_by_hand():
    answers = np.array([[2, 2, 2, 0, 0, 2], [1, 0, 1, 0, 0, 0]])
    assert agreement(answers).tolist() == [[1, 2, 3, 1, 2, 1], [1, 1, 1, 1, 2, 3]]


@given(few_answers)
@examples(60)
def test_agreement_is_the_length_of_the_run_that_ends_here(answers):
    expected = [[run_length(row[: place + 1]) for place in range(len(row))] for row in answers.tolist()]
    assert agreement(answers).tolist() == expected


@given(few_answers, st.data())
@examples(60)
def test_agreement_exit_by_exit_is_that_of_the_exits_each_sample_tried(answers, data):
    """Each sample leaves out exits of its own, and the batch has any order."""
    tried = data.draw(hnp.arrays(np.bool_, answers.shape))
    live = Agreement(len(answers))
    for exit in range(answers.shape[1]):
        who = np.array(data.draw(st.permutations(np.flatnonzero(tried[:, exit]).tolist())), dtype=np.int64)
        expected = [run_length(answers[sample, : exit + 1][tried[sample, : exit + 1]].tolist()) for sample in who]
        assert live.after(who, answers[who, exit]).tolist() == expected


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build", [check_criterion, lambda name: Hierarchical(1.0, 1, name), lambda name: Placed(1.0, [1], name)]
)
def test_an_unknown_criterion_is_refused_with_those_that_there_are(build):
    for criterion in CRITERIA:
        build(criterion)
    with pytest.raises(UserError, match=f"'softmax'.*{', '.join(CRITERIA)}") as error:
        build("softmax")
    assert "\n" not in str(error.value)


def test_the_oracle_scores_infinity_where_an_exit_is_right_and_else_0():
    """Exits answer 1 and 0 for the first sample, 0 and 0 for the second."""
    logits = np.array([[[0, 1], [1, 0], [1, 0]], [[1, 0], [1, 0], [1, 0]]], dtype=np.float32)
    trace = Trace(logits=logits, labels=np.array([1, 0]), thresholds=np.ones(2))
    assert table_for(trace, Hierarchical(1.0, 1, "oracle")).stop.tolist() == [[inf, 0], [inf, inf]]
