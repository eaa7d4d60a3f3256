"""A whole study in this process: its tables, its resume, its fronts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from support.studies import run_context, tiny_study

from results.parts import read_table
from results.schemas import SCHEMAS
from results.summary import summarize_front
from study import Costs, Hierarchical, Placed, Predictive, Static, Trace, replay
from study.cli.main import main
from study.errors import UserError
from study.execution.local import LocalExecutor
from study.policies.policies import Classic
from study.policies.thresholds import thresholds_from_logits
from study.run.run import run_study
from study.traces.files import read_trace

TIMES = {"seconds"}


def tables_of(folder: Path) -> dict[str, pd.DataFrame]:
    """All tables, without the columns that hold wall-clock times."""
    return {name: read_table(folder / "tables", name).drop(columns=list(TIMES), errors="ignore") for name in SCHEMAS}


def assert_same_tables(left: Path, right: Path) -> None:
    for name, table in tables_of(left).items():
        pd.testing.assert_frame_equal(table, tables_of(right)[name], check_exact=True, obj=name)


def test_every_table_opens_with_pandas_and_duckdb(finished_study: Path) -> None:
    for name in SCHEMAS:
        folder = finished_study / "tables" / name
        frame = pd.read_parquet(folder)
        assert len(frame) > 0, name
        ((rows,),) = duckdb.sql(f"SELECT count(*) FROM read_parquet('{folder}/*.parquet')").fetchall()
        assert rows == len(frame)


def test_trials_and_epochs_agree(finished_study: Path) -> None:
    tables = tables_of(finished_study)
    trials, epochs = tables["trials"], tables["epochs"]
    counts = trials["phase"].value_counts()
    assert counts["backbones"] == 3 and counts["exits"] == 2
    assert set(trials["status"]) <= {"finished", "stopped_by_halving"}
    assert (trials["status"] == "stopped_by_halving").sum() == 1
    assert not epochs.duplicated(["trial_id", "epoch"]).any()
    for trial in trials.itertuples():
        curve = epochs[epochs["trial_id"] == trial.trial_id]
        assert len(curve) == trial.epochs_done and curve["score"].max() == trial.score
    best = trials[trials["phase"] == "backbones"].sort_values("score").iloc[-1]["trial_id"]
    assert trials[trials["phase"] == "exits"]["parent"].str.startswith(best).all()


def test_every_front_figure_follows_from_stored_traces_and_costs(finished_study: Path) -> None:
    """Recomputed from the files alone, with none of the code that wrote the table."""
    tables = tables_of(finished_study)
    weights = tables["trials"].set_index("trial_id")["weights_hash"]
    for row in tables["front"].to_dict("records"):
        stored = {
            split: read_trace(next((finished_study / "traces").glob(f"{row['trial_id']}-*-fp32-{split}-*")))
            for split in ("calibration", "validation", "test")
        }
        assert weights[row["trial_id"]]
        costs = costs_from_table(tables["costs"], row["trial_id"])
        theta = thresholds_from_logits(stored["calibration"].logits, row["statistic"])
        for split, prefix in (("validation", ""), ("test", "test_")):
            trace = Trace(stored[split].logits, stored[split].labels, theta)
            walk = replay(trace, policy_of(row))
            assert row[f"{prefix}accuracy"] == np.mean(walk.predictions == trace.labels)
            assert row[f"{prefix}flops"] == pytest.approx(costs.per_sample(walk, "flops").mean(), rel=1e-12)
            assert row[f"{prefix}energy_joules"] == pytest.approx(costs.per_sample(walk, "energy").mean(), rel=1e-12)


def costs_from_table(table: pd.DataFrame, trial_id: str) -> Costs:
    own = table[table["trial_id"] == trial_id].sort_values("number")
    part = dict(iter(own.groupby("part")))
    return Costs(
        segment_flops=part["segment"]["flops"],
        head_flops=part["head"]["flops"],
        engine_step_flops=part["engine_step"]["flops"].iloc[0],
        segment_energy=part["segment"]["energy_joules"],
        head_energy=part["head"]["energy_joules"],
        engine_step_energy=part["engine_step"]["energy_joules"].iloc[0],
        energy_source=own["energy_source"].iloc[0],
    )


def policy_of(row: dict[str, object]) -> object:
    start = 0 if pd.isna(row["start_layer"]) else int(row["start_layer"])
    return {
        "classic": lambda: Classic(),
        "static": lambda: Static(int(row["exits"][0])),
        "placed": lambda: Placed(row["beta"], [int(e) for e in row["exits"]]),
        "hierarchical": lambda: Hierarchical(row["beta"], start),
        "predictive": lambda: Predictive(row["beta"], start, int(row["max_jump"]), row["overshoot"]),
    }[str(row["policy"])]()


def test_front_is_what_no_other_point_dominates(finished_study: Path) -> None:
    tables = tables_of(finished_study)
    points = tables["operating_points"]
    done = points[points["state"] == "COMPLETE"][["accuracy", "flops", "energy_joules"]].to_numpy() * [-1, 1, 1]
    front = tables["front"][["accuracy", "flops", "energy_joules"]].to_numpy() * [-1, 1, 1]
    undominated = {tuple(p) for p in done if not any((q <= p).all() and (q < p).any() for q in done)}
    assert undominated == {tuple(p) for p in front}


def test_a_finished_study_starts_nothing_again(finished_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in finished_study.rglob("*") if path.is_file()}
    monkeypatch.setattr(LocalExecutor, "train", lambda *_, **__: pytest.fail("a trial was started"))
    monkeypatch.setattr("study.traces.collect.collect_logits", lambda *_, **__: pytest.fail("a network ran"))
    run_study(tiny_study(), run_context(finished_study))
    assert before == {path: path.read_bytes() for path in finished_study.rglob("*") if path.is_file()}


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


@pytest.mark.parametrize("writes", [1, 4, 6, 8])
def test_stopped_at_any_table_write_and_run_again_gives_the_same_tables(
    finished_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """The checkpoints are those of the finished study; everything after phase 1 is done in two halves."""
    folder = tmp_path / "tiny"
    shutil.copytree(finished_study / "checkpoints", folder / "checkpoints")
    import results.parts

    original, left = results.parts.write_atomic, writes

    def dying(path: Path, data: bytes) -> None:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        original(path, data)

    monkeypatch.setattr(results.parts, "write_atomic", dying)
    with pytest.raises(Killed):
        run_study(tiny_study(), run_context(folder))
    monkeypatch.setattr(results.parts, "write_atomic", original)
    run_study(tiny_study(), run_context(folder))
    assert_same_tables(finished_study, folder)


def test_trials_go_on_from_their_last_checkpoint(
    finished_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial whose exits were never trained: the end is the same, bit for bit. The path may be relative."""
    monkeypatch.chdir(tmp_path)
    folder = Path("tiny")
    shutil.copytree(finished_study / "checkpoints", folder / "checkpoints")
    trials = tables_of(finished_study)["trials"]
    lost = trials[trials["phase"] == "exits"].iloc[0]["trial_id"]
    shutil.rmtree(folder / "checkpoints" / lost)
    run_study(tiny_study(), run_context(folder))
    assert_same_tables(finished_study, folder)


def test_a_changed_study_is_refused_with_the_difference(finished_study: Path) -> None:
    with pytest.raises(UserError, match=r"exits.epochs is 1 there and 2 here"):
        run_study(tiny_study(exits={"epochs": 2}), run_context(finished_study))


def test_own_weights_take_the_place_of_backbones(finished_study: Path, tmp_path: Path) -> None:
    trials = tables_of(finished_study)["trials"]
    best = trials[trials["phase"] == "backbones"].iloc[0]
    weights = finished_study / "checkpoints" / best["trial_id"]
    spec = tiny_study(
        backbones={"trials": 1, "pretrained": str(weights), "learning_rate": 0.001}, operating_points={"trials": 5}
    )
    run_study(spec, run_context(tmp_path / "tiny"))
    own = tables_of(tmp_path / "tiny")["trials"].set_index("status").loc["pretrained"]
    assert own["classifier_accuracy"] == pytest.approx(best["classifier_accuracy"], abs=1e-6)
    before = tables_of(tmp_path / "tiny")
    for part in ("last", "best"):
        (tmp_path / "tiny" / "checkpoints" / own["trial_id"] / part / "manifest.json").write_text("{")
        run_study(spec, run_context(tmp_path / "tiny"))
        pd.testing.assert_frame_equal(before["front"], tables_of(tmp_path / "tiny")["front"])
        shutil.rmtree(tmp_path / "tiny" / "checkpoints" / f"{own['trial_id']}.damaged")


def test_front_and_status_commands(finished_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = f"--figure {tmp_path / 'front.png'} --output {tmp_path / 'front.csv'}"
    assert main(["front", str(finished_study), *outputs.split()]) == 0
    printed = capsys.readouterr().out
    front = tables_of(finished_study)["front"]
    assert all(f"{accuracy:.2%}" in printed for accuracy in front["test_accuracy"])
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    assert pd.read_csv(tmp_path / "front.csv")["accuracy"].tolist() == front["accuracy"].tolist()
    assert main(["front", str(finished_study), "--json"]) == 0
    parsed = json.loads(capsys.readouterr().out)
    assert len(parsed["front"]) == len(front)
    shares = [point["flops"] / parsed["classic"]["flops"] for point in parsed["front"]]
    assert [point["flops_share"] for point in parsed["front"]] == shares
    assert main(["status", str(finished_study), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["finished"] and status["operating_points"] == 30 and len(status["trials"]) == 5


def test_summary_names_the_cheapest_within_a_point(finished_study: Path) -> None:
    summary = summarize_front(finished_study / "tables", tolerance=0.02)
    cuts = tables_of(finished_study)["exits"]
    cuts = cuts[cuts["point"].isna() & (cuts["split"] == "validation")]
    classic = cuts[cuts["exit"] == 13].sort_values("accuracy_all").iloc[-1]
    assert summary.reference.accuracy == classic["accuracy_all"]
    near = cuts[(cuts["exit"] < 13) & (cuts["accuracy_all"] >= classic["accuracy_all"] - 0.02)]
    found = None if summary.best_static is None else summary.best_static["cumulative_flops"]
    assert found == (near["cumulative_flops"].min() if len(near) else None)
    points = summary.points[summary.points["accuracy"] >= classic["accuracy_all"] - 0.02]
    assert (summary.best_point is None) == points.empty
    if summary.best_point is not None:
        assert summary.best_point["flops"] == points["flops"].min()


def test_precisions_rules_and_constraints_from_traces_to_front(finished_study: Path, tmp_path: Path) -> None:
    """A study over beta, start layer, quantization and frequency rules, on the checkpoints of the finished one."""
    device, folder = "intel-xeon-platinum-8280", tmp_path / "tiny"
    shutil.copytree(finished_study / "checkpoints", folder / "checkpoints")
    changes = {
        "networks": 1,
        "trials": 60,
        "policy": ["predictive", "static"],
        "quantization": ["fp32", "int8"],
        "costs": device,
        "dvfs": ["race_to_idle", "paper", "deadline"],
        "constraints": {"accuracy_drop": 0.6, "latency_p99": 1.0},
    }
    spec = tiny_study(operating_points=changes)
    run_study(spec, run_context(folder))
    tables = tables_of(folder)
    points = tables["operating_points"]
    assert set(points["precision"]) == {"fp32", "int8"} and set(points["dvfs"]) == set(changes["dvfs"])
    assert (points["energy_joules"] > 0).all() and (points["latency_p99_seconds"] > 0).all()
    assert set(points["device"]) == {device} and set(points["energy_source"]) == {f"modelled:{device}"}
    execution = points.groupby("precision")["int8_execution"].agg(lambda values: set(values.dropna()))
    assert execution["fp32"] == set() and len(execution["int8"]) == 1
    assert points["feasible"].any() and set(json.loads(points["constraints"].iloc[0])) == {
        "accuracy_drop",
        "latency_p99",
    }
    exits = tables["exits"][tables["exits"]["point"].isna()].drop_duplicates(["precision", "exit"])
    accuracies = exits.pivot_table(index="exit", columns="precision", values="accuracy_all")
    assert len(accuracies) == 13 and (accuracies["fp32"] - accuracies["int8"]).abs().max() < 0.1
    whole = exits[exits["exit"] == 13].set_index("precision")
    assert whole.loc["int8", "memory_bytes"] < whole.loc["fp32", "memory_bytes"]
    assert whole.loc["int8", "cumulative_bitops"] * 16 == whole.loc["fp32", "cumulative_bitops"]
    assert whole["cumulative_flops"].nunique() == whole["parameters"].nunique() == 1
    assert (whole["cumulative_flops_published"] < whole["cumulative_flops"]).all()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    run_study(spec, run_context(folder))
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_no_point_of_the_search_beats_the_exact_front_of_the_run_folder(
    finished_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`front --exact`, of the part of the space that has an exact front."""
    before = {path: path.read_bytes() for path in finished_study.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["front", str(finished_study), "--exact"]) == 2
    assert "placements: auto" in capsys.readouterr().err
    kinds = "[predictive, hierarchical, static, classic]"
    assert main(["front", str(finished_study), "--exact", "--json", "--set", f"operating_points.policy={kinds}"]) == 0
    printed = json.loads(capsys.readouterr().out)
    points = tables_of(finished_study)["operating_points"]
    assert points["hypervolume_ratio"].isna().all() and points["hypervolume"].is_monotonic_increasing
    found = points[(points["state"] == "COMPLETE") & (points["policy"] != "placed")]
    columns = ["accuracy", "flops", "energy_joules"]
    exact = np.array([[row[name] for name in columns] for row in printed["front"]]) * [-1, 1, 1]
    for point in found[columns].to_numpy() * [-1, 1, 1]:
        assert (exact <= point + 1e-12 * np.abs(point)).all(axis=1).any()
    assert len(found) > 5 and len(exact) > 5 and printed["networks"] == 2
    assert before == {path: path.read_bytes() for path in finished_study.rglob("*") if path.is_file()}


def test_an_exact_study_ends_with_test_figures_of_the_whole_front(finished_study: Path, tmp_path: Path) -> None:
    """In place of a search, on the traces of the finished study; started again, it has nothing left to do."""
    folder = tmp_path / "tiny"
    for part in ("checkpoints", "traces"):
        shutil.copytree(finished_study / part, folder / part)
    spec = tiny_study(operating_points={"search": "exact", "placements": [[2, 6], [4]]})
    run_study(spec, run_context(folder))
    tables = tables_of(folder)
    points, front = tables["operating_points"], tables["front"]
    assert set(points["sampler"]) == {"exact"} and points["number"].tolist() == list(range(len(points)))
    assert (points["hypervolume_ratio"] == 1).all()
    assert front["number"].tolist() == points["number"].tolist(), "every point of an exact front is one of the front"
    np.testing.assert_allclose(front["hypervolume"], points["hypervolume"], rtol=1e-9)
    held = front[front["beta"].notna()]
    assert len(held) and ((held["beta_low"] < held["beta"]) & (held["beta"] <= held["beta_high"])).all()
    np.testing.assert_array_equal(front["optimism"], front["accuracy"] - front["test_accuracy"])
    for name in ("accuracy", "flops", "energy_joules"):
        low, middle, high = (front[f"test_{name}{end}"] for end in ("_low", "", "_high"))
        assert (low <= middle * (1 + 1e-12)).all() and (middle <= high * (1 + 1e-12)).all()
    summary = summarize_front(folder / "tables")
    assert summary.optimism == 1 - front["test_hypervolume"].iloc[0] / front["hypervolume"].iloc[0]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    run_study(spec, run_context(folder))
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_constraints_that_no_point_keeps_end_in_one_line(
    finished_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tiny"
    for part in ("checkpoints", "traces"):
        shutil.copytree(finished_study / part, folder / part)
    spec = tiny_study(operating_points={"constraints": {"memory": 1.0}})
    with pytest.raises(UserError, match=r"none of \d+ operating points keeps .* exceeds memory"):
        run_study(spec, run_context(folder))
    assert len(read_table(folder / "tables", "operating_points")) == 30
    capsys.readouterr()
    assert main(["status", str(folder)]) == 0
    assert "no operating point so far keeps to the constraints" in capsys.readouterr().out
