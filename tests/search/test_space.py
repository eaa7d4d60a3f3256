"""Constraints on operating points, and the accuracy that a drop counts from."""

import pytest
from support.levelled_networks import split, traced

from search_spaces.spec import OperatingPointsSpec
from study.errors import UserError
from study.search.space import check_names, constraint_values
from study.search.traced_network import reference_network


def test_constraints_tell_by_how_much_a_limit_is_exceeded():
    metrics = {"accuracy": 0.9, "energy_joules": 3.0, "memory_bytes": 50.0, "latency_p99_seconds": 0.2}
    limits = {"accuracy_drop": 0.02, "energy": 2.0, "memory": 100.0, "latency_p99": 0.2}
    assert constraint_values(metrics, limits, reference=0.95) == pytest.approx(
        {"accuracy_drop": 0.03, "energy": 0.5, "memory": -0.5, "latency_p99": 0.0}
    )


def test_a_drop_is_counted_from_the_best_classic_network_in_fp32():
    def right(seed: int) -> float:
        one = split(seed)
        return float((one.logits[:, -1].argmax(axis=1) == one.labels).mean())

    worst, middle, best = sorted({right(seed): seed for seed in range(3, 30)}.values(), key=right)[:3]
    assert right(worst) < right(middle) < right(best)
    pairs = ((worst, "fp32"), (middle, "fp32"), (best, "int8"))
    networks = [traced(validation=split(seed), precision=precision) for seed, precision in pairs]
    assert reference_network(networks).classic_accuracy == right(middle)
    assert reference_network(networks[2:]).classic_accuracy == right(best)


def test_a_drop_of_exactly_the_limit_is_kept():
    for right in range(1, 1000):
        metrics = {"accuracy": (right - 1) / 1000}
        assert constraint_values(metrics, {"accuracy_drop": 0.001}, reference=right / 1000) == {"accuracy_drop": 0.0}
        over = constraint_values(metrics, {"accuracy_drop": 0.0005}, reference=right / 1000)["accuracy_drop"]
        assert over == pytest.approx(0.0005)


def test_criteria_beside_logit_may_stand_where_no_policy_has_them():
    """`front --exact --set operating_points.policy=predictive` of a study with other policies and criteria."""
    check_names(OperatingPointsSpec.model_validate({"policy": "predictive", "criterion": ["logit", "margin"]}))
    with pytest.raises(UserError, match="can have another one than logit"):
        check_names(OperatingPointsSpec.model_validate({"policy": "predictive", "criterion": "margin"}))


def test_thresholds_of_each_head_are_not_fitted_to_patience():
    points = {"policy": ["hierarchical", "head_thresholds"], "criterion": ["margin", "patience"]}
    with pytest.raises(UserError, match="head_thresholds cannot be fitted to patience"):
        check_names(OperatingPointsSpec.model_validate(points))
