"""Traces of a network by split, and the one network that shares and losses are counted from."""

import gc
from dataclasses import replace

import numpy as np
import pytest
from support.searches import split, traced

from results.parts import write_part
from results.summary import summarize_front
from study import Costs
from study.policies.decision_table import table_for
from study.policies.policies import Hierarchical
from study.search.test_front import network_exit_rows
from study.search.traced_network import reference_network
from study.traces.trace import SplitLogits


def test_each_split_has_a_trace_of_its_own_whatever_becomes_of_the_memory_of_another():
    """Logits in float64 are copied by the trace, so that their memory is free for the next split's."""
    one = traced("one", 3)
    for seed in range(40):
        single = split(3, seed)
        double = SplitLogits(single.logits.astype(np.float64), single.labels)
        found = one.trace("mean_max", double)
        assert np.array_equal(found.logits, single.logits) and found is one.trace("mean_max", double)
        del double
        gc.collect(0)  # all that this round made


@pytest.mark.parametrize("criterion", ["logit", "margin", "oracle", "patience"])
def test_on_some_images_a_network_has_the_scores_that_these_images_have(criterion):
    one, samples = traced("one", 3), np.array([1, 4, 5])
    policy = Hierarchical(1.0, 1, criterion)
    whole = table_for(one.trace("mean_max"), policy)
    part = one.on(samples)
    found = table_for(part.trace("mean_max"), policy)
    fresh = replace(one, validation=part.validation)
    np.testing.assert_array_equal(found.scores, table_for(fresh.trace("mean_max"), policy).scores)
    np.testing.assert_array_equal(found.stop, whole.stop[samples])
    np.testing.assert_array_equal(part.validation.labels, one.validation.labels[samples])


def named(name: str, right: int, flops: float, precision: str = "fp32"):
    """A network whose classifier is right on so many of ten images."""
    labels = np.zeros(10, dtype=np.int64)
    logits = np.zeros((10, 3, 2), dtype=np.float32)
    logits[:right, :, 0], logits[right:, :, 1] = 1.0, 1.0
    costs = Costs(segment_flops=[flops, 0.0, 0.0], head_flops=[0.0, 0.0])
    validation = SplitLogits(logits, labels)
    return replace(
        traced(f"{name}@w", 2), costs=costs, precision=precision, calibration=validation, validation=validation
    )


@pytest.mark.parametrize(
    ("networks", "reference"),
    [
        ([named("a", 7, 1.0), named("b", 9, 5.0), named("c", 8, 1.0)], "b"),
        ([named("a", 8, 3.0), named("b", 8, 2.0), named("c", 8, 2.0)], "b"),
        ([named("a", 9, 1.0, "int8"), named("b", 6, 4.0)], "b"),
        ([named("a", 5, 1.0, "int8"), named("b", 6, 4.0, "bf16")], "b"),
    ],
    ids=["most accurate", "of equal ones the first with the fewest FLOPs", "fp32 first", "no fp32"],
)
def test_the_search_and_the_summary_of_a_front_have_one_reference_network(tmp_path, networks, reference):
    assert reference_network(networks).trial_id == reference
    rows = [row for one in networks for row in network_exit_rows(one)]
    write_part(tmp_path, "exits", rows, "x")
    point = {"number": 0, "accuracy": 0.5, "flops": 1.0, "classic_accuracy": 0.5, "energy_joules": None}
    test = {f"test_{name}": 0.5 for name in ("accuracy", "accuracy_low", "accuracy_high", "classic_accuracy")}
    write_part(tmp_path, "front", [{**point, **test}], "x")
    found = summarize_front(tmp_path).reference
    assert (found.trial_id, found.accuracy) == (reference, reference_network(networks).classic_accuracy)
