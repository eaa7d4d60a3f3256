"""A search over networks, precisions, frequency rules and constraints: its table, its interruption, its front."""

import json

import optuna
import pandas as pd
import pytest
from support.scaled_networks import BOTH
from support.searches import TWO, run, run_killed, traced

from search_spaces.spec import parse_space
from study.errors import UserError
from study.search import optuna_search as module
from study.search.operating_point import COLUMNS, point_of
from study.search.test_front import front_of

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def spec(text: str, **changed):
    text = (
        "name: x\noperating_points: {policy: [predictive, hierarchical, static], quantization: [fp32, int8], "
        f"dvfs: [race_to_idle, paper, deadline], {text}}}"
    )
    chosen = parse_space(text, "test").operating_points
    return chosen.model_copy(update={"trials": 60, "batch": 15, "sampler": "random", **changed})


@pytest.mark.parametrize(("sampler", "trials", "batch"), [("tpe", 36, 9), ("nsga2", 160, 40), ("qmc", 36, 9)])
def test_an_interrupted_search_with_constraints_writes_the_same_table(tmp_path, monkeypatch, sampler, trials, batch):
    chosen = spec("constraints: {accuracy_drop: 0.4, energy: 60}", sampler=sampler, trials=trials, batch=batch)
    whole = run(chosen, BOTH, tmp_path / "whole")
    assert set(whole["precision"].dropna()) == {"fp32", "int8"}
    assert set(whole["dvfs"].dropna()) == {"race_to_idle", "paper", "deadline"}
    assert {True, False} == set(whole["feasible"].dropna())
    for after in (0, 1, 1):
        run_killed(chosen, BOTH, tmp_path / "killed", monkeypatch, after)
    pd.testing.assert_frame_equal(run(chosen, BOTH, tmp_path / "killed"), whole)


def test_optuna_is_told_what_the_table_says(tmp_path, monkeypatch):
    """Both by the search that evaluates a point and by the one that rebuilds it."""
    studies = []
    real = module.export_journal
    monkeypatch.setattr(module, "export_journal", lambda study, *rest: studies.append(study) or real(study, *rest))
    text = "constraints: {accuracy_drop: 0.05, latency_p99: 9, energy: 50}"
    table = run(spec(text), BOTH, tmp_path)
    run(spec(text, trials=61), BOTH, tmp_path)
    for study in studies:
        for trial, row in zip(study.trials, table.to_dict("records"), strict=False):
            assert trial.state == (optuna.trial.TrialState.COMPLETE if row["state"] == "COMPLETE" else 3)
            assert trial.constraints == json.loads(row["constraints"])
            assert row["feasible"] == all(value <= 0 for value in trial.constraints.values())


def test_the_front_keeps_to_the_constraints(tmp_path):
    table = run(spec("constraints: {latency_p99: 6}"), BOTH, tmp_path)
    front = front_of(table, ("accuracy", "flops", "energy"))
    assert len(front) and (front["latency_p99_seconds"] <= 6).all()
    assert (table["latency_p99_seconds"] > 6).any()
    free = run(spec(""), BOTH, tmp_path / "free")
    assert free["feasible"].all() and set(free["constraints"]) == {"{}"}


@pytest.mark.parametrize("measure", ["latency_mean", "latency_p50", "latency_p99", "bitops"])
def test_other_costs_are_objectives(tmp_path, measure):
    chosen = spec(f"objectives: [accuracy, {measure}]")
    table = run(chosen, BOTH, tmp_path)
    column = COLUMNS[measure]
    assert (table[column] > 0).all() and table[column].nunique() > 10
    front = front_of(table, chosen.objectives)
    assert front[column].is_monotonic_increasing and front["accuracy"].is_monotonic_increasing


def test_rows_say_what_they_are_of_and_replay(tmp_path):
    table = run(spec(""), BOTH, tmp_path)
    assert (table["energy_joules"] > 0).all()
    assert set(table["energy_source"]) == set(table["latency_source"]) == {"modelled:test"}
    assert set(table["device"]) == {"test"}
    by_precision = table.groupby("precision")["int8_execution"].agg(lambda column: set(column.dropna()))
    assert by_precision.to_dict() == {"fp32": set(), "int8": {"simulated"}}
    for row in table.astype(object).where(table.notna(), None).to_dict("records"):
        point = point_of(row, BOTH)
        assert (point.network.precision, point.dvfs) == (row["precision"], row["dvfs"])
        assert point.evaluate()["energy_joules"] == row["energy_joules"]


def test_an_objective_that_the_costs_do_not_hold_is_refused_before_the_first_trial(tmp_path):
    chosen = spec("objectives: [accuracy, latency_mean]").model_copy(
        update={"quantization": parse_one("fp32"), "dvfs": parse_one("none"), "trials": 5}
    )
    with pytest.raises(UserError, match="this cost profile has no seconds"):
        run(chosen, [traced("one", 5)], tmp_path)
    assert not any(tmp_path.iterdir())


def parse_one(name: str):
    return parse_space(f"name: x\noperating_points: {{quantization: {name}}}", "test").operating_points.quantization


def test_networks_and_precisions_are_chosen_apart(tmp_path):
    from dataclasses import replace

    networks = [replace(one, precision=p) for one in TWO for p in ("fp32", "int8")]
    chosen = spec("").model_copy(update={"dvfs": parse_one("none")})
    table = run(chosen, networks, tmp_path)
    assert set(zip(table["trial_id"], table["precision"], strict=True)) == {
        (name, precision) for name in ("shallow", "deep") for precision in ("fp32", "int8")
    }
