"""From what Optuna suggests to an operating point, and from a row of the table back to it."""

import json

import numpy as np
import pandas as pd
import pytest
from optuna.trial import FixedTrial
from support.searches import ALL_POLICIES, ONE, TWO, parse_policy, run, run_killed, split, traced

from results.parts import rows_of
from search_spaces.spec import OperatingPointsSpec, parse_space
from study.policies.decision_table import table_for
from study.policies.policies import Classic, Hierarchical, Placed, Predictive, Static
from study.search.operating_point import point_of
from study.search.suggest import suggest
from study.traces.trace import SplitLogits

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
CRITERIA = ("logit", "max_softmax", "entropy", "margin", "patience")
ADAPTIVE = "policy: [predictive, hierarchical, placed], placements: [[1, 3], [2, 4]]"
EVERY_CRITERION = f"criterion: [{', '.join(CRITERIA)}]"


def spec(text: str, **changed) -> OperatingPointsSpec:
    chosen = parse_space(f"name: x\noperating_points: {{{text}}}", "test").operating_points
    return chosen.model_copy(update={"trials": 60, "batch": 20, "sampler": "random", **changed})


def asked(row) -> dict[str, object]:
    return json.loads(row["params"])


# --- one beta for each exit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["logit", "max_softmax"])
def test_each_exit_s_beta_is_a_quantile_of_its_own_scores(criterion):
    quantiles = [0.0, 0.25, 0.5, 0.75, 1.0]
    trial = FixedTrial({"start_layer": 2, **{f"beta_quantile_{n}": q for n, q in enumerate(quantiles, start=1)}})
    chosen = spec(f"policy: hierarchical, beta: per_exit, statistic: mean_max, criterion: {criterion}")
    policy = suggest(trial, ONE, chosen).policy
    scores = table_for(ONE[0].trace("mean_max"), policy).stop
    assert isinstance(policy, Hierarchical) and (policy.start_layer, policy.criterion) == (2, criterion)
    assert policy.beta == pytest.approx([np.quantile(own, q) for own, q in zip(scores.T, quantiles, strict=True)])
    assert (scores >= policy.beta).mean(axis=0) == pytest.approx([1, 0.75, 0.5, 0.25, 0], abs=0.03)


def test_with_a_beta_for_each_exit_there_are_as_many_dimensions_as_exits(tmp_path):
    table = run(spec(f"{ADAPTIVE}, beta: per_exit, statistic: [mean_logit, mean_max]"), ONE, tmp_path)
    names = [f"beta_quantile_{exit}" for exit in range(1, 6)]
    assert set(table["state"]) == {"COMPLETE"}
    assert table["beta"].isna().all() and table["beta_quantile"].isna().all()
    for row in rows_of(table):
        assert [name for name in asked(row) if name.startswith("beta")] == names
        assert len(row["betas"]) == 5 and (row["betas"] > 0).all() and len(set(row["betas"])) > 1
        values = ONE[0].betas_at([asked(row)[name] for name in names], row["statistic"], "logit")
        assert tuple(row["betas"]) == values
    assert set(table["policy"]) == {"predictive", "hierarchical", "placed"}


def test_networks_of_different_depth_have_dimensions_of_their_own(tmp_path):
    text = f"{ADAPTIVE}, beta: per_exit, criterion: [logit, patience]"
    for row in rows_of(run(spec(text), TWO, tmp_path)):
        depth = {"shallow": 4, "deep": 6}[row["trial_id"]]
        kind = "patience" if row["criterion"] == "patience" else "beta_quantile"
        expected = [f"{kind}_{exit}_of_{depth}" for exit in range(1, depth + 1)]
        assert [name for name in asked(row) if name.startswith(("beta", "patience"))] == expected
        assert len(row["betas"]) == depth


def test_an_exit_without_a_threshold_has_some_beta():
    """Its ratio is infinite: every image stops there, whatever beta is."""
    calibration = split(5, 1)
    logits = calibration.logits.copy()
    logits[:, 1] = 0
    one = traced("one", 5, calibration=SplitLogits(logits, calibration.labels))
    trial = FixedTrial({"start_layer": 1, **{f"beta_quantile_{exit}": 0.5 for exit in range(1, 6)}})
    policy = suggest(trial, [one], spec("policy: hierarchical, beta: per_exit")).policy
    trace = one.trace("mean_logit")
    assert trace.thresholds[1] == 0 and len(policy.beta) == 5 and min(policy.beta) > 0
    assert np.isinf(table_for(trace, policy).stop[:, 1]).all()


def test_an_interrupted_search_of_many_betas_writes_the_same_table(tmp_path, monkeypatch):
    chosen = spec(f"{ADAPTIVE}, beta: per_exit, {EVERY_CRITERION}", sampler="tpe", trials=36, batch=12)
    whole = run(chosen, TWO, tmp_path / "whole")
    for after in (1, 1):
        run_killed(chosen, TWO, tmp_path / "killed", monkeypatch, after)
    pd.testing.assert_frame_equal(run(chosen, TWO, tmp_path / "killed"), whole)


# --- criteria --------------------------------------------------------------------------------------------------------


def test_a_criterion_is_asked_of_hierarchical_and_placed_alone(tmp_path):
    text = f"policy: {ALL_POLICIES}, placements: [[1, 3], [2]], {EVERY_CRITERION}, statistic: [mean_logit, mean_max]"
    table = run(spec(text, trials=200), ONE, tmp_path)
    assert set(table["state"]) == {"COMPLETE"}
    seen = set()
    for row in rows_of(table):
        chooses = row["policy"] in ("hierarchical", "placed")
        assert ("criterion" in asked(row)) == chooses
        assert row["criterion"] == asked(row).get("criterion", "logit")
        compares = row["policy"] not in ("static", "classic") and row["criterion"] == "logit"
        assert ("statistic" in asked(row)) == compares, "thresholds matter to the paper's criterion alone"
        seen.add((row["policy"], row["criterion"]))
    every = {(kind, criterion) for kind in ("hierarchical", "placed") for criterion in CRITERIA}
    assert seen == every | {(kind, "logit") for kind in ("predictive", "static", "classic")}


@pytest.mark.parametrize("criterion", ["max_softmax", "entropy", "margin"])
def test_a_quantile_stands_for_a_share_of_the_criterion_s_scores(criterion):
    for quantile in (0.0, 0.3, 1.0):
        trial = FixedTrial({"beta_quantile": quantile, "start_layer": 1})
        point = suggest(trial, ONE, spec(f"policy: hierarchical, criterion: {criterion}"))
        scores = table_for(ONE[0].trace("mean_max"), point.policy).stop
        assert point.beta_quantile == quantile and point.policy.criterion == criterion
        assert (scores < point.policy.beta).mean() == pytest.approx(quantile, abs=0.01)


def test_patience_is_a_number_of_exits(tmp_path):
    table = run(spec("policy: [hierarchical, placed], placements: [[1, 2, 4]], criterion: patience"), ONE, tmp_path)
    assert set(table["beta"]) == {1.0, 2.0, 3.0, 4.0, 5.0} and table["betas"].isna().all()
    assert table["beta_quantile"].isna().all()
    for row in rows_of(table):
        assert row["beta"] == asked(row)["patience"] and "beta_quantile" not in asked(row)


def test_each_exit_may_have_a_patience_of_its_own(tmp_path):
    table = run(spec("policy: hierarchical, criterion: patience, beta: per_exit"), ONE, tmp_path)
    for row in rows_of(table):
        assert row["betas"].tolist() == [asked(row)[f"patience_{exit}"] for exit in range(1, 6)]
    assert {beta for betas in table["betas"] for beta in betas} == {1.0, 2.0, 3.0, 4.0, 5.0}


def test_betas_that_are_given_are_those_of_every_criterion(tmp_path):
    table = run(spec(f"policy: hierarchical, {EVERY_CRITERION}, beta: [0.5, 2]"), ONE, tmp_path)
    assert set(table["beta"]) == {0.5, 2.0} and set(table["criterion"]) == set(CRITERIA)


# --- and back --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", ["auto", "per_exit", "{low: 0.2, high: 3}"])
def test_a_row_gives_back_the_very_point(tmp_path, beta, monkeypatch):
    suggested = []

    def remember(*arguments):
        suggested.append(suggest(*arguments))
        return suggested[-1]

    monkeypatch.setattr("study.search.state.suggest", remember)
    text = f"policy: {ALL_POLICIES}, placements: [[1, 3], [2, 3, 4]], {EVERY_CRITERION}, beta: {beta}"
    table = run(spec(f"{text}, statistic: [mean_logit, mean_max], max_jump: [2, 8]", trials=100), TWO, tmp_path)
    assert set(table["state"]) == {"COMPLETE"} and len(suggested) == 100
    for row, point in zip(rows_of(table), suggested, strict=True):
        again = point_of(row, TWO)
        assert (again.policy, again.statistic, again.dvfs) == (point.policy, point.statistic, point.dvfs)
        assert again.network is point.network and again.beta_quantile == point.beta_quantile
        assert again.key == point.key
        metrics = again.evaluate()
        assert metrics == {name: row[name] for name in metrics}
    kinds = {type(point.policy) for point in suggested}
    assert kinds == {Predictive, Hierarchical, Placed, Static, Classic}


def test_one_choice_is_not_asked_for():
    assert parse_policy("hierarchical").values == ("hierarchical",)
    trial = FixedTrial({"beta_quantile": 0.5, "start_layer": 3})
    suggest(trial, ONE, spec("policy: hierarchical, criterion: margin"))
    assert set(trial.params) == {"beta_quantile", "start_layer"}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3", "qmc", "random"])
def test_another_seed_asks_for_other_trials(tmp_path, sampler):
    chosen = spec("policy: hierarchical", sampler=sampler, trials=10, batch=10)
    tables = [run(chosen, ONE, tmp_path / str(seed), seed=seed) for seed in (0, 1, 0)]
    first, other, again = (table["params"].tolist() for table in tables)
    assert first == again and first != other
