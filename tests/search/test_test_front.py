"""The end of a study: what the front holds, its metrics on test images, and what is refused before any work."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from results.intervals import mean_interval, wilson_interval
from results.parts import read_table, rows_of, write_part
from results.schemas import SCHEMAS
from results.summary import summarize_front, summary_json
from study import Costs, Static, Trace, replay
from study.checkpoints.description import WeightsId
from study.cli.points import front_lines
from study.costs.model.dvfs import LevelCosts, simulate
from study.policies.policies import Classic, Hierarchical, Placed, Predictive
from study.policies.thresholds import thresholds_from_logits
from study.run.evaluate import Evaluation
from study.search import test_front as front
from study.search.hypervolume import HypervolumeIndicator
from study.search.operating_point import OperatingPoint, point_of
from study.search.traced_network import Frequencies, TracedNetwork
from study.traces.trace import SplitLogits

ONE = WeightsId("one", "w")

EXITS, CLASSES = 4, 3


def split(seed: int, count: int) -> SplitLogits:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    logits = rng.normal(size=(count, EXITS + 1, CLASSES)) + 0.2
    logits[np.arange(count), :, labels] += np.linspace(0.5, 2, EXITS + 1)
    return SplitLogits(logits.astype(np.float32), labels)


COSTS = Costs(
    segment_flops=[4.0, 3.0, 5.0, 2.0, 1.0],
    head_flops=[0.5, 0.25, 0.5, 0.25],
    engine_step_flops=0.125,
    segment_energy=[1.0, 2.0, 1.0, 2.0, 1.0],
    head_energy=[0.125] * 4,  # sums are exact in any order
    energy_source="modelled:test",
    batch_size=8,
)
NETWORK = TracedNetwork(ONE, COSTS, split(1, 30), split(2, 50))
TEST = split(3, 70)
OBJECTIVES = ("accuracy", "flops")
POLICIES = [Classic(), Static(2), Hierarchical(1.5, 2), Placed(2.0, (1, 4)), Predictive(1.2, 1, 3, "classifier")]


def points(seed: int, count: int = 120, levels: int = 8) -> pd.DataFrame:
    """Rows with many ties, failures and repeats."""
    rng = np.random.default_rng(seed)
    accuracy = rng.integers(0, levels, count)
    return pd.DataFrame(
        {
            "search": rng.choice(["a", "b"], count),
            "number": rng.permutation(count),
            "state": rng.choice(["COMPLETE", "COMPLETE", "COMPLETE", "FAIL"], count),
            "repeat_of": rng.choice([np.nan, np.nan, 3.0], count),
            "feasible": rng.choice([True, True, False], count),
            "accuracy": accuracy / levels,
            "flops": (accuracy + rng.integers(0, 3, count)) * 1e9,
            "energy_joules": rng.integers(0, levels, count) * 0.1,
        }
    )


def plain_front(table: pd.DataFrame, columns: list[str]) -> dict[tuple[float, ...], tuple[str, int]]:
    """Objectives of the front -> (search, number) of the point that is kept; O(n^2), straight from the definition."""
    rows = [r for r in table.to_dict("records") if r["state"] == "COMPLETE" and np.isnan(r["repeat_of"])]
    rows = [r for r in rows if r["feasible"]]

    def dominates(one, other) -> bool:
        no_worse = one["accuracy"] >= other["accuracy"] and all(one[c] <= other[c] for c in columns[1:])
        return no_worse and any(one[c] != other[c] for c in columns)

    kept: dict[tuple[float, ...], tuple[str, int]] = {}
    for row in rows:
        if not any(dominates(other, row) for other in rows):
            key, name = tuple(row[c] for c in columns), (row["search"], row["number"])
            kept[key] = min(kept.get(key, name), name)
    return kept


@pytest.mark.parametrize("objectives", [("accuracy", "flops"), ("accuracy", "energy", "flops")])
@pytest.mark.parametrize("seed", range(8))
def test_the_front_equals_its_definition(objectives, seed):
    table = points(seed, levels=5 + 20 * (seed % 2))
    columns = ["energy_joules" if name == "energy" else name for name in objectives]
    found = front.front_of(table, objectives)
    got = {tuple(row[c] for c in columns): (row["search"], row["number"]) for row in found.to_dict("records")}
    assert got == plain_front(table, columns) and len(got) == len(found) > 1
    assert found[columns[1]].is_monotonic_increasing, "cheapest first"
    shuffled = front.front_of(table.sample(frac=1, random_state=seed), objectives)
    pd.testing.assert_frame_equal(shuffled, found)


def test_a_front_of_failures_is_empty():
    table = points(0).assign(state="FAIL")
    assert len(front.front_of(table, ("accuracy", "flops"))) == 0
    assert on_test(front.front_of(table, ("accuracy", "flops"))) == ([], [])


def on_test(table: pd.DataFrame, network: TracedNetwork = NETWORK, test=lambda one: TEST, objectives=OBJECTIVES):
    return front.front_on_test(table, [network], objectives, test, "t3st")


def stored_points(tmp_path, network: TracedNetwork = NETWORK, policies=POLICIES, dvfs: str = "none") -> pd.DataFrame:
    rows = []
    for number, policy in enumerate(policies):
        point = OperatingPoint(network, "mean_max", policy, dvfs=dvfs)
        metrics = point.evaluate()
        rows.append({"number": number, "search": "across", "trial_id": "one", **point.settings(), **metrics})
    done = {"state": "COMPLETE", "split": "validation", "feasible": True, "hypervolume": 0.123}
    write_part(tmp_path, "operating_points", [{**row, **done} for row in rows])
    return read_table(tmp_path, "operating_points")


def test_the_front_s_metrics_equal_a_direct_replay_of_the_test_images(tmp_path):
    table, asked = stored_points(tmp_path), []
    rows, exit_rows = on_test(table, test=lambda one: asked.append(one) or TEST)
    thresholds = thresholds_from_logits(NETWORK.calibration.logits, "mean_max")
    trace = Trace(TEST.logits, TEST.labels, thresholds)
    assert set(asked) == {NETWORK} and len(rows) == len(POLICIES) and len(exit_rows) == len(POLICIES) * (EXITS + 1)
    for row, policy in zip(rows, POLICIES, strict=True):
        walk = replay(trace, policy)
        assert row["test_accuracy"] == (walk.predictions == TEST.labels).mean()
        assert row["test_flops"] == COSTS.per_sample(walk, "flops").mean()
        assert row["test_energy_joules"] == COSTS.per_sample(walk, "energy").mean()
        assert row["test_samples"] == 70 and row["test_digest"] == "t3st" and row["split"] == "validation"
        assert row["test_accuracy_low"] < row["test_accuracy"] < row["test_accuracy_high"]
        assert row["test_classic_accuracy"] == (trace.answers[:, -1] == TEST.labels).mean()
        assert row["accuracy"] == OperatingPoint(NETWORK, "mean_max", policy).evaluate()["accuracy"]
        layers = [layer for layer in exit_rows if layer["point"] == row["number"]]
        assert [layer["exit"] for layer in layers] == list(range(1, EXITS + 2))
        assert {layer["split"] for layer in layers} == {"test"}
        assert [layer["share_stopped"] for layer in layers] == [
            (walk.exit_index == exit).mean() for exit in range(1, EXITS + 2)
        ]
    write_part(tmp_path, "front", rows)
    write_part(tmp_path, "exits", exit_rows)
    for row in rows_of(read_table(tmp_path, "front")):
        assert point_of(row, [NETWORK]).policy == POLICIES[row["number"]]


# --- what the test images make of it ---------------------------------------------------------------------------------


def per_sample(point: OperatingPoint, test: SplitLogits) -> dict[str, np.ndarray]:
    """What has intervals, for each test image."""
    walk = replay(point.network.trace(point.statistic, test), point.policy)
    costs = point.network.costs
    return {
        "accuracy": (walk.predictions == test.labels).astype(np.float64),
        "flops": costs.per_sample(walk, "flops"),
        "energy_joules": costs.per_sample(walk, "energy"),
    }


def interval_of(name: str, values: np.ndarray) -> tuple[float, float]:
    """Wilson's for shares, Student's for means."""
    if name == "accuracy":
        return wilson_interval(float(values.mean()), len(values))
    low, high = mean_interval(values[:, None])
    return float(low[0]), float(high[0])


def test_every_point_has_the_intervals_of_its_own_test_images(tmp_path):
    policies = [Hierarchical(0.2 + place / 40, 1 + place % 4) for place in range(20)]
    rows, _ = on_test(stored_points(tmp_path, policies=policies))
    assert len(rows) == len(policies)
    for row, policy in zip(rows, policies, strict=True):
        for name, values in per_sample(OperatingPoint(NETWORK, "mean_max", policy), TEST).items():
            low, high = interval_of(name, values)
            assert (row[f"test_{name}_low"], row[f"test_{name}_high"]) == pytest.approx((low, high), rel=1e-12)
            assert row[f"test_{name}"] == pytest.approx(values.mean(), rel=1e-12)


def test_evaluate_and_the_front_have_one_interval_for_one_accuracy(tmp_path):
    policy = POLICIES[0]
    (row,), _ = on_test(stored_points(tmp_path, policies=[policy]))
    walk = replay(NETWORK.trace("mean_max", TEST), policy)
    live = Evaluation("test", walk, None, TEST.labels, COSTS, 1.0, policy, "fp32", None).summary()
    assert live["accuracy"] == row["test_accuracy"] and live["samples"] == row["test_samples"]
    assert (live["accuracy_low"], live["accuracy_high"]) == (row["test_accuracy_low"], row["test_accuracy_high"])


def test_an_estimate_lies_in_its_interval(tmp_path):
    policies = [*POLICIES, *(Static(exit) for exit in range(1, EXITS + 1))]
    rows, _ = on_test(stored_points(tmp_path, policies=policies))
    for row in rows:
        for name in ("accuracy", "flops", "energy_joules"):
            low, middle, high = (row[f"test_{name}{end}"] for end in ("_low", "", "_high"))
            assert low <= middle * (1 + 1e-12) and middle <= high * (1 + 1e-12)
        same_for_all = row["policy"] in ("static", "classic")
        assert (row["test_flops_high"] - row["test_flops_low"] < 1e-9) == same_for_all


@pytest.mark.parametrize("right", [True, False])
def test_where_all_answers_are_right_or_none_the_interval_is_wilson_s(tmp_path, right):
    logits = np.zeros((70, EXITS + 1, CLASSES), dtype=np.float32)
    logits[np.arange(70), :, TEST.labels if right else (TEST.labels + 1) % CLASSES] = 9
    rows, _ = on_test(stored_points(tmp_path), test=lambda one: SplitLogits(logits, TEST.labels))
    for row in rows:
        assert row["test_accuracy"] == float(right)
        expected = front.wilson_interval(float(right), 70)
        assert (row["test_accuracy_low"], row["test_accuracy_high"]) == expected and expected[0] < expected[1]


def test_without_energies_there_are_no_intervals_of_energy(tmp_path):
    plain = TracedNetwork(ONE, Costs(segment_flops=np.ones(5), head_flops=np.ones(4)), split(1, 30), split(2, 50))
    rows, _ = on_test(stored_points(tmp_path, plain), plain)
    write_part(tmp_path, "front", rows)
    stored = read_table(tmp_path, "front")
    assert stored[["test_energy_joules", "test_energy_joules_low", "test_energy_joules_high"]].isna().all().all()
    assert stored[["test_flops_low", "test_accuracy_high", "hypervolume"]].notna().all().all()


def test_intervals_under_a_frequency_rule_are_those_of_its_energies(tmp_path):
    seconds = {"segment_seconds": np.ones(5), "head_seconds": np.full(4, 0.1), "seconds_source": "modelled:test"}
    levels = LevelCosts(
        [500, 1000],
        tuple(replace(COSTS, **seconds, segment_energy=np.arange(1.0, 6.0) * watts) for watts in (1, 3)),
        idle_watts=0.5,
        switch_seconds=0.01,
    )
    plan = Frequencies(levels=levels, slack=0.5, period=20.0)
    one = replace(NETWORK, costs=levels.costs[-1], frequencies=plan)
    (row,), _ = on_test(stored_points(tmp_path, one, [Predictive(1.2, 1, 3)], dvfs="paper"), one)
    policy = Predictive(1.2, 1, 3)
    walk = replay(one.trace("mean_max", TEST), policy)
    joules = simulate(walk, levels, rule="paper", policy=policy, slack=0.5, period=20.0).joules
    low, high = interval_of("energy_joules", joules)
    assert joules.std() > 0 and row["test_energy_joules"] == pytest.approx(joules.mean())
    assert (row["test_energy_joules_low"], row["test_energy_joules_high"]) == pytest.approx((low, high))


@pytest.mark.parametrize("objectives", [("accuracy", "flops"), ("accuracy", "energy", "flops")])
def test_optimism_is_what_the_front_loses_from_validation_to_test(tmp_path, objectives):
    """Of each point its accuracy, of the front its hypervolume; that of the search it came from is not the front's."""
    rows, exit_rows = on_test(stored_points(tmp_path), objectives=objectives)
    indicator = HypervolumeIndicator.of(objectives, [NETWORK])
    expected = indicator.hypervolume(rows), indicator.hypervolume(rows, prefix="test_")
    assert min(expected) > 0 and expected[0] != expected[1]
    for row in rows:
        assert row["optimism"] == row["accuracy"] - row["test_accuracy"]
        assert (row["hypervolume"], row["test_hypervolume"]) == expected
    write_part(tmp_path, "front", rows)
    write_part(tmp_path, "exits", [*front.network_exit_rows(NETWORK), *exit_rows])
    summary = summarize_front(tmp_path)
    assert summary.optimism == pytest.approx(1 - expected[1] / expected[0], rel=1e-14)
    assert summary.mean_optimism == pytest.approx(np.mean([row["optimism"] for row in rows]))
    lost = [NETWORK.classic_accuracy - row["test_classic_accuracy"] for row in rows]
    assert summary.classic_optimism == pytest.approx(np.mean(lost))
    told = summary_json(summary)["optimism"]
    assert told == {
        "hypervolume": summary.optimism,
        "accuracy": summary.mean_optimism,
        "classic_accuracy": summary.classic_optimism,
    }
    assert any(f"{summary.optimism:.1%} less hypervolume" in line for line in front_lines(summary))


def test_a_front_without_hypervolume_on_validation_has_no_optimism(tmp_path):
    """One that is no better than guessing."""
    rows, exit_rows = on_test(stored_points(tmp_path))
    write_part(tmp_path, "front", [{**row, "hypervolume": 0.0, "test_hypervolume": 0.1} for row in rows])
    write_part(tmp_path, "exits", [*front.network_exit_rows(NETWORK), *exit_rows])
    summary = summarize_front(tmp_path)
    assert summary.optimism is None and summary_json(summary)["optimism"]["hypervolume"] is None
    assert not any("hypervolume" in line for line in front_lines(summary))


def test_a_network_s_own_statistics_and_costs(tmp_path):
    rows = front.network_exit_rows(NETWORK)
    assert {row["split"] for row in rows} == {"validation"} and {row["point"] for row in rows} == {None}
    assert {row["share_stopped"] for row in rows} == {None}
    for statistic, here in itertools.groupby(rows, key=lambda row: row["statistic"]):
        trace, layers = NETWORK.trace(statistic), list(here)
        assert [r["threshold"] for r in layers[:-1]] == trace.thresholds.tolist() and layers[-1]["threshold"] is None
        assert [r["accuracy_all"] for r in layers] == [(trace.answers[:, e] == trace.labels).mean() for e in range(5)]
        assert [r["cumulative_flops"] for r in layers] == [4.5, 7.25, 12.5, 14.25, 15.0]
        assert [r["cumulative_energy_joules"] for r in layers] == [1.125, 3.125, 4.125, 6.125, 7.0]
    costs = front.cost_rows(NETWORK)
    by_part = {part: [r["flops"] for r in costs if r["part"] == part] for part in ("segment", "head", "engine_step")}
    assert by_part == {"segment": [4, 3, 5, 2, 1], "head": [0.5, 0.25, 0.5, 0.25], "engine_step": [0.125]}
    assert {(row["energy_source"], row["batch_size"]) for row in costs} == {("modelled:test", 8)}
    write_part(tmp_path, "costs", costs)
    write_part(tmp_path, "exits", rows)


@pytest.mark.parametrize(
    ("right", "samples", "low", "high"),
    # By (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), z = 1.959964 (Wilson 1927).
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_interval(right, samples, low, high):
    assert front.wilson_interval(right / samples, samples) == pytest.approx((low, high), abs=1e-4)


def test_every_setting_of_a_point_is_a_column():
    for policy in POLICIES:
        point = replace(OperatingPoint(NETWORK, "mean_max", policy), beta_quantile=0.5)
        assert set(point.settings()) | set(point.evaluate()) <= set(SCHEMAS["operating_points"].names)
