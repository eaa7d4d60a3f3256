"""Policies at equal accuracy: each one's choice is the cheapest that keeps to it, and test images choose nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from search_spaces.spec import OperatingPointsSpec, parse_space
from study import Costs, exact_front
from study.checkpoints.description import WeightsId
from study.cli.main import main
from study.costs.model.dvfs import LevelCosts
from study.errors import UserError
from study.fronts.matched_cost import resamples
from study.policies.policies import Hierarchical, Predictive
from study.search.cheapest import FAMILIES, ORACLE, PolicyFamily, family_front
from study.search.compare import Comparison, best_families, compare
from study.search.cross_fit import MatchedCosts, Outcome, cross_fit
from study.search.smaller import Backbone
from study.search.traced_network import Frequencies, TracedNetwork, reference_network
from study.traces.trace import SplitLogits

MEASURES = ("flops", "energy")
EXITS, DROPS = 5, (0.0, 0.02, 0.1)


def split(seed: int, count: int = 150, classes: int = 4) -> SplitLogits:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, EXITS + 1, classes)) + 0.3
    logits[np.arange(count), :, labels] += np.linspace(0.8, 2.2, EXITS + 1)
    return SplitLogits(logits.astype(np.float32), labels)


def traced(seed: int, precision: str = "fp32", scale: float = 1.0) -> TracedNetwork:
    segments, heads = np.arange(1.0, EXITS + 2), np.full(EXITS, 0.1)
    costs = Costs(
        segment_flops=segments,
        head_flops=heads,
        engine_step_flops=0.01,
        segment_energy=scale * segments[::-1],
        head_energy=scale * heads,
        energy_source="modelled:test",
    )
    return TracedNetwork(WeightsId("one", "w"), costs, split(seed), split(seed + 1), precision=precision)  # type: ignore[arg-type]


FULL, INT8 = traced(1), traced(11, "int8", 0.2)
TESTS = {"fp32": split(3), "int8": split(13)}


def spec(text: str = "") -> OperatingPointsSpec:
    section = f"{{statistic: [mean_logit, mean_max], quantization: [fp32, int8]{text}}}"
    return parse_space(f"name: x\noperating_points: {section}", "test").operating_points


def alone_of(**asked: object) -> Comparison:
    return compare(spec(), [FULL], test_logits=lambda one: TESTS["fp32"], **asked)  # type: ignore[arg-type]


def comparison(tests: dict[str, SplitLogits] | None = None, **asked: object) -> Comparison:
    chosen = TESTS if tests is None else tests
    return compare(spec(), [FULL, INT8], test_logits=lambda one: chosen[one.precision], drops=DROPS, **asked)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return comparison().rows


def test_every_choice_keeps_to_its_accuracy_on_validation(rows: pd.DataFrame) -> None:
    assert FULL.classic_accuracy != INT8.classic_accuracy and reference_network([INT8, FULL]) is FULL
    assert (rows["accuracy"] >= FULL.classic_accuracy - rows["drop"] - 1e-9).all(), "of the network in fp32"
    np.testing.assert_allclose(rows["accuracy_drop"], FULL.classic_accuracy - rows["accuracy"])
    named = set(rows["family"])
    assert named == {one.name for one in FAMILIES} and (rows["family"] == "classic").sum() <= 2


@pytest.mark.parametrize(("policy", "name"), [(Predictive, "predictive"), (Hierarchical, "hierarchical")])
def test_the_choice_is_the_cheapest_of_all_points(rows: pd.DataFrame, policy: type, name: str) -> None:
    classic = FULL.costs.classic("flops")
    for drop in DROPS:
        best = np.inf
        for statistic in ("mean_logit", "mean_max"):
            front = exact_front(FULL.trace(statistic), FULL.costs, policy)  # type: ignore[arg-type]
            enough = front[front["accuracy"] >= FULL.classic_accuracy - drop - 1e-9]
            best = min(best, enough["flops"].min())
        row = rows[(rows["precision"] == "fp32") & (rows["drop"] == drop) & (rows["family"] == name)].iloc[0]
        assert row["flops_share"] * classic == pytest.approx(best)


def test_more_loss_costs_less_and_no_policy_loses_to_a_cut(rows: pd.DataFrame) -> None:
    table = rows.pivot_table(index=["precision", "drop"], columns="family", values="flops_share", observed=True)
    for precision in ("fp32", "int8"):
        falling = table.loc[precision].drop(columns="classic")
        assert (falling.diff().iloc[1:].fillna(0) <= 1e-12).all(axis=None)
    able = table.dropna(subset=["static"])
    for name in ("hierarchical", "predictive", "hierarchical, margin"):
        assert (able[name] <= able["static"] + 1e-12).all(), f"{name} can stop everybody where the cut does"


def test_the_network_itself_stands_where_it_keeps_to_the_bound(rows: pd.DataFrame) -> None:
    lost = FULL.classic_accuracy - INT8.classic_accuracy
    classic = rows[rows["family"] == "classic"].set_index("precision")["drop"]
    assert classic["fp32"] == 0
    assert classic.get("int8") == next((drop for drop in DROPS if lost <= drop + 1e-9), None)


def test_test_images_choose_nothing_and_report_everything(rows: pd.DataFrame) -> None:
    other = comparison({"fp32": split(77), "int8": split(78)}).rows
    chosen = [name for name in rows if "test" not in name]
    pd.testing.assert_frame_equal(rows[chosen], other[chosen])
    assert not rows["test_accuracy"].equals(other["test_accuracy"])
    classic = (TESTS["fp32"].logits[:, -1].argmax(axis=1) == TESTS["fp32"].labels).mean()
    np.testing.assert_allclose(rows["test_drop"], classic - rows["test_accuracy"])
    assert (rows["test_drop_low"] <= rows["test_drop"]).all() and (rows["test_drop"] <= rows["test_drop_high"]).all()
    assert all(sum(stopped) == pytest.approx(1) and len(stopped) == EXITS + 1 for stopped in rows["test_stopped"])
    own = rows[(rows["family"] == "classic") & (rows["precision"] == "fp32")].iloc[0]
    assert (own["test_flops_share"], own["test_energy_share"], own["test_drop"]) == (1, 1, 0)
    whole = rows[(rows["family"] == "classic") & (rows["precision"] == "int8")]
    assert np.allclose(whole["test_energy_share"], 0.2), "energy is held against the network in fp32"


def test_predictions_by_start_layer_belong_to_the_predictive_points(rows: pd.DataFrame) -> None:
    found = comparison().predictions
    assert set(found["split"]) == {"validation", "test"}
    found = found[found["split"] == "test"]
    mine = rows[rows["family"] == "predictive"]
    assert len(found) == len(mine) * (EXITS - 1)
    merged = mine.merge(found, on=["trial_id", "precision", "drop", "beta", "start_layer"], suffixes=("", "_by_layer"))
    assert len(merged) == (mine["start_layer"] < EXITS).sum()
    same = merged["test_prediction_accuracy"].fillna(-1) == merged["accuracy_by_layer"].fillna(-1)
    assert same.all() and (merged["test_predictions"] == merged["predictions_by_layer"]).all()


def test_the_least_energy_can_be_asked_for() -> None:
    by_energy = comparison(objective="energy").rows.set_index(["precision", "drop", "family"])
    by_flops = comparison().rows.set_index(["precision", "drop", "family"])
    name = ("fp32", 0.1, "hierarchical")
    assert by_energy.loc[name, "flops_share"] >= by_flops.loc[name, "flops_share"]
    poor = replace(FULL, costs=Costs(segment_flops=np.ones(EXITS + 1), head_flops=np.ones(EXITS)))
    with pytest.raises(ValueError, match="energies of these networks are not known"):
        compare(spec(), [poor], test_logits=lambda one: TESTS["fp32"], objective="energy")


@pytest.mark.parametrize("objective", ["flops", "energy"])
def test_a_larger_loss_never_costs_more_in_whatever_order_it_is_asked_for(objective: str) -> None:
    drops = [0.1, 0.02, 0.05, 0.02, 0.0, 0.15]
    found = alone_of(drops=drops, objective=objective).rows.pivot_table(
        index="drop", columns="family", values=f"{objective}_share"
    )
    assert list(found.index) == sorted(set(drops)) and found["classic"].dropna().index.tolist() == [0.0]
    assert (found.drop(columns="classic").diff().iloc[1:].fillna(0) <= 1e-12).all(axis=None)


def test_the_best_family_has_the_least_cost_at_equal_loss_and_the_oracle_is_none(rows: pd.DataFrame) -> None:
    best = best_families(rows, "flops").set_index(["precision", "drop"])
    real = rows[rows["family"] != "hierarchical, oracle"].set_index(["precision", "drop"])
    for key, row in best.iterrows():
        assert row["matched_flops_share"] == real.loc[[key], "matched_flops_share"].min()
    oracle = rows[rows["family"] == "hierarchical, oracle"]
    assert best_families(oracle, "flops").empty
    energy = comparison(objective="energy").rows
    assert (best_families(energy, "energy")["matched_energy_share"] <= 1).all() and "matched_flops_share" not in energy


def test_a_start_layer_of_the_study_does_not_favour_anybody(rows: pd.DataFrame) -> None:
    fixed = compare(
        spec(", start_layer: 4"), [FULL, INT8], test_logits=lambda one: TESTS[one.precision], drops=DROPS
    ).rows
    pd.testing.assert_frame_equal(fixed, rows)


@pytest.mark.parametrize(
    ("constraints", "told"),
    [("energy: 0.001", "no operating point keeps the constraints"), ("latency_p99: 1", r"--set .*latency_p99=null$")],
)
def test_constraints_that_leave_nothing_are_told(constraints: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        compare(spec(f", constraints: {{{constraints}}}"), [FULL], test_logits=lambda one: TESTS["fp32"])


def test_whoever_may_miss_a_deadline_has_no_energy_under_it() -> None:
    speeds = (2.0, 1.0)
    levels = tuple(
        replace(FULL.costs, segment_seconds=slow * np.ones(EXITS + 1), head_seconds=slow * np.full(EXITS, 0.1))
        for slow in speeds
    )
    plan = LevelCosts([500, 1000], levels, idle_watts=1.0, switch_seconds=0.1)
    one = replace(FULL, costs=levels[-1], frequencies=Frequencies(levels=plan, slack=0.0, period=64.0))
    found = compare(
        spec(), [one], test_logits=lambda one: TESTS["fp32"], drops=[0.1], rules=["race_to_idle", "deadline"]
    ).rows
    late = found.set_index("family")["test_energy_share_deadline"].isna()
    assert late["predictive"] and not late["static"] and not late["hierarchical"]
    assert found["test_energy_share_race_to_idle"].notna().all()


def test_the_command_refuses_what_is_no_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path)]) == 2
    assert "is no run folder" in capsys.readouterr().err
    assert main(["compare", str(tmp_path), "--set", "operating_points.start_layer=99"]) == 2
    assert "start_layer has no effect" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["compare", str(tmp_path), "--drop", "1.5"])
    assert "expected a share" in capsys.readouterr().err


# --- equal loss on images that did not choose ------------------------------------------------------------------------


def test_test_traces_are_not_opened_and_no_column_of_test_is_there_unless_asked_for(rows: pd.DataFrame) -> None:
    silent = compare(spec(), [FULL, INT8], drops=DROPS)
    assert not [name for name in silent.rows if "test" in name] and set(silent.predictions["split"]) == {"validation"}
    pd.testing.assert_frame_equal(silent.rows, rows[list(silent.rows)])


def test_losses_and_costs_on_unseen_images_lie_in_their_intervals(rows: pd.DataFrame) -> None:
    own = rows[(rows["precision"] == "fp32") & (rows["family"] == "classic")].iloc[0]
    assert (own["unseen_drop"], own["matched_flops_share"]) == (0, 1)
    known = rows.dropna(subset=["unseen_drop"])
    assert (known["unseen_drop_low"] <= known["unseen_drop"]).all()
    assert (known["unseen_drop"] <= known["unseen_drop_high"]).all()
    shares = known["matched_flops_share"]
    assert (known["matched_flops_share_low"] <= shares).all() and (shares <= known["matched_flops_share_high"]).all()
    static = rows[rows["family"] == "static"]
    assert (static["matched_saving"].dropna() == 0).all()


def test_no_image_chooses_the_point_that_prices_it() -> None:
    families = [PolicyFamily("static"), PolicyFamily("hierarchical"), PolicyFamily("head_thresholds", "margin")]

    def costs_with(labels: np.ndarray) -> dict[tuple[PolicyFamily, float], np.ndarray]:
        one = replace(FULL, validation=replace(FULL.validation, labels=labels))
        found = cross_fit(spec(), one, one, families, [0.0, 0.05], "flops")
        return {key: outcome.cost for key, outcome in found.items()}

    labels = FULL.validation.labels
    usual, others_changed = costs_with(labels), False
    for image in range(0, len(labels), 15):
        changed = labels.copy()
        changed[image] = (changed[image] + 1) % 4
        costs = costs_with(changed)
        for key in costs.keys() & usual.keys():
            assert costs[key][image] == usual[key][image]
            others_changed |= not np.array_equal(costs[key], usual[key])
    assert others_changed, "labels choose"


def outcome_of(loss: float, cost: float, count: int = 100) -> Outcome:
    lost = np.zeros(count)
    lost[: round(loss * count)] = 1
    return Outcome(lost, np.full(count, cost))


@pytest.mark.parametrize(
    ("outcomes", "drop", "cost"),
    [
        ([(0.02, 0.5)], 0.01, 0.75),
        ([(0.02, 0.5)], 0.02, 0.5),
        ([(0.02, 0.5)], 0.05, 0.5),
        ([(0.02, 0.5)], 0.0, 1.0),
        ([(0.01, 0.6), (0.03, 0.4)], 0.02, 0.5),
    ],
)
def test_the_curve_of_a_family_ends_at_the_classic_network(outcomes: list, drop: float, cost: float) -> None:
    found = MatchedCosts.of([outcome_of(*one) for one in outcomes], [drop], resamples(100, 50))
    assert found.mean[0] == pytest.approx(cost)
    assert found.draws.shape == (50, 1) and found.draws.min() <= cost + 1e-12 <= found.draws.max() + 2e-12


def test_costs_at_equal_loss_on_test_lie_in_their_intervals_and_a_fitted_family_has_its_settings(
    rows: pd.DataFrame,
) -> None:
    shares = rows["matched_test_flops_share"]
    assert shares.notna().all() and shares.between(0, 1).all()
    assert (rows["matched_test_flops_share_low"] <= rows["matched_test_flops_share_high"]).all()
    fitted = rows[rows["policy"].isin(["head_thresholds", "optimal_stopping"])]
    assert fitted["price"].notna().all() and rows.drop(fitted.index)["price"].isna().all()
    assert fitted["rule"].notna().eq(fitted["policy"] == "optimal_stopping").all()


# --- the ranking of images, and smaller networks ---------------------------------------------------------------------


def test_each_exit_has_the_ranking_quality_of_its_confidences() -> None:
    found = alone_of(drops=[0.02]).ranking
    assert found["exit"].tolist() == list(range(1, EXITS + 1))
    for name in ("margin", "max_softmax", "logit"):
        assert found[f"auroc_{name}"].between(0.4, 1).all()
    assert (found["should_stop"] > found["accuracy"]).any() and (found["should_stop"] >= found["accuracy"]).all()


@pytest.mark.parametrize("objective", ["flops", "energy"])
def test_smaller_networks_stand_as_they_are_and_with_their_exits(objective: str) -> None:
    parts = {f"segment_{measure}": 0.3 * np.asarray(getattr(FULL.costs, f"segment_{measure}")) for measure in MEASURES}
    costs = replace(FULL.costs, **parts)
    small = replace(FULL, weights=WeightsId("small", "w"), costs=costs)
    backbone = Backbone("plain", "vgg19 x 0.1", 0.5, Costs(segment_flops=[4.2], head_flops=[]))
    rows = compare(
        spec(),
        [FULL, small],
        test_logits=lambda one: TESTS["fp32"],
        backbones=[backbone],
        names={"small": "vgg19 x 0.3"},
        drops=[0.02],
        objective=objective,  # type: ignore[arg-type]
    ).smaller
    assert set(rows["smaller"]) == {"vgg19 x 0.1", "vgg19 x 0.3"}
    plain = rows[(rows["smaller_id"] == "plain") & (rows["trial_id"] == "one")].iloc[0]
    assert plain["flops_share"] == pytest.approx(0.2) and plain["accuracy_drop"] == FULL.classic_accuracy - 0.5
    traced_rows = rows[rows["smaller_id"] == "small"]
    assert (traced_rows["trial_id"] == "one").all(), "the small network has no smaller one that is traced"
    standing, with_exits = traced_rows.iloc[0], traced_rows.iloc[1]
    assert (standing["family"], standing["accuracy_drop"], standing["test_drop"]) == ("classic", 0, 0)
    share = f"{objective}_share"
    assert standing[share] == pytest.approx(0.3) and with_exits[share] < 0.3
    points = [family_front(spec(), small, one, objective, 0.0) for one in FAMILIES if one.name != ORACLE]  # type: ignore[arg-type]
    found = [point for front in points if (point := front.cheapest(FULL.classic_accuracy, 0.02)) is not None]
    column = {"flops": "flops", "energy": "energy_joules"}[objective]
    least = min(point.evaluate()[column] for point in found)
    assert with_exits[share] == pytest.approx(least / FULL.costs.classic(objective))  # type: ignore[arg-type]
    assert with_exits["drop"] == 0.02 and with_exits["accuracy_drop"] <= 0.02 + 1e-9
