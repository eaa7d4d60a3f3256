"""Traces: what they refuse, what they compute once, and that a trace on disk stays there."""

import tracemalloc
from dataclasses import replace
from math import nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.laws import examples
from support.plain_twins import answer_of, engine_ratios, largest, ratio
from support.random_traces import learned_trace, policies, traces

from study import Costs, Hierarchical, Predictive, Trace, UserError, exact_front, replay
from study import arrays as threads
from study.policies.criteria import CRITERIA
from study.policies.decision_table import ratio_table, table_for
from study.policies.thresholds import thresholds_from_logits
from study.traces import trace


def steady(**changes) -> Trace:
    """3 samples, 2 exits, 2 classes; `changes` replace a field."""
    fields = {
        "logits": np.arange(18, dtype=np.float32).reshape(3, 3, 2),
        "labels": np.array([0, 1, 1]),
        "thresholds": np.ones(2, dtype=np.float32),
    }
    return Trace(**(fields | changes))


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [2**24, 13, 6, 1])
@pytest.mark.parametrize("bad", [nan, np.inf, -np.inf])
@pytest.mark.parametrize(("sample", "exit"), [(0, 1), (1, 3), (2, 2)])
def test_a_logit_that_is_not_finite_is_refused_by_sample_and_exit(monkeypatch, chunk, bad, sample, exit):
    monkeypatch.setattr(trace, "CHUNK", chunk)
    logits = steady().logits.copy()
    logits[sample, exit - 1, 1] = bad
    with pytest.raises(UserError, match=f"sample {sample} at exit {exit} ") as error:
        steady(logits=logits)
    assert "\n" not in str(error.value)


def test_a_logit_too_large_for_float32_is_refused():
    logits = steady().logits.astype(np.float64)
    logits[2, 1, 0] = 1e39
    with np.errstate(over="ignore"), pytest.raises(UserError, match="sample 2 at exit 2 "):
        steady(logits=logits)


@pytest.mark.parametrize(
    "changes",
    [
        {"logits": np.zeros((3, 2))},
        {"logits": np.zeros((3, 1, 2)), "thresholds": np.ones(0)},
        {"logits": np.zeros((0, 3, 2)), "labels": np.zeros(0)},
        {"logits": np.zeros((3, 3, 0))},
        {"labels": np.array([0, 1])},
        {"labels": np.array([[0], [1], [1]])},
        {"labels": np.array([0, 1, 2])},
        {"labels": np.array([0, -1, 1])},
        {"thresholds": np.ones(3)},
        {"thresholds": np.array([1.0, -1.0])},
        {"thresholds": np.array([1.0, nan])},
        {"thresholds": np.array([1.0, np.inf])},
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_one_line(changes):
    with pytest.raises(UserError, match="trace") as error:
        steady(**changes)
    assert "\n" not in str(error.value)


# --- what is computed ------------------------------------------------------------------------------------------------


@given(traces())
@examples(60)
def test_answers_are_the_first_of_the_largest_logits_and_right_where_they_are_the_label(drawn):
    expected = [[answer_of(logits) for logits in sample] for sample in drawn.logits]
    assert drawn.answers.tolist() == expected
    assert drawn.right.tolist() == [
        [int(answer == label) for answer in answers] for answers, label in zip(expected, drawn.labels, strict=True)
    ]


@given(traces(), st.integers(0, 9), st.integers(0, 9))
@examples(60)
def test_the_decision_table_holds_the_plain_ratios_whatever_was_asked_before(drawn, before, max_jump):
    ratio_table(drawn, before)
    table, exits = ratio_table(drawn, max_jump), range(1, drawn.exit_count + 1)
    assert table.max_jump == max_jump
    theta = drawn.thresholds
    stop = [[ratio(largest(sample[exit - 1]), float(theta[exit - 1])) for exit in exits] for sample in drawn.logits]
    jump = [[engine_ratios(sample, theta, exit, max_jump) for exit in exits] for sample in drawn.logits]
    np.testing.assert_array_equal(table.stop, stop)
    np.testing.assert_array_equal(table.jump, np.reshape(jump, (*np.shape(stop), max_jump)))
    np.testing.assert_array_equal(table.at(np.array([0]), drawn.exit_count).stop, [stop[0][-1]])


@given(traces(), st.data())
@examples(60)
def test_neither_threads_nor_chunks_change_a_score(drawn, data):
    policy = data.draw(policies(drawn, criteria=CRITERIA))
    expected, cores = table_for(drawn, policy).scores, data.draw(st.integers(1, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "SMALLEST_SLICE", 1)
        patch.setattr(threads, "thread_count", lambda: cores)
        patch.setattr(trace, "CHUNK", data.draw(st.integers(1, 100)))
        np.testing.assert_array_equal(table_for(replace(drawn), policy).scores, expected)


# --- arrays of other makes -------------------------------------------------------------------------------------------


def frozen(array):
    array = array.copy()
    array.setflags(write=False)
    return array


def on_disk(array, folder):
    path = folder / f"{array.ndim}.npy"
    np.save(path, array)
    return np.load(path, mmap_mode="r")


@pytest.mark.parametrize("make", ["read-only", "mapped", "columns first", "every second"])
def test_a_trace_of_any_array_is_replayed_alike(make, tmp_path):
    """Arrays from Ray's object store are read-only, those from a file are mapped, and others have strides."""
    plain = learned_trace(40, exits=4)
    fields = {name: getattr(plain, name) for name in ("logits", "labels", "thresholds")}
    made = {
        "read-only": lambda: {name: frozen(array) for name, array in fields.items()},
        "mapped": lambda: fields | {"logits": on_disk(fields["logits"], tmp_path)},
        "columns first": lambda: fields | {"logits": np.asfortranarray(fields["logits"])},
        "every second": lambda: fields | {"logits": np.repeat(fields["logits"], 2, axis=0)[::2]},
    }[make]()
    other = Trace(**made)
    for criterion in CRITERIA:
        rule = Hierarchical(0.75, 1, criterion)
        np.testing.assert_array_equal(replay(other, rule).exit_index, replay(plain, rule).exit_index)
    engine = Predictive(2.0, 1, max_jump=3)
    np.testing.assert_array_equal(replay(other, engine).exit_index, replay(plain, engine).exit_index)
    costs = Costs(segment_flops=np.ones(5), head_flops=np.ones(4))
    assert exact_front(other, costs).equals(exact_front(plain, costs))


def sparse(path, shape):
    """A mapped array that cannot be written: 1 here and there, the rest are holes in the file."""
    logits = np.memmap(path, dtype=np.float32, mode="w+", shape=shape)
    logits[::100, :, ::7] = 1.0
    logits.flush()
    return np.memmap(path, dtype=np.float32, mode="r", shape=shape)


def compile_for_mapped_arrays() -> None:
    """What a compiler allocates is not what is measured."""
    ratio_table(steady(logits=frozen(steady().logits)), 8)


def test_a_trace_on_disk_stays_there(tmp_path):
    """200 MB of logits; nothing of their size is ever allocated."""
    mapped = sparse(tmp_path / "logits", (12_500, 11, 364))
    assert mapped.nbytes > 200e6
    labels, thresholds = np.zeros(len(mapped), dtype=np.int64), np.ones(10)
    compile_for_mapped_arrays()
    tracemalloc.start()
    try:
        drawn = Trace(logits=mapped, labels=labels, thresholds=thresholds)
        table = ratio_table(drawn, 8)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.shares_memory(drawn.logits, mapped)
    assert peak > table.scores.nbytes  # what is measured is what numpy allocates
    assert peak < 0.25 * mapped.nbytes
    assert np.flatnonzero(table.stop[:, 3]).tolist() == list(range(0, 12_500, 100))


def test_answers_scores_and_thresholds_of_a_trace_on_disk_are_found_chunk_by_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(trace, "CHUNK", 2**18)
    mapped = sparse(tmp_path / "logits", (4_000, 11, 200))
    labels = np.zeros(len(mapped), dtype=np.int64)
    compile_for_mapped_arrays()
    tracemalloc.start()
    try:
        thresholds = thresholds_from_logits(mapped, "mean_max") + thresholds_from_logits(mapped, "mean_logit")
        drawn = Trace(logits=mapped, labels=labels, thresholds=thresholds)
        tables = [table_for(drawn, Hierarchical(1.0, 1, criterion)) for criterion in CRITERIA]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert drawn.right.all()
    assert sum(table.scores.nbytes for table in tables) < peak < 0.4 * mapped.nbytes
